"""The HTTP server of a process, from its listening socket to its last response."""

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from eventmill.api.access import Access
from eventmill.api.app import create_app
from eventmill.hookspecs import Services
from eventmill.ingest.budget import Budget
from eventmill.ingest.publisher import Publisher
from eventmill.interfaces import Queue, Store
from eventmill.queries.limiter import QueryLimiter
from eventmill.runtime.backends import Choice
from eventmill.runtime.connections import Connections, raise_file_limit
from eventmill.runtime.listener import Acceptor, load_certificate
from eventmill.runtime.loop import manage_memory
from eventmill.runtime.pieces import open_connection
from eventmill.settings import Settings
from eventmill.shutdown import Shutdown

KEEP_ALIVE_SECONDS = 75  # load balancers close idle connections after 60 s, and must do so first
FINISH_SECONDS = 7  # a little more than the publisher's deadline
_SWITCH_SECONDS = 0.0005  # Python's default is ten times as long, and a busy event loop makes every other thread wait


async def serve_api(
    settings: Settings,
    choice: Choice,
    opened: tuple[Queue, Store | None],
    listener: socket.socket,
    access: Access,
    shutdown: Shutdown,
    delay_seconds: float,
) -> None:
    """Serve the API over open backends until the shutdown, and answer every request that was accepted by then."""
    queue, store = opened
    sys.setswitchinterval(_SWITCH_SECONDS)
    async with Publisher(queue, linger_ms=choice.linger_ms) as publisher:
        services = Services(settings.project, queue, store, publisher, QueryLimiter(shutdown))
        budget, days = Budget(settings.memory_bytes), settings.retention_days
        app = create_app(services, shutdown, budget, access, choice.http_apps, days)
        limit = _connection_limit(settings)
        connections = Connections(limit, access.proxies)
        opening = Connections(limit, access.proxies)
        helpers = (
            asyncio.create_task(manage_memory(queue, shutdown), name="eventmill-memory"),
            asyncio.create_task(connections.watch(), name="eventmill-connections"),
            asyncio.create_task(opening.watch(), name="eventmill-opening"),
            asyncio.create_task(access.keys.watch(shutdown), name="eventmill-keys"),
        )
        server = _Server(_configure(app, connections), load_certificate(settings), opening)
        await _serve_http(server, listener, shutdown, delay_seconds)
        for helper in helpers:
            helper.cancel()


def _connection_limit(settings: Settings) -> int:
    """Return the limit of connections. As many may wait to be opened, and the backends need open files, too."""
    files = raise_file_limit()
    return settings.max_connections if files is None else min(settings.max_connections, max(2, files // 3))


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, and with one wake-up per second instead of ten.

    It accepts connections through an `Acceptor`. `_serve_http` decides when it stops.
    """

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, opening: Connections) -> None:
        super().__init__(config)
        self._tls = tls
        self._opening = opening
        self._stopping = asyncio.Event()
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

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # sets the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()


def _configure(app: ASGIApp, connections: Connections) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(open_connection, connections=connections),  # type: ignore[arg-type]  # uvicorn calls it
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
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
