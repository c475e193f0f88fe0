"""Which queue and store the user chose, and their settings."""

import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic_settings import BaseSettings

from eventmill.errors import ConfigurationError
from eventmill.hookspecs import HttpApp
from eventmill.interfaces import Queue, Store
from eventmill.plugins import Backend, Plugins, load_plugins, open_backend
from eventmill.settings import PluginSettings, Settings, find_unknown, load, variables

log = logging.getLogger(__name__)

NO_STORE = "none"
Opened = TypeVar("Opened", Queue, Store)


@dataclass(frozen=True, slots=True)
class Chosen(Generic[Opened]):
    """A backend with its settings, ready to be opened."""

    kind: str
    backend: Backend[Opened]
    settings: PluginSettings

    def open(self) -> AbstractAsyncContextManager[Opened]:
        return open_backend(self.backend, self.settings)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user chose; `store` is None for `none`."""

    queue: Chosen[Queue]
    store: Chosen[Store] | None
    linger_ms: float
    http_apps: list[HttpApp]

    def need_store(self) -> Chosen[Store]:
        """The store. Raises ConfigurationError where the user wanted none."""
        if self.store is None:
            raise ConfigurationError("EVENTMILL_STORE=none is only for `eventmill serve`: name a store")
        return self.store

    def refuse_process(self, command: str) -> None:
        """Raise ConfigurationError when a backend lives in one process and `command` needs more than one."""
        for chosen in (self.queue, self.store):
            if chosen is not None and chosen.settings.reach == "process":
                raise ConfigurationError(
                    f"the {chosen.kind} {chosen.backend.name!r} lives in one process, so `{command}` cannot share it:"
                    f" use `eventmill run`, or another {chosen.kind} (EVENTMILL_{chosen.kind.upper()})"
                )


@dataclass(frozen=True, slots=True)
class Default:
    """What to take where the settings name no backend, and the settings it needs."""

    name: str
    settings: dict[str, object] = field(default_factory=dict)


def choose(settings: Settings, *, queue: Default | None = None, store: Default | None = None) -> Choice:
    """Resolve the backends by name; `queue` and `store` are what to take where the settings name none.

    Raises ConfigurationError in words. Logs a warning for what is wrong but unused.
    """
    plugins = load_plugins()
    _warn(plugins)
    first = Default(settings.queue) if settings.queue else queue or _missing("queue", plugins)
    queue_backend = plugins.queue(first.name)
    chosen_queue: Chosen[Queue] = Chosen("queue", queue_backend, load(queue_backend.settings, **first.settings))
    chosen_store: Chosen[Store] | None = None
    second = Default(settings.store) if settings.store else store or _missing("store", plugins)
    if second.name != NO_STORE:
        store_backend = plugins.store(second.name)
        chosen_store = Chosen("store", store_backend, load(store_backend.settings, **second.settings))
    linger_ms = queue_backend.linger_ms if settings.linger_ms is None else settings.linger_ms
    return Choice(chosen_queue, chosen_store, linger_ms, [item.record for item in plugins.http_apps])


def _warn(plugins: Plugins) -> None:
    kinds: list[type[BaseSettings]] = [Settings]
    kinds += [item.record.settings for item in plugins.queues]
    kinds += [item.record.settings for item in plugins.stores]
    known = [name for kind in kinds for name in variables(kind)]
    for warning in (*plugins.warnings(), *find_unknown(known)):
        log.warning("%s", warning)


def _missing(kind: str, plugins: Plugins) -> Default:
    loaded = plugins.queues if kind == "queue" else plugins.stores
    names = ", ".join(sorted(item.record.name for item in loaded))
    raise ConfigurationError(f"EVENTMILL_{kind.upper()} is required: one of {names}")
