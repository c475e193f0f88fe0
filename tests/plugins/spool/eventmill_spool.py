"""A small queue for one machine, as a third party would write it, for tests that need several processes."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from eventmill import (
    Delivery,
    Depth,
    PartialFailure,
    PluginSettings,
    Queue,
    QueueBackend,
    Reach,
    Refused,
    SettingsConfigDict,
    hookimpl,
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, dead INT, body BLOB, enqueued_ms INT,
    attempts INT DEFAULT 0, lease INT DEFAULT 0, until REAL DEFAULT 0)
"""
_TAKE = """
UPDATE messages SET attempts = attempts + 1, lease = attempts + 1, until = ?
WHERE id IN (SELECT id FROM messages WHERE dead = ? AND until <= ? ORDER BY id LIMIT ?)
RETURNING id, body, attempts, enqueued_ms
"""


class Settings(PluginSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_SPOOL_")
    path: Path
    lease_seconds: float = 5

    @property
    def reach(self) -> Reach:
        return "machine"


class SpoolQueue(Queue):
    def __init__(self, database: sqlite3.Connection, lease_seconds: float, dead: "SpoolQueue | None" = None) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._dead = dead

    @property
    def max_body_bytes(self) -> int:
        return 1024 * 1024

    @property
    def lease_seconds(self) -> float:
        return self._lease_seconds

    @property
    def dead(self) -> Queue:
        return self._dead or self

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        large = {i: Refused("too large") for i, body in enumerate(bodies) if len(body) > self.max_body_bytes}
        rows = [(self._dead is None, body, time.time() * 1000) for i, body in enumerate(bodies) if i not in large]
        self._many("INSERT INTO messages (dead, body, enqueued_ms) VALUES (?, ?, ?)", rows)
        if large:
            raise PartialFailure(large)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        give_up = time.monotonic() + wait_seconds
        while True:
            now = time.time()
            values = (now + self._lease_seconds, self._dead is None, now, max_messages)
            rows = self._database.execute(_TAKE, values).fetchall()
            if rows or time.monotonic() >= give_up:
                return [Delivery(body, tries, int(ms), (number, tries)) for number, body, tries, ms in rows]
            await asyncio.sleep(0.02)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._many("DELETE FROM messages WHERE id = ?", [(delivery.lease[0],) for delivery in deliveries])

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        until = time.time() + delay_seconds
        self._many(
            "UPDATE messages SET lease = 0, until = ? WHERE id = ? AND lease = ?",
            [(until, *d.lease) for d in deliveries],
        )

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        now = time.time()
        sql = "UPDATE messages SET until = ? WHERE id = ? AND lease = ? AND until > ?"
        return [
            delivery
            for delivery in deliveries
            if self._database.execute(sql, (now + self._lease_seconds, *delivery.lease, now)).rowcount == 0
        ]

    async def depth(self) -> Depth:
        leased_now = "count(*) FILTER (WHERE lease AND until > ?)"
        sql = f"SELECT count(*), {leased_now}, min(enqueued_ms) FROM messages WHERE dead = ?"
        total, leased, oldest = self._database.execute(sql, (time.time(), self._dead is None)).fetchone()
        return Depth(total - leased, leased, time.time() - oldest / 1000 if oldest else 0)

    async def check(self) -> list[str]:
        return []

    def _many(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany(sql, rows)
        self._database.execute("COMMIT")


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncIterator[Queue]:
    with closing(sqlite3.connect(settings.path, timeout=30, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(_SCHEMA)
        yield SpoolQueue(database, settings.lease_seconds, SpoolQueue(database, settings.lease_seconds))


backend = QueueBackend("spool", Settings, open_queue)


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [backend]
