"""Settings of the ClickHouse store."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pydantic import Field, SecretStr, field_validator

from eventmill import PluginSettings, Reach, SettingsConfigDict
from eventmill_store_clickhouse import migrations


@dataclass(frozen=True, slots=True)
class Address:
    """The address of the engine: `path` is the folder of chDB, the other attributes belong to a server."""

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0
    user: str = "default"
    password: str = field(default="", repr=False)
    database: str = "default"

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse a URL. Raise ValueError with a message that contains no secret."""
        parts = urlsplit(url)
        if parts.scheme == "chdb":
            if parts.netloc or len(parts.path) < 2 or parts.query or parts.fragment:
                raise ValueError("must be chdb:///PATH with an absolute path and nothing after it")
            path = unquote(parts.path)
            if "?" in path:  # the engine would take what follows for options, and open another folder
                raise ValueError("must be chdb:///PATH, and the path must not contain a question mark")
            return cls("chdb", path=path)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be chdb:///PATH or http(s)://USER:PASSWORD@HOST:PORT/?database=NAME")
        query = parse_qs(parts.query)
        try:
            port = (8443 if parts.scheme == "https" else 8123) if parts.port is None else parts.port
        except ValueError:  # its message could quote the end of a password
            raise ValueError(
                "has a port that is not a number; encode special characters of the password as %XX"
            ) from None
        databases = query.pop("database", ["default"])
        if port == 0 or query or len(databases) > 1 or parts.path not in ("", "/") or parts.fragment:
            raise ValueError("may end with /?database=NAME only, and needs a port of at least 1")
        return cls(
            parts.scheme,
            host=parts.hostname,
            port=port,
            user=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=databases[0],
        )


class ClickHouseStoreSettings(PluginSettings):
    """Each setting is the variable EVENTMILL_STORE_CLICKHOUSE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_STORE_CLICKHOUSE_")

    url: SecretStr = Field(
        description="`chdb:///PATH` (embedded engine) or `http(s)://USER:PASSWORD@HOST:PORT/?database=NAME`"
    )
    timeout_seconds: float = Field(default=30, gt=0, description="seconds that a server may take for an insert")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        Address.parse(url.get_secret_value())
        return url

    @property
    def address(self) -> Address:
        return Address.parse(self.url.get_secret_value())

    def statements(self, retention_days: int | None = None) -> str:
        return migrations.script(retention_days)

    @property
    def place(self) -> str:
        return self.address.path or f"{self.address.host}:{self.address.port}/{self.address.database}"

    @property
    def reach(self) -> Reach:
        return "process" if self.address.scheme == "chdb" else "network"

    def scratch(self, folder: Path) -> Self | None:
        if self.reach != "process":
            return None
        return self.model_copy(update={"url": SecretStr(f"chdb://{quote(str(folder))}")})
