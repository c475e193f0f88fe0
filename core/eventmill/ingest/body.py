"""Reads and decompresses request bodies, within limits and the memory budget."""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope

from eventmill.errors import (
    BodyTimeout,
    ClientDisconnected,
    InvalidRequest,
    PayloadTooLarge,
    UnsupportedEncoding,
)
from eventmill.ingest.budget import Budget, Hold
from eventmill.networks import Network, find_client
from eventmill.shutdown import Limit, Shutdown
from eventmill.turns import Line, Turns

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BODY_BYTES = 5 * 1024 * 1024
MAX_UNPACKED_BYTES = 20 * 1024 * 1024
# Each 512 KiB of a body, and the last part, must arrive within 20 s: 26 kB/s, which slow mobile networks reach.
WINDOW_BYTES = 512 * 1024
WINDOW_SECONDS = 20.0
SHUTDOWN_SECONDS = 0.5
_MAX_IGNORED_BYTES = 8 * MAX_BODY_BYTES
_LARGE_DIGITS = len(str(MAX_BODY_BYTES))  # of a Content-Length; one with fewer digits needs no look
_TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES} bytes: split it"
_STEP_BYTES = 1024 * 1024
_MAX_MEMBERS = 1000  # gzip members or zstd frames in one body
_MAX_WINDOW_LOG = 23  # 8 MiB, the size that zstd recommends every decoder to support


def header(scope: Scope, name: bytes) -> bytes:
    """Return the value of a request header in lower case; join several by commas; return b"" if there is none."""
    values = [value for key, value in scope["headers"] if key == name]
    return b",".join(values).strip().lower() if values else b""


class Reader:
    """Reads the bodies of all requests. A shutdown ends the reading of incomplete ones.

    Args:
        budget: the memory for all bodies.
        proxies: the trusted proxies, whose X-Forwarded-For names the client.
    """

    def __init__(self, budget: Budget, shutdown: Shutdown, proxies: Sequence[Network] = ()) -> None:
        self.budget = budget
        self._turns = Turns()
        self._proxies = proxies
        self._shutdown = shutdown

    async def read(self, scope: Scope, receive: Receive, hold: Hold) -> bytes:
        """Return the whole body as it was sent; `hold` grows with it.

        Raise PayloadTooLarge, UnsupportedEncoding, BodyTimeout, Overloaded, or ClientDisconnected.
        """
        headers = dict(scope["headers"])
        if len(headers.get(b"content-length", b"")) >= _LARGE_DIGITS:
            _refuse_announced(scope)
        if b"content-encoding" in headers:
            _check_encoding(scope)
        try:
            with self._shutdown.limit(WINDOW_SECONDS, last_seconds=SHUTDOWN_SECONDS) as limit:
                return await _read(receive, hold, limit)
        except TimeoutError:
            raise BodyTimeout(
                f"the body arrived too slowly: send {WINDOW_BYTES // 1024} KiB per {WINDOW_SECONDS:.0f} s"
            ) from None

    async def decompress(self, scope: Scope, body: bytes, hold: Hold, line: Line) -> bytes:
        """Return the decompressed body; `hold` counts its size in the end.

        Raise PayloadTooLarge, InvalidRequest or Overloaded.
        """
        encoding = header(scope, b"content-encoding")
        if encoding in (b"", b"identity"):
            return body
        return await _unpack(body, _decompress(body) if encoding == b"zstd" else _inflate(body), hold, line)

    @asynccontextmanager
    async def line(self, scope: Scope, receive: Receive) -> AsyncIterator[Line]:
        """Wait in the line of this request's client and key, and do expensive work in the block.

        Raise Overloaded if the line is full, and ClientDisconnected if the client did not wait.
        """
        principal = scope["state"]["principal"]
        key = principal.key if principal and principal.key else ""
        async with self._turns.line(f"{key} {find_client(scope, self._proxies)}") as line:
            if line.length > 1 and await _is_disconnected(receive):
                raise ClientDisconnected
            yield line


