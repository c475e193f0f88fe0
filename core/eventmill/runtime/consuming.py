"""Build the consumer of a process from its settings and backends."""

from functools import partial

from prometheus_client import CollectorRegistry

from eventmill.consumer.consumer import Consumer
from eventmill.consumer.pause import Pause
from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.interfaces import Queue, Store
from eventmill.runtime.backends import Choice
from eventmill.runtime.trial import try_messages
from eventmill.settings import Settings
from eventmill.shutdown import Shutdown

# A long wait saves calls to a remote queue while it is idle; a short wait lets a process with a local queue stop fast.
NETWORK_RECEIVE_SECONDS = 5.0
LOCAL_RECEIVE_SECONDS = 1.0
PAUSE_PER_LINGER = 10  # linger intervals per pause, so that one paid receive returns the frames of several
PAUSE_PER_BATCH = 0.4  # the longest pause, as a share of the time that a batch may wait


def create_consumer(
    settings: Settings,
    choice: Choice,
    queue: Queue,
    store: Store,
    shutdown: Shutdown,
    registry: CollectorRegistry,
    pause: Pause | None = None,
) -> Consumer:
    """Return a consumer with the batches that the settings name and with few receives where they cost money."""
    is_remote = choice.queue.settings.reach == "network"
    return Consumer(
        queue,
        store,
        shutdown,
        receive_seconds=NETWORK_RECEIVE_SECONDS if is_remote else LOCAL_RECEIVE_SECONDS,
        pause_seconds=min(PAUSE_PER_LINGER * choice.linger_ms / 1000, PAUSE_PER_BATCH * settings.batch_seconds),
        batch_events=settings.batch_events,
        batch_bytes=settings.batch_bytes,
        batch_seconds=settings.batch_seconds,
        pause=pause,
        telemetry=ConsumerTelemetry(registry),
        trial=partial(try_messages, choice.require_store()),
    )
