"""Conditions: filters on the properties of events."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eventmill.event import Event
from eventmill.queries.properties import Property

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "has", "lacks"]
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a property.

    `=` matches events that have one of the values, and `!=` all others, also those without the property. `<`, `<=`, `>`
    and `>=` match events whose value is a JSON number in that order to `number`. `has` matches events with the
    property, and `lacks` those without.
    """

    property: Property
    operator: Operator
    values: tuple[str, ...] = ()
    number: float = 0.0

    def matches(self, event: Event) -> bool:
        """Return whether the event meets the condition."""
        if compare := COMPARISONS.get(self.operator):
            number = self.property.number(event)
            return number is not None and compare(number, self.number)
        present = self.property.values(event)
        if self.operator in ("has", "lacks"):
            return (present == (None,)) == (self.operator == "lacks")
        return any(value in self.values for value in present) == (self.operator == "=")