def _check_encoding(scope: Scope) -> None:
    encoding = header(scope, b"content-encoding")
    if encoding not in (b"", b"identity", b"gzip", b"x-gzip", b"zstd"):
        name = encoding.decode(errors="replace")
        raise UnsupportedEncoding(f"Content-Encoding {name!r} is not supported: use gzip or zstd, or none")


async def _is_disconnected(receive: Receive) -> bool:
    """Return whether the client has disconnected since its body was read."""
    message = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    if message.done():
        return bool(message.result()["type"] == "http.disconnect")
    message.cancel()
    return False


def _refuse_announced(scope: Scope) -> None:
    """Raise PayloadTooLarge for a body that is announced as too large, if the client asks before it sends it."""
    length = header(scope, b"content-length")
    announced = int(length) if length.isdigit() and len(length) < 16 else 0  # the parser refuses longer numbers
    if announced > _MAX_IGNORED_BYTES or (announced > MAX_BODY_BYTES and header(scope, b"expect")):
        raise PayloadTooLarge(_TOO_LARGE)


async def _read(receive: Receive, hold: Hold, limit: Limit) -> bytes:
    chunks: list[bytes] = []
    size, window, more = 0, 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        window += len(chunk)
        if window >= WINDOW_BYTES:
            window = 0
            limit.extend(WINDOW_SECONDS)
        # A body over the limit is read to its end, within reason: a client that is still sending would not see
        # the response.
        if size <= MAX_BODY_BYTES:
            hold.grow(len(chunk))
            chunks.append(chunk)
        elif size > _MAX_IGNORED_BYTES:
            break
    if size > MAX_BODY_BYTES:
        raise PayloadTooLarge(_TOO_LARGE)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _unpack(body: bytes, steps: Iterator[bytes], hold: Hold, line: Line) -> bytes:
    """Decompress step by step in a thread; in the end `hold` counts the decompressed size only."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await asyncio.to_thread(next, steps, b""):
        await line.turn()
        size += len(chunk)
        if size > MAX_UNPACKED_BYTES:
            raise PayloadTooLarge(f"the decompressed body is larger than {MAX_UNPACKED_BYTES} bytes: split it")
        hold.grow(len(chunk))
        chunks.append(chunk)
    hold.shrink(len(body))
    return b"".join(chunks)


def _inflate(body: bytes) -> Iterator[bytes]:
    """Yield the content of all gzip members, in steps of at most 1 MiB."""
    try:
        for _ in range(_MAX_MEMBERS):
            inflater = zlib.decompressobj(wbits=31)
            while not inflater.eof:
                chunk = inflater.decompress(body, _STEP_BYTES)
                body = inflater.unconsumed_tail
                if chunk:
                    yield chunk
                elif not body and not inflater.eof:
                    raise InvalidRequest("the gzip body is incomplete")
            body = inflater.unused_data.lstrip(b"\0")
            if not body:
                return
    except zlib.error as error:
        raise InvalidRequest(f"the body is not valid gzip: {error}") from None
    raise InvalidRequest(f"the body has more than {_MAX_MEMBERS} gzip members")


def _decompress(body: bytes) -> Iterator[bytes]:
    """Yield the content of all zstd frames, in steps of at most 1 MiB."""
    try:
        for _ in range(_MAX_MEMBERS):
            unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})
            while not unpacker.eof:
                chunk = unpacker.decompress(body, _STEP_BYTES)
                body = b""
                if chunk:
                    yield chunk
                elif unpacker.needs_input and not unpacker.eof:
                    raise InvalidRequest("the zstd body is incomplete")
            body = unpacker.unused_data
            if not body:
                return
    except zstd.ZstdError as error:
        raise InvalidRequest(f"the body is not valid zstd: {error}") from None
    raise InvalidRequest(f"the body has more than {_MAX_MEMBERS} zstd frames")
