"""A durable queue in one SQLite file, shared by the processes of one machine, without a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventmill import Queue, QueueBackend, hookimpl
from eventmill_queue_sqlite.settings import SqliteQueueSettings


@asynccontextmanager
async def open_sqlite_queue(settings: SqliteQueueSettings) -> AsyncIterator[Queue]:
    from eventmill_queue_sqlite.database import Database
    from eventmill_queue_sqlite.sqlite_queue import SqliteQueue

    database = Database(settings.path)
    try:
        dead = SqliteQueue(database, "dead_letters", settings.lease_seconds)
        yield SqliteQueue(database, "messages", settings.lease_seconds, dead)
    finally:
        await database.close()


backend = QueueBackend("sqlite", SqliteQueueSettings, open_sqlite_queue)


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [backend]
