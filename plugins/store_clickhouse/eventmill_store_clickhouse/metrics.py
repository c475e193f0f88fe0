"""The SQL of metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eventmill import MAX_GROUPS, QUANTILES, Bucket, Metrics, MetricsQuery, Row, build_metrics
from eventmill_store_clickhouse import properties
from eventmill_store_clickhouse.properties import Table, Values
from eventmill_store_clickhouse.queries import USER, live

_USERS = {"exact": "uniqExact", "approximate": "uniqCombined64"}
_FIGURES = {"sum": "sumKahan", "avg": "avg", "min": "min", "max": "max"}
MISSING = "unhex('FF')"  # no text is this byte
_MOST_GROUPS = 2 * MAX_GROUPS + 1  # within the limit, beyond it by time, and one more than is allowed


def select(query: MetricsQuery, table: Table) -> tuple[str, dict[str, Any]]:
    """Select one row: total_count, unique_count, value, and an array of (is_other, *keys, and the same of a group).

    The total merges the aggregates of the groups, which is faster than to aggregate all events once more.
    """
    values = Values(table)
    events = _events(query, values)
    aggregates = _aggregates(query)
    if not query.group_by:
        figures = [aggregate.over() if aggregate else "NULL" for aggregate in aggregates]
        return f"SELECT count(), {', '.join(figures)}, [] FROM ({events})", values.bound
    keys, is_other = [f"key_{place}" for place in range(len(query.group_by))], "0"
    grouped = keys
    if query.limit is not None:
        events, is_other, grouped = _limited(query, events), "is_other", ["is_other", *keys]
    states = [f"{each.state()} AS {each.name}" for each in aggregates if each]
    group, totals = ["events"], ["sum(events)"]
    if any(by.name == "tag" for by in query.group_by):  # an event is several rows: the total counts the first of them
        states += [
            "countIf(is_first) AS firsts",
            *(f"{each.first()} AS first_{each.name}" for each in aggregates if each),
        ]
        totals = ["sum(firsts)", *(each.merge(f"first_{each.name}") if each else "NULL" for each in aggregates)]
    else:
        totals += [each.merge(each.name) if each else "NULL" for each in aggregates]
    group += [f"finalizeAggregation({each.name})" if each else "NULL" for each in aggregates]
    sql = f"""
SELECT {", ".join(totals)}, groupArray(({", ".join([is_other, *keys, *group])}))
FROM (
    SELECT {", ".join([*grouped, "count() AS events", *states])}
    FROM ({events}) GROUP BY {", ".join(grouped)} LIMIT {_MOST_GROUPS}
)
"""
    return sql, values.bound


def limits(query: MetricsQuery) -> dict[str, Any]:
    """Return further settings: without a limit, too many groups end the statement early."""
    return {"max_rows_to_group_by": MAX_GROUPS} if query.group_by and query.limit is None else {}


def read(query: MetricsQuery, rows: Sequence[Sequence[Any]]) -> Metrics:
    """Return the answer from the row of `select`."""
    [(total_count, unique_count, value, found)] = rows
    count = len(query.group_by)
    times = [place for place, by in enumerate(query.group_by) if isinstance(by, Bucket)]
    groups, other = [], []
    for is_other, *columns in found:
        keys, figures = columns[:count], columns[count:]
        if is_other:
            other.append(Row(tuple(keys[place] for place in times), *figures))
        else:
            groups.append(Row(tuple(keys), *figures))
    return build_metrics(query, Row((), total_count, unique_count, value), groups, other)


@dataclass(frozen=True, slots=True)
class _Aggregate:
    """An aggregate function over a column of `_events`."""

    name: str
    function: str
    column: str
    parameter: str = ""

    def over(self) -> str:
        return f"{self.function}{self.parameter}({self.column})"

    def state(self) -> str:
        return f"{self.function}State{self.parameter}({self.column})"

    def first(self) -> str:
        return f"{self.function}StateIf{self.parameter}({self.column}, is_first)"

    def merge(self, states: str) -> str:
        return f"{self.function}Merge{self.parameter}({states})"


def _aggregates(query: MetricsQuery) -> tuple[_Aggregate | None, _Aggregate | None]:
    """Return the aggregates of unique_count and value, None for what was not asked."""
    users = _Aggregate("users", _USERS[query.precision], "user") if query.counts_users else None
    if query.measure is None or query.measure.property is None:
        return users, None
    function = query.measure.function
    if function in _FIGURES:
        return users, _Aggregate("figure", _FIGURES[function], "number")
    return users, _Aggregate("figure", "quantileExact", "number", f"({QUANTILES[function]})")


def _events(query: MetricsQuery, values: Values) -> str:
    """Select the matching events with what is counted: one row per event, or one per tag if these are a dimension."""
    columns = ["1 AS one"]
    if query.counts_users:
        columns.append(f"{USER} AS user")
    if query.number:
        columns.append(f"{properties.number(query.number, values)} AS number")
    for place, by in enumerate(query.group_by):
        expression = properties.dimension(by, values)
        if by.name == "tag":
            columns += [f"arrayJoin({expression}) AS tag", f"tag.1 AS key_{place}", "tag.2 = 1 AS is_first"]
        else:
            columns.append(f"{expression} AS key_{place}")
    return f"SELECT {', '.join(columns)} {live(query.filter, values)}"


def _limited(query: MetricsQuery, events: str) -> str:
    """Select the same rows, with is_other instead of the keys of groups beyond the limit."""
    places = [place for place, by in enumerate(query.group_by) if not isinstance(by, Bucket)]
    keys = ", ".join(f"ifNull(toString(key_{place}), {MISSING})" for place in places)
    largest = f"""
SELECT {keys} FROM ({events}) GROUP BY {keys} ORDER BY count() DESC, {keys} LIMIT {query.limit:d}
"""
    hidden = ", ".join(f"if(is_other, NULL, toString(key_{place})) AS key_{place}" for place in places)
    marked = f"SELECT *, ({keys}) NOT IN ({largest}) AS is_other FROM ({events})"
    return f"SELECT * REPLACE ({hidden}) FROM ({marked})"
