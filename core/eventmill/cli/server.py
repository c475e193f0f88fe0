"""An HTTP server that leaves politely: ready turns 503, serving goes on a while, then it ends."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from eventmill.api.body import Reader
from eventmill.api.health import Health
from eventmill.errors import ConfigurationError
from eventmill.settings import split_address

KEEP_ALIVE_SECONDS = 75  # longer than load balancers keep theirs, which is 60
FINISH_SECONDS = 7  # a little more than the publisher's deadline
_BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: when to leave is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(address: str) -> socket.socket:
    """Listen on HOST:PORT. Raises ConfigurationError in words."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {address} ({error.strerror or error}): choose with --listen"
        ) from None


def url_of(listener: socket.socket) -> str:
    """The address as a URL that works from this machine."""
    host, port = listener.getsockname()[:2]
    if listener.family == socket.AF_INET6:
        host = f"[{host}]"
    return f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"  # noqa: S104 (only for printing)


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def leave_on_signal() -> asyncio.Event:
    """An event that SIGTERM or Ctrl-C sets; a second one ends the process at once."""
    leave = asyncio.Event()

    def handle() -> None:
        if leave.is_set():
            os._exit(1)
        leave.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, handle)
    return leave


async def serve_http(
    app: FastAPI,
    listener: socket.socket,
    leave: asyncio.Event,
    delay_seconds: float,
    *,
    health: Health,
    reader: Reader,
) -> None:
    """Serve until `leave` is set; then answer what was asked, and return."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        backlog=_BACKLOG,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="eventmill-http")
    leaving = asyncio.create_task(leave.wait())
    await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
    health.leaving = True
    if not serving.done():
        await asyncio.wait({serving}, timeout=delay_seconds)
    server.should_exit = True
    reader.stop()
    app.state.receipts.stop()
    leaving.cancel()
    await serving
