"""A queue in the memory of one process. Its messages are lost on exit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventmill import Queue, QueueBackend, hookimpl
from eventmill_queue_memory.settings import MemoryQueueSettings


@asynccontextmanager
async def open_memory_queue(settings: MemoryQueueSettings) -> AsyncIterator[Queue]:
    from eventmill_queue_memory.memory_queue import MemoryQueue

    yield MemoryQueue(settings.lease_seconds, settings.max_bytes)


backend = QueueBackend("memory", MemoryQueueSettings, open_memory_queue)


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [backend]
