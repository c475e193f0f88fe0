"""The SQL of every question. Values reach the engine as parameters, never as text."""

from collections.abc import Sequence
from typing import Any

from eventmill import Event, EventFilter, GroupBy, Identity, MetricsQuery, Position

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
    """One row: how many rows match, and the time of the newest."""
    sql = f"""
SELECT count(), toUnixTimestamp64Milli(max(timestamp)) FROM events
WHERE project = {{project:String}} {_TIME} {_names(filter)}
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
MONTHS_OF_USER = f"SELECT DISTINCT toYYYYMM(timestamp) FROM events WHERE {_USER}"
# A row by name, in one string: control characters are in no event's name and in no id.
_KEY = "concat(event_name, char(0), toString(toUnixTimestamp64Milli(timestamp)), char(0), event_id)"
# Of other users, in a month, what a newer version of the same event, now this user's, has overtaken.
OVERTAKEN = f"""
SELECT DISTINCT {_KEY} FROM events
WHERE project = {{project:String}} AND toYYYYMM(timestamp) = {{month:UInt32}} AND user_id != {{user_id:String}}
  AND (event_name, timestamp, event_id) IN (
      SELECT event_name, timestamp, event_id FROM events FINAL WHERE {_USER} AND toYYYYMM(timestamp) = {{month:UInt32}})
"""


def delete_keys(month: int) -> str:
    """Delete rows by name, but for the user's own."""
    return f"""
DELETE FROM events IN PARTITION {month:d}
WHERE project = {{project:String}} AND user_id != {{user_id:String}} AND has({{keys:Array(String)}}, {_KEY})
"""


def delete_user(month: int) -> str:
    """Delete the user's rows."""
    return f"DELETE FROM events IN PARTITION {month:d} WHERE {_USER}"


# A superset of some events' rows, narrow by the sorting key.
_AROUND = """
  AND event_name IN {event_names:Array(String)}
  AND timestamp >= fromUnixTimestamp64Milli({first_ms:Int64}, 'UTC')
  AND timestamp <= fromUnixTimestamp64Milli({last_ms:Int64}, 'UTC')
  AND event_id IN {event_ids:Array(String)}
"""


def users_on_disk(project: str, events: Sequence[Event]) -> tuple[str, dict[str, Any]]:
    """Which of the events' users have rows around there."""
    sql = f"""
SELECT DISTINCT user_id FROM events
WHERE project = {{project:String}} {_AROUND} AND user_id IN {{user_ids:Array(String)}}
"""
    user_ids = sorted({event.user_id for event in events})
    return sql, _around(project, [event.identity for event in events]) | {"user_ids": user_ids}


def around(project: str, identities: Sequence[Identity]) -> tuple[str, dict[str, Any]]:
    """Rows of COLUMNS, among them those of these events."""
    parameters = _around(project, identities)
    parameters |= {"start_ms": parameters["first_ms"], "end_ms": parameters["last_ms"] + 1}
    return f"SELECT {', '.join(COLUMNS)} {_LIVE} {_AROUND}", parameters


def _around(project: str, identities: Sequence[Identity]) -> dict[str, Any]:
    return {
        "project": project,
        "event_names": sorted({identity.event_name for identity in identities}),
        "first_ms": min(identity.timestamp_ms for identity in identities),
        "last_ms": max(identity.timestamp_ms for identity in identities),
        "event_ids": [identity.event_id for identity in identities],
    }


# One row: the server's time, and the tombstones as columns.
ERASURES = """
SELECT toUnixTimestamp(now()), groupArray(project), groupArray(user_id), groupArray(toUnixTimestamp64Milli(until))
FROM erasures WHERE erased_at >= toDateTime({since_s:UInt32})
"""


def _parameters(filter: EventFilter) -> dict[str, Any]:
    parameters: dict[str, Any] = {"project": filter.project, "start_ms": filter.start_ms, "end_ms": filter.end_ms}
    return parameters | ({} if filter.event_names is None else {"event_names": list(filter.event_names)})
