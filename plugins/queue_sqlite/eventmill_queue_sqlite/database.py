"""The file: opened with care, and worked on by one thread."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TypeVar

from eventmill import ConfigurationError, QueueUnavailable
from eventmill_queue_sqlite.disk import LOG_BYTES, Disk
from eventmill_queue_sqlite.schema import prepare

T = TypeVar("T")

ANSWER_SECONDS = 10.0
BUSY_SECONDS = 1.5  # another process may hold the file for so long; a check must answer within two
_MAX_CHECKED_BYTES = 64 * 1024 * 1024  # looking through a larger file would hold up the start
_MOUNTS = Path("/proc/self/mounts")
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.s3", "fuse.rclone")


class Database:
    """One file, and the thread that works on it: SQLite has one writer at a time.

    What is published is on the disk before `durable` returns (`synchronous=FULL`). Leases and acks need no such wait
    (`synchronous=NORMAL`): what a power cut takes back of them is delivered again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.disk = Disk(self._path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="eventmill-sqlite")
        self._file: tuple[int, int] | None = None  # which file is open
        self._open()

    async def durable(self, work: Callable[[sqlite3.Connection], T], seconds: float = ANSWER_SECONDS) -> T:
        """Run one transaction that is on the disk when this returns; `work` may return values, no cursor.

        On a disk that is nearly full a checkpoint comes before and after it. Raises QueueUnavailable.
        """
        return await self._run(lambda: self._transact(work, is_durable=True), seconds)

    async def quick(self, work: Callable[[sqlite3.Connection], T], seconds: float = ANSWER_SECONDS) -> T:
        """Run one transaction that a power cut may take back. Raises QueueUnavailable."""
        return await self._run(lambda: self._transact(work, is_durable=False), seconds)

    def version(self) -> int:
        """A number that changes whenever anybody has written; a look costs a few microseconds."""
        try:
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return -1

    async def close(self) -> None:
        # What nobody waits for any more is not begun.
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._close()

    async def _run(self, work: Callable[[], T], seconds: float) -> T:
        # What is under way goes on when time is up: whoever waited then knows nothing of the outcome.
        future = asyncio.wrap_future(self._thread.submit(work))
        done, _ = await asyncio.wait([future], timeout=max(0.0, seconds))
        if not done:
            future.cancel()  # of what has not begun
            raise QueueUnavailable("the queue's file is too slow: no answer in time")
        return future.result()

    def _transact(self, work: Callable[[sqlite3.Connection], T], *, is_durable: bool) -> T:
        try:
            if self._is_replaced():
                self._close()
                self._open()
            if not is_durable:
                return _commit(self._quick, work)
            if not self.disk.is_low():
                return _commit(self._durable, work)
            self._checkpoint()
            result = _commit(self._durable, work)
            with suppress(sqlite3.Error):
                self._checkpoint()
            return result
        except (sqlite3.Error, OSError, ConfigurationError) as error:
            raise QueueUnavailable(f"cannot use the queue's file: {error}") from error

    def _checkpoint(self) -> None:
        """Copy the log into the file. Raises sqlite3.Error if the file cannot grow."""
        self._durable.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _is_replaced(self) -> bool:
        """Whether the file was removed or exchanged: what is written into a removed file is lost."""
        try:
            return _identity(self._path) != self._file
        except FileNotFoundError:
            return True

    def _open(self) -> None:
        """Raises ConfigurationError in words for a file that is damaged, foreign, or not on this machine."""
        _refuse_remote(self._path)
        with ExitStack() as failing:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._durable, self._quick, self._watch = (
                    failing.enter_context(closing(self._connect(synchronous)))
                    for synchronous in ("FULL", "NORMAL", "NORMAL")
                )
                _refuse_damaged(self._durable, self._path)
                prepare(self._durable, str(self._path))
                with suppress(sqlite3.OperationalError):  # another process writes, and has the log
                    _commit(self._durable, lambda file: self.disk.allocate_log())
                self._file = _identity(self._path)
            except (sqlite3.Error, OSError) as error:
                raise ConfigurationError(f"cannot use {self._path} as a queue: {error}") from error
            failing.pop_all()

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute(
            "PRAGMA secure_delete = OFF"
        )  # ON, as some builds have it, writes each body again to delete it
        return connection

    def _close(self) -> None:
        for connection in (self._durable, self._quick, self._watch):
            connection.close()
        self._file = None


def _commit(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run one write transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _refuse_damaged(connection: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size <= _MAX_CHECKED_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise ConfigurationError(f"{path} is damaged ({found}): restore it, or move it away to start anew")


def _refuse_remote(path: Path) -> None:
    """Raise ConfigurationError when the file is on another machine, where SQLite's locks cannot be trusted."""
    if not _MOUNTS.exists():
        return  # only Linux tells
    resolved = path.resolve()
    mounts = [line.split()[1:3] for line in _MOUNTS.read_text().splitlines()]
    folders = [(Path(place.encode().decode("unicode_escape")), kind) for place, kind in mounts]
    _, kind = max(
        ((folder, kind) for folder, kind in folders if resolved.is_relative_to(folder)),
        key=lambda mount: len(mount[0].parts),
        default=(Path("/"), ""),
    )
    if kind.startswith(_REMOTE):
        raise ConfigurationError(f"{path} is on another machine ({kind}): the queue needs a disk of this one")
