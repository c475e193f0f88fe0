"""A store in the memory of one process. What it holds is lost on exit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventmill import Store, StoreBackend, hookimpl
from eventmill_store_memory.settings import MemoryStoreSettings


@asynccontextmanager
async def open_memory_store(settings: MemoryStoreSettings) -> AsyncIterator[Store]:
    from eventmill_store_memory.memory_store import MemoryStore

    yield MemoryStore()


backend = StoreBackend("memory", MemoryStoreSettings, open_memory_store)


@hookimpl
def eventmill_store_backends() -> list[StoreBackend]:
    return [backend]
