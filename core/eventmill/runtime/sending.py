"""Post the events of a file to an API, in bulks that are repeated until the API accepts them."""

import gzip
import io
import random
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from eventmill.errors import ConfigurationError, EventmillError
from eventmill.event import MAX_EVENT_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BULK_EVENTS = 2_000
BULK_BYTES = 2 * 1024 * 1024
_RETRY = {408, 425, 429, 500, 502, 503, 504}
UNPACK_ERRORS = (EOFError, zlib.error, zstd.ZstdError)


class SendFailed(EventmillError):
    """Sending cannot continue."""


@dataclass(slots=True)
class Bulk:
    """The lines of one request, with their numbers in the file."""

    numbers: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, number: int, line: bytes) -> None:
        self.numbers.append(number)
        self.lines.append(line)
        self.size += len(line)


@dataclass(slots=True)
class Tally:
    """The progress of sending."""

    read: int = 0
    accepted: int = 0
    rejected: int = 0

    def reject(self, number: int, reason: str) -> None:
        self.rejected += 1
        sys.stderr.write(f"line {number}: {reason}\n")


def check_url(url: str) -> None:
    """Raise ConfigurationError if this is not the URL of a server."""
    try:
        parts = httpx.URL(url)
        is_valid = parts.scheme in ("http", "https") and parts.host and 0 < (parts.port or 80) < 65536
        parts.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        is_valid = False
    if not is_valid:
        raise ConfigurationError(f"--url {url}: must be http://HOST:PORT")


def open_source(file: str) -> io.BufferedReader:
    if file == "-":
        if sys.stdin is None:
            raise ConfigurationError("there is no standard input to read")
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None


def unpack(source: io.BufferedReader) -> io.BufferedIOBase:
    """Return the uncompressed content. The first bytes identify gzip and zstd, not the file's name."""
    start = source.peek(4)[:4]
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=source)
    return zstd.ZstdFile(source) if start == b"\x28\xb5\x2f\xfd" else source


def read_bulks(lines: io.BufferedIOBase, tally: Tally) -> Iterator[Bulk]:
    """Yield the lines in bulks. Skip blank lines, and reject lines that every server would reject."""
    bulk = Bulk()
    for number, line in _lines(lines):
        line = line.strip()
        if not line:
            continue
        tally.read += 1
        if len(line) > MAX_EVENT_BYTES:
            tally.reject(number, f"the event has more than {MAX_EVENT_BYTES} bytes")
            continue
        bulk.add(number, line)
        if len(bulk.lines) == BULK_EVENTS or bulk.size >= BULK_BYTES:
            yield bulk
            bulk = Bulk()
    if bulk.lines:
        yield bulk


def _lines(source: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines, cut at twice the largest event, so that no file can exhaust the memory."""
    limit = 2 * MAX_EVENT_BYTES
    number = 0
    while line := source.readline(limit):
        number += 1
        rest = line
        while len(rest) == limit and not rest.endswith(b"\n"):
            rest = source.readline(limit)
        yield number, line


def post(client: httpx.Client, bulk: Bulk, tally: Tally, patience_seconds: float) -> None:
    """Post one bulk, and repeat it while the service is unavailable. Raise SendFailed."""
    body = b"\n".join(bulk.lines)
    until = time.monotonic() + patience_seconds
    failures = 0
    while True:
        wait = min(5.0, 0.2 * 2**failures) * random.random()
        try:
            response = client.post("/events/bulk", content=body, headers={"Content-Type": "application/x-ndjson"})
        except httpx.TransportError as error:
            trouble = f"{client.base_url} does not answer: {error or type(error).__name__}"
        else:
            if response.status_code not in _RETRY:
                _count(response, bulk, tally)
                return
            trouble = f"{client.base_url} answered {response.status_code}: {_message(response)}"
            wait = max(wait, _retry_after(response))
        failures += 1
        if time.monotonic() + wait > until:
            raise SendFailed(trouble)
        time.sleep(wait)


def _count(response: httpx.Response, bulk: Bulk, tally: Tally) -> None:
    """Count the accepted and the rejected lines. Raise SendFailed if the response is not eventmill's."""
    answer = _json(response)
    if response.status_code not in (202, 400) or "event_ids" not in answer:
        raise SendFailed(f"{response.request.url} answered {response.status_code}: {_message(response)}")
    tally.accepted += answer["accepted"]
    for error in answer["errors"]:
        tally.reject(bulk.numbers[error["index"]], error["message"])


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _message(response: httpx.Response) -> str:
    return str(_json(response).get("message", response.reason_phrase))


def _retry_after(response: httpx.Response) -> float:
    seconds = response.headers.get("Retry-After", "")
    return min(30.0, float(seconds)) if seconds.isdecimal() else 0.0
