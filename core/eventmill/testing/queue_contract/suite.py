"""What the parts of the suite for queues share."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, ClassVar

import pytest

from eventmill import (
    Delivery,
    Queue,
    QueueBackend,
    QueueUnavailable,
)
from eventmill.testing.contract import LIMIT_SECONDS, Contract, limited

BODIES = [
    bytes(range(256)),
    b"x",
    b"\0",
    b"line\nline\r\n",
    "emoji \U0001f600, \ufffe and \uffff".encode(),
    b"\xff\xfe\xfd",
    b'{"json": "\\u0000"}',
]


def soon() -> float:
    """Return a deadline for publishing."""
    return time.monotonic() + 5


async def receive(queue: Queue, count: int, seconds: float = 5.0) -> list[Delivery]:
    """Return exactly `count` deliveries, from as many calls as it takes."""
    until = time.monotonic() + seconds
    deliveries: list[Delivery] = []
    while len(deliveries) < count and time.monotonic() < until:
        deliveries += await queue.receive(count - len(deliveries), 1)
    assert len(deliveries) == count, f"{len(deliveries)} of {count} messages were delivered within {seconds} s"
    return deliveries


async def drain(queue: Queue, count: int) -> Counter[bytes]:
    """Receive and ack `count` messages and return their bodies; then the queue must be empty."""
    until = time.monotonic() + 20
    bodies: Counter[bytes] = Counter()
    while bodies.total() < count and time.monotonic() < until:
        deliveries = await queue.receive(min(100, count - bodies.total()), 1)
        await queue.ack(deliveries)
        bodies += bodies_of(deliveries)
    await stays_empty(queue)
    return bodies


async def stays_empty(queue: Queue, seconds: float = 0.0) -> None:
    """Assert that nothing can be received for this long."""
    until = time.monotonic() + seconds
    while True:
        assert await queue.receive(10, min(1.0, max(0.0, until - time.monotonic()))) == []
        if time.monotonic() >= until:
            return


def bodies_of(deliveries: Iterable[Delivery]) -> Counter[bytes]:
    return Counter(delivery.body for delivery in deliveries)


class QueueSuite(Contract):
    """The fixtures that all parts of the suite share."""

    backend: ClassVar[QueueBackend]

    @pytest.fixture
    async def queue(self, settings: Any) -> AsyncIterator[Queue]:
        async with limited(self.backend.open(settings)) as queue:
            async with asyncio.timeout(LIMIT_SECONDS):
                await queue.migrate()
            assert queue.lease_seconds <= 2, "the fixture `settings` must set leases of about 1 second"
            yield queue


async def passes(check: Callable[[], Awaitable[object]]) -> bool:
    try:
        await check()
    except QueueUnavailable:
        return False
    return True
