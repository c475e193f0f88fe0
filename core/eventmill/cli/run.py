"""eventmill run: the API and the consumer in one process."""

import asyncio
import logging
import socket
from pathlib import Path

from rich import markup
from rich.console import Console

from eventmill.api.access import Access
from eventmill.consumer.consumer import DRAIN_SECONDS
from eventmill.consumer.pause import Pause
from eventmill.errors import Unavailable
from eventmill.interfaces import Queue, Store
from eventmill.runtime.backends import DATA_FOLDER, Choice, Chosen, choose, embedded
from eventmill.runtime.consuming import create_consumer
from eventmill.runtime.listener import bind, load_certificate, reach_of, url_of
from eventmill.runtime.logs import start_log
from eventmill.runtime.loop import run_loop, shutdown_on_signal
from eventmill.runtime.operations import bind_operations
from eventmill.runtime.security import choose_access
from eventmill.runtime.server import Listeners, Opened, serve_api
from eventmill.runtime.telemetry import create_registry
from eventmill.runtime.unix_sockets import private_socket
from eventmill.settings import OFF, Settings, load
from eventmill.shutdown import Shutdown
from eventmill.text import escape

log = logging.getLogger(__name__)

MIN_DRAIN_SECONDS = 4.0

_BANNER = """\
[bold green]eventmill[/] is ready at [bold]{url}[/]{reach}{page}. Press Ctrl-C to stop it. API documentation: {url}/docs
  queue {queue}, store {store}
Post an event, then count it. Posting the same event again changes nothing.
  curl {url}/events {key}-d '{{"event_name":"page_view","channel":"web","user_id":"ada","timestamp":1766717657}}'
  curl {key}'{url}/metrics?event_name=page_view&from=1766717657&to=1766717657'"""


def run(*, memory: bool, data: Path | None, listen: str | None) -> None:
    chosen = "memory" if memory else None
    settings = load(Settings, listen=listen, queue=chosen, store=chosen)
    start_log(settings.log_level)
    queue, store = embedded(data)
    choice = choose(settings, queue=queue, store=store, pages=True)
    choice.require_store()
    load_certificate(settings)  # an error is noticed before the backends open
    listener = bind(settings.listen)
    access = choose_access(settings, listener, is_local=True)
    run_loop(_run(settings, choice, listener, access, data or Path(DATA_FOLDER)))


async def _run(settings: Settings, choice: Choice, listener: socket.socket, access: Access, folder: Path) -> None:
    shutdown, stopping = shutdown_on_signal(), Shutdown()
    delay_seconds = settings.shutdown_delay_seconds or 0
    async with choice.queue.open() as queue, choice.require_store().open() as store:
        await _migrate(queue, store, settings.retention_days)
        registry = create_registry(queue, store)
        is_shared = choice.require_store().settings.reach != "process"
        pause = Pause(store, stopping, is_shared=is_shared)
        consumer = create_consumer(settings, choice, queue, store, stopping, registry, pause)
        consuming = asyncio.create_task(consumer.run(), name="eventmill-consumer")
        consuming.add_done_callback(lambda _: shutdown.ask())  # it ends early only if it fails
        _greet(url_of(listener, settings), reach_of(listener), choice, needs_key=bool(access.keys))
        opened = Opened(queue, store, registry, pause)
        with private_socket(folder) as private:
            listeners = Listeners(listener, bind_operations(settings, OFF), private)
            await serve_api(settings, choice, opened, listeners, access, shutdown, delay_seconds)
        # Events that only this process holds must be stored before it ends. The whole shutdown takes less than 20 s.
        used_seconds = max(0.0, shutdown.asked_seconds - delay_seconds)
        stopping.begin(
            max(MIN_DRAIN_SECONDS, DRAIN_SECONDS - used_seconds), drain=choice.queue.settings.reach == "process"
        )
        await consuming


async def _migrate(queue: Queue, store: Store, retention_days: int | None) -> None:
    try:
        await queue.migrate()
        await store.migrate(retention_days)
    except Unavailable as error:
        log.warning("cannot migrate now, starting without: %s", error)


def _greet(url: str, reach: str, choice: Choice, *, needs_key: bool) -> None:
    queue, store = (markup.escape(escape(_describe(chosen))) for chosen in (choice.queue, choice.require_store()))
    key = '-H "X-API-Key: $KEY" ' if needs_key else ""
    page = ": open it in a browser" if any(app.path == "/" for app in choice.http_apps) else ""
    text = _BANNER.format(url=url, reach=reach, page=page, queue=queue, store=store, key=key)
    Console(highlight=False, soft_wrap=True).print(text)
    if note := choice.describe_cost(workers=1):
        log.info("%s", note)


def _describe(chosen: Chosen[Queue] | Chosen[Store]) -> str:
    return f"{chosen.backend.name} ({chosen.settings.place})"
