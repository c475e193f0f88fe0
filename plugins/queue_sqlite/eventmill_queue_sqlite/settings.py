"""Settings of the SQLite queue."""

from pathlib import Path

from pydantic import Field

from eventmill import PluginSettings, Reach, SettingsConfigDict


class SqliteQueueSettings(PluginSettings):
    """Each setting is the variable EVENTMILL_QUEUE_SQLITE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_SQLITE_")

    path: Path = Field(description="the file, on a local disk; created if it does not exist")
    lease_seconds: float = Field(
        default=30, gt=0, le=86_400, description="seconds that a received message belongs to its receiver"
    )

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def reach(self) -> Reach:
        return "machine"
