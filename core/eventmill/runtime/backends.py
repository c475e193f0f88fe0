"""The queue and the store that the settings choose."""

import json
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import SecretBytes, SecretStr
from pydantic_core import to_jsonable_python
from pydantic_settings import BaseSettings

from eventmill.errors import ConfigurationError
from eventmill.hookspecs import HttpApp, QueueBackend, StoreBackend
from eventmill.interfaces import Queue, Store
from eventmill.plugins import Backend, Plugins, load_plugins, open_backend
from eventmill.settings import PluginSettings, Settings, find_unknown, is_set, load, variables

log = logging.getLogger(__name__)

NO_STORE = "none"
DATA_FOLDER = "eventmill-data"
QUEUE_FILE = "queue.db"
STORE_FOLDER = "chdb"
Opened = TypeVar("Opened", Queue, Store)


@dataclass(frozen=True, slots=True)
class Chosen(Generic[Opened]):
    """A backend with its settings, ready to open."""

    kind: str
    backend: Backend[Opened]
    settings: PluginSettings

    def open(self) -> AbstractAsyncContextManager[Opened]:
        return open_backend(self.backend, self.settings)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make another process choose this backend with these settings."""
        prefix = self.settings.model_config.get("env_prefix", "")
        fields = type(self.settings).model_fields
        found = {f"EVENTMILL_{self.kind}".upper(): self.backend.name}
        for name in self.settings.model_fields_set:
            value = getattr(self.settings, name)
            # A field with an alias reads a variable of core, which the other process has already.
            if value is not None and fields[name].validation_alias is None:
                found[f"{prefix}{name}".upper()] = _plain(value)
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen backends.

    Attributes:
        store: None for `EVENTMILL_STORE=none`.
        is_billed: whether calls of the queue cost money.
        warnings: about unknown variables and broken plugins.
    """

    queue: Chosen[Queue]
    store: Chosen[Store] | None
    linger_ms: float
    is_billed: bool
    http_apps: list[HttpApp]
    warnings: list[str]

    @property
    def places(self) -> dict[str, str]:
        """The names of the backends, and where their data is, without secrets."""
        chosen: list[Chosen[Any]] = [self.queue, *([self.store] if self.store is not None else [])]
        return {each.kind: f"{each.backend.name} ({each.settings.place})" for each in chosen}

    def require_store(self) -> Chosen[Store]:
        """Return the store. Raise ConfigurationError if there is none."""
        if self.store is None:
            raise ConfigurationError("EVENTMILL_STORE=none works only with `eventmill serve`: choose a store")
        return self.store

    def describe_cost(self, workers: int) -> str | None:
        """Return a note on what lingering and workers cost, or None if calls of the queue are free."""
        if not self.is_billed:
            return None
        calls = f"up to {workers * 1000 / self.linger_ms:.0f} calls per second" if self.linger_ms else "one per request"
        return (
            f"every call of the queue {self.queue.backend.name!r} costs money: {workers} worker(s) with a linger of"
            f" {self.linger_ms:g} ms make {calls}; a greater EVENTMILL_LINGER_MS makes fewer"
        )

    def refuse_process(self, command: str) -> None:
        """Raise ConfigurationError if a backend lives in one process and the command needs several."""
        for chosen in (self.queue, self.store):
            if chosen is not None and chosen.settings.reach == "process":
                raise ConfigurationError(
                    f"the {chosen.kind} {chosen.backend.name!r} lives in one process and `{command}` cannot share it:"
                    f" use `eventmill run`, or choose another {chosen.kind} with EVENTMILL_{chosen.kind.upper()}"
                )


@dataclass(frozen=True, slots=True)
class Default:
    """The backend to use if the settings name none, and its default settings."""

    name: str
    settings: dict[str, object] = field(default_factory=dict)


def embedded(data: Path | None) -> tuple[Default, Default]:
    """Return the embedded backends, a queue and a store in one folder. Raise ConfigurationError."""
    folder = (data or Path(DATA_FOLDER)).absolute()
    if "?" in str(folder):
        raise ConfigurationError(f"the folder {folder} has a question mark, which chDB does not take: choose another")
    return Default("sqlite", {"path": folder / QUEUE_FILE}), Default(
        "clickhouse", {"url": f"chdb://{quote(str(folder))}/{STORE_FOLDER}"}
    )


def choose_existing(settings: Settings, data: Path | None) -> Choice:
    """Return the backends that another process uses: those that are set, else the embedded ones in the folder.

    The store may be missing. Raise ConfigurationError.
    """
    folder = data or Path(DATA_FOLDER)
    if (folder / QUEUE_FILE).exists() or (folder / STORE_FOLDER).exists():  # a restored backup has no queue yet
        queue, store = embedded(data)
        return choose(settings, queue=queue, store=store)
    if data is not None:
        raise ConfigurationError(f"the folder {data} holds no data of `eventmill run`")
    return choose(settings, store=Default(NO_STORE))


def choose(
    settings: Settings, *, queue: Default | None = None, store: Default | None = None, pages: bool = False
) -> Choice:
    """Return the backends and the HTTP apps that the settings name; `queue`, `store` and `pages` are the defaults.

    Raise ConfigurationError. Log a warning for broken plugins that are not used and for unknown variables.
    """
    plugins = load_plugins()
    warnings = _find_warnings(plugins)
    for warning in warnings:
        log.warning("%s", warning)
    queue_backend = plugins.queue(settings.queue or (queue.name if queue else _missing("queue", plugins)))
    chosen_queue: Chosen[Queue] = Chosen("queue", queue_backend, _settings(queue_backend, queue))
    chosen_store: Chosen[Store] | None = None
    store_name = settings.store or (store.name if store else _missing("store", plugins))
    if store_name != NO_STORE:
        store_backend = plugins.store(store_name)
        chosen_store = Chosen("store", store_backend, _settings(store_backend, store))
    linger_ms = queue_backend.linger_ms if settings.linger_ms is None else settings.linger_ms
    has_pages = pages if settings.pages is None else settings.pages
    http_apps = [item.record for item in plugins.http_apps if has_pages or not item.record.is_page]
    return Choice(chosen_queue, chosen_store, linger_ms, queue_backend.linger_ms > 0, http_apps, warnings)


def _find_warnings(plugins: Plugins) -> list[str]:
    kinds: list[type[BaseSettings]] = [Settings]
    kinds += [item.record.settings for item in plugins.queues]
    kinds += [item.record.settings for item in plugins.stores]
    known = [name for kind in kinds for name in variables(kind)]
    return [*plugins.warnings(), *find_unknown(known)]


def _settings(backend: QueueBackend | StoreBackend, default: Default | None) -> PluginSettings:
    """Return the backend's settings, with those of the default if it was chosen and they are not set."""
    given = default.settings if default is not None and default.name == backend.name else {}
    kind = backend.settings
    return load(kind, **{name: value for name, value in given.items() if not is_set(kind, name)})


def _plain(value: object) -> str:
    """Return a setting as the text of a variable."""
    secret = value.get_secret_value() if isinstance(value, SecretStr | SecretBytes) else value
    plain = to_jsonable_python(secret)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _missing(kind: str, plugins: Plugins) -> str:
    loaded = plugins.queues if kind == "queue" else plugins.stores
    names = ", ".join(sorted(item.record.name for item in loaded))
    raise ConfigurationError(f"EVENTMILL_{kind.upper()} is required: one of {names}")
