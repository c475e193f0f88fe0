"""What only a file shows: crashes, other processes, damage, a full disk."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

import eventmill_queue_sqlite
from eventmill import ConfigurationError, Queue, QueueUnavailable
from eventmill.testing.queue_contract import drain, receive, soon
from eventmill_queue_sqlite import database
from eventmill_queue_sqlite.settings import SqliteQueueSettings

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Queue]:
    async with eventmill_queue_sqlite.backend.open(SqliteQueueSettings(path=path, lease_seconds=1)) as queue:
        yield queue


_PUBLISHER = """
import asyncio, sys, time
import eventmill_queue_sqlite
from eventmill_queue_sqlite.settings import SqliteQueueSettings

async def main():
    async with eventmill_queue_sqlite.backend.open(SqliteQueueSettings(path=sys.argv[1])) as queue:
        for number in range(int(sys.argv[2])):
            await queue.publish([b"%s %d" % (sys.argv[3].encode(), number)], time.monotonic() + 30)
            print(number, flush=True)

asyncio.run(main())
"""


def start_publisher(path: Path, count: int, name: str = "") -> subprocess.Popen[str]:
    """A process that publishes and prints the number of each message once it is confirmed."""
    command = [sys.executable, "-c", _PUBLISHER, str(path), str(count), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_a_publisher_that_is_killed_loses_no_confirmed_message(tmp_path: Path) -> None:
    publisher = start_publisher(tmp_path / "queue.db", 100_000)
    assert publisher.stdout is not None
    for _ in range(50):
        publisher.stdout.readline()
    publisher.kill()
    publisher.wait()
    confirmed = 50 + len(publisher.stdout.read().splitlines())
    publisher.stdout.close()
    async with opened(tmp_path / "queue.db") as queue:
        ready = (await queue.depth()).ready
        assert ready in (confirmed, confirmed + 1)


async def test_processes_that_start_at_once_share_the_file(tmp_path: Path) -> None:
    publishers = [start_publisher(tmp_path / "queue.db", 50, str(n)) for n in range(3)]
    async with opened(tmp_path / "queue.db") as queue:
        received = await receive(queue, 150, 60)
        await queue.ack(received)
        assert len({delivery.body for delivery in received}) == 150
    for publisher in publishers:
        publisher.communicate()
        assert publisher.returncode == 0


async def test_a_message_of_another_process_wakes_a_reader_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as queue, opened(tmp_path / "queue.db") as other:
        delays = []
        for _ in range(20):
            waiting = asyncio.create_task(queue.receive(1, 5))
            await asyncio.sleep(0.03)
            await other.publish([b"wake up"], soon())
            published = time.monotonic()
            await queue.ack(await waiting)
            delays.append(time.monotonic() - published)
        assert sorted(delays)[10] < 0.05


async def test_what_is_on_the_disk_can_be_read_by_the_next_process(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as queue:
        await queue.publish([b"one", b"two"], soon())
        await queue.dead.publish([b"dead"], soon())
    async with opened(tmp_path / "queue.db") as queue:
        assert await drain(queue, 2) == {b"one": 1, b"two": 1}
        assert await drain(queue.dead, 1) == {b"dead": 1}


def remove_all(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


async def test_a_file_that_is_removed_is_made_anew(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as queue:
        await queue.publish([b"gone"], soon())
        remove_all(tmp_path)
        await queue.publish([b"kept"], soon())
        async with opened(tmp_path / "queue.db") as other:
            assert await drain(other, 1) == {b"kept": 1}


async def test_a_file_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "queue.db"
    async with opened(path) as queue:
        await queue.publish([b"kept"], soon())
        (tmp_path / "here").rename(tmp_path / "aside")
        (tmp_path / "here").mkdir()
        path.write_bytes(b"not a database at all" * 1000)
        with pytest.raises(QueueUnavailable, match="not a database"):
            await queue.publish([b"no"], soon())
        path.unlink()
        (tmp_path / "here").rmdir()
        (tmp_path / "aside").rename(tmp_path / "here")
        assert await drain(queue, 1) == {b"kept": 1}


async def test_work_that_nobody_waits_for_any_more_is_not_done(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as queue:
        with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            late = [queue.publish([b"late"], time.monotonic() + 0.2) for _ in range(20)]
            verdicts = await asyncio.gather(*late, return_exceptions=True)
            assert {type(verdict) for verdict in verdicts} == {QueueUnavailable}
            closing_at = time.monotonic()
    assert time.monotonic() - closing_at < 5
    async with opened(tmp_path / "queue.db") as queue:
        assert (await queue.depth()).ready in (0, 1)  # what was under way may have been done


async def test_a_file_can_be_opened_while_somebody_holds_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db"):
        pass
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with opened(tmp_path / "queue.db") as queue:
            with pytest.raises(QueueUnavailable, match="locked"):
                await queue.check()


async def test_a_file_that_is_locked_for_long_is_told_and_heals(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as queue:
        with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            with pytest.raises(QueueUnavailable, match="locked"):
                await queue.check()
            with pytest.raises(QueueUnavailable):
                await queue.publish([b"no"], time.monotonic() + 0.5)
            assert time.monotonic() - started < 4
            other.execute("ROLLBACK")
        await queue.publish([b"yes"], soon())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_refuses_keeps_and_heals(small_disk: Path) -> None:
    async with opened(small_disk / "queue.db") as queue:
        await queue.publish([b"kept"], soon())
        (small_disk / "filler").write_bytes(b"x" * 1024 * 1024)
        with pytest.raises(QueueUnavailable, match="full"):
            await queue.publish([b"x" * 30_000] * 100, soon())
        (small_disk / "filler").unlink()
        await queue.publish([b"again"], soon())
        bodies = {delivery.body for delivery in await queue.receive(200, 1)}
        assert {b"kept", b"again"} <= bodies


async def test_a_damaged_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "noise.db").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(ConfigurationError, match=r"noise\.db.*not a database"):
        async with opened(tmp_path / "noise.db"):
            pass
    async with opened(tmp_path / "queue.db") as queue:
        await queue.publish([os.urandom(30_000) for _ in range(20)], soon())
    content = bytearray((tmp_path / "queue.db").read_bytes())
    content[4096 * 2 :: 4096] = b"\xff" * len(content[4096 * 2 :: 4096])
    (tmp_path / "queue.db").write_bytes(content)
    with pytest.raises(ConfigurationError, match="damaged|malformed"):
        async with opened(tmp_path / "queue.db"):
            pass


async def test_a_file_of_another_program_is_refused_in_words(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "cookies.db")) as other:
        other.execute("CREATE TABLE messages (body TEXT)")
    with pytest.raises(ConfigurationError, match="another program"):
        async with opened(tmp_path / "cookies.db"):
            pass


async def test_a_folder_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "queue.db", tmp_path):
        with pytest.raises(ConfigurationError, match="as a queue"):
            async with opened(path):
                pass


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
async def test_a_disk_of_another_machine_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path}/far\\040away {kind} rw 0 0\n")
    monkeypatch.setattr(database, "_MOUNTS", mounts)
    with pytest.raises(ConfigurationError, match=f"another machine \\({kind}\\)"):
        async with opened(tmp_path / "far away" / "queue.db"):
            pass
    async with opened(tmp_path / "near" / "queue.db") as queue:
        assert isinstance(await queue.check(), list)
