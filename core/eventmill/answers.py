"""The answers computed from scans in plain Python: every store's default, and every test's oracle."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol

from eventmill.errors import QueryTooLarge
from eventmill.event import Event, Identity, Position
from eventmill.query import (
    BUCKET_MS,
    MAX_GROUPS,
    MAX_SCANNED_EVENTS,
    MAX_SECONDS,
    EventFilter,
    Group,
    GroupBy,
    Metrics,
    MetricsQuery,
)

PAGE_EVENTS = 5_000


class Scannable(Protocol):
    """Anything that answers `scan` as a Store does."""

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]: ...


async def pages(store: Scannable, filter: EventFilter, limit: int = PAGE_EVENTS) -> AsyncIterator[list[Event]]:
    """All that matches, page by page. A page shorter than `limit` need not be the last; an empty one is."""
    before: Position | None = None
    while page := await store.scan(filter, before, limit):
        yield page
        before = page[-1].position


async def find(store: Scannable, identities: Iterable[Identity]) -> list[Event]:
    """Those of the events that are stored, by looking into the millisecond of each."""
    wanted = set(identities)
    found = []
    for project, name, timestamp_ms in {identity[:3] for identity in wanted}:
        moment = EventFilter(project, timestamp_ms, timestamp_ms + 1, (name,))
        found += [event async for page in pages(store, moment) for event in page if event.identity in wanted]
    return found


async def metrics(store: Scannable, query: MetricsQuery) -> Metrics:
    """The exact answer, counted in a worker thread. Raises QueryTooLarge beyond 1 000 000 events or 10 s."""
    tally = Tally(query.group_by)
    until = time.monotonic() + MAX_SECONDS
    async for page in pages(store, query.filter):
        await asyncio.to_thread(tally.add, page)
        if tally.total_count > MAX_SCANNED_EVENTS:
            raise QueryTooLarge(f"more than {MAX_SCANNED_EVENTS} events match: ask for a shorter time")
        if time.monotonic() > until:
            raise QueryTooLarge(f"the answer takes more than {MAX_SECONDS:.0f} s: ask for a shorter time")
    return tally.result()


def count(events: Iterable[Event], query: MetricsQuery) -> Metrics:
    """The exact answer over events in memory; each identity is counted once, its greatest version."""
    winners: dict[tuple[str, str, int, str], Event] = {}
    for event in events:
        if event.version >= winners.setdefault(event.identity, event).version:
            winners[event.identity] = event
    tally = Tally(query.group_by)
    tally.add(event for event in winners.values() if query.filter.matches(event))
    return tally.result()


class Tally:
    """Counts of events and of different users, in all and per group, over distinct events."""

    def __init__(self, group_by: GroupBy | None) -> None:
        self.total_count = 0
        self._group_by = group_by
        self._users: set[str] = set()
        self._totals: defaultdict[str | int, int] = defaultdict(int)
        self._group_users: defaultdict[str | int, set[str]] = defaultdict(set)

    def add(self, events: Iterable[Event]) -> None:
        key = _key(self._group_by) if self._group_by else None
        for event in events:
            self.total_count += 1
            self._users.add(event.user_id)
            if key is not None:
                group = key(event)
                self._totals[group] += 1
                self._group_users[group].add(event.user_id)
        if len(self._totals) > MAX_GROUPS:
            raise QueryTooLarge(f"there are more than {MAX_GROUPS} groups: ask for a shorter time", "group_by")

    def result(self) -> Metrics:
        groups = tuple(
            Group(_label(self._group_by, group), self._totals[group], len(self._group_users[group]))
            for group in sorted(self._totals, key=self._order)
        )
        return Metrics(self.total_count, len(self._users), groups)

    def _order(self, group: str | int) -> tuple[int, str]:
        return (group, "") if isinstance(group, int) else (-self._totals[group], group)


def _key(group_by: GroupBy) -> Callable[[Event], str | int]:
    if group_by == "channel":
        return lambda event: event.channel
    bucket_ms = BUCKET_MS[group_by]
    return lambda event: event.timestamp_ms // bucket_ms


def _label(group_by: GroupBy | None, group: str | int) -> str:
    if isinstance(group, str) or group_by is None:
        return str(group)
    start = datetime.fromtimestamp(group * BUCKET_MS[group_by] // 1000, UTC)
    return start.strftime("%Y-%m-%d %H:%M:%S" if group_by == "hour" else "%Y-%m-%d")
