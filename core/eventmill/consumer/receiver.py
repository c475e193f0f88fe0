"""Receive and decode messages into a bounded buffer, while the store accepts events."""

import asyncio
from collections.abc import Sequence

from eventmill import frames
from eventmill.consumer.backoff import Backoff, Breaker
from eventmill.consumer.dead_letters import CROWDED_DELAY_SECONDS, DeadLetters, original_body
from eventmill.consumer.leases import Leases
from eventmill.consumer.messages import QUARANTINE_ATTEMPTS, Buffer, Kind, Message
from eventmill.consumer.pace import MAX_RECEIVERS, Answer, Pace
from eventmill.consumer.pause import Pause
from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.interfaces import Delivery, Queue
from eventmill.shutdown import Shutdown

_CALL_MESSAGES = 10  # the most that SQS returns for one paid call
_DECAY = 0.99  # factor by which the size estimate decays per smaller message
_PAUSED_SECONDS = 0.5  # between two looks whether the consumer is still paused
_FULL_SECONDS = 0.01  # between two checks whether a full buffer has room


class Receiver:
    """Fills the buffer until the shutdown, or until the queue is empty if the shutdown drains it."""

    def __init__(
        self,
        queue: Queue,
        buffer: Buffer,
        leases: Leases,
        dead_letters: DeadLetters,
        breaker: Breaker,
        backoff: Backoff,
        shutdown: Shutdown,
        pause: Pause,
        telemetry: ConsumerTelemetry,
        *,
        messages: int,
        wait_seconds: float,
        pause_seconds: float,
    ) -> None:
        self._queue = queue
        self._buffer = buffer
        self._leases = leases
        self._dead_letters = dead_letters
        self._breaker = breaker
        self._backoff = backoff
        self._shutdown = shutdown
        self._pause = pause
        self._telemetry = telemetry
        self._messages = messages
        self._wait_seconds = wait_seconds
        self._pace = Pace(pause_seconds)
        self._failures = 0
        # The largest of the recent messages. The first ones may be as large as a frame can be.
        self._events, self._bytes = float(frames.MAX_FRAME_EVENTS), float(frames.MAX_FRAME_LINE_BYTES)

    async def run(self) -> None:
        """Fill the buffer with as many concurrent receives as the pace says; none while the store is unavailable."""
        receiving: list[asyncio.Task[Answer | Exception]] = []
        async with asyncio.TaskGroup() as group:
            while self._may_receive():
                if self._pause.is_on and not self._shutdown.drain:  # what only this process holds must be stored
                    await self._shutdown.sleep(_PAUSED_SECONDS)
                elif not self._breaker.is_closed:
                    await self._breaker.wait(self._wait_seconds)
                elif not self._buffer.free_events:
                    await asyncio.sleep(_FULL_SECONDS)
                else:
                    missing = self._pace.receivers - len(receiving)
                    receiving += [group.create_task(self._receive(self._wanted())) for _ in range(missing)]
                    await asyncio.wait(receiving, return_when=asyncio.FIRST_COMPLETED)
                    answers = [task.result() for task in receiving if task.done()]
                    receiving = [task for task in receiving if not task.done()]
                    if not await self._go_on(answers):
                        break
        self._buffer.close()

    async def _go_on(self, answers: Sequence[Answer | Exception]) -> bool:
        """Pause as long as the answers require. Return False if the queue is drained."""
        pauses = [self._pace.note(answer) for answer in answers if isinstance(answer, Answer)]
        for error in answers:
            if isinstance(error, Exception):
                await self._backoff.pause("receive", error, self._failures)
                self._failures += 1
                return True
        self._failures = 0
        await self._shutdown.sleep(max(pauses))
        is_empty = not any(isinstance(answer, Answer) and answer.count for answer in answers)
        return not (self._shutdown.drain and is_empty and await self._is_drained())

    async def _is_drained(self) -> bool:
        """Return whether the queue is empty, including delayed messages, and no held message may return to it."""
        if len(self._leases):
            await asyncio.sleep(_FULL_SECONDS)
            return False
        try:
            depth = await self._queue.depth()
        except Exception as error:
            await self._backoff.pause("count messages", error, 0)
            return False
        return not depth.ready and not depth.in_flight  # a delayed message may count in either

    def _may_receive(self) -> bool:
        return not self._shutdown.is_asked or (self._shutdown.drain and not self._shutdown.is_over)

    def _wanted(self) -> int:
        """Return how many messages to ask for, so that the buffer has room even if all receivers get large ones."""
        room = int(min(self._buffer.free_events / self._events, self._buffer.free_bytes / self._bytes)) // MAX_RECEIVERS
        return min(self._messages, max(_CALL_MESSAGES, room // _CALL_MESSAGES * _CALL_MESSAGES))

    async def _receive(self, wanted: int) -> Answer | Exception:
        """Receive and decode once; return the number of messages, or the error."""
        wait_seconds = 0 if self._shutdown.is_asked else self._wait_seconds
        try:
            deliveries = await self._queue.receive(wanted, wait_seconds)
        except Exception as error:
            return error
        self._telemetry.received.inc(len(deliveries))
        self._leases.hold(deliveries)
        for delivery in deliveries:
            self._sort(delivery)
            await asyncio.sleep(0)  # decoding many messages must not delay the API in the same process
        return Answer(len(deliveries), wanted)

    def _sort(self, delivery: Delivery) -> None:
        """Put a message into the buffer. Do not decode it if it is quarantined."""
        body = original_body(delivery)
        is_quarantined = delivery.attempts > QUARANTINE_ATTEMPTS and frames.is_known(body)
        message = Message(delivery, body, bytes=len(body)) if is_quarantined else self._dead_letters.open(delivery)
        if message is None:
            return
        if message.kind is not Kind.FRESH and self._buffer.is_crowded(message.kind):
            self._dead_letters.release([delivery], CROWDED_DELAY_SECONDS)
        else:
            self._events = max(self._events * _DECAY, message.events, 1)
            self._bytes = max(self._bytes * _DECAY, message.bytes, 1)
            self._buffer.append(message)
