"""Post the events of a file to an API, in bulks that are repeated until the API accepts them.

The API is not trusted: its responses are decoded into types, limited in size and time, and escaped before printing.
"""

import asyncio
import gzip
import io
import random
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import msgspec

from eventmill.errors import ConfigurationError, EventmillError
from eventmill.event import MAX_EVENT_BYTES
from eventmill.text import escape

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BULK_EVENTS = 2_000
BULK_BYTES = 2 * 1024 * 1024
_RETRY = {408, 425, 429, 500, 502, 503, 504}
MAX_RESPONSE_BYTES = 2 * 1024 * 1024  # the ids of a bulk take 80 KB
REQUEST_SECONDS = 30.0
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
        sys.stderr.write(f"line {number}: {escape(reason)}\n")

    def reject_more(self, count: int) -> None:
        """Count rejected events that the response does not explain."""
        if count > 0:
            self.rejected += count
            sys.stderr.write(f"{count} more events of this bulk are rejected\n")


Count = Annotated[int, msgspec.Meta(ge=0)]


class _Item(msgspec.Struct):
    """A rejected event in a response."""

    index: Count
    message: str


class _Response(msgspec.Struct):
    """What the API responds to a bulk; the fields of errors are optional."""

    accepted: Count | None = None
    rejected: Count = 0
    errors: list[_Item] = []
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response that arrived in time."""

    status: int
    retry_seconds: float
    body: _Response


def check_url(url: str) -> None:
    """Raise ConfigurationError if this is not the URL of a server."""
    try:
        parts = httpx.URL(url)
        is_valid = parts.scheme in ("http", "https") and parts.host and 0 < (parts.port or 80) < 65536
        parts.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        is_valid = False
    if not is_valid:
        raise ConfigurationError(f"--url {hide_password(url)}: must be http://HOST:PORT")


def hide_password(url: str) -> str:
    """Return the URL without the user name and the password."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


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


@dataclass(frozen=True, slots=True)
class Target:
    """The API that receives the events, and a key for it."""

    url: str
    key: str | None = None


def post(target: Target, bulk: Bulk, tally: Tally, patience_seconds: float) -> None:
    """Post one bulk, and repeat it while the service is unavailable. Raise SendFailed."""
    body = b"\n".join(bulk.lines)
    address = hide_password(target.url)
    until = time.monotonic() + patience_seconds
    failures = 0
    while True:
        wait = min(5.0, 0.2 * 2**failures) * random.random()
        try:
            answer = asyncio.run(_request(target, body, min(REQUEST_SECONDS, max(1.0, until - time.monotonic()))))
        except (httpx.TransportError, TimeoutError) as error:
            trouble = f"{address} does not answer: {error or type(error).__name__}"
        else:
            if answer.status not in _RETRY:
                _count(answer, bulk, tally, address)
                return
            trouble = f"{address} answered {answer.status}: {answer.body.message}"
            wait = max(wait, answer.retry_seconds)
        failures += 1
        if time.monotonic() + wait > until:
            raise SendFailed(trouble)
        time.sleep(wait)


async def _request(target: Target, body: bytes, seconds: float) -> _Answer:
    """Post and read the response, in this time as a whole. Raise TransportError, TimeoutError or SendFailed."""
    headers = {"Content-Type": "application/x-ndjson", "Accept-Encoding": "identity"}
    if target.key:
        headers["X-API-Key"] = target.key
    content = bytearray()
    async with (
        asyncio.timeout(seconds),
        httpx.AsyncClient(base_url=target.url, timeout=seconds) as client,
        client.stream("POST", "/events/bulk", content=body, headers=headers) as response,
    ):
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_RESPONSE_BYTES:
                raise SendFailed(f"the response is larger than {MAX_RESPONSE_BYTES} bytes: this is not eventmill")
    retry = response.headers.get("Retry-After", "")
    retry_seconds = min(30.0, float(retry)) if retry.isdecimal() and len(retry) < 9 else 0.0
    return _Answer(response.status_code, retry_seconds, _decode(bytes(content), response.reason_phrase))


def _decode(body: bytes, phrase: str) -> _Response:
    """Return the response, or the status phrase as its message if it is not eventmill's."""
    try:
        return msgspec.json.decode(body, type=_Response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Response(message=phrase)


def _count(answer: _Answer, bulk: Bulk, tally: Tally, address: str) -> None:
    """Count the accepted and the rejected lines. Raise SendFailed if the response is not eventmill's."""
    response = answer.body
    accepted = response.accepted
    if answer.status not in (202, 400) or accepted is None:
        raise SendFailed(f"{address} answered {answer.status}: {response.message}")
    if accepted + response.rejected != len(bulk.lines) or any(e.index >= len(bulk.lines) for e in response.errors):
        raise SendFailed(f"{address} counts other events than were sent: this is not eventmill")
    tally.accepted += accepted
    for error in response.errors[: response.rejected]:
        tally.reject(bulk.numbers[error.index], error.message)
    tally.reject_more(response.rejected - len(response.errors))
