"""The reference answer to a metrics query: every event is read and counted."""

import asyncio
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable

from eventmill.event import Event, Identity
from eventmill.queries.buckets import Bucket
from eventmill.queries.lookup import Scannable, bounded_pages
from eventmill.queries.metrics import (
    QUANTILES,
    Dimension,
    Keys,
    Metrics,
    MetricsQuery,
    Row,
    build_metrics,
    check_groups,
)


async def compute_metrics(store: Scannable, query: MetricsQuery) -> Metrics:
    """Return the reference answer, computed from scans in a worker thread.

    Raise QueryTooLarge for more than 1,000,000 events or 10 s.
    """
    tally = Tally(query)
    async for page in bounded_pages(store, query.filter):
        await asyncio.to_thread(tally.add, page)
    return tally.result()


def count_metrics(events: Iterable[Event], query: MetricsQuery) -> Metrics:
    """Return the reference answer over events in memory, counting only the greatest version of each identity."""
    tally = Tally(query)
    tally.add(event for event in latest(events) if query.filter.matches(event))
    return tally.result()


def latest(events: Iterable[Event]) -> list[Event]:
    """Return the greatest version of each identity."""
    winners: dict[Identity, Event] = {}
    for event in events:
        if event.version >= winners.setdefault(event.identity, event).version:
            winners[event.identity] = event
    return list(winners.values())


class Aggregate:
    """What is known of the events of one group."""

    __slots__ = ("numbers", "total_count", "users")

    def __init__(self) -> None:
        self.total_count = 0
        self.users: set[str] = set()
        self.numbers: list[float] = []

    def add(self, user_id: str, number: float | None) -> None:
        """Count one event."""
        self.total_count += 1
        self.users.add(user_id)
        if number is not None:
            self.numbers.append(number)

    def merge(self, other: "Aggregate") -> None:
        """Add the events of another group."""
        self.total_count += other.total_count
        self.users |= other.users
        self.numbers += other.numbers


class Tally:
    """Counts distinct events, in total and per group."""

    def __init__(self, query: MetricsQuery) -> None:
        self.total = Aggregate()
        self._query = query
        self._groups: defaultdict[Keys, Aggregate] = defaultdict(Aggregate)

    def add(self, events: Iterable[Event]) -> None:
        """Count events. Raise QueryTooLarge for more than MAX_GROUPS groups without a limit."""
        number = self._query.number
        dimensions = self._query.group_by
        for event in events:
            value = number.number(event) if number else None
            self.total.add(event.user_id, value)
            if dimensions:
                for keys in itertools.product(*(_read(dimension, event) for dimension in dimensions)):
                    self._groups[keys].add(event.user_id, value)
        if self._query.limit is None:
            check_groups(len(self._groups))

    def result(self) -> Metrics:
        """Return the answer."""
        groups, other = self._limit()
        total = self._row((), self.total)
        return build_metrics(self._query, total, self._rows(groups), self._rows(other))

    def _limit(self) -> tuple[dict[Keys, Aggregate], dict[Keys, Aggregate]]:
        """Return the groups within the limit, and the merged others by time."""
        if self._query.limit is None:
            return self._groups, {}
        places = [place for place, by in enumerate(self._query.group_by) if not isinstance(by, Bucket)]
        counts: defaultdict[Keys, int] = defaultdict(int)
        for keys, group in self._groups.items():
            counts[tuple(keys[place] for place in places)] += group.total_count
        ranking = sorted(counts, key=lambda keys: (-counts[keys], [(key is None, key or "") for key in keys]))
        largest = set(ranking[: self._query.limit])
        groups: dict[Keys, Aggregate] = {}
        other: defaultdict[Keys, Aggregate] = defaultdict(Aggregate)
        for keys, group in self._groups.items():
            if tuple(keys[place] for place in places) in largest:
                groups[keys] = group
            else:
                other[tuple(key for place, key in enumerate(keys) if place not in places)].merge(group)
        return groups, other

    def _rows(self, groups: dict[Keys, Aggregate]) -> list[Row]:
        return [self._row(keys, group) for keys, group in groups.items()]

    def _row(self, keys: Keys, group: Aggregate) -> Row:
        query = self._query
        unique_count = len(group.users) if query.counts_users else None
        value = _figure(query.measure.function, group.numbers) if query.measure and query.number else None
        return Row(keys, group.total_count, unique_count, value)


def _read(dimension: Dimension, event: Event) -> Keys:
    return (dimension.key(event.timestamp_ms),) if isinstance(dimension, Bucket) else dimension.values(event)


def _figure(function: str, numbers: list[float]) -> float | None:
    if not numbers:
        return None
    if quantile := QUANTILES.get(function):
        return sorted(numbers)[int(quantile * len(numbers))]
    if function in ("min", "max"):
        return min(numbers) if function == "min" else max(numbers)
    try:
        total = math.fsum(numbers)
    except OverflowError:
        return math.inf
    return total / len(numbers) if function == "avg" else total
