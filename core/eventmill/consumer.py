"""receive → decode → batch → insert → ack, until told to stop."""

import asyncio
import contextlib
import itertools
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from eventmill import frames
from eventmill.errors import (
    EventmillError,
    RejectedEvents,
    StoreMisconfigured,
    UndecodableMessage,
    UnknownFrameVersion,
)
from eventmill.event import Event, EventBatch
from eventmill.interfaces import Delivery, Queue, Store

log = logging.getLogger(__name__)

RECEIVE_MESSAGES = 100
BACKOFF_SECONDS = (0.2, 30.0)
UNKNOWN_VERSION_DELAY_SECONDS = 60
PUBLISH_SECONDS = 5.0
DRAIN_SECONDS = 20.0


@dataclass(slots=True)
class Intake:
    """What was received for one insert: the deliveries still to be acked, and their events."""

    started: float = 0.0
    size: int = 0
    deliveries: list[Delivery] = field(default_factory=list)
    pairs: list[tuple[Event, bytes]] = field(default_factory=list)

    def add(self, delivery: Delivery, pairs: Sequence[tuple[Event, bytes]]) -> None:
        self.started = self.started or time.monotonic()
        self.deliveries.append(delivery)
        self.pairs.extend(pairs)
        self.size += sum(len(line) for _, line in pairs)


class Stopped(Exception):
    """The consumer's time is up: what is not stored stays in the queue."""


