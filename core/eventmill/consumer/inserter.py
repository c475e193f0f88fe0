"""Insert rows for as long as it takes; find out exactly which rows the store does not take."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from eventmill.consumer.backoff import Backoff, Breaker
from eventmill.consumer.messages import Row, batch_of, halves, latest
from eventmill.errors import RejectedEvents, StoreMisconfigured
from eventmill.event import Event, EventBatch, create_event
from eventmill.interfaces import Store

log = logging.getLogger(__name__)

CANARY_PROJECT = "_eventmill"
FAILURES = 3  # of a batch in a row, before a canary tells whether the whole store is away or only part of it
PARTLY_AWAY_SECONDS = 30.0  # since a part of it was away, for which one failure is enough to ask
ISOLATE_SECONDS = 60.0  # for one message; rows that are not tried by then are released with it
_CANARIES, _CANARIES_AT_ONCE = 16, 3  # different ones, so that a store of which a part is away takes some of them
_CONFIRMATIONS = 2  # of a rejection
_DOUBTS = 30  # failures in a row, before a canary tells whether the whole store is away by now


@dataclass(slots=True)
class Outcome:
    """Which rows are not stored.

    Attributes:
        rejected: rows that the store will never take, each with what it said.
        failed: rows that it cannot take now, or of which nothing is known.
    """

    rejected: list[tuple[Row, RejectedEvents]] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)


class Inserter:
    """The store behind a breaker."""

    def __init__(self, store: Store, breaker: Breaker, backoff: Backoff) -> None:
        self._store = store
        self._breaker = breaker
        self._backoff = backoff
        self._partly_away_until = -float("inf")

    async def insert(self, rows: Sequence[Row]) -> bool:
        """Store rows of distinct events; return False if the store does not take them, though it takes others.

        While the store takes nothing, the same batch is repeated.
        """
        batch = batch_of(rows)
        failures = 0
        while True:
            try:
                await self._breaker.call(lambda: self._store.insert(batch))
            except Exception as error:
                failures += 1
                is_rejected = isinstance(error, RejectedEvents)
                is_doubtful = is_rejected or failures >= FAILURES or time.monotonic() < self._partly_away_until
                if is_doubtful and await self._takes_canary():
                    log.info("a batch of %d events is not taken (%s): isolating", len(batch), type(error).__name__)
                    self._partly_away_until = time.monotonic() + PARTLY_AWAY_SECONDS
                    return False
                trouble = StoreMisconfigured(f"the store rejects every event: {error}") if is_rejected else error
                await self._backoff.pause("cannot insert", trouble, failures - 1)
            else:
                return True

    async def isolate(self, rows: Sequence[Row]) -> Outcome:
        """Store every row that the store takes, and tell which it does not take.

        A rejection counts only if the store rejects the row again and again, and takes canaries in between: then the
        schema is not at fault. Any other failure is no verdict on a row.
        """
        winners = latest(rows)
        parts = [winners]
        if len(winners) < len(rows):  # a winner may be rejected: what it would replace must be stored all the same
            winning = {id(row) for row in winners}
            parts += [[row] for row in rows if id(row) not in winning]
        outcome = await self._sift(parts)
        for _ in range(_CONFIRMATIONS):
            accused = [row for row, _ in outcome.rejected]
            if not accused:
                break
            if not await self._takes_canary():
                return Outcome(failed=outcome.failed + accused)
            again = await self._sift([accused])
            outcome = Outcome(again.rejected, outcome.failed + again.failed)
        return outcome

    async def _sift(self, parts: list[Sequence[Row]]) -> Outcome:
        """Insert the parts, and halve those that fail until the rows at fault are alone."""
        outcome, doubts = Outcome(), 0
        until = time.monotonic() + ISOLATE_SECONDS
        while parts:
            part = parts.pop()
            if doubts >= _DOUBTS and await self._takes_canary():
                doubts = 0
            if doubts >= _DOUBTS or time.monotonic() > until:
                outcome.failed += part
                continue
            try:
                await self._store.insert(batch_of(part))
                doubts = 0
            except RejectedEvents as rejection:
                parts += _without_rejected(part, rejection, outcome)
                doubts = 0
            except Exception as error:
                log.debug("%d events fail (%s): %s", len(part), type(error).__name__, error)
                doubts += 1
                if len(part) == 1:
                    outcome.failed += part
                else:
                    parts += halves(part)
        return outcome

    async def _takes_canary(self) -> bool:
        """Whether the store takes at least one of a few events that nothing is wrong with."""
        numbers = random.sample(range(_CANARIES), _CANARIES_AT_ONCE)
        inserts = [self._store.insert(EventBatch.of([_canary(number)])) for number in numbers]
        answers = await asyncio.gather(*inserts, return_exceptions=True)
        if any(answer is None for answer in answers):
            self._breaker.close()
            return True
        log.warning("the store takes no canary either (%s): %s", type(answers[0]).__name__, answers[0])
        return False


def _canary(number: int) -> Event:
    hour_ms = time.time_ns() // 1_000_000 // 3_600_000 * 3_600_000
    return create_event(
        project=CANARY_PROJECT,
        event_name="canary",
        channel="canary",
        user_id="canary",
        timestamp_us=hour_ms * 1000,
        event_id=f"canary {number}",
        received_at_ms=hour_ms,
    )


def _without_rejected(part: Sequence[Row], rejection: RejectedEvents, outcome: Outcome) -> list[Sequence[Row]]:
    """Note the rows that the store named; return what must be tried again, in parts."""
    named = {index for index in rejection.indexes or () if 0 <= index < len(part)}
    if not named and len(part) > 1:
        return halves(part)
    outcome.rejected += [(part[index], rejection) for index in sorted(named or {0})]
    rest = [row for index, row in enumerate(part) if index not in (named or {0})]
    return [rest] if rest else []
