"""Disk space: publishing leaves enough of it for leases, acks and checkpoints.

A lease and an ack are written to SQLite's log first. A checkpoint then copies the log into the file, and the log is
written from its start again, unless the file has to grow and cannot. Three measures make this work on a full disk: the
space of the log is allocated in advance; publishing fails before the file uses the last space; and near that point a
checkpoint follows every publish, so that the file has no pending growth.
"""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from eventmill import QueueUnavailable

# Four times what SQLite lets the log grow to before a checkpoint: 4,062 pages of 4 KiB, each with a header of 24 bytes.
# The index of such a log takes 32 KiB (sqlite.org/walformat.html).
LOG_BYTES = 32 + 4062 * (4096 + 24)
RESERVE_BYTES = 16 * 1024 * 1024  # kept free by publishers; dead letters may use it, since an ack follows
DEAD_RESERVE_BYTES = 1024 * 1024
COMMIT_BYTES = 2 * 1024 * 1024  # the size of a commit of the API; the check requires space for one
LOW_BYTES = 128 * 1024 * 1024
_NEARLY_FULL_BYTES = 1024**3


class Disk:
    """The disk with the file."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._log = path.with_name(f"{path.name}-wal")
        self._index = path.with_name(f"{path.name}-shm")

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def is_low(self) -> bool:
        return self.free_bytes() < LOW_BYTES

    def reserve(self, file: sqlite3.Connection, body_bytes: int, reserve_bytes: int) -> None:
        """Raise QueueUnavailable if publishing would use the reserve. Call it in a write transaction."""
        free_bytes = self.free_bytes()
        if free_bytes >= reserve_bytes + 2 * body_bytes:  # a body is written to the log and to the file
            self.allocate_log()
            return
        pages, page_bytes = (file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size"))
        if pages * page_bytes < DEAD_RESERVE_BYTES + 2 * body_bytes:  # the file has to grow
            raise QueueUnavailable("the disk is full: waiting messages can be consumed, but no new ones accepted")

    def warnings(self) -> list[str]:
        return ["less than 1 GiB is left on the disk"] if self.free_bytes() < _NEARLY_FULL_BYTES else []

    def allocate_log(self) -> None:
        """Allocate the space of the log, if there is enough. Call it in a write transaction."""
        # Some file systems cannot allocate, or have a quota: then only the reserve protects.
        with contextlib.suppress(OSError):
            if hasattr(os, "posix_fallocate") and self._log.stat().st_size < LOG_BYTES <= self.free_bytes() // 2:
                with self._log.open("r+b") as log:
                    os.posix_fallocate(log.fileno(), 0, LOG_BYTES)

    def allocate_index(self) -> None:
        """Allocate the space of the log's index. Call it while SQLite has the file open.

        SQLite maps the index into memory, and writing to a page without disk space kills the process (SIGBUS). SQLite
        writes one byte of every 4 KiB, which allocates the whole index except where blocks are smaller.
        """
        # Use SQLite's descriptor: a process that opens the index itself loses SQLite's locks on it when it closes it.
        with contextlib.suppress(OSError, AttributeError):
            index = self._index.stat()
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(int(name)), index):
                        os.posix_fallocate(int(name), 0, index.st_size)
