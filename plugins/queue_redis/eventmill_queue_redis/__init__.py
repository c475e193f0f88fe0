"""A queue on Redis Streams, for Redis 6.2 or newer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventmill import Queue, QueueBackend, hookimpl
from eventmill_queue_redis.settings import RedisQueueSettings


@asynccontextmanager
async def open_redis_queue(settings: RedisQueueSettings) -> AsyncIterator[Queue]:
    from eventmill_queue_redis.connection import Connection
    from eventmill_queue_redis.redis_queue import RedisQueue

    connection = Connection(settings.url.get_secret_value())
    # The braces put all keys of a queue into one hash slot.
    dead = RedisQueue(connection, f"{{{settings.name}}}:dead", settings)
    queue = RedisQueue(connection, f"{{{settings.name}}}", settings, dead)
    try:
        yield queue
    finally:
        await queue.leave()
        await dead.leave()
        await connection.close()


backend = QueueBackend("redis", RedisQueueSettings, open_redis_queue, install="pip install 'eventmill[redis]'")


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [backend]
