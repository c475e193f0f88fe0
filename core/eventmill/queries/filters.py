"""EventFilter: which events a query is about."""

from collections.abc import Collection
from dataclasses import dataclass

from eventmill.event import Event
from eventmill.queries.conditions import Condition


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Events of one project with start_ms ≤ timestamp_ms < end_ms.

    Attributes:
        event_names: they must have one of these names; None allows all.
        event_id: they must have this id; None allows all.
        user_id: their latest version must be of this user; None allows all.
        where: their latest version must meet all of these conditions.
    """

    project: str
    start_ms: int
    end_ms: int
    event_names: Collection[str] | None = None
    event_id: str | None = None
    user_id: str | None = None
    where: tuple[Condition, ...] = ()

    def matches(self, event: Event) -> bool:
        """Return whether the filter matches this version of an event."""
        return (
            event.project == self.project
            and self.start_ms <= event.timestamp_ms < self.end_ms
            and (self.event_names is None or event.event_name in self.event_names)
            and self.event_id in (None, event.event_id)
            and self.user_id in (None, event.user_id)
            and all(condition.matches(event) for condition in self.where)
        )
