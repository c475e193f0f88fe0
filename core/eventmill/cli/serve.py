"""eventmill serve: the API alone, in one process or in several; eventmill explore: the same with its pages."""

import asyncio
import logging
import multiprocessing
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

from eventmill.api.access import Access
from eventmill.runtime.backends import Choice, choose
from eventmill.runtime.listener import bind, load_certificate, reach_of, url_of
from eventmill.runtime.logs import start_log
from eventmill.runtime.loop import run_loop, shutdown_on_signal
from eventmill.runtime.operations import SERVE_ADDRESS, bind_operations, create_summary, serve_in_thread
from eventmill.runtime.security import choose_access
from eventmill.runtime.server import Listeners, Opened, serve_api
from eventmill.runtime.telemetry import create_registry
from eventmill.runtime.unix_sockets import WorkerSockets, bind_unix, create_worker_folder, own_address
from eventmill.runtime.workers import supervise
from eventmill.settings import Settings, load
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

SHUTDOWN_DELAY_SECONDS = 5.0
EXPLORE_ADDRESS = "127.0.0.1:8090"


def serve(*, listen: str | None, workers: int | None) -> None:
    settings = load(Settings, listen=listen, workers=workers)
    start_log(settings.log_level)
    choice = choose(settings)
    choice.refuse_process("eventmill serve")
    load_certificate(settings)  # an error is noticed before the backends open
    listener = bind(settings.listen)
    access = choose_access(settings, listener)
    log.info("serving at %s%s with %d worker(s)", url_of(listener, settings), reach_of(listener), settings.workers)
    if note := choice.describe_cost(settings.workers):
        log.info("%s", note)
    operations = bind_operations(settings, SERVE_ADDRESS)
    if settings.workers == 1:
        run_loop(_serve(settings, choice, Listeners(listener, operations), access))
    else:
        # Each worker loads the settings again.
        os.environ |= {"EVENTMILL_LISTEN": settings.listen, "EVENTMILL_WORKERS": str(settings.workers)}
        with create_worker_folder() as folder:
            if operations is not None:
                serve_in_thread(create_summary(WorkerSockets(Path(folder))), operations)
            supervise(work, listener, settings.workers, Path(folder))


def explore(*, listen: str | None) -> None:
    """Serve the API with its pages on this machine, for this user."""
    settings = load(Settings, listen=listen or EXPLORE_ADDRESS)
    start_log(settings.log_level)
    choice = choose(settings, pages=True)
    choice.require_store()
    choice.refuse_process("eventmill explore")
    load_certificate(settings)
    listener = bind(settings.listen)
    access = choose_access(settings, listener, is_local=True)
    log.info("the explorer is at %s%s", url_of(listener, settings), reach_of(listener))
    run_loop(_serve(settings, choice, Listeners(listener), access))


def work(listener: socket.socket, folder: Path) -> None:
    """Run one worker of several."""
    settings = load(Settings)
    start_log(settings.log_level)
    own = own_address(folder)
    listeners = Listeners(listener, private=bind_unix(own), workers=WorkerSockets(folder, own))
    run_loop(_serve(settings, choose(settings), listeners, choose_access(settings, listener)))


async def _serve(settings: Settings, choice: Choice, listeners: Listeners, access: Access) -> None:
    shutdown = shutdown_on_signal()
    _stop_with_parent(shutdown)
    delay_seconds = settings.shutdown_delay_seconds
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(choice.queue.open())
        store = await stack.enter_async_context(choice.store.open()) if choice.store else None
        await serve_api(
            settings,
            choice,
            Opened(queue, store, create_registry(queue, store)),
            listeners,
            access,
            shutdown,
            SHUTDOWN_DELAY_SECONDS if delay_seconds is None else delay_seconds,
        )


def _stop_with_parent(shutdown: Shutdown) -> None:
    """Shut this worker down if its supervisor is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    loop, sentinel = asyncio.get_running_loop(), parent.sentinel

    def stop() -> None:
        loop.remove_reader(sentinel)
        shutdown.ask()

    loop.add_reader(sentinel, stop)
