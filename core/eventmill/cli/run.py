"""eventmill run: the API and the consumer in one process."""

import asyncio
import logging
import socket
from pathlib import Path

from rich.console import Console

from eventmill.cli.backends import Choice, Chosen, choose, embedded
from eventmill.cli.consume import create_consumer
from eventmill.cli.output import start_log
from eventmill.cli.serve import serve_api
from eventmill.cli.server import bind, run_loop, shutdown_on_signal, url_of
from eventmill.consumer import DRAIN_SECONDS
from eventmill.errors import Unavailable
from eventmill.interfaces import Queue, Store
from eventmill.settings import Settings, load
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

LEAST_DRAIN_SECONDS = 4.0

_BANNER = """\
[bold green]eventmill[/] is ready at [bold]{url}[/] (pages: {url}/docs). Ctrl-C ends it.
  queue {queue}, store {store}
Post an event, then ask for it. Two events that are equal in every field are one.
  curl {url}/events -d '{{"event_name":"product_view","channel":"web","user_id":"user_123","timestamp":1766717657}}'
  curl '{url}/metrics?event_name=product_view&from=1766717657&to=1766717657'"""


def run(*, memory: bool, data: Path | None, listen: str | None) -> None:
    chosen = "memory" if memory else None
    settings = load(Settings, listen=listen, queue=chosen, store=chosen)
    start_log(settings.log_level)
    queue, store = embedded(data)
    choice = choose(settings, queue=queue, store=store)
    choice.need_store()
    run_loop(_run(settings, choice, bind(settings.listen)))


async def _run(settings: Settings, choice: Choice, listener: socket.socket) -> None:
    shutdown, stopping = shutdown_on_signal(), Shutdown()
    delay_seconds = settings.shutdown_delay_seconds or 0
    async with choice.queue.open() as queue, choice.need_store().open() as store:
        await _migrate(queue, store)
        consumer = create_consumer(settings, choice, queue, store, stopping)
        consuming = asyncio.create_task(consumer.run(), name="eventmill-consumer")
        consuming.add_done_callback(lambda _: shutdown.ask())  # it ends by itself only if it breaks
        _greet(url_of(listener), choice)
        await serve_api(settings, choice, (queue, store), listener, shutdown, delay_seconds)
        # Events that only this process holds must be stored before it ends. All of it takes less than 20 s.
        used_seconds = max(0.0, shutdown.asked_seconds - delay_seconds)
        stopping.begin(
            max(LEAST_DRAIN_SECONDS, DRAIN_SECONDS - used_seconds), drain=choice.queue.settings.reach == "process"
        )
        await consuming


async def _migrate(queue: Queue, store: Store) -> None:
    try:
        await queue.migrate()
        await store.migrate()
    except Unavailable as error:
        log.warning("cannot migrate now, going on: %s", error)


def _greet(url: str, choice: Choice) -> None:
    text = _BANNER.format(url=url, queue=_describe(choice.queue), store=_describe(choice.need_store()))
    Console(highlight=False, soft_wrap=True).print(text)
    if bill := choice.bill(workers=1):
        log.info("%s", bill)


def _describe(chosen: Chosen[Queue] | Chosen[Store]) -> str:
    return f"{chosen.backend.name} ({chosen.settings.place})"
