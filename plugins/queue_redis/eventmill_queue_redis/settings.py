"""Settings of the Redis queue."""

from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, field_validator

from eventmill import PluginSettings, Reach, SettingsConfigDict


class RedisQueueSettings(PluginSettings):
    """Each setting is the variable EVENTMILL_QUEUE_REDIS_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_REDIS_")

    url: SecretStr = Field(
        description="`redis://USER:PASSWORD@HOST:PORT/0`; `rediss://` for TLS, `unix://` for a socket"
    )
    name: str = Field(default="eventmill", pattern=r"^[\w.:-]{1,64}$", description="the key of the stream")
    lease_seconds: float = Field(
        default=60,
        ge=0.1,
        le=86_400,
        description="seconds that a received message belongs to its receiver; the same for all consumers",
    )
    max_messages: int = Field(
        default=50_000,
        ge=1,
        description="most messages, of up to 1 MiB each; beyond it the API responds 503",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            port = parts.port
        except ValueError:  # its message could quote the end of a password
            raise ValueError(
                "has a port that is not a number; encode special characters of a password as %XX"
            ) from None
        if unknown := {name for name in parse_qs(parts.query) if not name.startswith("ssl_") and name != "db"}:
            raise ValueError(f"may have TLS options only (ssl_ca_certs, …), not {', '.join(sorted(unknown))}")
        if parts.scheme not in ("redis", "rediss", "unix") or port == 0 or not (parts.hostname or parts.path):
            raise ValueError("must be redis://, rediss:// (TLS) or unix://, such as redis://127.0.0.1:6379/0")
        if parts.scheme != "unix" and not (parts.path.strip("/") or "0").isdecimal():
            raise ValueError("must end in the number of a database, such as /0")
        return url

    @property
    def place(self) -> str:
        parts = urlsplit(self.url.get_secret_value())
        return f"{parts.hostname}:{parts.port or 6379}/{self.name}" if parts.hostname else f"{parts.path}/{self.name}"

    @property
    def reach(self) -> Reach:
        return "network"
