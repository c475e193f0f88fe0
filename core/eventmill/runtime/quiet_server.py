"""uvicorn's server inside a process that has an event loop and handles signals itself."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

_KEEP_ALIVE_SECONDS = 75
_FINISH_SECONDS = 3


class QuietServer(uvicorn.Server):
    """uvicorn's server without signal handlers, and without its ten wake-ups per second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self.stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.stopping.wait()


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket | None) -> AsyncIterator[None]:
    """Serve an application for few and friendly clients during the block; do nothing without a listener."""
    if listener is None:
        yield
        return
    server = QuietServer(configure_friendly(app))
    task = asyncio.create_task(server.serve(sockets=[listener]), name="eventmill-side-server")
    try:
        yield
    finally:
        server.stop()
        await task


def configure_friendly(app: ASGIApp) -> uvicorn.Config:
    """Return the configuration of a server for few and friendly clients."""
    return configure(
        app,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_FINISH_SECONDS,
    )


def configure(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """Return the configuration of a server that speaks HTTP only, and leaves the log and the proxies to us."""
    return uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        **options,
    )
