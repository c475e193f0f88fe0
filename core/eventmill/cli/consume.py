"""eventmill consume: the consumer alone."""

import asyncio
import logging
from functools import partial

from eventmill.cli.backends import Choice, choose
from eventmill.cli.output import start_log
from eventmill.cli.server import freeze, run_loop, shutdown_on_signal
from eventmill.cli.trial import try_messages
from eventmill.consumer import DRAIN_SECONDS, Consumer
from eventmill.interfaces import Queue, Store
from eventmill.settings import Settings, load
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

# An idle consumer far away costs a call per wait; near, leaving should not wait that long.
FAR_RECEIVE_SECONDS = 5.0
NEAR_RECEIVE_SECONDS = 1.0
PAUSE_PER_LINGER = 10  # commits that one receive should bring, where lingering pays
PAUSE_PER_BATCH = 0.4  # but an insert waits for its first event no longer than it is told


def consume() -> None:
    settings = load(Settings)
    start_log(settings.log_level)
    choice = choose(settings)
    choice.need_store()
    choice.refuse_process("eventmill consume")
    run_loop(_consume(settings, choice))


async def _consume(settings: Settings, choice: Choice) -> None:
    shutdown = shutdown_on_signal()
    async with choice.queue.open() as queue, choice.need_store().open() as store:
        consumer = create_consumer(settings, choice, queue, store, shutdown)
        consuming = asyncio.create_task(consumer.run(), name="eventmill-consumer")
        consuming.add_done_callback(lambda _: shutdown.ask())  # it ends by itself only if it breaks
        freezing = asyncio.create_task(freeze(queue), name="eventmill-freeze")
        log.info("consuming from %s into %s", choice.queue.backend.name, choice.need_store().backend.name)
        await shutdown.wait()
        shutdown.begin(DRAIN_SECONDS)
        freezing.cancel()
        await consuming


def create_consumer(settings: Settings, choice: Choice, queue: Queue, store: Store, shutdown: Shutdown) -> Consumer:
    """A consumer with the batches that the settings want, and as few receives as the queue's price asks for."""
    is_far = choice.queue.settings.reach == "network"
    return Consumer(
        queue,
        store,
        shutdown,
        receive_seconds=FAR_RECEIVE_SECONDS if is_far else NEAR_RECEIVE_SECONDS,
        pause_seconds=min(PAUSE_PER_LINGER * choice.linger_ms / 1000, PAUSE_PER_BATCH * settings.batch_seconds),
        batch_rows=settings.batch_rows,
        batch_bytes=settings.batch_bytes,
        batch_seconds=settings.batch_seconds,
        trial=partial(try_messages, choice.need_store()),
    )
