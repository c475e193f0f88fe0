"""eventmill serve: the API alone, in one process or several."""

import asyncio
import logging
import multiprocessing
import os
import socket
from contextlib import AsyncExitStack

from eventmill.api.app import create_app
from eventmill.api.body import Reader
from eventmill.api.health import Health
from eventmill.budget import Budget
from eventmill.cli.backends import Choice, choose
from eventmill.cli.output import start_log
from eventmill.cli.server import bind, leave_on_signal, run_loop, serve_http, url_of
from eventmill.cli.workers import supervise
from eventmill.hookspecs import Services
from eventmill.interfaces import Queue, Store
from eventmill.publisher import Publisher
from eventmill.settings import Settings, load

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
    leave = leave_on_signal()
    _leave_with_parent(leave)
    delay_seconds = settings.shutdown_delay_seconds
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(choice.queue.open())
        store = await stack.enter_async_context(choice.store.open()) if choice.store else None
        await serve_api(
            settings,
            choice,
            (queue, store),
            listener,
            leave,
            SHUTDOWN_DELAY_SECONDS if delay_seconds is None else delay_seconds,
        )


def _leave_with_parent(leave: asyncio.Event) -> None:
    """A worker whose supervisor was killed leaves too."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    loop, sentinel = asyncio.get_running_loop(), parent.sentinel

    def orphaned() -> None:
        loop.remove_reader(sentinel)
        leave.set()

    loop.add_reader(sentinel, orphaned)


async def serve_api(
    settings: Settings,
    choice: Choice,
    opened: tuple[Queue, Store | None],
    listener: socket.socket,
    leave: asyncio.Event,
    delay_seconds: float,
) -> None:
    """Serve over open backends until `leave` is set, and answer every request that was taken."""
    queue, store = opened
    health = Health(queue, store)
    async with Publisher(queue, linger_ms=choice.linger_ms) as publisher:
        reader = Reader(Budget(settings.memory_bytes))
        services = Services(publisher, queue, store)
        app = create_app(services, health, reader, choice.http_apps, settings.retention_days, settings.project)
        await serve_http(app, listener, leave, delay_seconds, health=health, reader=reader)
