"""receive → decode → batch → insert → ack, until told to stop."""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from eventmill import frames
from eventmill.errors import UndecodableMessage
from eventmill.event import EventBatch
from eventmill.inserter import Inserter
from eventmill.interfaces import Delivery, Queue, Store
from eventmill.leases import Leases
from eventmill.receiver import Message, Receiver
from eventmill.retry import Retry, Stopped

log = logging.getLogger(__name__)

INSERTS = 2  # under way at once
TRIALS = 3  # a message that so many processes in a row did not survive is dead
IDLE_SECONDS = 10.0  # a message that comes ends the wait
DRAIN_SECONDS = 16.0  # with what giving back may take, the process has ended within 20


class Consumer:
    """Moves events from a queue into a store. A delivery is acked only when each of its events is settled.

    `run` returns after `stop`; what it holds by then is inserted and acked, or released, within 20 s.

    Args:
        receive_seconds: how long one receive may wait for a message.
        pause_seconds: the pause after a receive that brought less than was asked for, where a call costs money.
        survives: tries messages that came too often in a process of their own; without it they are only settled alone.
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
        survives: Callable[[Sequence[bytes]], Awaitable[bool]] | None = None,
    ) -> None:
        self._store = store
        self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self._batch_seconds = batch_seconds
        self._drain_seconds = drain_seconds
        self._survives_trial = survives
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
                await self._move()
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

    async def _move(self) -> None:
        """Receive and settle until stopped, and then for the seconds that are left."""
        receiving = asyncio.create_task(self._receiver.run(), name="eventmill-receiver")
        receiving.add_done_callback(lambda _: self._buffer.changed.set())
        settling = asyncio.create_task(self._settle_all(receiving), name="eventmill-settler")
        stopping = asyncio.create_task(self._retry.stopping.wait())
        await asyncio.wait([settling, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not self._retry.stopping.is_set():
            self.stop()  # it broke
        await asyncio.wait([settling], timeout=self._retry.left)
        for task in (settling, *self._settling):
            task.cancel()  # time is up: what it was about comes again
        await asyncio.wait([settling, receiving])  # a read under way is never cancelled
        closing = asyncio.create_task(self._receiver.close())
        await asyncio.wait([closing])
        for task in (settling, receiving, closing):
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failure = error

    # settling

    async def _settle_all(self, receiving: asyncio.Task[None]) -> None:
        """Cut the buffer into batches and settle them, two at once, until nothing more comes."""
        while (not receiving.done() or self._buffer) and not self._retry.is_over:
            if (seconds := self._patience(receiving)) > 0:
                self._buffer.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._buffer.changed.wait(), seconds)
                continue
            messages = self._buffer.take(self._batch_rows, self._batch_bytes)
            if messages[0].is_suspect:
                with contextlib.suppress(Stopped):
                    await self._settle_suspects(messages)
            else:
                await self._slots.acquire()
                self._start(messages)
        if self._settling:
            await asyncio.wait(self._settling)

    def _patience(self, receiving: asyncio.Task[None]) -> float:
        """For how long a batch should still wait for company."""
        if not self._buffer:
            return IDLE_SECONDS
        if receiving.done() or self._retry.stopping.is_set() or self._is_full():
            return 0
        return self._buffer.messages[0].received_at + self._batch_seconds - time.monotonic()

    def _is_full(self) -> bool:
        """Whether one message more might be too much for an insert."""
        return (
            self._buffer.events + frames.MAX_FRAME_EVENTS > self._batch_rows
            or self._buffer.bytes + frames.MAX_FRAME_BYTES > self._batch_bytes
        )

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

    async def _settle_suspects(self, suspects: list[Message]) -> None:
        """Settle suspects alone, once a process of their own has survived them; bury the one that none survives."""
        if self._settling:
            await asyncio.wait(self._settling)
        if await self._survives(suspects):
            opened = [
                dataclasses.replace(suspect, pairs=pairs)
                for suspect in suspects
                if (pairs := self._receiver.open(suspect.delivery, suspect.body)) is not None
            ]
            if opened:
                await self._settle(opened)
        elif len(suspects) > 1:
            half = len(suspects) // 2
            await self._settle_suspects(suspects[:half])
            await self._settle_suspects(suspects[half:])
        else:
            error = UndecodableMessage(f"{TRIALS} processes in a row did not survive it")
            await self._inserter.bury("killer", error, suspects[0].body, suspects[0].delivery)
            await self._leases.ack([suspects[0].delivery])

    async def _survives(self, suspects: Sequence[Message]) -> bool:
        """Whether a process survives these messages; a single one has three tries."""
        log.warning("%d messages came too often: they are tried in a process of their own", len(suspects))
        for _ in range(TRIALS if len(suspects) == 1 else 1):
            if self._survives_trial is None or await self._survives_trial([suspect.body for suspect in suspects]):
                return True
        return False

    async def _settle(self, messages: Sequence[Message]) -> None:
        """Store or dead-letter every event of the messages, then ack."""
        deliveries = [message.delivery for message in messages]

        def origin(line: bytes) -> Delivery:
            return next(message.delivery for message in messages if any(own is line for _, own in message.pairs))

        with contextlib.suppress(Stopped):
            for batch in self._cut(EventBatch.merge([pair for message in messages for pair in message.pairs])):
                await self._inserter.insert(batch, origin)
            await self._leases.ack(deliveries)

    def _cut(self, batch: EventBatch) -> Iterator[EventBatch]:
        """The batch in parts that keep to the limits, even when one message alone is over them."""
        if len(batch) <= self._batch_rows and sum(map(len, batch.lines)) <= self._batch_bytes:
            yield batch
            return
        start = size = 0
        for index, line in enumerate(batch.lines):
            if index > start and (index - start == self._batch_rows or size + len(line) > self._batch_bytes):
                yield batch.take(range(start, index))
                start, size = index, 0
            size += len(line)
        yield batch.take(range(start, len(batch)))
