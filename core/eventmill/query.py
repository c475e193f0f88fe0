"""What may be asked of a store, and the shape of the answers; nothing about how."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from eventmill.errors import InvalidQuery, QueryTooLarge
from eventmill.event import MAX_TIME_MS, Event
from eventmill.times import parse_time

GroupBy = Literal["channel", "hour", "day"]
GROUPS: tuple[str, ...] = get_args(GroupBy)
BUCKET_MS = {"hour": 3_600_000, "day": 86_400_000}

MAX_GROUPS = 10_000
MAX_SCANNED_EVENTS = 1_000_000
MAX_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events: one project, some names (None: all), start_ms ≤ timestamp_ms < end_ms."""

    project: str
    start_ms: int
    end_ms: int
    event_names: Collection[str] | None = None

    def matches(self, event: Event) -> bool:
        return (
            event.project == self.project
            and self.start_ms <= event.timestamp_ms < self.end_ms
            and (self.event_names is None or event.event_name in self.event_names)
        )


@dataclass(frozen=True, slots=True)
class MetricsQuery:
    """How many events and how many different users, in all and per group.

    Attributes:
        project, event_name: whose events, and which.
        start_ms, end_ms: start_ms ≤ timestamp_ms < end_ms, unix milliseconds.
        group_by: None, or what the groups are: channels, hours or days in UTC.
    """

    project: str
    event_name: str
    start_ms: int
    end_ms: int
    group_by: GroupBy | None = None

    def __post_init__(self) -> None:
        if self.start_ms >= self.end_ms:
            raise InvalidQuery("from must not be later than to", "from")
        bucket_ms = BUCKET_MS.get(self.group_by or "")
        if bucket_ms and (self.end_ms - 1) // bucket_ms - self.start_ms // bucket_ms >= MAX_GROUPS:
            raise QueryTooLarge(
                f"from {self.group_by} to {self.group_by} there are more than {MAX_GROUPS} groups between from and to:"
                " ask for a shorter time or for larger groups",
                "group_by",
            )

    @property
    def filter(self) -> EventFilter:
        return EventFilter(self.project, self.start_ms, self.end_ms, (self.event_name,))


@dataclass(frozen=True, slots=True)
class Group:
    """One group: a channel, an hour such as `2025-12-26 03:00:00`, or a day such as `2025-12-26`."""

    value: str
    total_count: int
    unique_count: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """Exact counts of events and of different users. `groups` is empty without `group_by`; channels stand by
    count (the largest first), then by name; hours and days by time. Only groups that hold events are there."""

    total_count: int
    unique_count: int
    groups: tuple[Group, ...] = ()


def parse_metrics_query(
    project: str, event_name: str, start: str, end: str, group_by: str | None = None
) -> MetricsQuery:
    """Build the question from text. Both bounds are inclusive; one in whole seconds covers that second.

    Raises InvalidQuery or QueryTooLarge in words that name the parameter.
    """
    if not 1 <= len(event_name) <= 256:
        raise InvalidQuery("event_name must be a string of 1 to 256 characters", "event_name")
    if group_by is not None and group_by not in GROUPS:
        raise InvalidQuery(f"group_by must be one of {', '.join(GROUPS)}, not {group_by[:64]!r}", "group_by")
    start_us, end_us = _bound(start, "from"), _bound(end, "to")
    if start_us > end_us:
        raise InvalidQuery("from must not be later than to", "from")
    return MetricsQuery(
        project,
        event_name,
        start_ms=-(-start_us // 1000),
        end_ms=end_us // 1000 + (1000 if end_us % 1_000_000 == 0 else 1),
        group_by=group_by,  # type: ignore[arg-type]  # one of GROUPS, as just checked
    )


def _bound(text: str, name: str) -> int:
    try:
        time_us = parse_time(text)
    except ValueError as error:
        raise InvalidQuery(f"{name} {error}", name) from None
    if not 0 <= time_us <= MAX_TIME_MS * 1000:
        raise InvalidQuery(f"{name} must lie between 1970 and 2100", name)
    return time_us
