"""The SQL of retention."""

from collections.abc import Sequence
from typing import Any

from eventmill import Retention, RetentionQuery, build_retention
from eventmill_store_clickhouse import properties
from eventmill_store_clickhouse.funnels import is_step
from eventmill_store_clickhouse.properties import Table, Values
from eventmill_store_clickhouse.queries import USER, live

_SIZE = -1  # the unit of the row with the size of a cohort


def select(query: RetentionQuery, table: Table) -> tuple[str, dict[str, Any]]:
    """Select rows of (cohort, unit, users): the users of a cohort that came back in a unit, and its size."""
    values = Values(table)
    events = f"""
SELECT {USER} AS user, toUnixTimestamp64Milli(timestamp) AS time, {properties.dimension(query.bucket, values)} AS unit,
    {is_step(query.start, values)} AS is_start, {is_step(query.return_, values)} AS is_return
{live(query.span, values, event_names=query.event_names)}
"""
    units = f"""
SELECT user, unit, countIf(is_start) > 0 AS has_start, minIf(time, is_start) AS first,
    countIf(is_return) > 0 AS has_return, maxIf(time, is_return) AS last
FROM ({events}) GROUP BY user, unit
"""
    users = f"""
SELECT minIf(first, has_start) AS started, argMinIf(unit, first, has_start) AS cohort,
    groupArrayIf((unit, last), has_return) AS returns
FROM ({units}) GROUP BY user HAVING countIf(has_start) > 0
"""
    returned = "arrayFilter(r -> r.1 > cohort OR (r.1 = cohort AND r.2 > started), returns)"
    sql = f"""
SELECT cohort, arrayJoin(arrayPushFront(arrayMap(r -> r.1, {returned}), {_SIZE})) AS unit, count()
FROM ({users}) GROUP BY cohort, unit
"""
    return sql, values.bound


def read(query: RetentionQuery, rows: Sequence[Sequence[Any]]) -> Retention:
    """Return the answer from the rows of `select`."""
    sizes = {cohort: users for cohort, unit, users in rows if unit == _SIZE}
    returned = {(cohort, unit): users for cohort, unit, users in rows if unit != _SIZE}
    return build_retention(query, sizes, returned)
