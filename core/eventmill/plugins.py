"""Find and load plugins, and choose backends by name."""

import importlib.metadata
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import pluggy

from eventmill.errors import PluginError
from eventmill.hookspecs import PROJECT, Hooks, HttpApp, QueueBackend, StoreBackend
from eventmill.settings import PluginSettings

Record = TypeVar("Record", covariant=True)
Named = TypeVar("Named", QueueBackend, StoreBackend)
Opened = TypeVar("Opened")
Opened_co = TypeVar("Opened_co", covariant=True)

_HOOKS: dict[str, type[QueueBackend | StoreBackend | HttpApp]] = {
    "eventmill_queue_backends": QueueBackend,
    "eventmill_store_backends": StoreBackend,
    "eventmill_http_apps": HttpApp,
}


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of a plugin."""

    entry_point: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.entry_point} ({self.distribution} {self.version})"


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Record]):
    """A record, and the plugin that provides it."""

    record: Record
    source: Source


@dataclass(slots=True)
class Plugins:
    """All plugins that were found. `broken` holds the reason for each one that cannot be loaded."""

    queues: list[Loaded[QueueBackend]] = field(default_factory=list)
    stores: list[Loaded[StoreBackend]] = field(default_factory=list)
    http_apps: list[Loaded[HttpApp]] = field(default_factory=list)
    broken: dict[Source, str] = field(default_factory=dict)

    def queue(self, name: str) -> QueueBackend:
        """Return the queue with this name. Raise PluginError."""
        return self._choose("queue", name, self.queues)

    def store(self, name: str) -> StoreBackend:
        """Return the store with this name. Raise PluginError."""
        return self._choose("store", name, self.stores)

    def _choose(self, kind: str, name: str, loaded: list[Loaded[Named]]) -> Named:
        found = [item for item in loaded if item.record.name == name]
        if len(found) == 1:
            return found[0].record
        if found:
            sources = " and ".join(sorted(str(item.source) for item in found))
            raise PluginError(f"the {kind} {name!r} is provided by {sources}: uninstall all but one")
        names = sorted({item.record.name for item in loaded})
        failed = "; ".join(f"{source}: {why}" for source, why in self.broken.items())
        raise PluginError(
            f"there is no {kind} {name!r}. Available: {', '.join(names) or 'none'}."
            + (f" Failed to load: {failed}" if failed else "")
        )

    def warnings(self) -> list[str]:
        """Return a warning for each broken plugin."""
        return [f"the plugin {source} is not available: {why}" for source, why in self.broken.items()]


def load_plugins() -> Plugins:
    """Load every entry point of the group. One that fails does not affect the others."""
    plugins = Plugins()
    for entry_point in _entry_points():
        distribution = entry_point.dist
        source = Source(
            entry_point.name,
            distribution.name if distribution else "unknown",
            distribution.version if distribution else "",
        )
        try:
            _register(entry_point.load(), source, plugins)
        except (Exception, SystemExit) as error:
            plugins.broken[source] = f"{type(error).__name__}: {error}"
    return plugins


def _entry_points() -> Iterable[importlib.metadata.EntryPoint]:
    """Return each entry point once. An editable install next to a wheel of the same project lists them twice."""
    found = importlib.metadata.entry_points(group=PROJECT)
    return {(e.dist.name if e.dist else "", e.name, e.value): e for e in found}.values()


def _register(module: object, source: Source, plugins: Plugins) -> None:
    """Add the records of all hooks of the module, or none if one fails."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    manager.register(module, str(source))
    unknown = sorted({name for name in _hook_names(module, manager) if name not in _HOOKS})
    if unknown:
        raise PluginError(f"there is no hook {', '.join(unknown)}: the hooks are {', '.join(_HOOKS)}")
    records: list[Any] = []
    for name, kind in _HOOKS.items():
        for implementation in getattr(manager.hook, name).get_hookimpls():
            # Called directly, because pluggy silently ignores the None of a forgotten return.
            records += _checked(name, implementation.function(), kind)
    if wrong := [app.path for app in records if isinstance(app, HttpApp) and not app.path.startswith("/")]:
        raise PluginError(f"the path of an HttpApp must begin with a slash: {wrong[0]!r}")
    for record in records:
        target: Any = {QueueBackend: plugins.queues, StoreBackend: plugins.stores, HttpApp: plugins.http_apps}
        target[type(record)].append(Loaded(record, source))


def _hook_names(module: object, manager: pluggy.PluginManager) -> Iterable[str]:
    return [caller.name for caller in manager.get_hookcallers(module) or []]


def _checked(hook: str, returned: object, kind: type) -> list[Any]:
    if not isinstance(returned, list | tuple) or not all(isinstance(record, kind) for record in returned):
        raise PluginError(f"{hook} must return a list of {kind.__name__}, not {returned!r}")
    return list(returned)


class Backend(Protocol[Opened_co]):
    """The common attributes of QueueBackend and StoreBackend."""

    @property
    def name(self) -> str: ...
    @property
    def install(self) -> str: ...
    @property
    def open(self) -> Callable[[Any], AbstractAsyncContextManager[Opened_co]]: ...


@asynccontextmanager
async def open_backend(backend: Backend[Opened], settings: PluginSettings) -> AsyncIterator[Opened]:
    """Open a backend. Raise PluginError with the command that installs its driver if that is missing."""
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(backend.open(settings))
        except ModuleNotFoundError as error:
            own = type(settings).__module__.partition(".")[0]
            if error.name is None or error.name.partition(".")[0] == own:
                raise PluginError(f"the plugin that provides {backend.name!r} is broken: {error}") from error
            hint = f": {backend.install}" if backend.install else ""
            raise PluginError(f"{backend.name!r} needs the package {error.name!r}{hint}") from error
        yield opened
