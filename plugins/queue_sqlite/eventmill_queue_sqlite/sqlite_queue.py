"""The queue: rows that are hidden until a moment, and deleted when they are done."""

import asyncio
import contextlib
import math
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence

from eventmill import Delivery, Depth, PartialFailure, Queue, QueueUnavailable, Refused
from eventmill_queue_sqlite.database import Database

_MAX_BODY_BYTES = 1024 * 1024
_LOOK_SECONDS = (0.02, 0.25)  # a waiting reader looks whether another process has written: soon, later less often
_LONGEST_SECONDS = 5.0  # a file that was replaced is found only by asking it
_NEARLY_FULL_BYTES = 1024**3


class SqliteQueue(Queue):
    """One table of the file. A lease is (row, attempt): each receive makes a new one."""

    def __init__(self, database: Database, table: str, lease_seconds: float, dead: "SqliteQueue | None" = None) -> None:
        self._database = database
        self._table = table
        self._lease_seconds = lease_seconds
        self._dead = dead
        self._arrival = asyncio.Event()
        self._pause = _LOOK_SECONDS[0]
        self._empty_version = -1  # of the file when nothing was visible in it
        self._next_at = self._ask_at = 0.0  # when something becomes visible; when to ask all the same

    @property
    def max_body_bytes(self) -> int:
        return _MAX_BODY_BYTES

    @property
    def lease_seconds(self) -> float:
        return self._lease_seconds

    @property
    def dead(self) -> Queue:
        return self._dead or self

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        large = {i: Refused(f"{len(body)} bytes") for i, body in enumerate(bodies) if len(body) > _MAX_BODY_BYTES}
        now_ms = time.time_ns() // 1_000_000
        rows = [(now_ms, body) for i, body in enumerate(bodies) if i not in large]
        sql = f"INSERT INTO {self._table} (enqueued_at_ms, body) VALUES (?, ?)"
        if rows:
            await self._database.durable(_many(sql, rows), deadline - time.monotonic())
            self._arrival.set()
        if large:
            raise PartialFailure(large)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        until = time.monotonic() + wait_seconds
        while True:
            self._arrival.clear()
            version = self._database.version()
            if version != self._empty_version or time.time() >= self._next_at or time.monotonic() >= self._ask_at:
                deliveries, next_at = await self._database.quick(lambda file: self._take(file, max_messages))
                if deliveries:
                    self._pause = _LOOK_SECONDS[0]
                    return deliveries
                self._empty_version, self._next_at = version, next_at
                self._ask_at = time.monotonic() + _LONGEST_SECONDS
            if time.monotonic() >= until:
                return []
            await self._wait(min(self._pause, until - time.monotonic(), self._next_at - time.time()))

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        rows = [(delivery.lease[0],) for delivery in deliveries]
        sql = f"DELETE FROM {self._table} WHERE id = ?"
        if rows:
            await self._database.quick(_many(sql, rows))

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        rows = [(time.time() + delay_seconds, *delivery.lease) for delivery in deliveries]
        sql = f"UPDATE {self._table} SET lease = 0, visible_at = ? WHERE id = ? AND lease = ?"
        if rows:
            await self._database.quick(_many(sql, rows))

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        sql = f"UPDATE {self._table} SET visible_at = ? WHERE id = ? AND lease = ?"

        def extend(file: sqlite3.Connection) -> list[Delivery]:
            until = time.time() + self._lease_seconds
            return [held for held in deliveries if file.execute(sql, (until, *held.lease)).rowcount == 0]

        return await self._database.quick(extend) if deliveries else []

    async def depth(self) -> Depth:
        sql = f"""
SELECT (SELECT count(*) FROM {self._table}), (SELECT count(*) FROM {self._table} WHERE visible_at > ?),
    (SELECT enqueued_at_ms FROM {self._table} ORDER BY id LIMIT 1)"""
        counted = await self._database.quick(lambda file: file.execute(sql, (time.time(),)).fetchone())
        total, in_flight, oldest_ms = counted
        return Depth(total - in_flight, in_flight, max(0.0, time.time() - oldest_ms / 1000) if oldest_ms else 0.0)

    async def check(self) -> list[str]:
        free_bytes = await self._database.quick(lambda file: shutil.disk_usage(self._database.folder).free, 1.8)
        if free_bytes < _MAX_BODY_BYTES:
            raise QueueUnavailable("the disk is full")
        return ["less than 1 GiB is left on the disk"] if free_bytes < _NEARLY_FULL_BYTES else []

    async def _wait(self, seconds: float) -> None:
        """Wait until something is published here, or so long: other processes cannot tell."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrival.wait(), max(0.0, seconds))
        self._pause = min(_LOOK_SECONDS[1], self._pause * 1.5)

    def _take(self, file: sqlite3.Connection, max_messages: int) -> tuple[list[Delivery], float]:
        """Lease what is visible; tell also when the next message will be, at the earliest."""
        now = time.time()
        visible = f"SELECT id FROM {self._table} WHERE visible_at <= ? ORDER BY visible_at, id LIMIT ?"
        sql = f"""
UPDATE {self._table} SET attempts = attempts + 1, lease = attempts + 1, visible_at = ? WHERE id IN ({visible})
RETURNING id, attempts, enqueued_at_ms, body"""
        rows = file.execute(sql, (now + self._lease_seconds, now, max_messages)).fetchall()
        if rows:
            rows.sort()
            return [Delivery(body, tries, enqueued, (number, tries)) for number, tries, enqueued, body in rows], now
        [next_at] = file.execute(f"SELECT min(visible_at) FROM {self._table}").fetchone()
        return [], math.inf if next_at is None else next_at


def _many(sql: str, rows: Sequence[tuple[object, ...]]) -> Callable[[sqlite3.Connection], None]:
    """Work that runs a statement for each row. It keeps the cursor: one that ends in another thread breaks the next."""

    def run(file: sqlite3.Connection) -> None:
        file.executemany(sql, rows)

    return run
