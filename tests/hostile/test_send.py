"""eventmill send does not trust the server that it talks to."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.mill import eventmill

EVENT = b'{"event_name":"a","channel":"web","user_id":"u","timestamp":1766717657}\n'
OK = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads each request, and lets the function answer it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    client.recv(65536)
                    answer(client)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def whole(body: bytes, head: bytes = OK) -> Callable[[socket.socket], None]:
    return lambda client: client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def endless(client: socket.socket) -> None:
    client.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")


def dripping(client: socket.socket) -> None:
    client.sendall(OK + b"Content-Length: 100000\r\n\r\n")
    while True:
        client.sendall(b" ")
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (whole(b"[]"), "answered 202: Accepted"),
        (whole(b'{"accepted": "1", "event_ids": []}'), "answered 202: Accepted"),
        (whole(b'{"accepted": 1000000, "rejected": 0, "event_ids": []}'), "counts other events than were sent"),
        (whole(b'{"accepted": -1, "rejected": 2, "errors": []}'), "answered 202"),
        (
            whole(b'{"accepted": 0, "rejected": 1, "errors": [{"index": 7, "message": "x"}]}'),
            "counts other events than were sent",
        ),
        (whole(b"[" * 100_000), "answered 202"),
        (whole(b"\xff"), "answered 202"),
        (whole(b'{"message": "\\u001b[2Jgone"}', b"HTTP/1.1 400 Bad Request\r\n"), r"answered 400: \\x1b\[2Jgone"),
        (endless, "the response is larger than 2097152 bytes"),
        (dripping, "does not answer"),
    ],
    ids=["list", "text", "too many", "negative", "index", "nested", "no text", "escape", "endless", "dripping"],
)
def test_a_hostile_answer_ends_with_a_clear_error(
    tmp_path: Path, answer: Callable[[socket.socket], None], words: str
) -> None:
    (tmp_path / "events.ndjson").write_bytes(EVENT)
    started = time.monotonic()
    with answering(answer) as address:
        url = f"http://ada:geheim@{address}"
        done = eventmill("send", "events.ndjson", "--url", url, "--patience", "2", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr + done.stdout
    assert "\x1b" not in done.stderr
    assert done.stdout.startswith("accepted 0 of 1 events")
    assert time.monotonic() - started < 30


def test_a_rejected_event_is_printed_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_bytes(EVENT)
    message = json.dumps(
        {"accepted": 0, "rejected": 1, "errors": [{"index": 0, "message": "a\x1b]0;x\x07\nline 2: b"}]}
    )
    with answering(whole(message.encode())) as address:
        done = eventmill("send", "events.ndjson", "--url", f"http://{address}", cwd=tmp_path)
    assert done.stderr == "line 1: a\\x1b]0;x\\x07\\nline 2: b\n"


@pytest.mark.parametrize("url", ["ftp://ada:geheim@host", "http://ada:geheim@", "ada:geheim@host"])
def test_a_wrong_url_is_named_without_its_password(tmp_path: Path, url: str) -> None:
    (tmp_path / "events.ndjson").write_bytes(EVENT)
    done = eventmill("send", "events.ndjson", "--url", url, cwd=tmp_path)
    assert done.returncode == 2
    assert "geheim" not in done.stderr
