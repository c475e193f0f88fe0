"""The hooks a plugin may implement, and the records they return.

A plugin is a module that an entry point of the group `eventmill` names. This one provides a queue; only its module
`nats_queue` is left out:

    from contextlib import asynccontextmanager
    from eventmill import PluginSettings, QueueBackend, SecretStr, SettingsConfigDict, hookimpl

    class Settings(PluginSettings):
        model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_NATS_")
        url: str
        lease_seconds: float = 30
        password: SecretStr = SecretStr("")

        @property
        def reach(self):
            return "network"

    @asynccontextmanager
    async def open_queue(settings):
        from .nats_queue import NatsQueue       # import the driver here: listing plugins stays fast

        async with NatsQueue(settings) as queue:
            yield queue

    backend = QueueBackend("nats", Settings, open_queue, install="pip install eventmill-nats")

    @hookimpl
    def eventmill_queue_backends():
        return [backend]
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy
from prometheus_client import CollectorRegistry

from eventmill.errors import StoreUnavailable, Unauthenticated
from eventmill.event import Event, encode_line
from eventmill.interfaces import Queue, Store
from eventmill.queries.limiter import QueryLimiter, Receive
from eventmill.settings import PluginSettings

if TYPE_CHECKING:
    from eventmill.ingest.publisher import Publisher

T = TypeVar("T")

PROJECT = "eventmill"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]


@dataclass(frozen=True, slots=True)
class QueueBackend:
    """A queue that EVENTMILL_QUEUE can choose.

    Attributes:
        name: the value of EVENTMILL_QUEUE.
        settings: the class of its settings; an instance is created only if the backend is chosen.
        open: returns an async context manager that yields the queue, see `eventmill.interfaces`.
        install: the command that installs its driver, for the error message if the driver is missing.
        linger_ms: how long a commit waits for more events by default; greater than 0 if calls are billed. Core then
            also pauses between receives, and notes the cost in the log.
    """

    name: str
    settings: type[PluginSettings]
    open: Callable[[Any], AbstractAsyncContextManager[Queue]]
    install: str = ""
    linger_ms: float = 0


@dataclass(frozen=True, slots=True)
class StoreBackend:
    """A store that EVENTMILL_STORE can choose. The attributes are those of QueueBackend."""

    name: str
    settings: type[PluginSettings]
    open: Callable[[Any], AbstractAsyncContextManager[Store]]
    install: str = ""


KeyScope = Literal["write", "read", "admin"]
RouteScope = Literal["open", "write", "read", "admin"]
ANY_PROJECT = "*"
NO_KEY = "send a key: the header Authorization: Bearer KEY, or X-API-Key: KEY"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request.

    Attributes:
        project: the only project whose events the request may write and see.
        scope: what it may do; `admin` includes the others.
        key: the id of the key, empty without one.
        is_for_all: whether the key is for all projects; `project` is the one that this request names.
        name: the name of the key, for people.
    """

    project: str
    scope: KeyScope
    key: str = ""
    is_for_all: bool = False
    name: str = ""

    def may(self, scope: RouteScope) -> bool:
        """Return whether the principal may use routes of this scope."""
        return self.scope == "admin" or scope in ("open", self.scope)


def principal_of(scope: Mapping[str, Any]) -> Principal:
    """Return the principal of an ASGI request. Raise Unauthenticated if it has no key, which open routes allow."""
    principal = scope["state"]["principal"]
    if not isinstance(principal, Principal):
        raise Unauthenticated(NO_KEY)
    return principal


@dataclass(frozen=True, slots=True)
class Services:
    """The live services of the API process, which every HttpApp receives.

    Attributes:
        project: the project of requests without a key; `principal_of` has that of a request.
        queue: the queue; `publish` is the way to add events to it.
        store: the store, or None if the process has none; `query` is the way to read it.
        publisher, limiter: the parts behind `publish` and `query`.
        registry: of prometheus_client, for the metrics of the application. Their names start with `eventmill_` and
            those of the plugin, their labels have few values.
    """

    project: str
    queue: Queue
    store: Store | None
    publisher: "Publisher"
    limiter: QueryLimiter
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    async def publish(self, events: Sequence[Event]) -> None:
        """Return when all events are durable in the queue.

        Raise QueueUnavailable if some are not confirmed; repeating all of them is harmless.
        """
        lines: dict[str, list[bytes]] = {}
        for event in events:
            lines.setdefault(event.project, []).append(encode_line(event))
        for project, own in lines.items():
            await self.publisher.publish(own, project)

    async def query(
        self,
        query: Callable[[Store], Coroutine[Any, Any, T]],
        receive: Receive | None = None,
        project: str | None = None,
    ) -> T:
        """Return the answer of the store, such as `services.query(lambda store: store.metrics(query))`.

        Pass the `receive` of the ASGI request to cancel the query when the client disconnects, and the project of its
        principal, so that no project takes all places. Raise Overloaded if too
        many queries are pending, StoreUnavailable, QueryTooLarge, or ClientDisconnected.
        """
        store = self.store
        if store is None:
            raise StoreUnavailable("this process has no store")
        return await self.limiter.run(partial(query, store), receive, project or self.project)


@dataclass(frozen=True, slots=True)
class HttpApp:
    """Additional routes of the API, below their own path.

    Attributes:
        path: the path, such as `/pages`. `/` is the start page alone, not what is below it.
        create: returns the ASGI application; called once at start.
        scope: the scope of the key that every request needs; `open` if the application decides with `principal_of`.
        is_page: whether it is for people, so that `eventmill serve` has it only if EVENTMILL_PAGES is set.
    """

    path: str
    create: Callable[[Services], AsgiApp]
    scope: RouteScope
    is_page: bool = False


class Hooks:
    """The hooks. Each is optional."""

    @hookspec
    def eventmill_queue_backends(self) -> list[QueueBackend]:  # type: ignore[empty-body]  # a declaration
        """Return queues that can be chosen by name."""

    @hookspec
    def eventmill_store_backends(self) -> list[StoreBackend]:  # type: ignore[empty-body]  # a declaration
        """Return stores that can be chosen by name."""

    @hookspec
    def eventmill_http_apps(self) -> list[HttpApp]:  # type: ignore[empty-body]  # a declaration
        """Return additional routes of the API."""
