"""The HTTP server of a process, from its listening socket to its last response."""

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from eventmill.api.access import Access
from eventmill.api.app import create_app
from eventmill.api.gate import Gate
from eventmill.api.health import Health
from eventmill.api.operator import About
from eventmill.api.status import Watch
from eventmill.api.telemetry import RequestTelemetry
from eventmill.consumer.pause import Pause
from eventmill.hookspecs import Services
from eventmill.ingest.budget import Budget
from eventmill.ingest.publisher import Publisher
from eventmill.ingest.telemetry import IngestTelemetry
from eventmill.interfaces import Queue, Store
from eventmill.queries.limiter import QueryLimiter
from eventmill.queries.telemetry import QueryTelemetry
from eventmill.runtime.backends import Choice
from eventmill.runtime.connections import Connections, raise_file_limit
from eventmill.runtime.listener import Acceptor, load_certificate
from eventmill.runtime.loop import manage_memory
from eventmill.runtime.operations import create_operations
from eventmill.runtime.pieces import open_connection
from eventmill.runtime.quiet_server import QuietServer, configure, serving
from eventmill.runtime.security import find_troubles
from eventmill.runtime.telemetry import Backlog, show_edge
from eventmill.runtime.unix_sockets import WorkerSockets
from eventmill.settings import Settings
from eventmill.shutdown import Shutdown

KEEP_ALIVE_SECONDS = 75  # load balancers close idle connections after 60 s, and must do so first
FINISH_SECONDS = 7  # a little more than the publisher's deadline
_SWITCH_SECONDS = 0.0005  # Python's default is ten times as long, and a busy event loop makes every other thread wait


@dataclass(frozen=True, slots=True)
class Opened:
    """The open backends of a process, its metrics, and what pauses its consumer, if it has one."""

    queue: Queue
    store: Store | None
    registry: CollectorRegistry
    pause: Pause | None = None


@dataclass(frozen=True, slots=True)
class Listeners:
    """The sockets of a process.

    Attributes:
        api: where clients connect.
        operations: where Prometheus connects, or None.
        private: a Unix socket for this user's commands and for the other workers, or None. It needs no key.
        workers: reaches the other workers, or None.
    """

    api: socket.socket
    operations: socket.socket | None = None
    private: socket.socket | None = None
    workers: WorkerSockets | None = None


async def serve_api(
    settings: Settings,
    choice: Choice,
    opened: Opened,
    listeners: Listeners,
    access: Access,
    shutdown: Shutdown,
    delay_seconds: float,
) -> None:
    """Serve the API over open backends until the shutdown, and answer every request that was accepted by then."""
    queue, registry = opened.queue, opened.registry
    sys.setswitchinterval(_SWITCH_SECONDS)
    async with Publisher(queue, linger_ms=choice.linger_ms, telemetry=IngestTelemetry(registry)) as publisher:
        limiter = QueryLimiter(shutdown, telemetry=QueryTelemetry(registry))
        services = Services(settings.project, queue, opened.store, publisher, limiter, registry)
        budget, days = Budget(settings.memory_bytes), settings.retention_days
        about = About(choice.places, choice.warnings)
        app = create_app(
            services, shutdown, budget, access, choice.http_apps, days, listeners.workers, about, opened.pause
        )
        limit = _connection_limit(settings)
        connections = Connections(limit, access.proxies)
        opening = Connections(limit, access.proxies)
        show_edge(connections, opening, budget, registry)
        operations = _create_operations(services, shutdown, budget)
        helpers = (
            asyncio.create_task(manage_memory(queue, shutdown), name="eventmill-memory"),
            asyncio.create_task(connections.watch(), name="eventmill-connections"),
            asyncio.create_task(opening.watch(), name="eventmill-opening"),
            asyncio.create_task(access.keys.watch(shutdown), name="eventmill-keys"),
        )
        server = _Server(_configure(app, connections), load_certificate(settings), opening)
        private = Starlette(routes=[Mount("/ops", operations), Mount("/", _without_keys(app, settings))])
        async with serving(operations, listeners.operations), serving(private, listeners.private):
            await _serve_http(server, listeners.api, shutdown, delay_seconds)
        for helper in helpers:
            helper.cancel()


@contextlib.asynccontextmanager
async def create_unkeyed_api(
    settings: Settings, choice: Choice, queue: Queue, store: Store | None
) -> AsyncIterator[Gate]:
    """Open the API over these backends, without a server, for a command of this user."""
    shutdown, budget = Shutdown(), Budget(settings.memory_bytes)
    about = About(choice.places, [*choice.warnings, *find_troubles(settings)])
    async with Publisher(queue, linger_ms=choice.linger_ms) as publisher:
        services = Services(settings.project, queue, store, publisher, QueryLimiter(shutdown))
        yield _without_keys(create_app(services, shutdown, budget, Access(settings.project), about=about), settings)


def _create_operations(services: Services, shutdown: Shutdown, budget: Budget) -> Starlette:
    health = Health(services.queue, services.store, shutdown, budget)
    watch = Watch(services.queue, services.store, services.project)
    return create_operations(services.registry, Backlog(watch, health), health)


def _without_keys(app: Gate, settings: Settings) -> Gate:
    """Return the same application for clients who may do everything, since the system lets no one else connect."""
    return replace(app, access=Access(settings.project, is_anonymous=True), telemetry=RequestTelemetry())


def _connection_limit(settings: Settings) -> int:
    """Return the limit of connections. As many may wait to be opened, and the backends need open files, too."""
    files = raise_file_limit()
    return settings.max_connections if files is None else min(settings.max_connections, max(2, files // 3))


class _Server(QuietServer):
    """A server that accepts connections through an `Acceptor`. `_serve_http` decides when it stops."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, opening: Connections) -> None:
        super().__init__(config)
        self._tls = tls
        self._opening = opening
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        create_protocol = partial(
            self.config.http_protocol_class,
            config=self.config,  # type: ignore[call-arg]
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self._acceptor = Acceptor(create_protocol, self._tls, self._opening)
        self._accepting = [asyncio.create_task(self._acceptor.run(listener)) for listener in sockets or ()]
        self.servers = []
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.wait(self._accepting)
        self._acceptor.close()
        await super().shutdown(sockets)

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # sets the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.stopping.wait()


def _configure(app: ASGIApp, connections: Connections) -> uvicorn.Config:
    return configure(
        app,
        http=partial(open_connection, connections=connections),  # uvicorn calls it
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )


async def _serve_http(server: _Server, listener: socket.socket, shutdown: Shutdown, delay_seconds: float) -> None:
    """Serve until the shutdown and for the delay after it, while readiness is 503; then finish open requests."""
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="eventmill-http")
    asked = asyncio.create_task(shutdown.wait())
    await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    shutdown.ask()
    if not serving.done():
        await asyncio.wait({serving}, timeout=delay_seconds)
    server.stop()
    shutdown.begin(FINISH_SECONDS)
    await serving
