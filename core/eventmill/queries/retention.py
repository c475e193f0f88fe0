"""Retention: how many users of each cohort come back. docs/queries.md has the exact meaning."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from eventmill.errors import InvalidQuery, QueryTooLarge
from eventmill.event import Event
from eventmill.queries.buckets import DATES, Bucket
from eventmill.queries.filters import EventFilter
from eventmill.queries.lookup import Scannable, read_bounded
from eventmill.queries.steps import Step, check_span, names_of

MAX_PERIODS = 400


@dataclass(frozen=True, slots=True)
class RetentionQuery:
    """A query for the users that come back.

    Attributes:
        span: project, time and conditions of all events; its names are not used.
        bucket: the day, week or month of cohorts and periods.
        start: the events that start; the first of a user decides the cohort.
        return_: the events that are a return.
    """

    span: EventFilter
    bucket: Bucket
    start: Step = field(default_factory=Step)
    return_: Step = field(default_factory=Step)

    def __post_init__(self) -> None:
        check_span(self.span.start_ms, self.span.end_ms)
        if self.bucket.name not in DATES:
            raise InvalidQuery(f"unit must be one of {', '.join(DATES)}, not {self.bucket.name[:64]!r}", "unit")
        if self.bucket.most_between(self.span.start_ms, self.span.end_ms) > MAX_PERIODS:
            raise QueryTooLarge(
                f"between from and to there are more than {MAX_PERIODS} {self.bucket.name}s:"
                " ask for a shorter time, or for larger units",
                "unit",
            )

    @property
    def event_names(self) -> tuple[str, ...] | None:
        """The names of starts and returns, None if all."""
        return names_of((self.start, self.return_))


@dataclass(frozen=True, slots=True)
class Period:
    """The users of a cohort that came back in a unit; `is_complete` if the whole unit lies in the span."""

    users: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Cohort:
    """The users that started in a unit. `periods[n]` is the n-th unit after it; 0 is the same."""

    label: str
    users: int
    periods: tuple[Period, ...]


@dataclass(frozen=True, slots=True)
class Retention:
    """The answer: a cohort for each unit in the span, in order."""

    cohorts: tuple[Cohort, ...]


def build_retention(
    query: RetentionQuery, sizes: Mapping[int, int], returned: Mapping[tuple[int, int], int]
) -> Retention:
    """Return the answer.

    Args:
        sizes: the users of each cohort, by the key of its bucket.
        returned: the users that came back, by the keys of cohort and bucket.
    """
    bucket, start_ms, end_ms = query.bucket, query.span.start_ms, query.span.end_ms
    keys = bucket.between(start_ms, end_ms)
    is_whole = dict.fromkeys(keys, True)
    is_whole[keys[0]] = start_ms == 0 or bucket.key(start_ms - 1) != keys[0]
    is_whole[keys[-1]] = is_whole[keys[-1]] and bucket.key(end_ms) != keys[-1]
    return Retention(
        tuple(
            Cohort(
                bucket.label(cohort),
                sizes.get(cohort, 0),
                tuple(Period(returned.get((cohort, key), 0), is_whole[key]) for key in keys[place:]),
            )
            for place, cohort in enumerate(keys)
        )
    )


async def compute_retention(store: Scannable, query: RetentionQuery) -> Retention:
    """Return the reference answer, computed from scans. Raise QueryTooLarge for too many events."""
    events = await read_bounded(store, replace(query.span, event_names=query.event_names))
    return await asyncio.to_thread(count_retention, events, query)


def count_retention(events: Iterable[Event], query: RetentionQuery) -> Retention:
    """Return the reference answer over events in memory, each once and in its latest version."""
    own = [event for event in events if query.span.matches(event)]
    first_ms: dict[str, int] = {}
    for event in own:
        if query.start.matches(event):
            first_ms[event.user_id] = min(event.timestamp_ms, first_ms.get(event.user_id, event.timestamp_ms))
    returned: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
    for event in own:
        started_ms = first_ms.get(event.user_id)
        if started_ms is not None and event.timestamp_ms > started_ms and query.return_.matches(event):
            returned[query.bucket.key(started_ms), query.bucket.key(event.timestamp_ms)].add(event.user_id)
    sizes: defaultdict[int, int] = defaultdict(int)
    for started_ms in first_ms.values():
        sizes[query.bucket.key(started_ms)] += 1
    return build_retention(query, sizes, {keys: len(users) for keys, users in returned.items()})
