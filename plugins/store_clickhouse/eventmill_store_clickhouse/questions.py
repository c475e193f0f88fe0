"""The SQL of every question. Values reach the engine as parameters, never as text."""

from typing import Any

from eventmill import EventFilter, GroupBy, MetricsQuery, Position

LIMITS = {
    "max_execution_time": 10,
    "max_rows_to_read": 1_000_000_000,
    "max_result_rows": 100_000,
    "max_memory_usage": 4_000_000_000,
    "join_use_nulls": 0,  # "never erased" must read as the year 1970
    "group_by_use_nulls": 0,
    # Right, since the partition follows from the sorting key: equal identities lie in one partition.
    "do_not_merge_across_partitions_select_final": 1,
}

_TIME = """
  AND timestamp >= fromUnixTimestamp64Milli({start_ms:Int64}, 'UTC')
  AND timestamp < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
"""

# An erased event may still be on the disk, or arrive again: each question looks at the tombstones itself.
_LIVE = f"""
FROM events FINAL
LEFT ANY JOIN (
    SELECT user_id, max(until) AS erased_until FROM erasures WHERE project = {{project:String}} GROUP BY user_id
) AS erased USING (user_id)
WHERE project = {{project:String}} {_TIME}
  AND timestamp > erased_until
"""

_GROUPS: dict[GroupBy, str] = {
    "channel": "toString(channel)",
    "hour": "formatDateTime(timestamp, '%F %H:00:00', 'UTC')",
    "day": "formatDateTime(timestamp, '%F', 'UTC')",
}


def metrics(query: MetricsQuery, max_groups: int) -> tuple[str, dict[str, Any]]:
    """Rows of (is_total, value, total_count, unique_count): the total first, then the groups in their order."""
    counts = "count() AS total_count, uniqExact(user_id) AS unique_count"
    matching = f"{_LIVE} AND event_name = {{event_name:String}}"
    parameters = _parameters(query.filter) | {"event_name": query.event_name}
    if query.group_by is None:
        return f"SELECT 1, '', {counts} {matching}", parameters
    order = "total_count DESC, value" if query.group_by == "channel" else "value"
    sql = f"""
SELECT grouping(value) AS is_total, {_GROUPS[query.group_by]} AS value, {counts}
{matching}
GROUP BY GROUPING SETS ((), (value))
ORDER BY is_total DESC, {order}
LIMIT {max_groups + 2}
"""
    return sql, parameters


COLUMNS = (
    "event_name",
    "toUnixTimestamp64Milli(timestamp)",
    "event_id",
    "channel",
    "user_id",
    "campaign_id",
    "tags",
    "metadata",
    "toUnixTimestamp64Milli(received_at)",
    "version",
)


def _names(filter: EventFilter) -> str:
    return "" if filter.event_names is None else "AND event_name IN {event_names:Array(String)}"


_AFTER = """
  AND (-toUnixTimestamp64Milli(timestamp), event_name, event_id) >
      (-{before_ms:Int64}, {before_name:String}, {before_id:String})
"""


def page(filter: EventFilter, before: Position | None, limit: int) -> tuple[str, dict[str, Any]]:
    """Rows of COLUMNS, in the order of a scan."""
    sql = f"""
SELECT {", ".join(COLUMNS)}
{_LIVE} {_names(filter)} {_AFTER if before else ""}
ORDER BY timestamp DESC, event_name, event_id
LIMIT {limit:d}
"""
    position: dict[str, Any] = {}
    if before is not None:
        position = {"before_ms": before.timestamp_ms, "before_name": before.event_name, "before_id": before.event_id}
    return sql, _parameters(filter) | position


def rows(filter: EventFilter) -> tuple[str, dict[str, Any]]:
    """How many rows lie in a span of time, duplicates and erased ones included: cheap, from the sorting key."""
    sql = f"SELECT count() FROM events WHERE project = {{project:String}} {_TIME} {_names(filter)}"
    return sql, _parameters(filter)


def newest(filter: EventFilter) -> tuple[str, dict[str, Any]]:
    """The time of the newest row that matches, or 0."""
    sql = f"""
SELECT toUnixTimestamp64Milli(max(timestamp)) FROM events WHERE project = {{project:String}} {_TIME} {_names(filter)}
"""
    return sql, _parameters(filter)


_USER = """
project = {project:String} AND user_id = {user_id:String}
  AND timestamp <= fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
"""
OF_USER = f"SELECT count() FROM events FINAL WHERE {_USER}"
ERASE = """
INSERT INTO erasures (project, user_id, until)
SELECT {project:String}, {user_id:String}, fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
"""
# Rows that a newer version of the same event, now this user's, has overtaken: they must not come up again.
DELETE_OVERTAKEN = f"""
DELETE FROM events WHERE project = {{project:String}} AND user_id != {{user_id:String}}
  AND (event_name, timestamp, event_id) IN (SELECT event_name, timestamp, event_id FROM events FINAL WHERE {_USER})
"""
DELETE = f"DELETE FROM events WHERE {_USER}"
ERASURES = """
SELECT project, user_id, toUnixTimestamp64Milli(until), toUnixTimestamp(erased_at) FROM erasures
WHERE erased_at >= toDateTime({since_s:UInt32})
"""


def _parameters(filter: EventFilter) -> dict[str, Any]:
    parameters: dict[str, Any] = {"project": filter.project, "start_ms": filter.start_ms, "end_ms": filter.end_ms}
    return parameters | ({} if filter.event_names is None else {"event_names": list(filter.event_names)})
