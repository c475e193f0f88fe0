"""The hooks a plugin may implement, and the records they return.

A plugin is a module named in the entry-point group `eventmill`. One that brings a queue, complete:

    from contextlib import asynccontextmanager
    from eventmill import PluginSettings, QueueBackend, SettingsConfigDict, hookimpl

    class Settings(PluginSettings):
        model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_NATS_")
        url: str

        @property
        def reach(self):
            return "network"

    @asynccontextmanager
    async def open_queue(settings):
        from .nats_queue import NatsQueue       # the driver is imported here, not before

        async with NatsQueue(settings) as queue:
            yield queue

    backend = QueueBackend("nats", Settings, open_queue, install="pip install eventmill-nats")

    @hookimpl
    def eventmill_queue_backends():
        return [backend]
"""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

from eventmill.interfaces import Queue, Store
from eventmill.settings import PluginSettings

if TYPE_CHECKING:
    from eventmill.publisher import Publisher

PROJECT = "eventmill"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]


@dataclass(frozen=True, slots=True)
class QueueBackend:
    """A queue that can be chosen by EVENTMILL_QUEUE.

    Attributes:
        name: what the user writes.
        settings: the class of its settings; built only when it is chosen.
        open: yields the queue; imports the driver, validates, takes local locks, touches no network.
        install: the command that installs its driver, told when the driver is missing.
        linger_ms: how long a commit should wait for company; worth it where a call costs money.
    """

    name: str
    settings: type[PluginSettings]
    open: Callable[[Any], AbstractAsyncContextManager[Queue]]
    install: str = ""
    linger_ms: float = 0


@dataclass(frozen=True, slots=True)
class StoreBackend:
    """A store that can be chosen by EVENTMILL_STORE. The attributes are those of QueueBackend."""

    name: str
    settings: type[PluginSettings]
    open: Callable[[Any], AbstractAsyncContextManager[Store]]
    install: str = ""


@dataclass(frozen=True, slots=True)
class Services:
    """What the API works with, handed to each HttpApp."""

    publisher: "Publisher"
    queue: Queue
    store: Store | None


@dataclass(frozen=True, slots=True)
class HttpApp:
    """Further routes of the API, below a path of their own, such as `/pages`.

    Attributes:
        path: where they are mounted.
        create: builds the ASGI application once, at start.
    """

    path: str
    create: Callable[[Services], AsgiApp]


class Hooks:
    """The hooks; every one is optional."""

    @hookspec
    def eventmill_queue_backends(self) -> list[QueueBackend]:  # type: ignore[empty-body]  # a declaration
        """Queues that can be chosen by name."""

    @hookspec
    def eventmill_store_backends(self) -> list[StoreBackend]:  # type: ignore[empty-body]  # a declaration
        """Stores that can be chosen by name."""

    @hookspec
    def eventmill_http_apps(self) -> list[HttpApp]:  # type: ignore[empty-body]  # a declaration
        """Further routes of the API."""
