"""What only a file shows: crashes, other processes, damage, a full disk."""

import asyncio
import contextlib
import errno
import os
import shutil
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
from eventmill.testing.queue_contract.suite import bodies_of, drain, receive, soon
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


async def test_a_file_that_is_removed_is_created_again(tmp_path: Path) -> None:
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


async def test_work_that_no_one_waits_for_any_more_is_not_done(tmp_path: Path) -> None:
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


async def test_a_file_can_be_opened_while_another_process_holds_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db"):
        pass
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with opened(tmp_path / "queue.db") as queue:
            with pytest.raises(QueueUnavailable, match="locked"):
                await queue.check()


async def test_a_file_that_is_locked_for_long_is_reported_and_recovers(tmp_path: Path) -> None:
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


DISK_BYTES = 96 * 1024 * 1024


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of 96 MiB."""
    folder, image = tmp_path / "disk", tmp_path / "image"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if request.param == "ext4":
        image.touch()
        os.truncate(image, DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=False)
        command = ["mount", "-o", "loop", str(image), str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write a file until nothing is left on the disk."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        for size in (1024 * 1024, 4096):
            with contextlib.suppress(OSError):
                while filler.write(b"x" * size):
                    pass
        os.fsync(filler.fileno())


async def publish_until_refused(queue: Queue, body_bytes: int = 60_000) -> int:
    """Publish some 600 KB at a time until the queue refuses; return how many messages it took."""
    at_once = max(1, 600_000 // body_bytes)
    for count in range(0, 200 * at_once, at_once):
        try:
            await queue.publish([os.urandom(body_bytes) for _ in range(at_once)], soon())
        except QueueUnavailable:
            return count
    pytest.fail("the disk never gets full")


async def empty(queue: Queue) -> int:
    """Use every call of a consumer until the queue is empty; return how many messages there were."""
    count = 0
    while deliveries := await queue.receive(100, 0):
        assert await queue.extend(deliveries) == []
        await queue.release(deliveries[:1])
        await queue.ack(deliveries[1:])
        count += len(deliveries[1:])
        if len(deliveries) == 1:
            await queue.ack(await receive(queue, 1))
            count += 1
    return count


@pytest.mark.parametrize("body_bytes", [200, 60_000, 1_000_000])
async def test_a_queue_that_fills_the_disk_can_be_drained_and_then_accepts_messages_again(
    small_disk: Path, body_bytes: int
) -> None:
    async with opened(small_disk / "queue.db") as queue, opened(small_disk / "queue.db") as consumer:
        if body_bytes == 200:
            (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 24 * 1024 * 1024))
        confirmed = await publish_until_refused(queue, body_bytes)
        assert confirmed > 0
        with pytest.raises(QueueUnavailable, match="disk"):
            await queue.check()
        assert await empty(consumer) == confirmed
        for _ in range(3):
            await queue.check()
            again = await publish_until_refused(queue, body_bytes)
            assert again > confirmed / 2
            assert await empty(consumer) == again


async def test_a_disk_that_another_program_fills_can_still_be_drained_and_recovers(small_disk: Path) -> None:
    async with opened(small_disk / "queue.db") as queue, opened(small_disk / "queue.db") as consumer:
        for _ in range(20):
            await queue.publish([os.urandom(60_000) for _ in range(20)], soon())
        fill(small_disk)
        assert shutil.disk_usage(small_disk).free == 0
        with pytest.raises(QueueUnavailable, match="disk"):
            await queue.publish([b"x" * 60_000], soon())
        with pytest.raises(QueueUnavailable, match="disk"):
            await queue.check()
        assert await empty(consumer) == 400
        (small_disk / "filler").unlink()
        await queue.check()
        await queue.publish([b"again"], soon())
        assert await drain(consumer, 1) == {b"again": 1}


async def test_rejected_messages_on_a_full_disk_can_be_moved_to_the_dead_letters(small_disk: Path) -> None:
    async with opened(small_disk / "queue.db") as queue:
        confirmed = await publish_until_refused(queue)
        while deliveries := await queue.receive(10, 0):
            await queue.dead.publish([delivery.body for delivery in deliveries], soon())
            await queue.ack(deliveries)
        assert (await queue.dead.depth()).ready == confirmed


async def test_a_full_disk_does_not_keep_a_queue_from_being_opened(small_disk: Path) -> None:
    async with opened(small_disk / "queue.db") as queue:
        confirmed = await publish_until_refused(queue)
    async with opened(small_disk / "queue.db") as queue:
        assert await empty(queue) == confirmed


async def test_a_consumer_that_never_publishes_can_drain_a_disk_that_another_program_fills(small_disk: Path) -> None:
    async with opened(small_disk / "queue.db") as queue:
        await queue.publish([os.urandom(60_000) for _ in range(100)], soon())
    async with opened(small_disk / "queue.db") as consumer:
        fill(small_disk)
        assert await empty(consumer) == 100


async def test_a_disk_that_cannot_allocate_space_takes_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    async with opened(tmp_path / "queue.db") as queue:
        await queue.check()
        await queue.publish([b"kept"], soon())
        assert await drain(queue, 1) == {b"kept": 1}


_OPENS_ALONE = """
import fcntl, sys
with open(sys.argv[1] + "-shm", "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)  # SQLite truncates the index after it gets this lock
"""


async def test_another_process_finds_the_locks_of_an_open_queue(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    async with opened(path) as queue:
        await queue.publish([b"message"], soon())
        async with opened(path) as another:
            await another.check()
        command = [sys.executable, "-c", _OPENS_ALONE, str(path)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert "BlockingIOError" in done.stderr


async def test_a_folder_that_is_removed_is_made_again_by_the_next_publish(tmp_path: Path) -> None:
    async with opened(tmp_path / "data" / "queue.db") as queue:
        await queue.publish([b"gone"], soon())
        shutil.rmtree(tmp_path / "data")
        await queue.publish([b"new"], soon())
        assert await drain(queue, 1) == {b"new": 1}


async def test_an_old_ack_removes_nothing_from_a_file_that_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    async with opened(path) as queue:
        await queue.publish([b"old"], soon())
        held = await receive(queue, 1)
        remove_all(tmp_path)
        await queue.publish([b"new"], soon())
        await queue.ack(held)
        [new] = await receive(queue, 1)
        await queue.ack(held)
        assert await queue.extend(held) == held
        assert await queue.extend([new]) == []


async def test_an_old_ack_removes_nothing_from_a_file_that_was_restored(tmp_path: Path) -> None:
    path, backup = tmp_path / "queue.db", tmp_path / "backup.db"
    async with opened(path) as queue:
        with closing(sqlite3.connect(path)) as file, closing(sqlite3.connect(backup)) as copy:
            file.backup(copy)
        await queue.publish([b"after the backup"], soon())
        held = await receive(queue, 1)
        for name in ("queue.db-wal", "queue.db-shm"):
            (tmp_path / name).unlink()
        backup.rename(path)
        await queue.publish([b"new"], soon())
        await receive(queue, 1)
        await queue.ack(held)
        assert bodies_of(await receive(queue, 1)) == {b"new": 1}


_HOLDER = """
import asyncio, sys, time
import eventmill_queue_sqlite
from eventmill_queue_sqlite.settings import SqliteQueueSettings

async def main():
    settings = SqliteQueueSettings(path=sys.argv[1], lease_seconds=1)
    async with eventmill_queue_sqlite.backend.open(settings) as queue:
        await queue.publish([b"leased", b"waiting"], time.monotonic() + 30)
        assert len(await queue.receive(1, 0)) == 1

asyncio.run(main())
"""


def hold_ahead_of_time(path: Path) -> None:
    """Publish and receive in a time namespace, where the clock that starts with the machine is a day ahead."""
    ahead = ["unshare", "--time", "--monotonic", "86400", "--fork"]
    if subprocess.run([*ahead, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root may have a time namespace")
    subprocess.run([*ahead, sys.executable, "-c", _HOLDER, str(path)], check=True)


async def test_a_restart_of_the_machine_ends_leases_and_hides_nothing(tmp_path: Path) -> None:
    hold_ahead_of_time(tmp_path / "queue.db")
    async with opened(tmp_path / "queue.db") as queue:
        assert bodies_of(await receive(queue, 2, 3)) == {b"leased": 1, b"waiting": 1}


_FIRST_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA application_id = 0x656D7131;
CREATE TABLE {name} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    visible_at REAL NOT NULL DEFAULT 0,
    lease INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    enqueued_at_ms INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX {name}_visible ON {name} (visible_at, id);
INSERT INTO {name} (visible_at, lease, attempts, enqueued_at_ms, body)
VALUES (0, 0, 0, 1700000000000, CAST('fresh' AS BLOB));
INSERT INTO {name} (visible_at, lease, attempts, enqueued_at_ms, body)
VALUES (9e9, 2, 2, 1700000000000, CAST('leased' AS BLOB));
"""


async def test_a_file_of_the_first_schema_keeps_its_messages(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "queue.db")) as file:
        file.executescript(_FIRST_SCHEMA.format(name="messages") + _FIRST_SCHEMA.format(name="dead_letters"))
    async with opened(tmp_path / "queue.db") as queue, opened(tmp_path / "queue.db") as other:
        for handle in (queue, queue.dead):
            await handle.publish([b"new"], soon())
            attempts = {delivery.body: delivery.attempts for delivery in await receive(handle, 3)}
            assert attempts == {b"fresh": 1, b"leased": 3, b"new": 1}
        assert (await other.depth()).in_flight == 3


