"""Receive and decode messages into a bounded buffer, while the store takes events."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from eventmill import frames
from eventmill.errors import UnknownFrameVersion
from eventmill.event import Event
from eventmill.inserter import Inserter
from eventmill.interfaces import Delivery, Queue
from eventmill.leases import Leases
from eventmill.retry import Retry, Stopped

log = logging.getLogger(__name__)

RECEIVE_MESSAGES = 100
MAX_RECEIVERS = 4
BUFFER_EVENTS = 50_000
BUFFER_BYTES = 64 * 1024 * 1024
SUSPECT_ATTEMPTS = 5  # a message that came more often is tried in a process of its own
UNKNOWN_VERSION_DELAY_SECONDS = 60
MAX_ASIDE = 100  # messages that cannot be read and wait for the dead queue; others go back for a while
ASIDE_DELAY_SECONDS = 10
_FULL_SECONDS = 0.01  # how often to look whether the buffer has room again


@dataclass(eq=False, slots=True)
class Message:
    """A delivery and its events; it is acked only when each of them is settled. A suspect is not even decoded yet."""

    delivery: Delivery
    body: bytes
    pairs: Sequence[tuple[Event, bytes]]
    size: int
    is_suspect: bool
    received_at: float

    @property
    def count(self) -> int:
        """How many events it holds."""
        return frames.count(self.body) if self.is_suspect else len(self.pairs)


class Buffer:
    """Messages in order of arrival, and how much they are."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.events = self.bytes = 0
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self.messages)

    def append(self, message: Message) -> None:
        self.messages.append(message)
        self.events += message.count
        self.bytes += message.size
        self.changed.set()

    def take(self, max_events: int, max_bytes: int) -> list[Message]:
        """The oldest message, and as many of its kind as fit with it; suspects and others do not mix."""
        is_suspect = self.messages[0].is_suspect
        taken: list[Message] = []
        left: deque[Message] = deque()
        events = size = 0
        while self.messages:
            message = self.messages.popleft()
            if message.is_suspect != is_suspect:
                left.append(message)
                continue
            events, size = events + message.count, size + message.size
            if taken and (events > max_events or size > max_bytes):
                self.messages.appendleft(message)
                break
            taken.append(message)
        self.messages.extendleft(reversed(left))
        self.events -= sum(message.count for message in taken)
        self.bytes -= sum(message.size for message in taken)
        return taken


class Receiver:
    """Fills the buffer until stopped, or with `is_emptying` until the queue is empty."""

    def __init__(
        self,
        queue: Queue,
        inserter: Inserter,
        leases: Leases,
        retry: Retry,
        receive_seconds: float,
        pause_seconds: float,
    ) -> None:
        self.buffer = Buffer()
        self.is_emptying = False
        self._queue = queue
        self._inserter = inserter
        self._breaker = inserter.breaker
        self._leases = leases
        self._retry = retry
        self._receive_seconds = receive_seconds
        self._pause_seconds = pause_seconds
        self._aside: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Fill the buffer: one receiver, more only while all answers come back full; none while the store is away."""
        receivers = failures = 0
        while self._may_receive():
            if not self._breaker.is_closed:
                await self._breaker.wait(self._receive_seconds)
            elif not self._has_room():
                await asyncio.sleep(_FULL_SECONDS)
            else:
                receivers = max(1, receivers)
                counts, errors = await self._receive_many(receivers)
                if errors:
                    with contextlib.suppress(Stopped):
                        await self._retry.pause("cannot receive", errors[0], failures)
                elif self.is_emptying and sum(counts) == 0:
                    break
                failures = failures + 1 if errors else 0
                is_full = sum(counts) == receivers * RECEIVE_MESSAGES
                receivers = min(MAX_RECEIVERS, receivers + 1) if is_full else 1
                if sum(counts) > 0 and not is_full:
                    await self._retry.sleep(self._pause_seconds)

    async def close(self) -> None:
        """Wait for what was put aside, for the seconds that are left; raise what went wrong with it."""
        if self._aside:
            _, late = await asyncio.wait(self._aside, timeout=self._retry.left)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def open(self, delivery: Delivery, body: bytes) -> Sequence[tuple[Event, bytes]] | None:
        """The events of a body, or None for one that cannot be read: it is put aside, and holds up nothing else."""
        try:
            return frames.decode_frame(body)
        except Exception as error:  # whatever it is: the messages that came along must not suffer from it
            task = asyncio.create_task(self._put_aside(delivery, body, error))
            self._aside.add(task)
            task.add_done_callback(self._finish)
        return None

    async def _put_aside(self, delivery: Delivery, body: bytes, error: Exception) -> None:
        """Leave a message to newer programs, or dead-letter it whole."""
        with contextlib.suppress(Stopped):
            if isinstance(error, UnknownFrameVersion):
                log.error("%s: upgrade the consumers first; the message is kept", error)
                await self._leases.release([delivery], UNKNOWN_VERSION_DELAY_SECONDS)
            elif len(self._aside) > MAX_ASIDE:
                await self._leases.release([delivery], ASIDE_DELAY_SECONDS)
            else:
                await self._inserter.bury("undecodable", error, body, delivery)
                await self._leases.ack([delivery])

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._aside.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error

    def _may_receive(self) -> bool:
        if self._failure is not None:
            return False
        if not self._retry.stopping.is_set():
            return True
        return self.is_emptying and time.monotonic() < self._retry.deadline

    def _has_room(self) -> bool:
        return self.buffer.events < BUFFER_EVENTS and self.buffer.bytes < BUFFER_BYTES

    async def _receive_many(self, receivers: int) -> tuple[list[int], list[Exception]]:
        answers = await asyncio.gather(*(self._receive() for _ in range(receivers)), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        return [answer for answer in answers if isinstance(answer, int)], errors

    async def _receive(self) -> int:
        """Receive and decode once; return how many messages came."""
        wait_seconds = 0 if self._retry.stopping.is_set() else self._receive_seconds
        deliveries = await self._queue.receive(RECEIVE_MESSAGES, wait_seconds)
        self._leases.hold(deliveries)
        for delivery in deliveries:
            self._sort(delivery)
            await asyncio.sleep(0)  # decoding a crowd must not hold up the API in the same process
        return len(deliveries)

    def _sort(self, delivery: Delivery) -> None:
        """Put a message into the buffer; one that came too often as a suspect, without looking into it."""
        # A dead letter among the messages was moved back by the queue's own means.
        body = frames.decode_dead(delivery.body).body if frames.is_dead(delivery.body) else delivery.body
        if delivery.attempts > SUSPECT_ATTEMPTS and frames.is_known(body):
            self.buffer.append(Message(delivery, body, (), len(body), True, time.monotonic()))
        elif (pairs := self.open(delivery, body)) is not None:
            size = sum([len(line) for _, line in pairs])
            self.buffer.append(Message(delivery, body, pairs, size, False, time.monotonic()))
