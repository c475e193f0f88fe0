"""Metrics: counts of events, unique users and figures of their metadata, in total and per group."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eventmill.errors import InvalidQuery, QueryTooLarge
from eventmill.queries.buckets import UNITS, Bucket
from eventmill.queries.filters import EventFilter
from eventmill.queries.parameters import Parameters
from eventmill.queries.properties import METADATA, Property, parse_property

MAX_GROUPS = 10_000
MAX_LIMIT = 1_000
MAX_DIMENSIONS = 2
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
NUMERIC = ("sum", "avg", "min", "max", *QUANTILES)

Dimension = Property | Bucket
Precision = Literal["exact", "approximate"]


@dataclass(frozen=True, slots=True)
class Measure:
    """What is computed of the events: `count`, `users`, or a figure of a property (`NUMERIC`).

    A figure is that of the values that are JSON numbers, as 64-bit floats. A quantile is the value at position ⌊q·n⌋ of
    the n sorted values, counted from 0. Sums are exact to 1e-9 of the sum of the absolute values.
    """

    function: str
    property: Property | None = None

    def __str__(self) -> str:
        return f"{self.function}:{self.property.name}" if self.property else self.function


@dataclass(frozen=True, slots=True)
class MetricsQuery:
    """A query for figures of events, in total and per group.

    Attributes:
        filter: the events.
        group_by: up to two dimensions: properties, and at most one bucket of time. An event counts in every group that
            it has a value of: with several tags in several.
        measure: what is computed; None for the number of events and of unique users.
        limit: the greatest number of groups, else there are up to MAX_GROUPS. With a bucket of time it is the number of
            values of the other dimension. All other groups are summed up in `Metrics.other`.
        precision: `approximate` allows unique users that are a few percent wrong.
    """

    filter: EventFilter
    group_by: tuple[Dimension, ...] = ()
    measure: Measure | None = None
    limit: int | None = None
    precision: Precision = "exact"

    def __post_init__(self) -> None:
        if self.filter.start_ms >= self.filter.end_ms:
            raise InvalidQuery("from must not be later than to", "from")
        if len(self.group_by) > MAX_DIMENSIONS or len(self.group_by) != len({by.name for by in self.group_by}):
            raise InvalidQuery(f"group_by may be given {MAX_DIMENSIONS} times, with different values", "group_by")
        if sum(isinstance(dimension, Bucket) for dimension in self.group_by) > 1:
            raise InvalidQuery("group_by may have one unit of time", "group_by")
        if self.limit is not None and not any(isinstance(dimension, Property) for dimension in self.group_by):
            raise InvalidQuery("limit needs group_by with a property", "limit")
        if (bucket := self.bucket) and bucket.most_between(self.filter.start_ms, self.filter.end_ms) > MAX_GROUPS:
            raise QueryTooLarge(
                f"between from and to there are more than {MAX_GROUPS} groups of one {bucket.name}:"
                " ask for a shorter time or for larger groups",
                "group_by",
            )

    @property
    def bucket(self) -> Bucket | None:
        """The dimension of time, if there is one."""
        return next((dimension for dimension in self.group_by if isinstance(dimension, Bucket)), None)

    @property
    def counts_users(self) -> bool:
        return self.measure is None or self.measure.function == "users"

    @property
    def number(self) -> Property | None:
        """The property that is measured."""
        return self.measure.property if self.measure else None


Keys = tuple[str | int | None, ...]  # per dimension: a text, None for a missing value, or the key of a bucket


@dataclass(frozen=True, slots=True)
class Row:
    """One group as a store computes it, before it is ordered and labelled."""

    keys: Keys
    total_count: int
    unique_count: int | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """One group. `values` has a text for each dimension: None if events have no value, for a bucket its label.

    `unique_count` is None unless users are counted, and `value` is None unless a property is measured and has numbers.
    """

    values: tuple[str | None, ...]
    total_count: int
    unique_count: int | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """The answer. `groups` holds only groups that have events.

    Groups are ordered by time if they have one, then by descending count, then by value, with missing values last.
    `other` sums up the groups beyond the limit: one group without values, or one per bucket of time. There an event
    counts once in each group that it would have had, and a user counts once.
    """

    total_count: int
    unique_count: int | None
    value: float | None = None
    groups: tuple[Group, ...] = ()
    other: tuple[Group, ...] = ()


def build_metrics(query: MetricsQuery, total: Row, groups: Sequence[Row], other: Sequence[Row] = ()) -> Metrics:
    """Return the answer from rows in any order: the total, the groups, and what is beyond the limit.

    The keys of `other` are those of the bucket of time, or (). Raise QueryTooLarge for more than MAX_GROUPS groups.
    """
    check_groups(len(groups))
    buckets = [query.bucket] if query.bucket else []
    return Metrics(
        total.total_count,
        total.unique_count,
        _finite(total.value),
        tuple(_group(query.group_by, row) for row in _ordered(query.group_by, groups)),
        tuple(_group(buckets, row) for row in _ordered(buckets, other)),
    )


def previous(query: MetricsQuery) -> MetricsQuery:
    """Return the query for the span of the same length before."""
    start_ms, end_ms = query.filter.start_ms, query.filter.end_ms
    if start_ms < end_ms - start_ms:
        raise InvalidQuery("compare: there is no such span after 1970", "compare")
    return replace(query, filter=replace(query.filter, start_ms=2 * start_ms - end_ms, end_ms=start_ms))


def check_groups(count: int) -> None:
    """Raise QueryTooLarge for more than MAX_GROUPS groups."""
    if count > MAX_GROUPS:
        raise QueryTooLarge(
            f"there are more than {MAX_GROUPS} groups: ask for a shorter time, or set limit for the largest groups",
            "group_by",
        )


def fill(query: MetricsQuery, answer: Metrics) -> Metrics:
    """Return the answer with a group for every bucket of time, also for those without events."""
    if (bucket := query.bucket) is None:
        raise InvalidQuery(f"fill needs group_by with one of {', '.join(UNITS)}", "fill")
    labels = [bucket.label(key) for key in bucket.between(query.filter.start_ms, query.filter.end_ms)]
    place = query.group_by.index(bucket)
    groups = _fill(answer.groups, labels, place, zero_group(query)) if answer.groups or len(query.group_by) == 1 else ()
    if len(groups) > MAX_GROUPS:
        raise QueryTooLarge(f"fill makes more than {MAX_GROUPS} groups: ask for a shorter time, or set limit", "fill")
    other = _fill(answer.other, labels, 0, zero_group(query)) if answer.other else ()
    return replace(answer, groups=tuple(groups), other=tuple(other))


def zero_group(query: MetricsQuery) -> Group:
    """Return a group without events and values."""
    return Group((), 0, 0 if query.counts_users else None)


def _fill(groups: Sequence[Group], labels: Sequence[str], place: int, zero: Group) -> list[Group]:
    """Return a group for every label at `place`, with each combination of the other values."""
    present = {group.values: group for group in groups}
    rest = dict.fromkeys(group.values[:place] + group.values[place + 1 :] for group in groups) or {(): None}
    filled = []
    for label in labels:
        row = [(*values[:place], label, *values[place:]) for values in rest]
        filled += sorted(
            (present.get(values) or replace(zero, values=values) for values in row),
            key=lambda group: (-group.total_count, _rank(group.values)),
        )
    return filled


def _ordered(dimensions: Sequence[Dimension], rows: Iterable[Row]) -> list[Row]:
    times = [place for place, dimension in enumerate(dimensions) if isinstance(dimension, Bucket)]
    return sorted(rows, key=lambda row: ([row.keys[place] for place in times], -row.total_count, _rank(row.keys)))


def _rank(keys: Sequence[str | int | None]) -> list[tuple[bool, str | int]]:
    return [(key is None, "" if key is None else key) for key in keys]


def _group(dimensions: Sequence[Dimension], row: Row) -> Group:
    values = tuple(
        dimension.label(key) if isinstance(dimension, Bucket) and isinstance(key, int) else key
        for dimension, key in zip(dimensions, row.keys, strict=True)
    )
    return Group(values, row.total_count, row.unique_count, _finite(row.value))  # type: ignore[arg-type]  # no keys left


def _finite(value: float | None) -> float | None:
    """Return the value, None if it is beyond the range of 64-bit floats."""
    return value if value is not None and math.isfinite(value) else None


def parse_dimension(name: str, tz: str) -> Dimension:
    """Return the dimension of this name. Raise InvalidQuery."""
    return Bucket(name, tz) if name in UNITS else parse_property(name, "group_by")


def parse_measure(text: str | None) -> Measure | None:
    """Return the measure, such as `users` or `avg:metadata.price`. Raise InvalidQuery."""
    if text is None or text in ("count", "users"):
        return Measure(text) if text else None
    function, colon, name = text.partition(":")
    if function not in NUMERIC or not colon:
        raise InvalidQuery(
            f"measure must be count, users, or one of {', '.join(NUMERIC)} with a property, such as sum:metadata.price,"
            f" not {text[:64]!r}",
            "measure",
        )
    measured = parse_property(name, "measure")
    if not measured.keys:
        raise InvalidQuery(f"measure: {name[:64]} is a text, and {function} needs numbers: {METADATA}PATH", "measure")
    return Measure(function, measured)


def parse_metrics_query(project: str, parameters: Parameters) -> MetricsQuery:
    """Return the query that the parameters describe. Raise InvalidQuery or QueryTooLarge, which name the parameter."""
    precision = parameters.one("precision") or "exact"
    if precision not in ("exact", "approximate"):
        raise InvalidQuery(f"precision must be exact or approximate, not {precision[:64]!r}", "precision")
    return MetricsQuery(
        parameters.filter(project),
        tuple(parse_dimension(name, parameters.tz) for name in parameters.many("group_by")),
        parse_measure(parameters.one("measure")),
        parameters.number("limit", 0, MAX_LIMIT) or None,
        "approximate" if precision == "approximate" else "exact",
    )
