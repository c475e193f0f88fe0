"""Steps: which events a step of a funnel is, or a start or a return of retention."""

from collections.abc import Sequence
from dataclasses import dataclass

from eventmill.errors import InvalidQuery
from eventmill.event import Event
from eventmill.queries.conditions import Condition


@dataclass(frozen=True, slots=True)
class Step:
    """Events with one of these names (None: any) that meet all conditions."""

    event_names: tuple[str, ...] | None = None
    where: tuple[Condition, ...] = ()

    def matches(self, event: Event) -> bool:
        """Return whether an event is this step."""
        return (self.event_names is None or event.event_name in self.event_names) and all(
            condition.matches(event) for condition in self.where
        )


def names_of(steps: Sequence[Step]) -> tuple[str, ...] | None:
    """Return the names of the events that the steps are about, or None if one is about all."""
    names: list[str] = []
    for step in steps:
        if step.event_names is None:
            return None
        names += step.event_names
    return tuple(dict.fromkeys(names))


def middle(numbers: Sequence[float]) -> float | None:
    """Return the value at position ⌊n/2⌋ of the sorted numbers, None if there are none."""
    return sorted(numbers)[len(numbers) // 2] if numbers else None


def check_span(start_ms: int, end_ms: int) -> None:
    """Raise InvalidQuery for a span that holds no time."""
    if start_ms >= end_ms:
        raise InvalidQuery("from must not be later than to", "from")
