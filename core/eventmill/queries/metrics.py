"""Metrics: counts of events and of unique users, in total and per group."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from eventmill.errors import InvalidQuery, QueryTooLarge
from eventmill.event import MAX_TIME_MS, Event, Identity
from eventmill.fields import MAX_NAME_CHARACTERS
from eventmill.queries.dimensions import DIMENSIONS, Dimension
from eventmill.queries.filters import EventFilter
from eventmill.queries.lookup import Scannable, pages
from eventmill.times import parse_time

MAX_GROUPS = 10_000
MAX_SCANNED_EVENTS = 1_000_000  # by the reference answer, which reads every event
MAX_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class MetricsQuery:
    """A query for the number of events and of unique users, in total and per group.

    Attributes:
        project, event_name: the events to count.
        start_ms, end_ms: start_ms ≤ timestamp_ms < end_ms, unix milliseconds.
        group_by: the name of a dimension (`DIMENSIONS`), or None.
    """

    project: str
    event_name: str
    start_ms: int
    end_ms: int
    group_by: str | None = None

    def __post_init__(self) -> None:
        if self.start_ms >= self.end_ms:
            raise InvalidQuery("from must not be later than to", "from")
        bucket_ms = self.dimension.bucket_ms if self.dimension else None
        if bucket_ms and (self.end_ms - 1) // bucket_ms - self.start_ms // bucket_ms >= MAX_GROUPS:
            raise QueryTooLarge(
                f"between from and to there are more than {MAX_GROUPS} groups of one {self.group_by}:"
                " ask for a shorter time or for larger groups",
                "group_by",
            )

    @property
    def filter(self) -> EventFilter:
        return EventFilter(self.project, self.start_ms, self.end_ms, (self.event_name,))

    @property
    def dimension(self) -> Dimension | None:
        return DIMENSIONS[self.group_by] if self.group_by else None


@dataclass(frozen=True, slots=True)
class Group:
    """One group: a channel, an hour such as `2025-12-26 03:00:00`, or a day such as `2025-12-26`."""

    value: str
    total_count: int
    unique_count: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """Exact counts of events and of unique users.

    `groups` is empty without `group_by`, and holds only groups that have events. Spans of time are ordered by time;
    other groups are ordered by descending count, then by value.
    """

    total_count: int
    unique_count: int
    groups: tuple[Group, ...] = ()


def parse_metrics_query(
    project: str, event_name: str, start: str, end: str, group_by: str | None = None
) -> MetricsQuery:
    """Return the query that these texts describe. Both bounds are inclusive; whole seconds cover the whole second.

    Raise InvalidQuery or QueryTooLarge with a message that names the parameter.
    """
    if not 1 <= len(event_name) <= MAX_NAME_CHARACTERS:
        raise InvalidQuery(f"event_name must be a string of 1 to {MAX_NAME_CHARACTERS} characters", "event_name")
    if group_by is not None and group_by not in DIMENSIONS:
        raise InvalidQuery(f"group_by must be one of {', '.join(DIMENSIONS)}, not {group_by[:64]!r}", "group_by")
    start_ms, end_ms = parse_bounds(start, end)
    return MetricsQuery(project, event_name, start_ms=start_ms, end_ms=end_ms, group_by=group_by)


def parse_bounds(start: str, end: str) -> tuple[int, int]:
    """Return start and end of a filter in milliseconds, from texts that are both inclusive. Raise InvalidQuery."""
    start_us, end_us = _parse_bound(start, "from"), _parse_bound(end, "to")
    if start_us > end_us:
        raise InvalidQuery("from must not be later than to", "from")
    return -(-start_us // 1000), end_us // 1000 + (1000 if end_us % 1_000_000 == 0 else 1)


def _parse_bound(text: str, name: str) -> int:
    try:
        time_us = parse_time(text)
    except ValueError as error:
        raise InvalidQuery(f"{name} {error}", name) from None
    if not 0 <= time_us <= MAX_TIME_MS * 1000:
        raise InvalidQuery(f"{name} must lie between 1970 and 2100", name)
    return time_us


async def compute_metrics(store: Scannable, query: MetricsQuery) -> Metrics:
    """Return the reference answer, computed from scans in a worker thread.

    Raise QueryTooLarge for more than 1,000,000 events or 10 s.
    """
    tally = Tally(query.dimension)
    until = time.monotonic() + MAX_SECONDS
    async for page in pages(store, query.filter):
        await asyncio.to_thread(tally.add, page)
        if tally.total_count > MAX_SCANNED_EVENTS:
            raise QueryTooLarge(f"more than {MAX_SCANNED_EVENTS} events match: ask for a shorter time")
        if time.monotonic() > until:
            raise QueryTooLarge(f"the answer takes more than {MAX_SECONDS:.0f} s: ask for a shorter time")
    return tally.result()


def count_metrics(events: Iterable[Event], query: MetricsQuery) -> Metrics:
    """Return the reference answer over events in memory, counting only the greatest version of each identity."""
    winners: dict[Identity, Event] = {}
    for event in events:
        if event.version >= winners.setdefault(event.identity, event).version:
            winners[event.identity] = event
    tally = Tally(query.dimension)
    tally.add(event for event in winners.values() if query.filter.matches(event))
    return tally.result()


class Tally:
    """Counts distinct events and their users, in total and per group."""

    def __init__(self, dimension: Dimension | None) -> None:
        self.total_count = 0
        self._dimension = dimension
        self._users: set[str] = set()
        self._totals: defaultdict[str, int] = defaultdict(int)
        self._group_users: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, events: Iterable[Event]) -> None:
        read = self._dimension.read if self._dimension else None
        for event in events:
            self.total_count += 1
            self._users.add(event.user_id)
            if read is not None:
                group = read(event)
                self._totals[group] += 1
                self._group_users[group].add(event.user_id)
        if len(self._totals) > MAX_GROUPS:
            raise QueryTooLarge(f"there are more than {MAX_GROUPS} groups: ask for a shorter time", "group_by")

    def result(self) -> Metrics:
        groups = tuple(
            Group(value, self._totals[value], len(self._group_users[value]))
            for value in sorted(self._totals, key=self._order)
        )
        return Metrics(self.total_count, len(self._users), groups)

    def _order(self, value: str) -> tuple[int, str]:
        is_time = self._dimension is not None and self._dimension.bucket_ms is not None
        return (0, value) if is_time else (-self._totals[value], value)
