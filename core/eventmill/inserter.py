"""Insert batches for as long as it takes; isolate and dead-letter exactly the events that can never be stored."""

import itertools
import logging
import time
from collections.abc import Callable

from eventmill import frames
from eventmill.errors import RejectedEvents, StoreMisconfigured
from eventmill.event import EventBatch, create_event
from eventmill.interfaces import Delivery, Queue, Store
from eventmill.retry import Breaker, Retry

log = logging.getLogger(__name__)

CANARY_PROJECT = "_eventmill"
PUBLISH_SECONDS = 5.0
UNEXPLAINED = 5  # failures of one batch in a row, while the store takes a canary, count as a rejection
VERDICTS = 3  # so often is that asked for one event alone before it is dead-lettered


class Inserter:
    """The store, behind a breaker, and the dead letters."""

    def __init__(self, queue: Queue, store: Store, retry: Retry) -> None:
        self.breaker = Breaker()
        self._queue = queue
        self._store = store
        self._retry = retry

    async def insert(self, batch: EventBatch, origin: Callable[[bytes], Delivery]) -> None:
        """Return when each event is stored or dead-lettered. Raises Stopped when time is up.

        Args:
            origin: tells which delivery brought a line of the batch.
        """
        try:
            await self._store_all(batch)
        except RejectedEvents as rejection:
            named = {index for index in rejection.indexes or () if 0 <= index < len(batch)}
            if not named and len(batch) > 1:
                half = len(batch) // 2
                await self.insert(batch.take(range(half)), origin)
                await self.insert(batch.take(range(half, len(batch))), origin)
                return
            for index in sorted(named) or [0]:
                line = batch.lines[index]
                await self.bury("rejected", rejection, frames.encode_frame([line]), origin(line))
            if rest := [index for index in range(len(batch)) if named and index not in named]:
                await self.insert(batch.take(rest), origin)

    async def bury(self, reason: str, error: Exception, body: bytes, origin: Delivery) -> None:
        """Publish a dead letter; the delivery it came from tells its attempts and age."""
        log.error("dead letter (%s): %s", reason, error)
        record = frames.DeadRecord(
            reason=reason,
            code=type(error.__cause__ or error).__name__,
            message=str(error),
            attempts=origin.attempts,
            origin=type(self._queue).__name__,
            enqueued_at_ms=origin.enqueued_at_ms,
            died_at_ms=time.time_ns() // 1_000_000,
            body=body,
        )
        dead = frames.encode_dead(record)
        if len(dead) > self._queue.dead.max_body_bytes:
            dead = body  # what somebody else sent may be as large as a message can be: then it goes without its record
        await self._retry.run(
            "cannot dead-letter", lambda: self._queue.dead.publish([dead], time.monotonic() + PUBLISH_SECONDS)
        )

    async def _store_all(self, batch: EventBatch) -> None:
        """Repeat the same batch until it is stored. Raises RejectedEvents when the store takes others, but not this."""
        verdicts = 0
        for failures in itertools.count():
            try:
                await self.breaker.call(lambda: self._store.insert(batch))
            except RejectedEvents as rejection:
                leads_to_halves = not rejection.indexes and len(batch) > 1
                if leads_to_halves or await self.takes_canary():
                    raise
                trouble: Exception = StoreMisconfigured(f"the store rejects every event: {rejection}")
            except StoreMisconfigured as error:
                trouble = error
            except Exception as error:
                trouble = error
                if failures % UNEXPLAINED == UNEXPLAINED - 1:
                    verdicts = verdicts + 1 if await self._is_healthy() else 0
                    if verdicts >= (VERDICTS if len(batch) == 1 else 1):
                        raise RejectedEvents(f"refused again and again: {error}") from error
            else:
                return
            await self._retry.pause("cannot insert", trouble, failures)

    async def _is_healthy(self) -> bool:
        """Whether the store passes its check and takes an event that nothing is wrong with."""
        try:
            await self._store.check()
        except Exception:
            return False
        return await self.takes_canary()

    async def takes_canary(self) -> bool:
        """Whether the store takes an event that nothing is wrong with: if not, the schema is at fault, not the data."""
        hour_ms = time.time_ns() // 1_000_000 // 3_600_000 * 3_600_000
        canary = create_event(
            project=CANARY_PROJECT,
            event_name="canary",
            channel="canary",
            user_id="canary",
            timestamp_us=hour_ms * 1000,
            event_id="canary",
            received_at_ms=hour_ms,
        )
        try:
            await self.breaker.call(lambda: self._store.insert(EventBatch.of([canary])))
        except Exception as error:
            log.warning("the store does not take a canary either (%s): %s", type(error).__name__, error)
            return False
        return True