@pytest.mark.parametrize("statements", [0, 1, 2, 3])
async def test_a_file_of_the_first_schema_that_was_not_finished_is_finished(tmp_path: Path, statements: int) -> None:
    with closing(sqlite3.connect(tmp_path / "queue.db")) as file:
        file.execute("PRAGMA application_id = 1701671217")
        script = _FIRST_SCHEMA.format(name="messages") + _FIRST_SCHEMA.format(name="dead_letters")
        create = [part for part in script.split(";") if part.strip().startswith("CREATE")]
        for statement in create[:statements]:
            file.execute(statement)
        file.commit()
    async with opened(tmp_path / "queue.db") as queue:
        await queue.publish([b"new"], soon())
        assert await drain(queue, 1) == {b"new": 1}


async def test_a_damaged_file_is_rejected_with_a_message(tmp_path: Path) -> None:
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


async def test_a_file_of_another_program_is_rejected_with_a_message(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "cookies.db")) as other:
        other.execute("CREATE TABLE messages (body TEXT)")
    with pytest.raises(ConfigurationError, match="another program"):
        async with opened(tmp_path / "cookies.db"):
            pass


async def test_a_folder_that_cannot_be_written_is_rejected_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "queue.db", tmp_path):
        with pytest.raises(ConfigurationError, match="as a queue"):
            async with opened(path):
                pass


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
async def test_a_disk_of_another_machine_is_rejected_with_a_message(
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
