"""HTTP on the wire: limits of heads and pipelines, upgrades, foreign protocols, and errors that name their cause."""

import asyncio
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mill import Program, running, running_mill, wait_until
from support.server import serving

EVENT = b'{"event_name":"page_view","channel":"web","user_id":"ada","timestamp":1766717657}'
HOST = b"Host: localhost\r\n"
SETTINGS = {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory", "EVENTMILL_MAX_CONNECTIONS": "64"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path_factory.mktemp("run"), settings=SETTINGS) as program:
        program.url()
        yield program


def address_of(program: Program) -> tuple[str, int]:
    return "127.0.0.1", int(program.wait_for(r"http://127\.0\.0\.1:(\d+)")[1])


def connect(program: Program) -> socket.socket:
    return socket.create_connection(address_of(program), 20)


def talk(program: Program, *parts: bytes) -> bytes:
    """Send the parts in segments of their own; return what the server sends until it closes, or is quiet for 1 s."""
    answer = b""
    with connect(program) as client:
        for part in parts:
            try:
                client.sendall(part)
            except OSError:
                break
            time.sleep(0.02)
        client.settimeout(1)
        try:
            while data := client.recv(65536):
                answer += data
        except OSError:
            pass
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answer)]


def error_of(answer: bytes) -> tuple[int, str, str]:
    """The status, the code and the message of the only response, which must close the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    content = json.loads(body)
    return statuses(answer)[0], content["error"], content["message"]


UPGRADE = b"POST /events HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"


def test_the_body_of_an_upgrade_request_is_its_body(program: Program) -> None:
    head = UPGRADE + b"Content-Length: %d\r\n\r\n" % len(EVENT)
    assert statuses(talk(program, head + EVENT)) == [202]
    assert statuses(talk(program, head, EVENT)) == [202]
    hidden = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    assert statuses(talk(program, UPGRADE + b"Content-Length: %d\r\n\r\n" % len(hidden), hidden)) == [400]
    chunked = UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n"
    assert statuses(talk(program, chunked, b"%x\r\n" % len(EVENT) + EVENT + b"\r\n0\r\n\r\n")) == [202]


def test_requests_after_an_upgrade_request_are_answered(program: Program) -> None:
    get = b"GET /health HTTP/1.1\r\n" + HOST
    assert statuses(talk(program, get + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + get + b"\r\n")) == [200, 200]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /health", 505),
        (b"GET /health HTTP/0.9", 505),
        (b"GET /health HTTP/2.0", 505),
        (b"GET /health HTTP/1.2", 400),
        (b"GET /health RTSP/1.0", 505),
        (b"PRI * HTTP/2.0", 400),
        (b"CONNECT a:1 HTTP/1.1", 405),
        (b"\x16\x03\x01\x02", 400),
        (b"G\xc3\x8bT / HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1", 400),
    ],
)
def test_a_foreign_protocol_is_refused_with_its_cause(program: Program, line: bytes, status: int) -> None:
    code, error, message = error_of(talk(program, line + b"\r\n" + HOST + b"\r\n"))
    assert (code, bool(error), len(message) > 10) == (status, True, True)


def test_a_foreign_protocol_is_refused_in_parts_and_behind_another_request(program: Program) -> None:
    get = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"
    foreign = b"GET /health RTSP/1.0\r\n" + HOST + b"\r\n"
    assert statuses(talk(program, foreign[:15], foreign[15:])) == [505]
    assert statuses(talk(program, get + foreign)) == [200, 505]
    assert statuses(talk(program, b"\r\nGET ", foreign[4:])) == [505]
    post = b"POST /nope HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n"
    assert statuses(talk(program, post, b"0123456789" + foreign)) == [404, 505]
    assert statuses(talk(program, get[:15], get[15:])) == [200]


def test_an_event_may_mention_a_foreign_protocol(program: Program) -> None:
    event = EVENT[:-1] + b',"metadata":{"line":"GET /x RTSP/1.0"}}'
    head = b"POST /events HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(event)
    assert statuses(talk(program, head + event)) == [202]


def test_an_upgrade_request_of_http_1_0_ends_its_connection(program: Program) -> None:
    head = b"POST /events HTTP/1.0\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    answer = talk(program, head + b"Content-Length: %d\r\n\r\n" % len(EVENT) + EVENT)
    assert statuses(answer) == [202]
    assert b"connection: close" in answer.lower()


def test_requests_before_a_damaged_one_are_answered(program: Program) -> None:
    get = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    post = b"POST /events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nXYZ\r\n"
    assert statuses(talk(program, get * 3 + post + b"x" * 60_000)) == [200, 200, 200, 400]


def test_the_message_of_an_unexpected_error_stays_inside(program: Program) -> None:
    status, error, message = error_of(talk(program, b"GET http://localhost HTTP/1.1\r\n" + HOST + b"\r\n"))
    assert (status, error, message) == (400, "bad_request", "this is not valid HTTP/1.1")


def test_clients_that_reset_their_connection_leave_no_file_open(program: Program) -> None:
    files = Path(f"/proc/{program.process.pid}/fd")
    before = len(list(files.iterdir()))
    for number in range(200):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.connect(address_of(program))
            if number % 2:
                client.send(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
    wait_until(lambda: len(list(files.iterdir())) <= before + 2)
    assert statuses(talk(program, b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")) == [200]
    assert "Traceback" not in program.output


def test_http_1_0_is_understood(program: Program) -> None:
    assert statuses(talk(program, b"GET /health HTTP/1.0\r\n\r\n")) == [200]


def test_a_content_type_after_the_body_changes_nothing(program: Program) -> None:
    head = b"POST /events/bulk HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    lines = EVENT + b"\n" + EVENT
    body = b"%x\r\n" % len(lines) + lines + b"\r\n0\r\n"
    assert statuses(talk(program, head + body + b"Content-Type: application/x-ndjson\r\n\r\n")) == [400]
    asked = head[:-2] + b"Content-Type: application/x-ndjson\r\n\r\n"
    assert statuses(talk(program, asked + body + b"Content-Type: text/plain\r\n\r\n")) == [202]


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"GET / HTTP/1.1\r\nA: ", b"x" * 8192),
        (b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 100),
        (
            b"POST /events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
            b"A: b\r\n" * 1000,
        ),
        (b"POST /events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a=b;" * 2000),
    ],
    ids=["header", "lines", "trailers", "chunk extension"],
)
def test_an_endless_head_is_refused_after_its_limit(program: Program, start: bytes, part: bytes) -> None:
    status, error, _ = error_of(talk(program, start, *[part] * 12))
    assert (status, error) == (431, "request_header_fields_too_large")


def test_an_endless_url_is_refused_after_its_limit(program: Program) -> None:
    status, error, message = error_of(talk(program, b"GET /", *[b"x" * 8192] * 12))
    assert (status, error) == (414, "uri_too_long")
    assert "8192 bytes" in message


def test_a_large_head_within_the_limit_is_read(program: Program) -> None:
    head = b"GET /health HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 40_000 + b"\r\n"
    assert statuses(talk(program, head + b"\r\n")) == [200]
    assert statuses(talk(program, head, b"B: c\r\n" * 200, b"\r\n")) == [200]


def test_a_damaged_body_is_refused_with_its_cause(program: Program) -> None:
    head = b"POST /events HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    status, error, message = error_of(talk(program, head, b"zz\r\n"))
    assert (status, error) == (400, "bad_request")
    assert "chunk size" in message
    both = head[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n"
    assert error_of(talk(program, both))[0] == 400


def test_requests_may_be_pipelined_up_to_a_limit(program: Program) -> None:
    get = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    assert statuses(talk(program, get * 16)) == [200] * 16
    answer = talk(program, get * 1000)
    assert statuses(answer) == [200, 503]
    assert answer.count(b"connection: close") == 1


def test_a_request_that_does_not_arrive_is_closed_after_ten_seconds(program: Program) -> None:
    started = time.monotonic()
    with connect(program) as half, connect(program) as silent, connect(program) as feeds:
        half.sendall(b"GET / HT")
        answers = []
        while time.monotonic() - started < 9:  # each line feed is a sign of life, but no request
            feeds.sendall(b"\r\n")
            time.sleep(0.3)
        for client in (half, silent, feeds):
            client.settimeout(10)
            answers.append(client.recv(65536))
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 408", b"", b"HTTP/1.1 408"]
    assert 9 < time.monotonic() - started < 20


@pytest.mark.anyio
async def test_a_connection_without_requests_is_closed_after_the_keep_alive_time() -> None:
    get = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    async with running_mill() as mill, serving(mill.app, keep_alive_seconds=2) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(get)
            assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
            answered = time.monotonic()
        async with asyncio.timeout(10):
            await reader.read()
        assert time.monotonic() - answered > 2
        writer.close()


def test_one_address_may_have_half_of_the_connections_and_the_log_says_so(program: Program) -> None:
    get = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    clients = [connect(program) for _ in range(32)]
    try:
        for client in clients:
            client.sendall(get)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        assert error_of(talk(program, b""))[:2] == (503, "overloaded")
    finally:
        for client in clients:
            client.close()
    program.wait_for("connections refused: 1. The limit is 64, and 32 for one address")
    assert statuses(talk(program, get)) == [200]


def test_a_body_that_is_announced_as_too_large_is_not_invited(program: Program) -> None:
    head = b"POST /events HTTP/1.1\r\n" + HOST + b"Content-Length: 9000000\r\n"
    assert statuses(talk(program, head + b"Expect: 100-continue\r\n\r\n")) == [413]
    assert statuses(talk(program, head.replace(b"9000000", b"90000000000000000000") + b"\r\n")) == [400]
    assert statuses(talk(program, head.replace(b"9000000", b"9000000000") + b"\r\n")) == [413]


def test_every_page_has_the_security_headers(program: Program) -> None:
    answer = talk(program, b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n").lower()
    for name in (b"x-content-type-options: nosniff", b"x-frame-options: sameorigin", b"referrer-policy: no-referrer"):
        assert name in answer
