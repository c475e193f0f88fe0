"""Settings of the memory queue."""

from pydantic import Field

from eventmill import PluginSettings, Reach, SettingsConfigDict


class MemoryQueueSettings(PluginSettings):
    """Each setting is the variable EVENTMILL_QUEUE_MEMORY_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_MEMORY_")

    lease_seconds: float = Field(
        default=60, gt=0, le=86_400, description="seconds that a received message belongs to its receiver"
    )
    max_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1024 * 1024,
        description="most bytes in the queue; beyond it the API responds 503",
    )

    @property
    def reach(self) -> Reach:
        return "process"
