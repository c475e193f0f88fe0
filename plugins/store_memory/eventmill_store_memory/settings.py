"""Settings of the memory store: there are none."""

from pathlib import Path

from eventmill import PluginSettings, Reach, SettingsConfigDict


class MemoryStoreSettings(PluginSettings):
    """Nothing to set."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_STORE_MEMORY_")

    @property
    def reach(self) -> Reach:
        return "process"

    def scratch(self, folder: Path) -> "MemoryStoreSettings":
        return self
