"""Funnels: how many users go from step to step. docs/queries.md has the exact meaning."""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from eventmill.errors import InvalidQuery, QueryTooLarge
from eventmill.event import Event
from eventmill.queries.filters import EventFilter
from eventmill.queries.lookup import Scannable, read_bounded
from eventmill.queries.properties import TAG, Property
from eventmill.queries.steps import Step, check_span, middle, names_of

MIN_STEPS, MAX_STEPS = 2, 10
MAX_FUNNEL_GROUPS = 1_000


@dataclass(frozen=True, slots=True)
class FunnelQuery:
    """A query for the users that go through steps in order.

    Attributes:
        span: project, time and conditions of all events; its names are not used.
        steps: 2 to 10.
        window_ms: how long after the first step all further ones may happen, inclusive.
        group_by: a property of the first step's event, or None.
    """

    span: EventFilter
    steps: tuple[Step, ...]
    window_ms: int
    group_by: Property | None = None

    def __post_init__(self) -> None:
        check_span(self.span.start_ms, self.span.end_ms)
        if not MIN_STEPS <= len(self.steps) <= MAX_STEPS:
            raise InvalidQuery(f"steps must be a list of {MIN_STEPS} to {MAX_STEPS} steps", "steps")
        if self.window_ms < 1:
            raise InvalidQuery("window must be longer than 0", "window")
        if self.group_by and self.group_by.name == TAG:
            raise InvalidQuery("group_by must be a property with one value, not tag", "group_by")

    @property
    def event_names(self) -> tuple[str, ...] | None:
        """The names of all steps, None if one accepts all."""
        return names_of(self.steps)


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """The users that reached a step, and the median time since the step before, in milliseconds."""

    users: int
    median_ms: float | None = None


@dataclass(frozen=True, slots=True)
class FunnelGroup:
    """The steps of the users of one group; the value is None if the event of the first step has none."""

    value: str | None
    steps: tuple[FunnelStep, ...]


@dataclass(frozen=True, slots=True)
class Funnel:
    """The answer; groups are ordered by users of the first step, then by value, with None last."""

    steps: tuple[FunnelStep, ...]
    groups: tuple[FunnelGroup, ...] = ()


def build_funnel(query: FunnelQuery, steps: Sequence[FunnelStep], groups: Iterable[FunnelGroup]) -> Funnel:
    """Return the answer from groups in any order. Raise QueryTooLarge for too many."""
    ordered = sorted(groups, key=lambda group: (-group.steps[0].users, group.value is None, group.value or ""))
    if len(ordered) > MAX_FUNNEL_GROUPS:
        raise QueryTooLarge(f"there are more than {MAX_FUNNEL_GROUPS} groups: choose another property", "group_by")
    return Funnel(tuple(steps), tuple(ordered) if query.group_by else ())


async def compute_funnel(store: Scannable, query: FunnelQuery) -> Funnel:
    """Return the reference answer, computed from scans. Raise QueryTooLarge for too many events."""
    events = await read_bounded(store, replace(query.span, event_names=query.event_names))
    return await asyncio.to_thread(count_funnel, events, query)


def count_funnel(events: Iterable[Event], query: FunnelQuery) -> Funnel:
    """Return the reference answer over events in memory, each once and in its latest version."""
    moments: defaultdict[str, dict[int, _Moment]] = defaultdict(dict)
    for event in events:
        if query.span.matches(event):
            reached = [step.matches(event) for step in query.steps]
            if any(reached):
                moment = moments[event.user_id].setdefault(event.timestamp_ms, _Moment([False] * len(reached)))
                moment.add(reached, query.group_by.values(event)[0] if query.group_by else None)
    everyone: list[list[int]] = []
    groups: defaultdict[str | None, list[list[int]]] = defaultdict(list)
    for own in moments.values():
        if chain := _best_chain(own, len(query.steps), query.window_ms):
            everyone.append(chain)
            groups[own[chain[0]].value].append(chain)
    count = len(query.steps)
    found = (FunnelGroup(value, _steps(chains, count)) for value, chains in groups.items())
    return build_funnel(query, _steps(everyone, count), found)


@dataclass(slots=True)
class _Moment:
    """The steps that a user's events of one millisecond are, and the least value of those of the first step."""

    reached: list[bool]
    value: str | None = field(default=None)

    def add(self, reached: list[bool], value: str | None) -> None:
        if reached[0] and value is not None:
            self.value = value if self.value is None else min(self.value, value)
        self.reached = [one or other for one, other in zip(self.reached, reached, strict=True)]


def _best_chain(moments: dict[int, _Moment], count: int, window_ms: int) -> list[int]:
    """Return the times of the steps from the entry that reaches the most of them; [] if there is no entry."""
    times = [sorted(time_ms for time_ms in moments if moments[time_ms].reached[step]) for step in range(count)]
    best: list[int] = []
    for entry_ms in times[0]:
        chain = [entry_ms]
        for own in times[1:]:
            place = bisect_right(own, chain[-1])
            if place == len(own) or own[place] > entry_ms + window_ms:
                break
            chain.append(own[place])
        if len(chain) > len(best):
            best = chain
    return best


def _steps(chains: list[list[int]], count: int) -> tuple[FunnelStep, ...]:
    steps = []
    for step in range(count):
        reached = [chain for chain in chains if len(chain) > step]
        median_ms = middle([chain[step] - chain[step - 1] for chain in reached]) if step else None
        steps.append(FunnelStep(len(reached), median_ms))
    return tuple(steps)