class Consumer:
    """Moves events from a queue into a store. A delivery is acked only when each of its events is settled.

    `run` returns after `stop`; what it holds by then is inserted and acked, or released, within 20 s.

    Args:
        receive_seconds: how long one receive may wait for a message.
        pause_seconds: the pause after a receive that brought less than was asked for, where a call costs money.
    """

    def __init__(
        self,
        queue: Queue,
        store: Store,
        *,
        batch_rows: int = 20_000,
        batch_bytes: int = 8 * 1024 * 1024,
        batch_seconds: float = 1.0,
        receive_seconds: float = 1.0,
        pause_seconds: float = 0.0,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._queue = queue
        self._store = store
        self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self._batch_seconds = batch_seconds
        self._receive_seconds = receive_seconds
        self._pause_seconds = pause_seconds
        self._drain_seconds = drain_seconds
        self._held: set[Delivery] = set()
        self._received: deque[Delivery] = deque()  # held, and not decoded yet
        self._stopping = asyncio.Event()
        self._emptying = False
        self._deadline = float("inf")
        self._failures = 0  # of receive, in a row

    async def run(self) -> None:
        """Consume until stopped. Nothing is received before the store's check has passed."""
        heartbeat = asyncio.create_task(self._extend(), name="eventmill-heartbeat")
        try:
            await self._retry("the store is not ready", self._store.check)
            while not self._is_done():
                intake = await self._collect()
                if intake.deliveries:
                    await self._settle(intake)
                elif self._emptying:
                    break
        except Stopped:
            log.warning("leaving with %d messages not stored: they stay in the queue", len(self._held))
        finally:
            heartbeat.cancel()
            await self._release()

    def stop(self, *, empty: bool = False) -> None:
        """Receive no more, or with `empty` only until the queue is empty; then `run` ends within 20 s."""
        self._emptying = empty
        self._deadline = time.monotonic() + self._drain_seconds
        self._stopping.set()

    def _is_done(self) -> bool:
        return self._stopping.is_set() and not (self._emptying and time.monotonic() < self._deadline)

    async def _collect(self) -> Intake:
        """Decode messages until one more might be too much for an insert, or the first event is old enough."""
        intake = Intake()
        while not intake.deliveries or (
            len(intake.pairs) + frames.MAX_FRAME_EVENTS <= self._batch_rows
            and intake.size + frames.MAX_FRAME_BYTES <= self._batch_bytes
        ):
            if self._received:
                await self._decode(self._received.popleft(), intake)
                await asyncio.sleep(0)  # decoding a crowd must not hold up the API in the same process
                continue
            left = intake.started + self._batch_seconds - time.monotonic() if intake.deliveries else math.inf
            if left <= 0 or self._is_done():
                break
            received = await self._receive(min(left, self._receive_seconds))
            self._received.extend(received)
            if self._stopping.is_set() and not received:
                break
            if 0 < len(received) < RECEIVE_MESSAGES:
                await self._sleep(self._pause_seconds)
        return intake

    async def _receive(self, wait_seconds: float) -> list[Delivery]:
        try:
            deliveries = await self._queue.receive(RECEIVE_MESSAGES, 0 if self._stopping.is_set() else wait_seconds)
        except Exception as error:
            await self._pause("cannot receive", error, self._failures)
            self._failures += 1
            return []
        self._failures = 0
        self._held.update(deliveries)
        return deliveries

    async def _decode(self, delivery: Delivery, intake: Intake) -> None:
        try:
            intake.add(delivery, frames.decode_frame(delivery.body))
        except UnknownFrameVersion as error:
            log.error("%s: upgrade the consumers first; the message is kept", error)
            self._held.discard(delivery)
            await self._retry("cannot release", lambda: self._queue.release([delivery], UNKNOWN_VERSION_DELAY_SECONDS))
        except UndecodableMessage as error:
            await self._bury("undecodable", error, delivery.body, [delivery])
            await self._ack([delivery])

    async def _settle(self, intake: Intake) -> None:
        """Store or dead-letter every event that was received, then ack."""
        for batch in self._cut(EventBatch.merge(intake.pairs)):
            await self._insert(batch, intake.deliveries)
        await self._ack(intake.deliveries)

    def _cut(self, batch: EventBatch) -> Iterator[EventBatch]:
        """The batch in parts that keep to the limits, even when one message alone is over them."""
        start = size = 0
        for index, line in enumerate(batch.lines):
            if index > start and (index - start == self._batch_rows or size + len(line) > self._batch_bytes):
                yield batch.take(range(start, index))
                start, size = index, 0
            size += len(line)
        yield batch.take(range(start, len(batch))) if start else batch

    async def _insert(self, batch: EventBatch, origins: Sequence[Delivery]) -> None:
        """Return when each event is stored or dead-lettered: rejected ones are isolated, the others kept."""
        try:
            await self._retry("cannot insert", lambda: self._store.insert(batch))
        except RejectedEvents as rejection:
            everything = range(len(batch))
            rejected = {i for i in rejection.indexes or () if 0 <= i < len(batch)}
            if not rejected and len(batch) > 1:
                half = len(batch) // 2
                await self._insert(batch.take(everything[:half]), origins)
                await self._insert(batch.take(everything[half:]), origins)
                return
            for index in rejected or everything:
                await self._bury("rejected", rejection, frames.encode_frame([batch.lines[index]]), origins)
            if rest := [i for i in everything if rejected and i not in rejected]:
                await self._insert(batch.take(rest), origins)

    async def _bury(self, reason: str, error: Exception, body: bytes, origins: Sequence[Delivery]) -> None:
        """Publish a dead letter; the deliveries it may have come from tell its attempts and age."""
        log.error("dead letter (%s): %s", reason, error)
        record = frames.DeadRecord(
            reason=reason,
            code=type(error).__name__,
            message=str(error),
            attempts=max(delivery.attempts for delivery in origins),
            origin=type(self._queue).__name__,
            enqueued_at_ms=min(delivery.enqueued_at_ms for delivery in origins),
            died_at_ms=time.time_ns() // 1_000_000,
            body=body,
        )
        dead = frames.encode_dead(record)
        await self._retry(
            "cannot dead-letter", lambda: self._queue.dead.publish([dead], time.monotonic() + PUBLISH_SECONDS)
        )

    async def _ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._retry("cannot ack", lambda: self._queue.ack(deliveries))
        self._held.difference_update(deliveries)

    async def _retry(self, trouble: str, operation: Callable[[], Awaitable[object]]) -> None:
        """Repeat the operation for as long as it takes. Raises RejectedEvents, or Stopped when time is up."""
        for failures in itertools.count():
            try:
                await operation()
            except RejectedEvents:
                raise
            except Exception as error:
                await self._pause(trouble, error, failures)
            else:
                return

    async def _pause(self, trouble: str, error: Exception, failures: int) -> None:
        """Report a failure and back off with full jitter; stopping ends the pause and, in the end, the retries."""
        expected = isinstance(error, EventmillError)
        level = logging.ERROR if isinstance(error, StoreMisconfigured) or not expected else logging.WARNING
        log.log(level, "%s (%s): %s", trouble, type(error).__name__, error, exc_info=None if expected else error)
        if await self._is_over():
            raise Stopped
        first, longest = BACKOFF_SECONDS
        seconds = random.uniform(0, min(longest, first * 2 ** min(failures, 16)))
        if self._stopping.is_set():
            await asyncio.sleep(min(seconds, 1.0))
        else:
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until the consumer is stopped."""
        if seconds and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _is_over(self) -> bool:
        """Whether retrying ends: this consumer was stopped, and its time is up or there is nothing to save."""
        if not self._stopping.is_set():
            return False
        if time.monotonic() >= self._deadline or not (self._held or self._emptying):
            return True
        try:
            return not self._held and (await self._queue.depth()).ready == 0
        except Exception:
            return False

    async def _extend(self) -> None:
        """Keep the leases of everything that is held."""
        while True:
            await asyncio.sleep(self._queue.lease_seconds / 2)
            if not self._held:
                continue
            try:
                lost = await self._queue.extend(list(self._held))
            except Exception as error:
                log.warning("cannot extend leases (%s): %s", type(error).__name__, error)
            else:
                if lost:
                    log.info("%d leases were lost: these messages come again, which changes no number", len(lost))

    async def _release(self) -> None:
        held = list(self._held)
        self._held.clear()
        if held:
            try:
                await self._queue.release(held)
            except Exception as error:
                log.warning("cannot release %d messages, their leases will end (%s)", len(held), error)
