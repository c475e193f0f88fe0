"""The HTTP server. On shutdown readiness turns 503, serving goes on for the delay, and then it ends."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from eventmill.errors import ConfigurationError
from eventmill.interfaces import Queue
from eventmill.settings import split_address
from eventmill.shutdown import Shutdown

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


def shutdown_on_signal() -> Shutdown:
    """A shutdown that SIGTERM or Ctrl-C asks for; a second signal ends the process at once."""
    shutdown = Shutdown()

    def handle() -> None:
        if shutdown.is_asked:
            os._exit(1)
        shutdown.ask()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, handle)
    return shutdown


async def freeze(queue: Queue) -> None:
    """Exempt everything that was loaded from garbage collection: a look through it stops all work for 0.1 s."""
    with contextlib.suppress(Exception):
        await queue.check()  # drivers load at their first call
    gc.freeze()


async def serve_http(app: FastAPI, listener: socket.socket, shutdown: Shutdown, delay_seconds: float) -> None:
    """Serve until the shutdown is asked for and for the delay; then answer the requests under way, and return."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        backlog=_BACKLOG,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="eventmill-http")
    asked = asyncio.create_task(shutdown.wait())
    await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    shutdown.ask()
    if not serving.done():
        await asyncio.wait({serving}, timeout=delay_seconds)
    server.should_exit = True
    shutdown.begin(FINISH_SECONDS)
    await serving
