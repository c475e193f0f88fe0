"""The file: opened with care, and worked on by one thread."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

from eventmill import ConfigurationError, QueueUnavailable

T = TypeVar("T")

APPLICATION_ID = 0x656D7131  # "emq1": tells this file from any other program's
ANSWER_SECONDS = 10.0
BUSY_SECONDS = 1.5  # another process may hold the file for so long; a check must answer within two
_MAX_CHECKED_BYTES = 64 * 1024 * 1024  # looking through a larger file would hold up the start
_MOUNTS = Path("/proc/self/mounts")
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.s3", "fuse.rclone")

_TABLES = 4  # with their indexes
_TABLE = """
CREATE TABLE IF NOT EXISTS {name} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    visible_at REAL NOT NULL DEFAULT 0, -- unix seconds; 0 until it is received for the first time
    lease INTEGER NOT NULL DEFAULT 0,   -- the attempt that holds it, or 0
    attempts INTEGER NOT NULL DEFAULT 0,
    enqueued_at_ms INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS {name}_visible ON {name} (visible_at, id);
"""


class Database:
    """One file, and the thread that works on it: SQLite has one writer at a time.

    What is published is on the disk before `durable` returns (`synchronous=FULL`). Leases and acks need no such wait
    (`synchronous=NORMAL`): what a power cut takes back of them is delivered again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="eventmill-sqlite")
        self._file: tuple[int, int] | None = None  # which file is open
        self._open()

    async def durable(self, work: Callable[[sqlite3.Connection], T], seconds: float = ANSWER_SECONDS) -> T:
        """Run one transaction that is on the disk when this returns; `work` may return values, no cursor.

        Raises QueueUnavailable.
        """
        return await self._run(lambda: self._transact(lambda: self._durable, work), seconds)

    async def quick(self, work: Callable[[sqlite3.Connection], T], seconds: float = ANSWER_SECONDS) -> T:
        """Run one transaction that a power cut may take back. Raises QueueUnavailable."""
        return await self._run(lambda: self._transact(lambda: self._quick, work), seconds)

    @property
    def folder(self) -> Path:
        return self._path.parent

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

    def _transact(self, which: Callable[[], sqlite3.Connection], work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._is_replaced():
                self._close()
                self._open()
            connection = which()
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result
        except (sqlite3.Error, OSError, ConfigurationError) as error:
            raise QueueUnavailable(f"cannot use the queue's file: {error}") from error

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
                _create(self._durable, self._path)
                self._file = _identity(self._path)
            except (sqlite3.Error, OSError) as error:
                raise ConfigurationError(f"cannot use {self._path} as a queue: {error}") from error
            failing.pop_all()

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    def _close(self) -> None:
        for connection in (self._durable, self._quick, self._watch):
            connection.close()
        self._file = None


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables, in a new file or in one of ours. Raises ConfigurationError for any other."""
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if owner != APPLICATION_ID and (owner or tables):
        raise ConfigurationError(f"{path} belongs to another program: name another file")
    if path.stat().st_size <= _MAX_CHECKED_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise ConfigurationError(f"{path} is damaged ({found}): restore it, or move it away to start anew")
    if owner == APPLICATION_ID and tables >= _TABLES and _is_wal(connection):
        return  # without writing: somebody may hold the file
    until = time.monotonic() + 5
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.executescript(_TABLE.format(name="messages") + _TABLE.format(name="dead_letters"))
            return
        except sqlite3.OperationalError as error:
            # Two processes that create the file at once: SQLite does not wait for a change of the journal's mode.
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)


def _is_wal(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


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
