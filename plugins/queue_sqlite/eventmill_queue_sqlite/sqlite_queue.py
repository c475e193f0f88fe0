"""The queue: rows that are hidden until a time, and deleted by acks."""

import asyncio
import contextlib
import math
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from eventmill import Delivery, Depth, PartialFailure, Queue, Refused
from eventmill_queue_sqlite.database import Database
from eventmill_queue_sqlite.disk import COMMIT_BYTES, DEAD_RESERVE_BYTES, RESERVE_BYTES

_MAX_BODY_BYTES = 1024 * 1024
_POLL_SECONDS = (0.02, 0.5)  # a waiting reader checks for writes of other processes, first often, then less often
_MAX_IDLE_SECONDS = 5.0  # then query the file, since only that detects that it was replaced


class SqliteQueue(Queue):
    """One queue of the file. A lease is (id, random number), new for each delivery.

    Messages are delivered in the order in which they became visible, so that neither new nor redelivered messages
    starve. Times use the monotonic clock of the machine, which all its processes share.
    """

    def __init__(self, database: Database, name: str, lease_seconds: float, dead: "SqliteQueue | None" = None) -> None:
        self._database = database
        self._table, self._bodies = f"{name}_line", f"{name}_bodies"
        self._lease_seconds = lease_seconds
        self._dead = dead
        self._reserve = RESERVE_BYTES if dead else DEAD_RESERVE_BYTES
        self._arrival = asyncio.Event()
        self._pause = _POLL_SECONDS[0]
        self._empty_version = -1  # of the file when it had no visible message
        self._next_at = self._ask_at = 0.0  # when a message becomes visible; when to query in any case

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
        good = [body for i, body in enumerate(bodies) if i not in large]
        if good:
            await self._database.durable(lambda file: self._add(file, good), deadline - time.monotonic())
            self._arrival.set()
        if large:
            raise PartialFailure(large)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        until = time.monotonic() + wait_seconds
        while True:
            self._arrival.clear()
            version = self._database.version()
            if version != self._empty_version or time.monotonic() >= self._next_at or time.monotonic() >= self._ask_at:
                deliveries, next_at = await self._database.quick(lambda file: self._take(file, max_messages))
                if deliveries:
                    self._pause = _POLL_SECONDS[0]
                    return deliveries
                self._empty_version, self._next_at = version, next_at
                self._ask_at = time.monotonic() + _MAX_IDLE_SECONDS
            if time.monotonic() >= until:
                return []
            await self._wait(min(self._pause, until - time.monotonic(), self._next_at - time.monotonic()))

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        # Compare the lease, too: another file, or a backup of this one, may have the same id.
        await self._change(f"DELETE FROM {self._table} WHERE id = ? AND lease = ?", (), deliveries)

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        now = time.monotonic()
        sql = f"UPDATE {self._table} SET lease = 0, since = ?, visible_at = ? WHERE id = ? AND lease = ?"
        await self._change(sql, (now, now + delay_seconds), deliveries)

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        now = time.monotonic()
        sql = f"UPDATE {self._table} SET since = ?, visible_at = ? WHERE id = ? AND lease = ?"
        return await self._change(sql, (now, now + self._lease_seconds), deliveries)

    async def depth(self) -> Depth:
        sql = f"""
SELECT (SELECT count(*) FROM {self._table}), (SELECT count(*) FROM {self._table} WHERE visible_at > ?),
    (SELECT enqueued_at_ms FROM {self._bodies} ORDER BY id LIMIT 1)"""
        counted = await self._database.quick(lambda file: file.execute(sql, (time.monotonic(),)).fetchone())
        total, in_flight, oldest_ms = counted
        return Depth(total - in_flight, in_flight, max(0.0, time.time() - oldest_ms / 1000) if oldest_ms else 0.0)

    async def check(self) -> list[str]:
        await self._database.quick(lambda file: self._database.disk.reserve(file, COMMIT_BYTES, self._reserve), 1.8)
        return self._database.disk.warnings()

    def collect(self) -> Iterable[Metric]:
        name = "eventmill_queue_sqlite_disk_free_bytes"
        return [GaugeMetricFamily(name, "Free space on the disk with the file.", self._database.disk.free_bytes())]

    async def _wait(self, seconds: float) -> None:
        """Wait for a publish of this process, at most this long: other processes cannot notify."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._arrival.wait()
        self._pause = min(_POLL_SECONDS[1], self._pause * 1.5)

    def _add(self, file: sqlite3.Connection, bodies: Sequence[bytes]) -> None:
        self._database.disk.reserve(file, sum(map(len, bodies)), self._reserve)
        now_ms, now = time.time_ns() // 1_000_000, time.monotonic()
        for body in bodies:
            sql = f"INSERT INTO {self._bodies} (enqueued_at_ms, body) VALUES (?, ?)"
            number = file.execute(sql, (now_ms, body)).lastrowid
            file.execute(f"INSERT INTO {self._table} (id, since, visible_at) VALUES (?, ?, ?)", (number, now, now))

    def _take(self, file: sqlite3.Connection, max_messages: int) -> tuple[list[Delivery], float]:
        """Lease visible messages; also return when the next message may become visible."""
        now = time.monotonic()
        sql = f"""
SELECT line.id, line.attempts + 1, enqueued_at_ms, body FROM {self._table} AS line JOIN {self._bodies} USING (id)
WHERE line.visible_at <= ? ORDER BY line.visible_at, line.id LIMIT ?"""
        rows = file.execute(sql, (now, max_messages)).fetchall()
        if not rows:
            [next_at] = file.execute(f"SELECT min(visible_at) FROM {self._table}").fetchone()
            return [], math.inf if next_at is None else next_at
        lease = secrets.randbits(62) + 1
        sql = f"UPDATE {self._table} SET attempts = ?, lease = ?, since = ?, visible_at = ? WHERE id = ?"
        for number, attempts, _, _ in rows:
            file.execute(sql, (attempts, lease, now, now + self._lease_seconds, number))
        return [Delivery(body, tries, enqueued, (number, lease)) for number, tries, enqueued, body in rows], now

    async def _change(self, sql: str, values: tuple[float, ...], deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Run a statement for each lease; return the deliveries whose lease is lost."""

        def run(file: sqlite3.Connection) -> list[Delivery]:
            return [held for held in deliveries if file.execute(sql, (*values, *held.lease)).rowcount == 0]

        return await self._database.quick(run) if deliveries else []
