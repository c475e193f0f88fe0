"""The ClickHouse store, with events that do something to the process which inserts them."""

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import eventmill_store_clickhouse
from eventmill import EventBatch, RejectedEvents, SettingsConfigDict, Store, StoreBackend, hookimpl
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from support.proxies import StoreProxy


class Settings(ClickHouseStoreSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_STORE_FATAL_")
    deaths: Path  # grows by a byte with every death
    fatal_start: bool = False


class FatalStore(StoreProxy):
    """An event named fatal kills the process as `kill -9` does; others hang it, get it signals, or are rejected."""

    def __init__(self, inner: Store, settings: Settings) -> None:
        super().__init__(inner)
        self._deaths = settings.deaths

    async def insert(self, batch: EventBatch) -> None:
        names = {event.event_name for event in batch.events}
        if "rejected" in names:
            raise RejectedEvents("one of them is wrong")
        if "fatal" in names:
            die(self._deaths)
        if "hanging" in names:
            self._deaths.with_name("hanging").touch()
            time.sleep(60)  # noqa: ASYNC251 (it hangs)
        if "interrupted" in names:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
        await self.inner.insert(batch)


def die(deaths: Path) -> None:
    with deaths.open("ab") as file:
        file.write(b".")
    os.kill(os.getpid(), signal.SIGKILL)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    if settings.fatal_start:
        die(settings.deaths)
    async with eventmill_store_clickhouse.backend.open(settings) as inner:
        yield FatalStore(inner, settings)


backend = StoreBackend("fatal", Settings, open_store)


@hookimpl
def eventmill_store_backends() -> list[StoreBackend]:
    return [backend]
