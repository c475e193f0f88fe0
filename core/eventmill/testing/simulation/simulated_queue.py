"""A simulated queue. It fails according to the plan, within what the contract allows."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from eventmill import MIN_BODY_BYTES, Delivery, Depth, PartialFailure, Queue, QueueUnavailable, Unknown, frames
from eventmill.testing.simulation.world import Process, World

T = TypeVar("T")

LEASE_SECONDS = 30.0


@dataclass(slots=True)
class Message:
    body: bytes
    enqueued_at_ms: int
    visible_at: float = 0.0
    attempts: int = 0
    holder: str = ""
    is_lost: bool = False  # the holder never received it, since the reply was lost

    @property
    def events(self) -> int:
        return frames.count(self.body) if frames.is_known(self.body) else 1


class Broker:
    """The server: messages by number."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.messages: dict[int, Message] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    def put(self, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            copies = 2 if self.world.chance("queue doubles") else 1
            for _ in range(copies):
                self.messages[next(self._numbers)] = Message(bytes(body), time.time_ns() // 1_000_000)
        self._changed.set()

    def take(self, count: int, holder: str) -> list[Delivery]:
        now = self.world.now
        ready = [number for number, message in self.messages.items() if message.visible_at <= now]
        if self.world.chance("short receives"):
            count = min(count, self.world.rng.randrange(3))
        return [self._lease(number, holder) for number in ready[:count]]

    def _lease(self, number: int, holder: str) -> Delivery:
        message = self.messages[number]
        if message.holder and self.world.plan.is_orderly:
            self.world.violate(f"the lease of message {number} ended while {message.holder} held it")
        message.attempts += 1
        message.holder = holder
        message.is_lost = False
        is_stolen = self.world.chance("stolen leases")
        message.visible_at = self.world.now + LEASE_SECONDS * (self.world.rng.random() if is_stolen else 1)
        return Delivery(message.body, message.attempts, message.enqueued_at_ms, (number, message.attempts))

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.messages.pop(delivery.lease[0], None)

    def hide(self, deliveries: Sequence[Delivery], seconds: float, *, keep: bool) -> list[Delivery]:
        """Set when these messages become visible; return the deliveries whose lease is lost."""
        lost = []
        for delivery in deliveries:
            message = self._held(delivery)
            if message is None:
                lost.append(delivery)
            else:
                message.visible_at = self.world.now + seconds
                message.holder = message.holder if keep else ""
        self._changed.set()
        return lost

    async def wait(self, seconds: float) -> None:
        """Wait until a message may be visible, at most this long."""
        now = self.world.now
        later = [message.visible_at - now for message in self.messages.values() if message.visible_at > now]
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min([seconds, *later])):
                await self._changed.wait()

    def _held(self, delivery: Delivery) -> Message | None:
        number, attempt = delivery.lease
        message = self.messages.get(number)
        return message if message is not None and message.attempts == attempt and message.holder else None

    def held_events(self, holder: str) -> int:
        """Return how many events a process has received and holds under valid leases."""
        now = self.world.now
        held = (m for m in self.messages.values() if m.holder == holder and not m.is_lost and m.visible_at > now)
        return sum(message.events for message in held)


class SimulatedQueue(Queue):
    """The handle of one process on a broker."""

    def __init__(self, process: Process, broker: Broker, dead: "SimulatedQueue | None" = None) -> None:
        self._process = process
        self._broker = broker
        self._world = broker.world
        self._dead = dead

    @property
    def max_body_bytes(self) -> int:
        return MIN_BODY_BYTES

    @property
    def lease_seconds(self) -> float:
        return LEASE_SECONDS

    @property
    def dead(self) -> Queue:
        return self._dead or self

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        if self._world.is_on("disk full") and self._dead is not None:
            raise QueueUnavailable("the disk is full")
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                if self._dead is None and len(bodies) > 1 and self._world.chance("dead queue partly fails"):
                    half = len(bodies) // 2
                    await self._call(lambda: self._broker.put(bodies[:half]))
                    raise PartialFailure({index: Unknown("not now") for index in range(half, len(bodies))})
                await self._call(lambda: self._broker.put(bodies))
        except TimeoutError:
            raise QueueUnavailable("no answer in time") from None

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        until = time.monotonic() + wait_seconds
        while True:
            deliveries = await self._take(max_messages)
            if deliveries or time.monotonic() >= until:
                return deliveries
            await self._broker.wait(until - time.monotonic())

    async def _take(self, max_messages: int) -> list[Delivery]:
        taken: list[Delivery] = []

        def take() -> list[Delivery]:
            taken.extend(self._broker.take(max_messages, self._process.name))
            return taken

        try:
            return await self._call(take)
        except BaseException:
            for delivery in taken:
                self._broker.messages[delivery.lease[0]].is_lost = True
            raise

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._call(lambda: self._broker.ack(deliveries))

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        await self._call(lambda: self._broker.hide(deliveries, delay_seconds, keep=False))

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return await self._call(lambda: self._broker.hide(deliveries, LEASE_SECONDS, keep=True))

    async def depth(self) -> Depth:
        now = self._world.now
        in_flight = sum(message.visible_at > now for message in self._broker.messages.values())
        return Depth(len(self._broker.messages) - in_flight, in_flight, 0.0)

    async def check(self) -> list[str]:
        return await self._call(list)

    async def _call(self, effect: Callable[[], T]) -> T:
        if self._world.is_on("queue unavailable" if self._dead is not None else "dead queue unavailable"):
            await self._process.step()
            await self._world.pause()
            raise QueueUnavailable("away")
        return await self._world.call(self._process, effect, "queue loses replies", QueueUnavailable("reply lost"))
