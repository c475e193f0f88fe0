"""Parameters: the query string of a question, with filters such as `channel=web` or `metadata.price>=10`."""

import math
import re
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import cast

from eventmill.errors import InvalidQuery
from eventmill.fields import MAX_NAME_CHARACTERS
from eventmill.queries.buckets import parse_tz
from eventmill.queries.conditions import COMPARISONS, Condition, Operator
from eventmill.queries.filters import EventFilter
from eventmill.queries.properties import METADATA, TAG, TEXT_FIELDS, check_text, parse_property
from eventmill.queries.spans import DAY_SECONDS, Span, parse_span

PRESENCE = ("has", "lacks")
COMMON = ("event_name", "from", "to", "tz", *PRESENCE)
MAX_CONDITIONS = 20
MAX_VALUES = 100  # of one condition, and names of events
_COMPARISON = re.compile(r"((?:[^<>\\]|\\.)*)([<>])(.*)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_HELP = f"a filter is {', '.join(TEXT_FIELDS)}, {TAG} or {METADATA}PATH with =, != or, for numbers, <, <=, >, >="


class Parameters:
    """The parameters of a request, each with its values. Raises InvalidQuery for those that are none.

    Args:
        items: names and values in their order.
        names: the names of parameters; all others are filters.
        default_seconds: the length of the span without `from`.
    """

    def __init__(
        self, items: Iterable[tuple[str, str]], names: Collection[str], default_seconds: int = DAY_SECONDS
    ) -> None:
        self._names = tuple(names)
        self._default_seconds = default_seconds
        self._values: dict[str, list[str]] = {}
        self._filters: dict[tuple[str, Operator], list[str]] = {}
        for name, value in items:
            check_text(name, "where")
            check_text(value, name[:64])
            if name in self._names:
                self._values.setdefault(name, []).append(value)
            else:
                self._filters.setdefault(self._split(name, value), []).append(_value(name, value))

    def many(self, name: str) -> list[str]:
        """Return all values of a parameter."""
        return self._values.get(name, [])

    def one(self, name: str) -> str | None:
        """Return the value of a parameter, None if it is absent or empty."""
        values = self.many(name)
        if len(values) > 1:
            raise InvalidQuery(f"{name} may be given once", name)
        return values[0] or None if values else None

    def flag(self, name: str) -> bool:
        """Return whether a parameter is `true`."""
        value = self.one(name) or "false"
        if value not in ("true", "false"):
            raise InvalidQuery(f"{name} must be true or false, not {value[:64]!r}", name)
        return value == "true"

    def number(self, name: str, default: int, most: int) -> int:
        """Return a parameter from 1 to `most`."""
        text = self.one(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
            raise InvalidQuery(f"{name} must be a number from 1 to {most}, not {text[:64]!r}", name)
        return int(text)

    @cached_property
    def tz(self) -> str:
        return parse_tz(self.one("tz") or "UTC")

    @cached_property
    def span(self) -> Span:
        return parse_span(self.one("from"), self.one("to"), self.tz, self._default_seconds)

    def event_names(self) -> tuple[str, ...] | None:
        """Return the names, None for all events."""
        names = tuple(dict.fromkeys(self.many("event_name"))) or None
        if names and len(names) > MAX_VALUES:
            raise InvalidQuery(f"event_name may be given {MAX_VALUES} times", "event_name")
        for name in names or ():
            check_event_name(name)
        return names

    def filter(self, project: str) -> EventFilter:
        """Return the filter: names, span and conditions."""
        return EventFilter(project, self.span.start_ms, self.span.end_ms, self.event_names(), where=self.where())

    def where(self) -> tuple[Condition, ...]:
        """Return the conditions."""
        conditions = [condition(name, operator, values) for (name, operator), values in self._filters.items()]
        for operator in ("has", "lacks"):
            conditions += [condition(name, operator, []) for name in self.many(operator)]
        if len(conditions) > MAX_CONDITIONS:
            raise InvalidQuery(f"there are more than {MAX_CONDITIONS} filters")
        return tuple(conditions)

    def _split(self, name: str, value: str) -> tuple[str, Operator]:
        """Return property and operator of a filter. A query string is cut at its first `=`, wherever that is."""
        if comparison := _COMPARISON.fullmatch(name):
            subject, sign, rest = comparison.groups()
            return self._known(subject, name), cast(Operator, f"{sign}=" if rest in ("", "=") and value else sign)
        if name.endswith("!") and not name.endswith("\\!"):
            return self._known(name[:-1], name), "!="
        return self._known(name, name), "="

    def _known(self, subject: str, name: str) -> str:
        if subject in (*TEXT_FIELDS, TAG) or subject.startswith(METADATA):
            return subject
        raise InvalidQuery(
            f"unknown parameter {name[:64]!r}: the parameters are {', '.join(self._names)}; {_HELP}", name[:64]
        )


def parse_filters(filters: Iterable[str]) -> tuple[Condition, ...]:
    """Return the conditions of texts such as `channel=web` or `has=metadata.price`. Raise InvalidQuery."""
    return Parameters(map(split_filter, filters), PRESENCE).where()


def split_filter(text: str) -> tuple[str, str]:
    """Return name and value of a filter, as a query string is cut: at the first `=`. Raise InvalidQuery."""
    name, equal, value = text.partition("=")
    if not equal and not _COMPARISON.fullmatch(name):
        raise InvalidQuery(
            f"the filter {text[:64]!r} has no operator: write {text[:64]}=VALUE, or has={text[:64]}", "where"
        )
    return name, value


def condition(name: str, operator: Operator, values: Collection[str]) -> Condition:
    """Return a condition on the property of this name. Raise InvalidQuery."""
    found = parse_property(name, name[:64])
    if operator in ("has", "lacks"):
        return Condition(found, operator)
    if len(values) > MAX_VALUES:
        raise InvalidQuery(f"{name[:64]} may have {MAX_VALUES} values", name[:64])
    if operator not in COMPARISONS:
        return Condition(found, operator, tuple(values))
    if not found.keys:
        raise InvalidQuery(f"{name[:64]} is a text: {operator} compares numbers in the metadata", name[:64])
    if len(values) > 1:
        raise InvalidQuery(f"{name[:64]}{operator} may be given once", name[:64])
    return Condition(found, operator, number=_number(next(iter(values)), name))


def check_event_name(name: str) -> None:
    """Raise InvalidQuery if no event can have this name."""
    check_text(name, "event_name")
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise InvalidQuery(f"event_name must be a string of 1 to {MAX_NAME_CHARACTERS} characters", "event_name")


def _value(name: str, value: str) -> str:
    """Return the value of a filter, which stands in the name after `<` or `>` without `=`."""
    comparison = _COMPARISON.fullmatch(name)
    return comparison[3].removeprefix("=") or value if comparison else value


def _number(text: str, name: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise InvalidQuery(f"{name[:64]} is compared with {text[:64]!r}, which is no number", name[:64])
    return number
