"""Read a queue page by page, each message once, without removing it."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from types import TracebackType

from eventmill.interfaces import Delivery, Queue

log = logging.getLogger(__name__)

PAGE_MESSAGES = 100
EMPTY_RECEIVES = 2  # consecutive empty receives end the paging; on SQS a single one may be wrong
RELEASE_SECONDS = 10.0


class Pager:
    """Reads a queue that other processes may use at the same time, and holds the leases of all messages it returned.

    On exit it releases the messages that were not acked.

    Attributes:
        missed: how many messages of the start were not returned yet, or at the end: others hold their leases.
    """

    def __init__(self, queue: Queue) -> None:
        self.missed = 0
        self._queue = queue
        self._held: set[Delivery] = set()
        self._lost: Counter[tuple[bytes, int]] = Counter()  # messages that were returned and will arrive again

    async def __aenter__(self) -> "Pager":
        self._keeping = asyncio.create_task(self._keep_alive(), name="eventmill-pager")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        with contextlib.suppress(Exception):  # otherwise the leases expire
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._queue.release(list(self._held))

    async def pages(self) -> AsyncIterator[list[Delivery]]:
        """Yield each message once, up to as many as the queue held at the start. Equal bodies are separate messages."""
        left, empty = await self._count(), 0
        self.missed = int(left) if 0 < left < float("inf") else 0
        while left > 0 and empty < EMPTY_RECEIVES:
            deliveries = await self._queue.receive(PAGE_MESSAGES, 1)
            self._held.update(deliveries)
            empty = 0 if deliveries else empty + 1
            page = [held for held in deliveries if not self._is_repeated(held)]
            left -= len(page)
            self.missed = int(left) if 0 < left < float("inf") else 0
            if page:
                yield page

    async def _count(self) -> float:
        """Return how many messages the queue holds, so that messages published meanwhile do not prolong the paging."""
        depth = await self._queue.depth()
        if depth.ready is None:
            return float("inf")
        return depth.ready + (depth.in_flight or 0)

    async def ack(self, deliveries: Collection[Delivery]) -> None:
        """Remove messages from the queue. Raise QueueUnavailable."""
        self._held.difference_update(deliveries)  # first, since an extension meanwhile would report them as lost
        await self._queue.ack(list(deliveries))

    async def _keep_alive(self) -> None:
        """Extend the leases at half-time, and remember the messages whose lease was lost."""
        pause = self._queue.lease_seconds / 2
        while True:
            await asyncio.sleep(pause)
            pause = self._queue.lease_seconds / 2
            try:
                lost = await self._queue.extend(list(self._held)) if self._held else []
            except Exception as error:
                log.warning("cannot extend leases (%s): %s", type(error).__name__, error)
                pause /= 5
            else:
                self._forget(lost)

    def _forget(self, lost: Sequence[Delivery]) -> None:
        self._lost.update(_key(delivery) for delivery in lost if delivery in self._held)
        self._held.difference_update(lost)

    def _is_repeated(self, delivery: Delivery) -> bool:
        """Return whether this message, or an equal one, was returned before its lease was lost."""
        key = _key(delivery)
        if self._lost[key] == 0:
            return False
        self._lost[key] -= 1
        return True


def _key(delivery: Delivery) -> tuple[bytes, int]:
    return delivery.body, delivery.enqueued_at_ms
