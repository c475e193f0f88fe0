"""receive → decode → batch → insert → ack, until told to stop."""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence

from eventmill import frames
from eventmill.errors import UndecodableMessage
from eventmill.event import EventBatch
from eventmill.inserter import Inserter
from eventmill.interfaces import Queue, Store
from eventmill.leases import Leases
from eventmill.receiver import Message, Receiver
from eventmill.retry import Retry, Stopped

log = logging.getLogger(__name__)

INSERTS = 2  # under way at once
ALONE_ATTEMPTS = 3  # a suspect that has not survived so often is dead
DRAIN_SECONDS = 20.0


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
        self._store = store
        self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self._batch_seconds = batch_seconds
        self._drain_seconds = drain_seconds
        self._retry = Retry()
        self._leases = Leases(queue, self._retry)
        self._inserter = Inserter(queue, store, self._retry)
        self._receiver = Receiver(queue, self._inserter, self._leases, self._retry, receive_seconds, pause_seconds)
        self._buffer = self._receiver.buffer
        self._slots = asyncio.Semaphore(INSERTS)
        self._settling: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Consume until stopped. Nothing is received before the store's check has passed.

        An error that nobody foresaw ends it: what is held goes back to the queue, and the error is raised.
        """
        heartbeat = asyncio.create_task(self._leases.extend(), name="eventmill-heartbeat")
        try:
            with contextlib.suppress(Stopped):
                await self._retry.run("the store is not ready", self._store.check)
                receiving = asyncio.create_task(self._receiver.run(), name="eventmill-receiver")
                try:
                    await self._settle_all(receiving)
                finally:
                    if not self._retry.stopping.is_set():
                        self.stop()  # it broke
                    await receiving  # a read under way is never cancelled
        finally:
            heartbeat.cancel()
            await self._leases.close()
        if self._failure is not None:
            raise self._failure

    def stop(self, *, empty: bool = False) -> None:
        """Receive no more, or with `empty` only until the queue is empty; then `run` ends within 20 s."""
        self._receiver.is_emptying = empty
        self._retry.stop(self._drain_seconds)
        self._buffer.changed.set()

    # settling

    async def _settle_all(self, receiving: asyncio.Task[None]) -> None:
        """Cut the buffer into batches and settle them, two at once, until nothing more comes."""
        while (not receiving.done() or self._buffer) and not self._retry.is_over:
            if (seconds := self._patience(receiving)) > 0:
                self._buffer.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._buffer.changed.wait(), seconds)
                continue
            messages = self._take()
            if messages[0].is_suspect:
                await self._settle_alone(messages[0])
            else:
                await self._slots.acquire()
                self._start(messages)
        if self._settling:
            _, late = await asyncio.wait(self._settling, timeout=self._retry.left)
            for task in late:
                task.cancel()  # time is up: these messages come again

    def _patience(self, receiving: asyncio.Task[None]) -> float:
        """For how long a batch should still wait for company."""
        if not self._buffer:
            return 0.05
        first = self._buffer.messages[0]
        if receiving.done() or first.is_suspect or self._retry.stopping.is_set() or self._is_full():
            return 0
        return first.received_at + self._batch_seconds - time.monotonic()

    def _is_full(self) -> bool:
        """Whether one message more might be too much for an insert."""
        return (
            self._buffer.events + frames.MAX_FRAME_EVENTS > self._batch_rows
            or self._buffer.bytes + frames.MAX_FRAME_BYTES > self._batch_bytes
        )

    def _take(self) -> list[Message]:
        """The oldest messages, as many as one insert holds; a suspect alone."""
        taken = [self._buffer.pop()]
        rows, size = len(taken[0].pairs), taken[0].size
        while self._buffer and not taken[0].is_suspect and not self._buffer.messages[0].is_suspect:
            rows += len(self._buffer.messages[0].pairs)
            size += self._buffer.messages[0].size
            if rows > self._batch_rows or size > self._batch_bytes:
                break
            taken.append(self._buffer.pop())
        return taken

    def _start(self, messages: list[Message]) -> None:
        task = asyncio.create_task(self._settle(messages))
        self._settling.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self.stop()

    async def _settle_alone(self, message: Message) -> None:
        """Try a suspect while nothing else is under way, or bury it when it has not survived that three times."""
        if self._settling:
            await asyncio.wait(self._settling)
        with contextlib.suppress(Stopped):
            if message.delivery.attempts > ALONE_ATTEMPTS:
                error = UndecodableMessage(f"tried alone {ALONE_ATTEMPTS} times, and the process did not survive it")
                await self._inserter.bury("killer", error, message.body, [message.delivery])
                await self._leases.ack([message.delivery])
            elif (pairs := await self._receiver.open(message.delivery, message.body)) is not None:
                await self._settle([dataclasses.replace(message, pairs=pairs)])
        self._receiver.has_suspect = False

    async def _settle(self, messages: Sequence[Message]) -> None:
        """Store or dead-letter every event of the messages, then ack."""
        deliveries = [message.delivery for message in messages]
        with contextlib.suppress(Stopped):
            for batch in self._cut(EventBatch.merge([pair for message in messages for pair in message.pairs])):
                await self._inserter.insert(batch, deliveries)
            await self._leases.ack(deliveries)

    def _cut(self, batch: EventBatch) -> Iterator[EventBatch]:
        """The batch in parts that keep to the limits, even when one message alone is over them."""
        start = size = 0
        for index, line in enumerate(batch.lines):
            if index > start and (index - start == self._batch_rows or size + len(line) > self._batch_bytes):
                yield batch.take(range(start, index))
                start, size = index, 0
            size += len(line)
        yield batch.take(range(start, len(batch))) if start else batch
