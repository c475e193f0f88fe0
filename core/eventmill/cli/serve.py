"""eventmill serve: the API alone, in one process or several."""

import asyncio
import logging
import multiprocessing
import os
import socket
from contextlib import AsyncExitStack

from eventmill.api.app import create_app
from eventmill.budget import Budget
from eventmill.cli.backends import Choice, choose
from eventmill.cli.output import start_log
from eventmill.cli.server import bind, freeze, run_loop, serve_http, shutdown_on_signal, url_of
from eventmill.cli.workers import supervise
from eventmill.hookspecs import Services
from eventmill.interfaces import Queue, Store
from eventmill.publisher import Publisher
from eventmill.settings import Settings, load
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

SHUTDOWN_DELAY_SECONDS = 5.0


def serve(*, listen: str | None, workers: int) -> None:
    settings = load(Settings, listen=listen)
    start_log(settings.log_level)
    choice = choose(settings)
    choice.refuse_process("eventmill serve")
    listener = bind(settings.listen)
    log.info("serving at %s with %d worker(s)", url_of(listener), workers)
    if bill := choice.bill(workers):
        log.info("%s", bill)
    if workers == 1:
        run_loop(_serve(settings, choice, listener))
    else:
        os.environ["EVENTMILL_LISTEN"] = settings.listen  # the workers read their settings anew
        supervise(work, listener, workers)


def work(listener: socket.socket) -> None:
    """What one of several processes does."""
    settings = load(Settings)
    start_log(settings.log_level)
    run_loop(_serve(settings, choose(settings), listener))


async def _serve(settings: Settings, choice: Choice, listener: socket.socket) -> None:
    shutdown = shutdown_on_signal()
    _stop_with_parent(shutdown)
    delay_seconds = settings.shutdown_delay_seconds
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(choice.queue.open())
        store = await stack.enter_async_context(choice.store.open()) if choice.store else None
        await serve_api(
            settings,
            choice,
            (queue, store),
            listener,
            shutdown,
            SHUTDOWN_DELAY_SECONDS if delay_seconds is None else delay_seconds,
        )


def _stop_with_parent(shutdown: Shutdown) -> None:
    """Shut this worker down if its supervisor is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    loop, sentinel = asyncio.get_running_loop(), parent.sentinel

    def orphaned() -> None:
        loop.remove_reader(sentinel)
        shutdown.ask()

    loop.add_reader(sentinel, orphaned)


async def serve_api(
    settings: Settings,
    choice: Choice,
    opened: tuple[Queue, Store | None],
    listener: socket.socket,
    shutdown: Shutdown,
    delay_seconds: float,
) -> None:
    """Serve over open backends until the shutdown is asked for, and answer every request that was taken."""
    queue, store = opened
    async with Publisher(queue, linger_ms=choice.linger_ms) as publisher:
        services, budget = Services(publisher, queue, store), Budget(settings.memory_bytes)
        app = create_app(services, shutdown, budget, choice.http_apps, settings.retention_days, settings.project)
        freezing = asyncio.create_task(freeze(queue), name="eventmill-freeze")
        await serve_http(app, listener, shutdown, delay_seconds)
        freezing.cancel()
