"""HTTPS with a certificate of one's own."""

import ssl
from pathlib import Path

import httpx
import trustme

from support.mill import running

EVENT = {"event_name": "page_view", "channel": "web", "user_id": "ada", "timestamp": 1766717657}


def test_a_server_with_a_certificate_speaks_https(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = {
        "EVENTMILL_QUEUE": "memory",
        "EVENTMILL_STORE": "memory",
        "EVENTMILL_TLS_CERTIFICATE": "server.pem",
        "EVENTMILL_TLS_KEY": "server.pem",
    }
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        url = program.wait_for(r"https://127\.0\.0\.1:\d+")[0]
        assert httpx.post(f"{url}/events", json=EVENT, verify=context).status_code == 202
        assert program.stop() == 0
