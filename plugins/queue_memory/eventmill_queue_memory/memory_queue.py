"""The queue: messages in order of arrival, with leases."""

import asyncio
import heapq
import itertools
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from eventmill import MIN_BODY_BYTES, Delivery, Depth, PartialFailure, Queue, QueueUnavailable, Refused

_MAX_BODY_BYTES = 1024 * 1024


@dataclass(slots=True)
class Message:
    body: bytes
    enqueued_at_ms: int
    attempts: int = 0
    lease: int = 0  # the number of the present lease, or 0
    until: float = 0.0  # when the lease or the delay ends


class MemoryQueue(Queue):
    """Ready messages in order, and a heap of the times at which others become ready."""

    def __init__(self, lease_seconds: float, max_bytes: int, *, is_dead: bool = False) -> None:
        self._lease_seconds = lease_seconds
        self._max_bytes = max_bytes
        self._bytes = 0
        self._messages: dict[int, Message] = {}
        self._ready: OrderedDict[int, None] = OrderedDict()
        self._later: list[tuple[float, int]] = []  # (time, message)
        self._numbers = itertools.count(1)
        self._arrival = asyncio.Event()
        self._dead = self if is_dead else MemoryQueue(lease_seconds, max_bytes, is_dead=True)

    @property
    def max_body_bytes(self) -> int:
        return _MAX_BODY_BYTES

    @property
    def lease_seconds(self) -> float:
        return self._lease_seconds

    @property
    def dead(self) -> Queue:
        return self._dead

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        large = {i: Refused(f"{len(body)} bytes") for i, body in enumerate(bodies) if len(body) > _MAX_BODY_BYTES}
        good = [body for i, body in enumerate(bodies) if i not in large]
        if self._bytes + sum(map(len, good)) > self._max_bytes:
            raise QueueUnavailable(f"the memory queue is full ({self._max_bytes} bytes)")
        for body in good:
            number = next(self._numbers)
            self._messages[number] = Message(bytes(body), time.time_ns() // 1_000_000)
            self._ready[number] = None
            self._bytes += len(body)
        self._arrival.set()
        if large:
            raise PartialFailure(large)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        until = time.monotonic() + wait_seconds
        while True:
            self._wake()
            taken = [self._ready.popitem(last=False)[0] for _ in range(min(max_messages, len(self._ready)))]
            if taken:
                return [self._lease(number) for number in taken]
            seconds = min(until, self._later[0][0] if self._later else until) - time.monotonic()
            if time.monotonic() >= until:
                return []
            self._arrival.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._arrival.wait()
            except TimeoutError:
                pass

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            number, _ = delivery.lease
            message = self._messages.pop(number, None)
            self._ready.pop(number, None)
            self._bytes -= len(message.body) if message else 0

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        for delivery in deliveries:
            if message := self._held(delivery):
                message.lease = 0
                self._sleep(delivery.lease[0], delay_seconds)
        self._arrival.set()

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self._wake()
        for delivery in deliveries:
            if self._held(delivery):
                self._sleep(delivery.lease[0], self._lease_seconds)
        return [delivery for delivery in deliveries if not self._held(delivery)]

    async def depth(self) -> Depth:
        self._wake()
        ages = [message.enqueued_at_ms for message in self._messages.values()]
        age = max(0.0, time.time() - min(ages) / 1000) if ages else 0.0
        in_flight = sum(message.lease != 0 for message in self._messages.values())
        return Depth(len(self._messages) - in_flight, in_flight, age)

    async def check(self) -> list[str]:
        if self._bytes + MIN_BODY_BYTES > self._max_bytes:
            raise QueueUnavailable(f"the memory queue is full ({self._max_bytes} bytes)")
        return ["messages in the memory queue are lost on exit"]

    def _held(self, delivery: Delivery) -> Message | None:
        """Return the message if this delivery still holds its lease."""
        number, lease = delivery.lease
        message = self._messages.get(number)
        return message if message is not None and message.lease == lease else None

    def _lease(self, number: int) -> Delivery:
        message = self._messages[number]
        message.attempts += 1
        message.lease = next(self._numbers)
        self._sleep(number, self._lease_seconds)
        return Delivery(message.body, message.attempts, message.enqueued_at_ms, (number, message.lease))

    def _sleep(self, number: int, seconds: float) -> None:
        self._messages[number].until = time.monotonic() + seconds
        heapq.heappush(self._later, (self._messages[number].until, number))

    def _wake(self) -> None:
        """Make messages ready whose delay or lease has ended."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, number = heapq.heappop(self._later)
            message = self._messages.get(number)
            if message is not None and message.until <= now:
                message.lease = 0
                self._ready[number] = None
