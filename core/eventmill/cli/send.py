"""eventmill send: events from a file to the API."""

import gzip
import io
import random
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from eventmill.errors import ConfigurationError, EventmillError
from eventmill.event import MAX_EVENT_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BULK_EVENTS = 2_000
BULK_BYTES = 2 * 1024 * 1024
_RETRY = {408, 425, 429, 500, 502, 503, 504}


class SendFailed(EventmillError):
    """Sending cannot go on."""


@dataclass(slots=True)
class Bulk:
    """Lines that go into one request, with their numbers in the file."""

    numbers: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, number: int, line: bytes) -> None:
        self.numbers.append(number)
        self.lines.append(line)
        self.size += len(line)


@dataclass(slots=True)
class Tally:
    """How far sending has come."""

    read: int = 0
    accepted: int = 0
    refused: int = 0

    def refuse(self, number: int, reason: str) -> None:
        self.refused += 1
        sys.stderr.write(f"line {number}: {reason}\n")


def send(file: str, url: str, patience_seconds: float) -> int:
    """Send all events of `file`; return the exit code."""
    _check_url(url)
    source = _open(file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = Tally()
    started = time.monotonic()
    failure = ""
    with source, Advance(source, file) as advance, httpx.Client(base_url=url, timeout=30) as client:
        try:
            for bulk in _bulks(_unpack(source), tally):
                _post(client, bulk, tally, patience_seconds)
                advance(tally)
        except (SendFailed, OSError, EOFError, zlib.error, zstd.ZstdError) as error:
            failure = f"gave up: {error}"
        except KeyboardInterrupt:
            failure = "interrupted"
    seconds = time.monotonic() - started
    summary = f"accepted {tally.accepted} of {tally.read} events in {seconds:.1f} s"
    sys.stdout.write(summary + (f", refused {tally.refused}" if tally.refused else "") + "\n")
    if failure:
        sys.stderr.write(f"eventmill: {failure}\n")
    return 0 if tally.accepted == tally.read and not failure else 1


def _check_url(url: str) -> None:
    """Raise ConfigurationError when this is not the address of a server."""
    try:
        parts = httpx.URL(url)
        fine = parts.scheme in ("http", "https") and parts.host and 0 < (parts.port or 80) < 65536
        parts.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        fine = False
    if not fine:
        raise ConfigurationError(f"--url {url}: must be http://HOST:PORT")


def _open(file: str) -> io.BufferedReader:
    if file == "-":
        if sys.stdin is None:
            raise ConfigurationError("there is no standard input to read")
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None


def _unpack(source: io.BufferedReader) -> io.BufferedIOBase:
    """The plain lines, whatever the file's name: gzip and zstd are told by their first bytes."""
    start = source.peek(4)[:4]
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=source)
    return zstd.ZstdFile(source) if start == b"\x28\xb5\x2f\xfd" else source


def _bulks(lines: io.BufferedIOBase, tally: Tally) -> Iterator[Bulk]:
    """The lines in bulks; blank ones are skipped, those that no server would take are refused here."""
    bulk = Bulk()
    for number, line in _lines(lines):
        line = line.strip()
        if not line:
            continue
        tally.read += 1
        if len(line) > MAX_EVENT_BYTES:
            tally.refuse(number, f"the event has more than {MAX_EVENT_BYTES} bytes")
            continue
        bulk.add(number, line)
        if len(bulk.lines) == BULK_EVENTS or bulk.size >= BULK_BYTES:
            yield bulk
            bulk = Bulk()
    if bulk.lines:
        yield bulk


def _lines(source: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of an overlong one only the start, so that no file can fill the memory."""
    limit = 2 * MAX_EVENT_BYTES
    number = 0
    while line := source.readline(limit):
        number += 1
        rest = line
        while len(rest) == limit and not rest.endswith(b"\n"):
            rest = source.readline(limit)
        yield number, line


def _post(client: httpx.Client, bulk: Bulk, tally: Tally, patience_seconds: float) -> None:
    """Post one bulk, again and again while the service cannot take it. Raises SendFailed."""
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
    """Take down the verdict on each line. Raises SendFailed when the answer is none of eventmill's."""
    answer = _json(response)
    if response.status_code not in (202, 400) or "event_ids" not in answer:
        raise SendFailed(f"{response.request.url} answered {response.status_code}: {_message(response)}")
    tally.accepted += answer["accepted"]
    for error in answer["errors"]:
        tally.refuse(bulk.numbers[error["index"]], error["message"])


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


class Advance:
    """Shows how far sending has come, on a terminal; elsewhere it is silent."""

    def __init__(self, source: io.BufferedReader, file: str) -> None:
        self._source = source
        size = Path(file).stat().st_size if file != "-" and Path(file).is_file() else None
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("sending", total=size)

    def __call__(self, tally: Tally) -> None:
        position = self._source.tell() if self._source.seekable() else None
        self._progress.update(self._task, completed=position, description=f"{tally.accepted} accepted")

    def __enter__(self) -> "Advance":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
