"""Draining SQS into chDB when receives bring fewer messages than wait, against the same with full answers.

A consumer as `eventmill consume` makes it runs over the SQS server of the tests. The second figure is how long messages
wait in the queue, at 50 a second and short answers.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import uvloop
from pydantic import SecretStr

import eventmill_queue_sqs
import eventmill_store_clickhouse
from consume import BATCH_SECONDS, EVENTS, emptied, make_events
from eventmill import Delivery, Queue, Store
from eventmill.consumer.consumer import DRAIN_SECONDS, Consumer
from eventmill.event import encode_line
from eventmill.frames import pack
from eventmill.runtime.consuming import NETWORK_RECEIVE_SECONDS, PAUSE_PER_BATCH, PAUSE_PER_LINGER
from eventmill.shutdown import Shutdown
from eventmill_queue_sqs.settings import SqsQueueSettings
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from figures import Figure, alone, compare, in_turn
from support import services
from support.proxies import QueueProxy

ROUNDS = 3
BAR, WAIT_BAR = 0.5, 1.0
PAUSE_SECONDS = min(PAUSE_PER_LINGER * eventmill_queue_sqs.backend.linger_ms / 1000, PAUSE_PER_BATCH)
PER_SECOND, SECONDS = 50, 30
_FRAME_BYTES = 44 * 1024


class Clocked(QueueProxy):
    """Notes how long each message waited until it was received."""

    def __init__(self, inner: Queue) -> None:
        super().__init__(inner)
        self.waits: list[float] = []

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        self.waits += [time.time() - delivery.enqueued_at_ms / 1000 for delivery in deliveries]
        return deliveries


def drain() -> list[Figure]:
    """Events a second with short and with full answers; and the wait at a steady rate."""
    bodies = [body for _, body in pack([encode_line(event) for event in make_events()], _FRAME_BYTES)]
    gc.collect()
    gc.freeze()  # what the benchmark holds is no garbage of the consumer's
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        for variable, value in services.AWS.items():
            patch.setenv(variable, value)
        folder = Path(name)
        rates = in_turn(ROUNDS, partial(_rate, folder, bodies, "short"), partial(_rate, folder, bodies, ""))
        wait = _measure(folder, partial(_wait, bodies[:1]))
    return [
        compare("sqs_drain, short answers", "full answers", "events/s", *rates, at_least=BAR),
        alone("sqs_drain, wait at 50 messages/s, short answers", "s", [wait], at_most=WAIT_BAR),
    ]


def _rate(folder: Path, bodies: Sequence[bytes], kind: str) -> float:
    """Events a second."""
    seconds = _measure(folder, partial(_drain, bodies, kind))
    with emptied(str(folder / "chdb")):
        return EVENTS / seconds


def _measure(folder: Path, measure: Callable[[services.SqsServer, Queue, Store], Awaitable[float]]) -> float:
    async def run() -> float:
        queue_settings = SqsQueueSettings(url=f"{server.endpoint}/000000000000/events")
        store_settings = ClickHouseStoreSettings(url=SecretStr(f"chdb://{folder}/chdb"))
        async with (
            eventmill_queue_sqs.backend.open(queue_settings) as queue,
            eventmill_store_clickhouse.backend.open(store_settings) as store,
        ):
            await queue.migrate()
            await store.migrate()
            return await measure(server, queue, store)

    with services.running_sqs() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def _drain(bodies: Sequence[bytes], kind: str, server: services.SqsServer, queue: Queue, store: Store) -> float:
    """Seconds to move all of it."""
    for start in range(0, len(bodies), 100):
        await queue.publish(bodies[start : start + 100], time.monotonic() + 60)
    server.fail(kind, -1, "ReceiveMessage")
    started = time.perf_counter()
    async with consuming(queue, store):
        await empty(queue)
        return time.perf_counter() - started


async def _wait(bodies: Sequence[bytes], server: services.SqsServer, queue: Queue, store: Store) -> float:
    """Seconds that a message waits on average in the second half of a steady load."""
    server.fail("short", -1, "ReceiveMessage")
    clocked = Clocked(queue)
    async with consuming(clocked, store):
        started = time.monotonic()
        for number in range(PER_SECOND * SECONDS):
            await asyncio.sleep(max(0.0, started + number / PER_SECOND - time.monotonic()))
            await queue.publish(bodies, time.monotonic() + 60)
        await empty(queue)
    late = clocked.waits[len(clocked.waits) // 2 :]
    return sum(late) / len(late)


@asynccontextmanager
async def consuming(queue: Queue, store: Store) -> AsyncIterator[None]:
    shutdown = Shutdown()
    consumer = Consumer(
        queue,
        store,
        shutdown,
        batch_seconds=BATCH_SECONDS,
        receive_seconds=NETWORK_RECEIVE_SECONDS,
        pause_seconds=PAUSE_SECONDS,
    )
    task = asyncio.create_task(consumer.run())
    yield
    shutdown.begin(DRAIN_SECONDS)
    await task


async def empty(queue: Queue) -> None:
    """Return when nothing waits and nothing is leased."""
    while (depth := await queue.depth()).ready or depth.in_flight:  # noqa: ASYNC110 (only the queue knows)
        await asyncio.sleep(0.05)
