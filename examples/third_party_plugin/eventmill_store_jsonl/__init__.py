"""An eventmill store that keeps events as lines of a file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventmill import PluginSettings, Reach, SettingsConfigDict, Store, StoreBackend, hookimpl


class Settings(PluginSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_STORE_JSONL_")
    path: Path

    @property
    def reach(self) -> Reach:
        return "machine"


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    from eventmill_store_jsonl.jsonl_store import JsonlStore

    yield JsonlStore(settings.path)


backend = StoreBackend("jsonl", Settings, open_store)


@hookimpl
def eventmill_store_backends() -> list[StoreBackend]:
    return [backend]
