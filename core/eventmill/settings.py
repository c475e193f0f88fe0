"""The settings of core, the base class of plugin settings, and their error messages."""

import difflib
import os
import re
from abc import abstractmethod
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from eventmill.errors import ConfigurationError
from eventmill.event import DEFAULT_PROJECT

ENV_FILE = ".env"
PROJECT_PATTERN = r"^[\w.-]{1,64}$"
Reach = Literal["process", "machine", "network"]
CLIENT_VARIABLES = {"EVENTMILL_URL", "EVENTMILL_KEY"}  # of commands, and often of the shell that starts a server
# Variables that were renamed. The former name works for one release, with a warning.
FORMER_NAMES = {"EVENTMILL_BATCH_ROWS": "EVENTMILL_BATCH_EVENTS"}


def _check_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
    return f"{host or '0.0.0.0'}:{int(port)}"  # noqa: S104 (":8080" means every address)


def _check_project(text: str) -> str:
    if not re.fullmatch(PROJECT_PATTERN, text):  # a pattern of pydantic with \w costs 18 ms at each start
        raise ValueError(f"must match {PROJECT_PATTERN}")
    return text


def _split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


ORIGIN_PATTERN = r"^(https?://[^/\s]+|\*)$"
Origin = Annotated[str, Field(pattern=ORIGIN_PATTERN)]
Project = Annotated[str, AfterValidator(_check_project)]
Address = Annotated[str, AfterValidator(_check_address)]
OFF = "off"
OpsAddress = Annotated[str, AfterValidator(lambda text: text if text == OFF else _check_address(text))]


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of an `Address`, the host of an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Settings(BaseSettings):
    """The settings of core. Each one is read from the environment variable EVENTMILL_<NAME> or from `.env`."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_", env_file=ENV_FILE, env_ignore_empty=True, extra="ignore")

    queue: str | None = Field(default=None, description="the queue backend; default of `eventmill run`: `sqlite`")
    store: str | None = Field(
        default=None,
        description="the store backend, or `none` for `serve` without queries; `eventmill run`: `clickhouse`",
    )
    project: Project = Field(
        default=DEFAULT_PROJECT,
        description="the project of requests without a key, and of keys for all projects",
    )
    listen: Address = Field(default="127.0.0.1:8080", description="the address on which the API listens, HOST:PORT")
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="number of API processes of `serve`, which share the address and the limits",
    )
    keys_file: Path = Field(
        default=Path("eventmill-keys.json"),
        description="the file with the keys, see `eventmill keys`; read when it changes",
    )
    keys: SecretStr | None = Field(default=None, description="further keys: the content of a keys file")
    anonymous: bool = Field(
        default=False,
        description="whether requests without a key may do everything; `eventmill run` on loopback allows it"
        " while there are no keys",
    )
    pages: bool | None = Field(
        default=None,
        description="whether the API shows pages for people, such as the explorer at `/`; default: with `run` and"
        " `explore`, not with `serve`",
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(), description="web origins whose pages may use the API, separated by commas; `*` for all"
    )
    requests_per_second: float | None = Field(
        default=None,
        gt=0,
        description="requests per second of each key, or of each address without one; default: no limit",
    )
    events_per_second: float | None = Field(
        default=None,
        gt=0,
        description="events per second of each key, or of each address without one; default: no limit",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the certificate chain; the API then uses HTTPS"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the private key of the certificate")
    ops_listen: OpsAddress | None = Field(
        default=None,
        description="the operations address, HOST:PORT, with metrics for Prometheus, liveness and readiness, without"
        " keys; `off` for none; default: 127.0.0.1:9464 for `serve`, 127.0.0.1:9465 for `consume`, `off` for `run`",
    )
    linger_ms: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="milliseconds that a commit waits for more events (the linger); default: that of the queue backend",
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
        le=7_300,  # 20 years: a TTL beyond 2106 wraps around and deletes everything
        description="days after which the API rejects events and the store deletes them; default: kept forever",
    )
    memory_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=32 * 1024 * 1024,
        description="maximum bytes of pending request bodies; above this limit the API responds 503",
    )
    max_connections: int = Field(
        default=10_000,
        ge=16,
        le=1_000_000,
        description="maximum number of open connections per API process, half of them from one address; at most a third"
        " of the files that the system allows",
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(),
        description="addresses or networks of proxies, separated by commas, that may open more connections than one"
        " client, and whose `X-Forwarded-For` names the client",
    )
    batch_events: int = Field(default=20_000, ge=1, le=1_000_000, description="maximum number of events per insert")
    batch_bytes: int = Field(
        default=8 * 1024 * 1024, ge=1, le=256 * 1024 * 1024, description="maximum number of bytes per insert"
    )
    batch_seconds: float = Field(default=1.0, ge=0, le=60, description="maximum seconds that a batch waits to fill")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the lowest level that is logged to stderr"
    )


class PluginSettings(BaseSettings):
    """The base class of plugin settings. Subclass it, and set a separate `env_prefix`.

    Use `SecretStr` for secrets, and give every field a `description`, which appears in the documentation.
    """

    # Built when they are used: a process uses one queue and one store of those that are installed.
    model_config = SettingsConfigDict(env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", defer_build=True)

    @property
    @abstractmethod
    def reach(self) -> Reach:
        """Who can share the data behind these settings: only one `process`, one `machine`, or the `network`.

        Core refuses to run several processes over a backend with reach `process`. The contract suites open a second
        handle, as a second process would, only for the other two.
        """

    def statements(self, retention_days: int | None = None) -> str:
        """Return the statements of `migrate`, to be executed by hand; empty if there is nothing to run."""
        return ""

    def scratch(self, folder: Path) -> "PluginSettings | None":
        """Return settings for an empty store of the same kind in this folder, or None.

        Core inserts quarantined events into it in a subprocess, to find out whether they crash the process. Only stores
        with reach `process` need it. In a shared store the subprocess inserts into the store itself, which is harmless
        because inserting an event again changes nothing.
        """
        return None

    @property
    def place(self) -> str:
        """Return where the data is, for people and without secrets."""
        return "lost on exit" if self.reach == "process" else f"shared by this {self.reach}"


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], **overrides: Any) -> S:
    """Read settings from the environment and `.env`. Overrides that are not None take precedence.

    Raise ConfigurationError with one line that names every invalid variable.
    """
    try:
        given: dict[str, Any] = {**_former(kind), **{k: value for k, value in overrides.items() if value is not None}}
        return kind(**given)
    except UnicodeDecodeError:
        raise ConfigurationError(f"the file {ENV_FILE} is not UTF-8") from None
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(kind, problem) for problem in error.errors())) from None


def is_set(kind: type[BaseSettings], name: str) -> bool:
    """Return whether the environment or `.env` sets this field."""
    variable = _variable(kind, name)
    return variable in read_given()


def _present() -> dict[str, str | None]:
    return {**(dotenv_values(ENV_FILE) if Path(ENV_FILE).is_file() else {}), **os.environ}


def read_given() -> dict[str, str]:
    """Return the variables of the environment and of `.env` that are not empty."""
    return {name.upper(): value for name, value in _present().items() if value}


def variables(kind: type[BaseSettings]) -> list[str]:
    """Return the environment variables that these settings read."""
    return [_variable(kind, name) for name in kind.model_fields]


def _variable(kind: type[BaseSettings], name: str) -> str:
    return f"{kind.model_config.get('env_prefix', '')}{name}".upper()


def _former(kind: type[BaseSettings]) -> dict[str, str]:
    """Return the values of fields that are set by the former name of their variable only."""
    present = read_given()
    former = {new: present[old] for old, new in FORMER_NAMES.items() if old in present and new not in present}
    return {name: former[_variable(kind, name)] for name in kind.model_fields if _variable(kind, name) in former}


def find_unknown(known: Iterable[str]) -> list[str]:
    """Return a warning for each unknown variable that starts with EVENTMILL_, with a similar or its present name."""
    names = set(known) | CLIENT_VARIABLES
    warnings = []
    for name in sorted({name.upper() for name in _present()}):
        if not name.startswith("EVENTMILL_") or name in names or _KUBERNETES.search(name):
            continue
        if name in FORMER_NAMES:
            warnings.append(f"{name} is now {FORMER_NAMES[name]}; the former name stops working in the next release")
            continue
        close = difflib.get_close_matches(name, names, 1)
        warnings.append(f"{name} is not a setting{f'; did you mean {close[0]}?' if close else ''}")
    return warnings


# Kubernetes sets such variables for every service whose name starts with "eventmill".
_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")


def _explain(kind: type[BaseSettings], problem: Any) -> str:
    field = str(problem["loc"][0]) if problem["loc"] else ""
    variable = _variable(kind, field)
    if field in _former(kind):
        variable = next(old for old, new in FORMER_NAMES.items() if new == variable)
    if problem["type"] == "missing":
        return f"{variable} is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{variable}: {message[0].lower()}{message[1:]}"
