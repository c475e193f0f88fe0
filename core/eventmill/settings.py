"""Core settings, the base of plugins' settings, and words for what is wrong with either."""

import difflib
import os
import re
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventmill.errors import ConfigurationError

ENV_FILE = ".env"
Reach = Literal["process", "machine", "network"]


def _check_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
    return f"{host or '0.0.0.0'}:{int(port)}"  # noqa: S104 (":8080" means every address)


Address = Annotated[str, AfterValidator(_check_address)]


def split_address(address: str) -> tuple[str, int]:
    """Host and port of an `Address`; the brackets of an IPv6 host are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Settings(BaseSettings):
    """The settings of core. Each is the environment variable EVENTMILL_<NAME>, or a line of `.env`."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_", env_file=ENV_FILE, env_ignore_empty=True, extra="ignore")

    queue: str | None = Field(default=None, description="the queue's backend; `eventmill run` has a default")
    store: str | None = Field(default=None, description="the store's backend, or `none` for `serve` without questions")
    project: str = Field(
        default="default",
        pattern=r"^[\w.-]{1,64}$",
        description="the project of all events that this API takes and counts",
    )
    listen: Address = Field(default="127.0.0.1:8080", description="where the API listens, HOST:PORT")
    linger_ms: float | None = Field(
        default=None, ge=0, le=1000, description="how long a commit waits for company; default: the queue backend's"
    )
    shutdown_delay_seconds: float | None = Field(
        default=None,
        ge=0,
        le=300,
        description="seconds to keep serving after SIGTERM; default: 5 for `serve`, 0 for `run`",
    )
    retention_days: int | None = Field(
        default=None,
        ge=1,
        le=7_300,  # 20 years: beyond 2106 a TTL would wrap around and drop everything
        description="events older than this are refused, and dropped by stores that can; default: kept for ever",
    )
    memory_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=32 * 1024 * 1024,
        description="memory for bodies read, unpacked and pending; beyond it: 503",
    )
    batch_rows: int = Field(default=20_000, ge=1, le=1_000_000, description="events per insert, at most")
    batch_bytes: int = Field(
        default=8 * 1024 * 1024, ge=1, le=256 * 1024 * 1024, description="bytes per insert, at most"
    )
    batch_seconds: float = Field(default=1.0, ge=0, le=60, description="how old the first event of an insert may get")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="what is logged to stderr"
    )


class PluginSettings(BaseSettings):
    """The base of every plugin's settings: subclass it and give it an `env_prefix` of its own.

    Secrets belong into `SecretStr`; every field deserves a `description`, which ends up in the documentation.
    """

    model_config = SettingsConfigDict(env_file=ENV_FILE, env_ignore_empty=True, extra="ignore")

    @property
    @abstractmethod
    def reach(self) -> Reach:
        """Who can share what is opened with these settings: this `process`, this `machine`, or the `network`."""

    def statements(self) -> str:
        """What `migrate` does, as statements for somebody with the rights to run them; "" where it does nothing."""
        return ""

    def scratch(self, folder: Path) -> "PluginSettings | None":
        """Settings for an empty store of the same kind in this folder, which another process can open; or None.

        Core inserts events into it to find out whether a process survives them. Only stores that live in one process
        need it: a store that can be shared is tried itself, since inserting an event again changes nothing.
        """
        return None

    @property
    def place(self) -> str:
        """Where the data is, in words for people and without secrets."""
        return "lost on exit" if self.reach == "process" else f"shared by this {self.reach}"


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], **overrides: Any) -> S:
    """Read settings from the environment and `.env`; overrides, where not None, come from the command line.

    Raises ConfigurationError with one line that names every variable at fault.
    """
    try:
        return kind(**{name: value for name, value in overrides.items() if value is not None})
    except UnicodeDecodeError:
        raise ConfigurationError(f"the file {ENV_FILE} is not UTF-8") from None
    except ValidationError as error:
        raise ConfigurationError("; ".join(_words(kind, problem) for problem in error.errors())) from None


def is_set(kind: type[BaseSettings], name: str) -> bool:
    """Whether the environment or `.env` gives this field a value."""
    variable = f"{kind.model_config.get('env_prefix', '')}{name}".upper()
    return any(key.upper() == variable and value for key, value in _present().items())


def _present() -> dict[str, str | None]:
    return {**(dotenv_values(ENV_FILE) if Path(ENV_FILE).is_file() else {}), **os.environ}


def variables(kind: type[BaseSettings]) -> list[str]:
    """The environment variables that these settings read."""
    return [f"{kind.model_config.get('env_prefix', '')}{name}".upper() for name in kind.model_fields]


def find_unknown(known: Iterable[str]) -> list[str]:
    """Warnings for variables that start with EVENTMILL_ and that nobody reads, with the name likely meant."""
    names = set(known)
    warnings = []
    for name in sorted({name.upper() for name in _present()}):
        if not name.startswith("EVENTMILL_") or name in names or _KUBERNETES.search(name):
            continue
        close = difflib.get_close_matches(name, names, 1)
        warnings.append(f"{name} is no setting{f'; did you mean {close[0]}?' if close else ''}")
    return warnings


# Kubernetes gives each container such variables for each service, here one named eventmill or eventmill-….
_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")


def _words(kind: type[BaseSettings], problem: Any) -> str:
    field = str(problem["loc"][0]) if problem["loc"] else ""
    variable = f"{kind.model_config.get('env_prefix', '')}{field}".upper()
    if problem["type"] == "missing":
        return f"{variable} is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{variable}: {message[0].lower()}{message[1:]}"
