"""HTTPS with a certificate of one's own, and clients that never complete their handshake."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import trustme

from support.mill import Program, eventmill, running, wait_until

EVENT = {"event_name": "page_view", "channel": "web", "user_id": "ada", "timestamp": 1766717657}
SETTINGS = {
    "EVENTMILL_QUEUE": "memory",
    "EVENTMILL_STORE": "memory",
    "EVENTMILL_TLS_CERTIFICATE": "server.pem",
    "EVENTMILL_TLS_KEY": "server.pem",
    "EVENTMILL_MAX_CONNECTIONS": "16",  # 8 for one address
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def program(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    with running("run", "--listen", "127.0.0.1:0", cwd=folder, settings=SETTINGS) as program:
        program.wait_for(r"https://127\.0\.0\.1:\d+")
        yield program
        assert program.stop() == 0
        assert "Traceback" not in program.output


def post(program: Program, authority: trustme.CA) -> int:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    url = program.wait_for(r"https://127\.0\.0\.1:\d+")[0]
    try:
        return httpx.post(f"{url}/events", json=EVENT, verify=context).status_code
    except httpx.TransportError:
        return 0


def connect(program: Program) -> socket.socket:
    port = int(program.wait_for(r"https://127\.0\.0\.1:(\d+)")[1])
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_a_server_with_a_certificate_speaks_https(program: Program, authority: trustme.CA) -> None:
    assert post(program, authority) == 202


def test_a_client_that_does_not_speak_tls_is_disconnected(program: Program, authority: trustme.CA) -> None:
    with connect(program) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in client.recv(4096)
    assert post(program, authority) == 202


def test_handshakes_that_are_not_completed_end_after_ten_seconds(program: Program, authority: trustme.CA) -> None:
    started = time.monotonic()
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(program)) for _ in range(8)]
        assert stack.enter_context(connect(program)).recv(1) == b""
        assert time.monotonic() - started < 5
        assert [client.recv(1) for client in silent] == [b""] * 8
    assert 9 < time.monotonic() - started < 20
    wait_until(lambda: post(program, authority) == 202)


def test_a_certificate_that_cannot_be_used_is_an_error_before_anything_is_opened(tmp_path: Path) -> None:
    done = eventmill("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=SETTINGS)
    assert done.returncode == 2
    assert "cannot use EVENTMILL_TLS_CERTIFICATE server.pem" in done.stderr
    done = eventmill("run", cwd=tmp_path, settings={"EVENTMILL_TLS_CERTIFICATE": "server.pem"})
    assert done.returncode == 2
    assert "set both, or none" in done.stderr


def test_a_handshake_in_progress_does_not_delay_the_shutdown(authority: trustme.CA, tmp_path: Path) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=SETTINGS) as program:
        assert post(program, authority) == 202
        with connect(program) as client:
            started = time.monotonic()
            assert program.stop() == 0
            assert time.monotonic() - started < 5
            assert client.recv(1) == b""
        assert " ERROR " not in program.output
