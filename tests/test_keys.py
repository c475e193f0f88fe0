"""eventmill keys, and how running processes follow the file."""

import json
import re
import stat
from pathlib import Path

import httpx
import pytest

from support.mill import eventmill, running, wait_until

EVENT = {"event_name": "page_view", "channel": "web", "user_id": "ada", "timestamp": 1766717657}
KEYED = {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory", "EVENTMILL_ANONYMOUS": "false"}


def new_key(folder: Path, *options: str) -> str:
    done = eventmill("keys", "new", *options, cwd=folder, settings=KEYED)
    assert done.returncode == 0, done.stderr
    assert "shown only once" in done.stderr
    return done.stdout.strip()


def status(url: str, secret: str) -> int:
    return httpx.post(f"{url}/events", json=EVENT, headers={"X-API-Key": secret}).status_code


def test_keys_are_created_listed_and_revoked(tmp_path: Path) -> None:
    secret = new_key(tmp_path, "--scope", "write", "--project", "shop", "--name", "web", "--expires", "90d")
    assert re.fullmatch("emw_[0-9a-f]{40}", secret)
    assert new_key(tmp_path, "--scope", "read").startswith("emr_")
    assert new_key(tmp_path, "--scope", "admin", "--project", "*").startswith("ema_")
    file = tmp_path / "eventmill-keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in file.read_text()
    listed = eventmill("keys", "list", cwd=tmp_path, settings=KEYED).stdout.splitlines()
    assert [line.split("\t")[1:4] for line in listed] == [
        ["write", "shop", "web"],
        ["read", "default", ""],
        ["admin", "*", ""],
    ]
    revoked = eventmill("keys", "revoke", "web", listed[1][:6], cwd=tmp_path, settings=KEYED)
    assert revoked.stdout == "2 keys revoked; running processes follow within 2 s\n"
    assert len(json.loads(eventmill("keys", "list", "--json", cwd=tmp_path, settings=KEYED).stdout)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["new", "--scope", "everything"], "--scope: 'everything' is not one of write, read, admin"),
        (["new", "--scope", "write", "--project", "*"], "a write key needs one project"),
        (["new", "--scope", "write", "--project", "a b"], "project"),
        (["new", "--scope", "write", "--expires", "soon"], "--expires: 'soon'"),
        (["new", "--scope", "write", "--origin", "app.example/x"], "--origin: 'app.example/x'"),
        (["revoke", "unknown"], "has no key 'unknown'"),
    ],
)
def test_a_wrong_option_is_named_and_changes_nothing(tmp_path: Path, options: list[str], words: str) -> None:
    done = eventmill("keys", *options, cwd=tmp_path, settings=KEYED)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not (tmp_path / "eventmill-keys.json").exists()


def test_a_running_server_follows_the_file(tmp_path: Path) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=KEYED) as program:
        url = program.url()
        assert httpx.post(f"{url}/events", json=EVENT).status_code == 202
        secret = new_key(tmp_path, "--scope", "write", "--name", "web")
        wait_until(lambda: status(url, "") == 401)  # the first key ends anonymous mode
        assert status(url, secret) == 202
        assert eventmill("keys", "revoke", "web", cwd=tmp_path, settings=KEYED).returncode == 0
        wait_until(lambda: status(url, secret) == 401)
        assert status(url, "") == 401  # the end of the last key does not begin it again
        secret = new_key(tmp_path, "--scope", "write")
        wait_until(lambda: status(url, secret) == 202)
        (tmp_path / "eventmill-keys.json").write_text("[{")
        program.wait_for("holds no valid keys: .*; the former keys stay valid")
        assert status(url, secret) == 202
        assert program.stop() == 0
    assert secret not in program.output


def test_all_workers_of_serve_know_the_keys(tmp_path: Path) -> None:
    queue = {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db")}
    settings = KEYED | queue | {"EVENTMILL_STORE": "none", "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0"}
    secret = new_key(tmp_path, "--scope", "write")
    with running("serve", "--listen", "127.0.0.1:0", "--workers", "2", cwd=tmp_path, settings=settings) as program:
        url = program.url()
        assert {status(url, secret) for _ in range(30)} == {202}
        later = new_key(tmp_path, "--scope", "write")
        wait_until(lambda: {status(url, later) for _ in range(10)} == {202})
        assert program.stop() == 0


def test_keys_may_come_from_the_environment(tmp_path: Path) -> None:
    made = json.loads(eventmill("keys", "new", "--scope", "write", "--json", cwd=tmp_path, settings=KEYED).stdout)
    assert not (tmp_path / "eventmill-keys.json").exists()
    settings = KEYED | {"EVENTMILL_KEYS": json.dumps([made["key"]])}
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        url = program.url()
        assert status(url, made["secret"]) == 202
        assert status(url, "emw_unknown") == 401
        assert program.stop() == 0


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        (
            ["serve", "--listen", "127.0.0.1:0"],
            {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_STORE": "none"},
            "eventmill keys new",
        ),
        (["run", "--listen", "0.0.0.0:0"], {}, "EVENTMILL_ANONYMOUS=true"),
        (["run", "--listen", "127.0.0.1:0"], {"EVENTMILL_KEYS": "{}"}, "EVENTMILL_KEYS holds no valid keys"),
        (["run", "--listen", "127.0.0.1:0"], {"EVENTMILL_TLS_KEY": "key.pem"}, "set both, or none"),
        (
            ["run", "--listen", "127.0.0.1:0"],
            {"EVENTMILL_TLS_KEY": "key.pem", "EVENTMILL_TLS_CERTIFICATE": "none.pem"},
            "cannot use EVENTMILL_TLS_CERTIFICATE none.pem",
        ),
    ],
)
def test_a_server_that_would_let_everybody_in_does_not_start(
    tmp_path: Path, command: list[str], settings: dict[str, str], words: str
) -> None:
    queue = {"EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db")}
    done = eventmill(*command, cwd=tmp_path, settings=KEYED | queue | settings)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert words in done.stderr
