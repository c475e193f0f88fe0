"""Consumer: connects the parts, and cuts the buffer into batches."""

import asyncio
import time
from collections.abc import Sequence

from eventmill.consumer.backoff import Backoff, Breaker
from eventmill.consumer.dead_letters import DeadLetters
from eventmill.consumer.inserter import Inserter
from eventmill.consumer.leases import Leases
from eventmill.consumer.messages import Buffer, Kind, Message, cut, latest
from eventmill.consumer.pause import Pause
from eventmill.consumer.quarantine import Quarantine
from eventmill.consumer.receiver import Receiver
from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.consumer.trials import Trial, Trials
from eventmill.interfaces import Queue, Store
from eventmill.shutdown import Shutdown

INSERTS = 2  # concurrent
BUFFER_EVENTS = 50_000
BUFFER_BYTES = 64 * 1024 * 1024
RECEIVE_MESSAGES = 100
CHECK_SECONDS = 10.0
IDLE_SECONDS = 10.0  # a message that arrives ends the wait
DRAIN_SECONDS = 16.0  # with the time to release messages, a shutdown takes less than 20 s


class Consumer:
    """Moves events from a queue to a store. A message is acked only when each of its events is stored or dead-lettered.

    Args:
        shutdown: ends `run`; held messages are stored and acked within its deadline, or released.
        trial: processes quarantined messages in a subprocess; without it they are only inserted separately.
        pause: follows the orders of operators; the default looks them up in the store.
        batch_events, batch_bytes, batch_seconds: a batch is inserted when it reaches one of these sizes or this age.
        receive_seconds: the longest wait of one receive.
        receive_messages: the most messages that one receive asks for.
        pause_seconds: the pause after a receive that returned fewer messages, for queues whose calls cost money.
        buffer_events, buffer_bytes: receiving stops while this much waits to be inserted.
    """

    def __init__(
        self,
        queue: Queue,
        store: Store,
        shutdown: Shutdown,
        *,
        trial: Trial | None = None,
        pause: Pause | None = None,
        telemetry: ConsumerTelemetry | None = None,
        batch_events: int = 20_000,
        batch_bytes: int = 8 * 1024 * 1024,
        batch_seconds: float = 1.0,
        receive_seconds: float = 1.0,
        receive_messages: int = RECEIVE_MESSAGES,
        pause_seconds: float = 0.0,
        buffer_events: int = BUFFER_EVENTS,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._queue = queue
        self._store = store
        self._shutdown = shutdown
        self._trials = Trials(trial)
        self._batch_events = batch_events
        self._batch_bytes = batch_bytes
        self._batch_seconds = batch_seconds
        self._receive_seconds = receive_seconds
        self._receive_messages = receive_messages
        self._pause_seconds = pause_seconds
        self._pause = pause or Pause(store, shutdown)
        self._telemetry = telemetry or ConsumerTelemetry()
        self._backoff = Backoff(shutdown, self._telemetry)
        self._breaker = Breaker()
        self._leases = Leases(queue, self._backoff, shutdown, self._telemetry)
        self._inserter = Inserter(store, self._breaker, self._backoff, self._telemetry)
        self._buffer = Buffer(buffer_events, buffer_bytes)
        self._show_state()
        self._buffer_events = buffer_events
        self._slots = asyncio.Semaphore(INSERTS)

    def _show_state(self) -> None:
        """Let the metrics read the present state."""
        self._telemetry.breaker_open.set_function(lambda: not self._breaker.is_closed)
        self._telemetry.paused.set_function(lambda: self._pause.is_on)
        self._telemetry.buffer_events.set_function(lambda: self._buffer.events)
        self._telemetry.buffer_bytes.set_function(lambda: self._buffer.bytes)
        self._telemetry.held.set_function(lambda: len(self._leases))

    async def run(self) -> None:
        """Consume until the shutdown. Receive nothing before the store has passed its check, and while paused.

        On an unexpected error, release the held messages and re-raise.
        """
        try:
            with self._shutdown.limit():
                async with asyncio.TaskGroup() as group:
                    keep_alive = group.create_task(self._leases.keep_alive(), name="eventmill-leases")
                    if await self._is_store_ready():
                        watching = group.create_task(self._pause.watch(), name="eventmill-pause")
                        await self._move()
                        watching.cancel()
                    keep_alive.cancel()
        except TimeoutError:
            if self._shutdown.deadline == float("inf"):
                raise
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors
        finally:
            await self._leases.close()

    async def _is_store_ready(self) -> bool:
        """Wait until the store passes its check, and says whether the consumer is paused.

        Return False if a shutdown without draining comes first.
        """
        failures = 0
        while self._shutdown.drain or not self._shutdown.is_asked:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._store.check()
                    await self._pause.look_up()
            except Exception as error:
                await self._backoff.pause("check the store", error, failures)
                failures += 1
            else:
                return True
        return False

    async def _move(self) -> None:
        """Receive and settle messages until the receiver ends. Each task group waits for those opened after it."""
        async with (
            asyncio.TaskGroup() as publishing,
            asyncio.TaskGroup() as isolating,
            asyncio.TaskGroup() as inserting,
        ):
            dead_letters = DeadLetters(self._queue, self._leases, self._backoff, publishing, self._telemetry)
            quarantine = Quarantine(
                self._inserter,
                self._breaker,
                self._leases,
                dead_letters,
                self._trials,
                isolating,
                self._buffer_events // 2,
                self._telemetry,
            )
            receiver = Receiver(
                self._queue,
                self._buffer,
                self._leases,
                dead_letters,
                self._breaker,
                self._backoff,
                self._shutdown,
                self._pause,
                self._telemetry,
                messages=self._receive_messages,
                wait_seconds=self._receive_seconds,
                pause_seconds=self._pause_seconds,
            )
            inserting.create_task(receiver.run(), name="eventmill-receiver")
            await self._settle_all(quarantine, inserting, isolating)

    async def _settle_all(
        self, quarantine: Quarantine, inserting: asyncio.TaskGroup, isolating: asyncio.TaskGroup
    ) -> None:
        """Cut the buffer into batches and settle two at a time, until the receiver ends and the buffer is empty."""
        while self._buffer or not self._buffer.is_closed:
            self._buffer.changed.clear()
            kind, wait_seconds = self._next(quarantine)
            if kind is None:
                await self._buffer.wait(wait_seconds)
                continue
            if kind is Kind.QUARANTINED:
                quarantined = self._buffer.take(kind, self._batch_events, self._batch_bytes)
                quarantine.is_trying = True
                isolating.create_task(self._try(quarantine, quarantined))
            else:
                await self._slots.acquire()
                messages = self._buffer.take(kind, self._batch_events, self._batch_bytes)
                inserting.create_task(self._settle(quarantine, messages))

    def _next(self, quarantine: Quarantine) -> tuple[Kind | None, float]:
        """Return the kind of message to settle now, or None and the seconds to wait."""
        now, wait_seconds = time.monotonic(), IDLE_SECONDS
        due: list[tuple[float, Kind]] = []
        for kind in Kind:
            oldest_at = self._buffer.oldest_at(kind)
            if oldest_at is None or (kind is Kind.QUARANTINED and quarantine.is_trying):
                continue
            left = oldest_at + self._batch_seconds - now
            is_full = not self._buffer.free_events or self._buffer.holds(kind, self._batch_events, self._batch_bytes)
            if left <= 0 or is_full or self._buffer.is_closed or self._shutdown.is_asked:
                due.append((oldest_at, kind))
            wait_seconds = min(wait_seconds, left)
        return (min(due)[1], 0.0) if due else (None, wait_seconds)

    async def _try(self, quarantine: Quarantine, quarantined: Sequence[Message]) -> None:
        try:
            await quarantine.try_quarantined(quarantined)
        finally:
            quarantine.is_trying = False
            self._buffer.changed.set()

    async def _settle(self, quarantine: Quarantine, messages: Sequence[Message]) -> None:
        """Store the events of the messages and ack them, or isolate the messages if the store fails on them only."""
        try:
            rows = latest([row for message in messages for row in message.rows])
            for part in cut(rows, self._batch_events, self._batch_bytes):
                if not await self._inserter.insert(part):
                    quarantine.isolate(messages)
                    return
            self._telemetry.store(messages, time.time())
            await self._leases.ack([message.delivery for message in messages])
        finally:
            self._slots.release()


def _first(errors: BaseExceptionGroup) -> BaseException:
    """Return the error that ended a task group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
