"""The deliveries that this process holds. Their leases are kept alive until they are acked or released."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence

from eventmill.consumer.backoff import Backoff
from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.interfaces import Delivery, Queue
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0
DRAIN_DELAY_SECONDS = 1.0  # the longest delay of a release while the queue is drained
_KEEP_ALIVE = 0.5  # the share of a lease after which it is extended
_KEEP_ALIVE_AGAIN = 0.1  # the share of a lease between attempts to extend it


class Leases:
    """The deliveries that were received and are not settled yet."""

    def __init__(self, queue: Queue, backoff: Backoff, shutdown: Shutdown, telemetry: ConsumerTelemetry) -> None:
        self._queue = queue
        self._telemetry = telemetry
        self._backoff = backoff
        self._shutdown = shutdown
        self._held: dict[Delivery, None] = {}  # in order of arrival

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, deliveries: Iterable[Delivery]) -> None:
        self._held |= dict.fromkeys(deliveries)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove settled messages from the queue."""
        if deliveries:
            await self._backoff.retry("ack", lambda: self._queue.ack(deliveries))
            self._forget(deliveries)

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        """Release messages, to be received again after the delay, or when their leases end."""
        if not deliveries:
            return
        self._forget(deliveries)
        if self._shutdown.drain:
            delay_seconds = min(delay_seconds, DRAIN_DELAY_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._queue.lease_seconds):
                await self._backoff.retry("release", lambda: self._queue.release(deliveries, delay_seconds))

    async def keep_alive(self) -> None:
        """Extend the leases of all held deliveries, until cancelled."""
        share = _KEEP_ALIVE
        while True:
            await asyncio.sleep(self._queue.lease_seconds * share)
            share = _KEEP_ALIVE
            if not self._held:
                continue
            try:
                lost = await self._queue.extend(list(self._held))
            except Exception as error:
                log.warning("cannot extend leases (%s): %s", type(error).__name__, error)
                share = _KEEP_ALIVE_AGAIN
            else:
                self._telemetry.leases_lost.inc(len(lost))
                if lost:
                    log.info("%d leases were lost: these messages are delivered again, which is harmless", len(lost))

    async def close(self) -> None:
        """Release the remaining deliveries within 3 s; otherwise their leases expire."""
        held = list(self._held)
        self._held.clear()
        if not held:
            return
        log.warning("stopping with %d messages that are not stored: they stay in the queue", len(held))
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._queue.release(held)
        except Exception as error:
            log.warning("cannot release messages, their leases will expire (%s)", type(error).__name__)

    def _forget(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._held.pop(delivery, None)
