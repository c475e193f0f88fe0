"""Settings of the memory queue."""

from pydantic import Field

from eventmill import PluginSettings, Reach, SettingsConfigDict


class MemoryQueueSettings(PluginSettings):
    """Every field is the variable EVENTMILL_QUEUE_MEMORY_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_MEMORY_")

    lease_seconds: float = Field(
        default=60, gt=0, le=86_400, description="how long a received message is the receiver's alone"
    )
    max_bytes: int = Field(
        default=256 * 1024 * 1024, ge=1024 * 1024, description="what it holds at most; beyond it the API answers 503"
    )

    @property
    def reach(self) -> Reach:
        return "process"
