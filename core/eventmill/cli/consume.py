"""eventmill consume: the consumer alone."""

import asyncio
import logging

from eventmill.api.health import Health
from eventmill.api.status import Watch
from eventmill.consumer.consumer import DRAIN_SECONDS
from eventmill.runtime.backends import Choice, choose
from eventmill.runtime.consuming import create_consumer
from eventmill.runtime.logs import start_log
from eventmill.runtime.loop import freeze_garbage, run_loop, shutdown_on_signal
from eventmill.runtime.operations import CONSUME_ADDRESS, bind_operations, create_operations
from eventmill.runtime.quiet_server import serving
from eventmill.runtime.telemetry import Backlog, create_registry
from eventmill.settings import Settings, load

log = logging.getLogger(__name__)


def consume() -> None:
    settings = load(Settings)
    start_log(settings.log_level)
    choice = choose(settings)
    choice.require_store()
    choice.refuse_process("eventmill consume")
    run_loop(_consume(settings, choice))


async def _consume(settings: Settings, choice: Choice) -> None:
    shutdown = shutdown_on_signal()
    async with choice.queue.open() as queue, choice.require_store().open() as store:
        registry = create_registry(queue, store)
        health = Health(queue, store, shutdown)
        pages = create_operations(registry, Backlog(Watch(queue, store, settings.project), health), health)
        consumer = create_consumer(settings, choice, queue, store, shutdown, registry)
        consuming = asyncio.create_task(consumer.run(), name="eventmill-consumer")
        consuming.add_done_callback(lambda _: shutdown.ask())  # it ends early only if it fails
        freezing = asyncio.create_task(freeze_garbage(queue), name="eventmill-freeze")
        log.info("consuming from %s into %s", choice.queue.backend.name, choice.require_store().backend.name)
        async with serving(pages, bind_operations(settings, CONSUME_ADDRESS)):
            await shutdown.wait()
            shutdown.begin(DRAIN_SECONDS)
            freezing.cancel()
            await consuming
