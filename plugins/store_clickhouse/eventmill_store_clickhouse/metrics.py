"""The SQL of metrics."""

from collections.abc import Sequence
from typing import Any

from eventmill import MAX_GROUPS, Bucket, Metrics, MetricsQuery, Row, build_metrics
from eventmill_store_clickhouse import properties
from eventmill_store_clickhouse.properties import Values
from eventmill_store_clickhouse.queries import USER, live

_USERS = {"exact": "uniqExact", "approximate": "uniqCombined64"}
_FIGURES = {"sum": "sumKahan", "avg": "avg", "min": "min", "max": "max"}
MISSING = "unhex('FF')"  # no text is this byte
_MOST_ROWS = 2 * MAX_GROUPS + 2  # groups, others by time, and the total


def select(query: MetricsQuery, *, has_erasures: bool) -> tuple[str, dict[str, Any]]:
    """Select rows of (is_total, is_other, total_count, unique_count, value, *keys)."""
    values = Values()
    events = _events(query, values, has_erasures)
    names = [f"key_{place}" for place in range(len(query.group_by))]
    if not names:
        return f"SELECT 1, 0, {_columns(query, '')} FROM ({events})", values.bound
    is_other = "0"
    if query.limit is not None:
        events, names, is_other = _limited(query, events), ["is_other", *names], "is_other"
    is_total = f"grouping({names[0]}) = 1"
    keys = ", ".join(names)
    sql = f"""
SELECT {is_total} AS is_total, {is_other}, {_columns(query, is_total)}, {", ".join(names[-len(query.group_by) :])}
FROM ({events})
GROUP BY GROUPING SETS ((), ({keys}))
ORDER BY is_total DESC
LIMIT {_MOST_ROWS}
"""
    return sql, values.bound


def limits(query: MetricsQuery) -> dict[str, Any]:
    """Return further settings: without a limit, too many groups end the statement early."""
    return {"max_rows_to_group_by": MAX_GROUPS + 1} if query.group_by and query.limit is None else {}


def read(query: MetricsQuery, rows: Sequence[Sequence[Any]]) -> Metrics:
    """Return the answer from the rows of `select`."""
    total, groups, other = Row((), 0, 0 if query.counts_users else None), [], []
    times = [place for place, by in enumerate(query.group_by) if isinstance(by, Bucket)]
    for is_total, is_other, total_count, unique_count, value, *keys in rows:
        if is_total:
            total = Row((), total_count, unique_count, value)
        elif is_other:
            other.append(Row(tuple(keys[place] for place in times), total_count, unique_count, value))
        else:
            groups.append(Row(tuple(keys), total_count, unique_count, value))
    return build_metrics(query, total, groups, other)


def _events(query: MetricsQuery, values: Values, has_erasures: bool) -> str:
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
    return f"SELECT {', '.join(columns)} {live(query.filter, values, has_erasures=has_erasures)}"


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


def _columns(query: MetricsQuery, is_total: str) -> str:
    """Return the columns total_count, unique_count and value. With tags, the total counts the first of each event."""
    expanded = any(by.name == "tag" for by in query.group_by)
    users = f"{_USERS[query.precision]}{{0}}(user{{1}})" if query.counts_users else "NULL"
    columns = ["count{0}({2})", users, _figure(query)]
    each = [column.format("", "", "") for column in columns]
    if not expanded:
        return ", ".join(each)
    first = [column.format("If", ", is_first", "is_first") for column in columns]
    return ", ".join(f"if({is_total}, {one}, {other})" for one, other in zip(first, each, strict=True))


def _figure(query: MetricsQuery) -> str:
    if query.measure is None or query.measure.property is None:
        return "NULL"
    if name := _FIGURES.get(query.measure.function):
        return f"{name}{{0}}(number{{1}})"
    return f"quantileExact{{0}}(0.{query.measure.function[1:]})(number{{1}})"
