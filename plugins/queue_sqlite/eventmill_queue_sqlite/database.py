"""The SQLite file, with checks when it is opened, and one thread that uses it."""

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
BUSY_SECONDS = 1.5  # the longest wait for another process; a check must end within 2 s
_MAX_CHECKED_BYTES = 64 * 1024 * 1024  # checking a larger file would delay the start
_MOUNTS = Path("/proc/self/mounts")
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.s3", "fuse.rclone")


class Database:
    """One file, and the thread that works on it: SQLite has one writer at a time.

    Published messages are on disk before `durable` returns (`synchronous=FULL`). Leases and acks do not wait for the
    disk (`synchronous=NORMAL`): messages whose acks a power cut undoes are delivered again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.disk = Disk(self._path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="eventmill-sqlite")
        self._file: tuple[int, int] | None = None  # which file is open
        self._open()

    async def durable(self, work: Callable[[sqlite3.Connection], T], seconds: float = ANSWER_SECONDS) -> T:
        """Run one transaction that is on the disk when this returns; `work` may return values, but no cursor.

        On a disk that is nearly full a checkpoint comes before and after it. Raise QueueUnavailable.
        """
        return await self._run(lambda: self._transact(work, is_durable=True), seconds)

    async def quick(self, work: Callable[[sqlite3.Connection], T], seconds: float = ANSWER_SECONDS) -> T:
        """Run one transaction that a power cut may undo. Raise QueueUnavailable."""
        return await self._run(lambda: self._transact(work, is_durable=False), seconds)

    def version(self) -> int:
        """Return a number that changes with every write of any process; this takes a few microseconds."""
        try:
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return -1

    async def close(self) -> None:
        # Do not start work that no one waits for any more.
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._close()

    async def _run(self, work: Callable[[], T], seconds: float) -> T:
        # Running work continues after the timeout, so its outcome is unknown.
        future = asyncio.wrap_future(self._thread.submit(work))
        done, _ = await asyncio.wait([future], timeout=max(0.0, seconds))
        if not done:
            future.cancel()  # only work that has not started
            raise QueueUnavailable("the queue's file did not respond in time")
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
        """Copy the log into the file. Raise sqlite3.Error if the file cannot grow."""
        self._durable.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _is_replaced(self) -> bool:
        """Return whether the file was removed or replaced, since writes to a removed file are lost."""
        try:
            return _identity(self._path) != self._file
        except FileNotFoundError:
            return True

    def _open(self) -> None:
        """Open the file. Raise ConfigurationError if it is damaged, foreign, or on another machine."""
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
                self.disk.allocate_index()
                with suppress(sqlite3.OperationalError):  # another process is writing, and has created the log
                    _commit(self._durable, lambda file: self.disk.allocate_log())
                self._file = _identity(self._path)
            except (sqlite3.Error, OSError) as error:
                raise ConfigurationError(f"cannot use {self._path} as a queue: {error}") from error
            failing.pop_all()

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute("PRAGMA secure_delete = OFF")  # ON, the default of some builds, overwrites deleted bodies
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
            raise ConfigurationError(f"{path} is damaged ({found}): restore it, or move it away to start empty")


def _refuse_remote(path: Path) -> None:
    """Raise ConfigurationError if the file is on another machine, where SQLite's locks are not reliable."""
    if not _MOUNTS.exists():
        return  # known on Linux only
    resolved = path.resolve()
    mounts = [line.split()[1:3] for line in _MOUNTS.read_text().splitlines()]
    folders = [(Path(place.encode().decode("unicode_escape")), kind) for place, kind in mounts]
    _, kind = max(
        ((folder, kind) for folder, kind in folders if resolved.is_relative_to(folder)),
        key=lambda mount: len(mount[0].parts),
        default=(Path("/"), ""),
    )
    if kind.startswith(_REMOTE):
        raise ConfigurationError(f"{path} is on another machine ({kind}): the queue needs a local disk")
