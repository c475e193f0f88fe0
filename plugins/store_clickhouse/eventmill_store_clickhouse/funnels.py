"""The SQL of funnels.

Each user's events become one array of numbers, sorted backwards in time, and of one millisecond forwards by step. In
this order, the latest element of a step is the earliest event of that step that is strictly later than the current
element. `arrayFill` carries it along, so that the work grows linearly with the events of a user.
"""

from collections.abc import Sequence
from typing import Any

from eventmill import Funnel, FunnelGroup, FunnelQuery, FunnelStep, Step, build_funnel
from eventmill_store_clickhouse import properties
from eventmill_store_clickhouse.metrics import MISSING
from eventmill_store_clickhouse.properties import Table, Values
from eventmill_store_clickhouse.queries import USER, live

_TIME = "toUnixTimestamp64Milli(timestamp)"
_MAX_ROWS = 1_002  # the total, and more groups than are allowed


def select(query: FunnelQuery, table: Table) -> tuple[str, dict[str, Any]]:
    """Select rows of (is_total, group, users of each step …, median of each step but the first …)."""
    values = Values(table)
    count = len(query.steps)
    users = [f"countIf(chain.1 >= {step})" for step in range(1, count + 1)]
    medians = [
        f"quantileExactIf(0.5)(chain.{step + 2} - {f'chain.{step + 1}' if step > 1 else 'entry'}, chain.1 > {step})"
        for step in range(1, count)
    ]
    figures = ", ".join(users + medians)
    chains = _chains(query, values)
    if query.group_by is None:
        return f"SELECT 1, NULL, {figures} FROM ({chains})", values.bound
    sql = f"""
SELECT grouping(value) AS is_total, nullIf(value, {MISSING}), {figures}
FROM ({chains}) GROUP BY GROUPING SETS ((), (value)) ORDER BY is_total DESC LIMIT {_MAX_ROWS}
"""
    return sql, values.bound


def read(query: FunnelQuery, rows: Sequence[Sequence[Any]]) -> Funnel:
    """Return the answer from the rows of `select`."""
    total, groups = tuple(FunnelStep(0) for _ in query.steps), []
    for is_total, value, *figures in rows:
        steps = _steps(figures, len(query.steps))
        if is_total:
            total = steps
        else:
            groups.append(FunnelGroup(value, steps))
    return build_funnel(query, total, groups)


def _steps(figures: Sequence[Any], count: int) -> tuple[FunnelStep, ...]:
    medians = [None, *figures[count:]]
    return tuple(
        FunnelStep(users, median if users else None) for users, median in zip(figures[:count], medians, strict=True)
    )


def is_step(step: Step, values: Values) -> str:
    """Return the expression of whether an event is a step."""
    conditions = [properties.condition(condition, values) for condition in step.where]
    if step.event_names is not None:
        conditions.append(f"event_name IN {values.bind('Array(String)', list(step.event_names))}")
    return " AND ".join(f"({condition})" for condition in conditions) or "1"


def _chains(query: FunnelQuery, values: Values) -> str:
    """Select for each user with an entry: chain = (steps, -time of the entry, time of each further step), and value."""
    last = len(query.steps) - 1
    columns = [
        "if(is_used, arrayMap(e -> bitShiftRight(e, 4), elements), [first]) AS times",
        "if(is_used, arrayMap(e -> 15 - bitAnd(e, 15), elements), [0]) AS steps",
    ]
    for step in range(last, 0, -1):
        columns += [f"{_carry(step, further)} AS next_{step}_{further}" for further in range(last - step + 1)]
    columns += [f"{_best(query, values)} AS chain", "-chain.2 AS entry"]
    if query.group_by is not None:
        columns.append("arrayMin(arrayMap(x -> x.2, arrayFilter(x -> x.1 = entry, entries))) AS value")
    return f"SELECT {', '.join(columns)} FROM ({_users(query, values)})"


def _carry(step: int, further: int) -> str:
    """Return the expression, for each element, of when the nearest later event of a step happened.

    With `further` it is when that event's chain reached so many more steps. 0 is never.
    """
    source = "times" if not further else f"next_{step + 1}_{further - 1}"
    return f"arrayFill(x -> x != -1, arrayMap((s, t) -> if(s = {step}, greatest(t, 0), -1), steps, {source}))"


def _best(query: FunnelQuery, values: Values) -> str:
    """Return the expression of the chain that reaches the most steps, of several the first."""
    window = values.bind("Int64", query.window_ms)
    later = [f"next_1_{further}" for further in range(len(query.steps) - 1)]
    arguments = ", ".join(["s", "t", *later])
    within = [f"({name} > 0 AND {name} <= t + {window})" for name in later]
    chain = ", ".join([f"1 + {' + '.join(within)}", "-t", *later])
    chains = (
        f"arrayFilter((c, s) -> s = 0, arrayMap(({arguments}) -> ({chain}), steps, times, {', '.join(later)}), steps)"
    )
    return f"arrayReduce('max', {chains})"


def _users(query: FunnelQuery, values: Values) -> str:
    """Select for each user with an entry the elements, whether a second step follows, and the values of entries."""
    places = range(len(query.steps))
    elements = ", ".join(f"groupArrayIf(time * 16 + {15 - place}, step_{place})" for place in places)
    entries = "groupArrayIf((time, value), step_0) AS entries," if query.group_by else ""
    return f"""
SELECT user, arrayReverseSort(arrayConcat({elements})) AS elements, {entries}
    minIf(time, step_0) AS first, maxIf(time, step_1) > first AND countIf(step_1) > 0 AS is_used
FROM ({_events(query, values)}) GROUP BY user HAVING countIf(step_0) > 0
"""


def _events(query: FunnelQuery, values: Values) -> str:
    columns = [f"{USER} AS user", f"{_TIME} AS time"]
    columns += [f"{is_step(step, values)} AS step_{place}" for place, step in enumerate(query.steps)]
    if query.group_by is not None:
        columns.append(f"ifNull(toString({properties.text(query.group_by, values)}), {MISSING}) AS value")
    where = live(query.span, values, event_names=query.event_names)
    return f"SELECT {', '.join(columns)} {where}"
