"""The deliveries that this process holds: extended at half-time, acked when settled, released in the end."""

import asyncio
import logging
from collections.abc import Collection, Sequence

from eventmill.interfaces import Delivery, Queue
from eventmill.retry import Retry

log = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0


class Leases:
    """What was received and is not settled yet."""

    def __init__(self, queue: Queue, retry: Retry) -> None:
        self._queue = queue
        self._retry = retry
        self._held: set[Delivery] = set()

    def hold(self, deliveries: Collection[Delivery]) -> None:
        self._held.update(deliveries)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._retry.run("cannot ack", lambda: self._queue.ack(deliveries))
        self._held.difference_update(deliveries)

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float) -> None:
        """Give messages back, to come again after the delay."""
        self._held.difference_update(deliveries)
        await self._retry.run("cannot release", lambda: self._queue.release(deliveries, delay_seconds))

    async def extend(self) -> None:
        """Keep the leases of everything that is held, for ever."""
        share = 0.5  # of a lease, until the next time
        while True:
            await asyncio.sleep(self._queue.lease_seconds * share)
            share = 0.5
            if not self._held:
                continue
            try:
                lost = await self._queue.extend(list(self._held))
            except Exception as error:
                log.warning("cannot extend leases (%s): %s", type(error).__name__, error)
                share = 0.1
            else:
                if lost:
                    log.info("%d leases were lost: these messages come again, which changes no number", len(lost))

    async def close(self) -> None:
        """Release what is left, at once and without patience: the leases would end by themselves."""
        if self._held:
            log.warning("leaving with %d messages not stored: they stay in the queue", len(self._held))
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.give_back()
        except Exception as error:
            log.warning("cannot release messages, their leases will end (%s)", type(error).__name__)

    async def give_back(self) -> None:
        """Release everything that is held."""
        held = list(self._held)
        self._held.clear()
        if held:
            await self._queue.release(held)
