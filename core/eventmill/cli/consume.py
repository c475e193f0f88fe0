"""eventmill consume: the consumer alone."""

import asyncio
import logging

from eventmill.cli.backends import Choice, choose
from eventmill.cli.output import start_log
from eventmill.cli.server import leave_on_signal, run_loop
from eventmill.consumer import Consumer
from eventmill.interfaces import Queue, Store
from eventmill.settings import Settings, load

log = logging.getLogger(__name__)


def consume() -> None:
    settings = load(Settings)
    start_log(settings.log_level)
    choice = choose(settings)
    choice.need_store()
    choice.refuse_process("eventmill consume")
    run_loop(_consume(settings, choice))


async def _consume(settings: Settings, choice: Choice) -> None:
    leave = leave_on_signal()
    async with choice.queue.open() as queue, choice.need_store().open() as store:
        consumer = create_consumer(settings, queue, store)
        consuming = asyncio.create_task(consumer.run(), name="eventmill-consumer")
        consuming.add_done_callback(lambda _: leave.set())
        log.info("consuming from %s into %s", choice.queue.backend.name, choice.need_store().backend.name)
        await leave.wait()
        consumer.stop()
        await consuming


def create_consumer(settings: Settings, queue: Queue, store: Store) -> Consumer:
    """A consumer with the batches that the settings want."""
    return Consumer(
        queue,
        store,
        batch_rows=settings.batch_rows,
        batch_bytes=settings.batch_bytes,
        batch_seconds=settings.batch_seconds,
    )
