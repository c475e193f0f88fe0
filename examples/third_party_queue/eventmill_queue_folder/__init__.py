"""An eventmill queue that keeps messages as files of a folder, for the processes of one machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field

from eventmill import PluginSettings, Queue, QueueBackend, Reach, SettingsConfigDict, hookimpl


class Settings(PluginSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_FOLDER_")
    path: Path = Field(description="the folder, on a local disk; created if it does not exist")
    lease_seconds: float = Field(
        default=30, gt=0, description="seconds that a received message belongs to its receiver"
    )
    max_messages: int = Field(default=10_000, ge=1, description="most messages; beyond it the API responds 503")

    @property
    def reach(self) -> Reach:
        return "machine"


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncIterator[Queue]:
    from eventmill_queue_folder.folder_queue import FolderQueue

    dead = FolderQueue(settings.path / "dead", settings.lease_seconds, settings.max_messages)
    yield FolderQueue(settings.path / "messages", settings.lease_seconds, settings.max_messages, dead)


backend = QueueBackend("folder", Settings, open_queue)


@hookimpl
def eventmill_queue_backends() -> list[QueueBackend]:
    return [backend]
