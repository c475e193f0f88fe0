"""What a server leaves on the disk: readable by its owner only, and only in the folder that was named."""

import stat
import subprocess
from pathlib import Path

import httpx
import pytest

from support.mill import eventmill, running, wait_until

EVENT = {"event_name": "secret", "channel": "web", "user_id": "ada", "timestamp": 1766717657}
COUNT = {"event_name": "secret", "from": "1766717657", "to": "1766717657"}


def total(url: str) -> int:
    return int(httpx.get(f"{url}/metrics", params=COUNT).json()["total_count"])


def test_only_the_owner_can_read_the_data(tmp_path: Path) -> None:
    subprocess.run(["chmod", "755", str(tmp_path)], check=True)
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        url = program.url()
        assert httpx.post(f"{url}/events", json=EVENT).status_code == 202
        wait_until(lambda: total(url) == 1)
        modes = {stat.S_IMODE(path.lstat().st_mode) & 0o077 for path in tmp_path.rglob("*") if not path.is_symlink()}
        assert program.stop() == 0
    assert modes == {0}


def test_a_killed_server_leaves_no_events_outside_of_its_folder(tmp_path: Path) -> None:
    temporary, data = tmp_path / "tmp", tmp_path / "data"
    temporary.mkdir()
    settings = {"TMPDIR": str(temporary), "EVENTMILL_BATCH_SECONDS": "0", "EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS": "2"}
    with running("run", "--listen", "127.0.0.1:0", "--data", str(data), cwd=tmp_path, settings=settings) as program:
        url = program.url()
        for number in range(50):
            httpx.post(f"{url}/events", json=EVENT | {"event_id": str(number)})
        program.process.kill()
        program.process.wait()
    assert list(temporary.rglob("*.raw")) == []
    left = data / "chdb" / "eventmill-inserts"
    forgotten = left / "of-a-killed-process.raw"
    forgotten.write_text("{}")
    with running("run", "--listen", "127.0.0.1:0", "--data", str(data), cwd=tmp_path, settings=settings) as program:
        url = program.url()
        assert not forgotten.exists()
        wait_until(lambda: total(url) == 50)  # the killed process may hold the lease of a message
        assert program.stop() == 0


@pytest.mark.parametrize("name", ["a#b c%20d", "ä[x]'y"])
def test_the_data_is_in_the_folder_that_was_named(tmp_path: Path, name: str) -> None:
    with running("run", "--listen", "127.0.0.1:0", "--data", name, cwd=tmp_path) as program:
        url = program.url()
        httpx.post(f"{url}/events", json=EVENT)
        wait_until(lambda: total(url) == 1)
        assert program.stop() == 0
        assert name in program.output.replace("\n", "")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {"queue.db", "chdb"} <= {path.name for path in (tmp_path / name).iterdir()}


def test_a_folder_that_the_engine_would_take_for_another_is_refused(tmp_path: Path) -> None:
    done = eventmill("run", "--data", "a?b#c d", cwd=tmp_path)
    assert done.returncode == 2
    assert "question mark" in done.stderr
    assert list(tmp_path.iterdir()) == []
