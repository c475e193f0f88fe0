"""Insert rows until they are stored, and find the rows that the store rejects or fails on."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from eventmill.consumer.backoff import Backoff, Breaker
from eventmill.consumer.messages import Row, batch_of, halves, latest
from eventmill.consumer.pause import PROJECT
from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.errors import RejectedEvents, StoreMisconfigured
from eventmill.event import Event, EventBatch, create_event
from eventmill.interfaces import Store

log = logging.getLogger(__name__)

FAILURES = 3  # consecutive failures of a batch before canaries test the store
PARTLY_AWAY_SECONDS = 30.0  # after a partial outage, during which one failure is enough to try canaries
ISOLATE_SECONDS = 60.0  # for one group of messages; those with rows that were not tried by then are released
_CANARIES, _CANARIES_AT_ONCE = 16, 3  # different events, so that a partly available store accepts some of them
_CONFIRMATIONS = 2  # of a rejection, before it is final
_MAX_FAILURES = 30  # consecutive failures while isolating before canaries test the store


@dataclass(slots=True)
class Outcome:
    """The rows that are not stored.

    Attributes:
        rejected: rows that the store permanently rejects, each with its error.
        failed: rows that the store cannot store now, or that were not tried.
    """

    rejected: list[tuple[Row, RejectedEvents]] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)


class Inserter:
    """The store behind a breaker."""

    def __init__(self, store: Store, breaker: Breaker, backoff: Backoff, telemetry: ConsumerTelemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._breaker = breaker
        self._backoff = backoff
        self._partly_away_until = -float("inf")

    async def insert(self, rows: Sequence[Row]) -> bool:
        """Store rows of distinct events. Return False if the store fails on them but accepts others.

        While the store accepts nothing, repeat the same batch.
        """
        batch = batch_of(rows)
        failures = 0
        while True:
            try:
                await self._breaker.call(lambda: self._insert(batch))
            except Exception as error:
                failures += 1
                is_rejected = isinstance(error, RejectedEvents)
                is_doubtful = is_rejected or failures >= FAILURES or time.monotonic() < self._partly_away_until
                if is_doubtful and await self._accepts_canary():
                    log.info(
                        "a batch of %d events fails (%s): isolating its messages", len(batch), type(error).__name__
                    )
                    self._partly_away_until = time.monotonic() + PARTLY_AWAY_SECONDS
                    return False
                trouble = StoreMisconfigured(f"the store rejects every event: {error}") if is_rejected else error
                await self._backoff.pause("insert", trouble, failures - 1)
            else:
                return True

    async def isolate(self, rows: Sequence[Row]) -> Outcome:
        """Store every row that the store accepts, and return the others.

        A rejection is final only if the store repeats it and accepts canaries in between; otherwise the schema may be
        at fault. Other failures never reject a row.
        """
        winners = latest(rows)
        parts = [winners]
        if len(winners) < len(rows):  # an older version must be stored if the store rejects the greatest
            winning = {id(row) for row in winners}
            parts += [[row] for row in rows if id(row) not in winning]
        outcome = await self._sift(parts)
        for _ in range(_CONFIRMATIONS):
            accused = [row for row, _ in outcome.rejected]
            if not accused:
                break
            if not await self._accepts_canary():
                return Outcome(failed=outcome.failed + accused)
            again = await self._sift([accused])
            outcome = Outcome(again.rejected, outcome.failed + again.failed)
        return outcome

    async def _sift(self, parts: list[Sequence[Row]]) -> Outcome:
        """Insert the parts. Split those that fail in halves until the failing rows are alone."""
        outcome, failures = Outcome(), 0
        until = time.monotonic() + ISOLATE_SECONDS
        while parts:
            part = parts.pop()
            if failures >= _MAX_FAILURES and await self._accepts_canary():
                failures = 0
            if failures >= _MAX_FAILURES or time.monotonic() > until:
                outcome.failed += part
                continue
            try:
                await self._insert(batch_of(part))
                failures = 0
            except RejectedEvents as rejection:
                parts += _without_rejected(part, rejection, outcome)
                failures = 0
            except Exception as error:
                log.debug("%d events fail (%s)", len(part), type(error).__name__)
                failures += 1
                if len(part) == 1:
                    outcome.failed += part
                else:
                    parts += halves(part)
        return outcome

    async def _insert(self, batch: EventBatch) -> None:
        started = time.monotonic()
        await self._store.insert(batch)
        seconds, size = time.monotonic() - started, sum(map(len, batch.lines))
        self._telemetry.insert_seconds.observe(seconds)
        self._telemetry.stored_events.inc(len(batch))
        self._telemetry.stored_bytes.inc(size)
        log.debug("stored a batch", extra={"events": len(batch), "bytes": size, "seconds": round(seconds, 3)})

    async def _accepts_canary(self) -> bool:
        """Return whether the store accepts at least one of a few valid events."""
        numbers = random.sample(range(_CANARIES), _CANARIES_AT_ONCE)
        inserts = [self._store.insert(EventBatch.of([_canary(number)])) for number in numbers]
        answers = await asyncio.gather(*inserts, return_exceptions=True)
        if any(answer is None for answer in answers):
            self._breaker.close()
            return True
        log.warning("the store does not accept a canary either (%s): %s", type(answers[0]).__name__, answers[0])
        return False


def _canary(number: int) -> Event:
    hour_ms = time.time_ns() // 1_000_000 // 3_600_000 * 3_600_000
    return create_event(
        project=PROJECT,
        event_name="canary",
        channel="canary",
        user_id="canary",
        timestamp_us=hour_ms * 1000,
        event_id=f"canary {number}",
        received_at_ms=hour_ms,
    )


def _without_rejected(part: Sequence[Row], rejection: RejectedEvents, outcome: Outcome) -> list[Sequence[Row]]:
    """Record the rows that the store names; return the parts that must be inserted again."""
    named = {index for index in rejection.indexes or () if 0 <= index < len(part)}
    if not named and len(part) > 1:
        return halves(part)
    outcome.rejected += [(part[index], rejection) for index in sorted(named or {0})]
    rest = [row for index, row in enumerate(part) if index not in (named or {0})]
    return [rest] if rest else []
