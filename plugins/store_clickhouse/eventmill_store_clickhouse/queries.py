"""The SQL of every query. Values are passed as parameters, never as part of the text."""

from collections.abc import Iterable
from typing import Any

from eventmill import EVENT_FIELDS, FORGOTTEN, MAX_SECONDS, Event, EventFilter, Identity, MetricsQuery, Position
from eventmill_store_clickhouse.migrations import STORED_AS, literal

LIMITS = {
    "max_execution_time": MAX_SECONDS,
    "max_rows_to_read": 1_000_000_000,
    "max_result_rows": 100_000,
    "max_memory_usage": 4_000_000_000,
    "join_use_nulls": 0,  # a user without a tombstone must get the year 1970, not NULL
    "group_by_use_nulls": 0,
    # Correct, because the sorting key determines the partition: equal identities are in one partition.
    "do_not_merge_across_partitions_select_final": 1,
}

_TIME = """
  AND timestamp >= fromUnixTimestamp64Milli({start_ms:Int64}, 'UTC')
  AND timestamp < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
"""

# An erased event may still be on disk or arrive again, so every query joins the tombstones. A row that was emptied has
# no user; its identity and version remain, so that it still hides older versions.
_ERASED = """
LEFT ANY JOIN (
    SELECT user_id, max(until) AS erased_until FROM erasures WHERE project = {project:String} GROUP BY user_id
) AS erased USING (user_id)
"""
_VISIBLE = "timestamp > erased_until AND user_id != ''"
_LIVE = f"""
FROM events FINAL
{_ERASED}
WHERE project = {{project:String}} {_TIME}
  AND {_VISIBLE}
"""


def metrics(query: MetricsQuery, max_groups: int) -> tuple[str, dict[str, Any]]:
    """Select rows of (is_total, value, total_count, unique_count): the total, then the groups in their order."""
    counts = "count() AS total_count, uniqExact(user_id) AS unique_count"
    matching = f"{_LIVE} AND event_name = {{event_name:String}}"
    parameters = _parameters(query.filter) | {"event_name": query.event_name}
    dimension = query.dimension
    if dimension is None:
        return f"SELECT 1, '', {counts} {matching}", parameters
    order = "value" if dimension.bucket_ms else "total_count DESC, value"
    sql = f"""
SELECT grouping(value) AS is_total, {dimension.sql} AS value, {counts}
{matching}
GROUP BY GROUPING SETS ((), (value))
ORDER BY is_total DESC, {order}
LIMIT {max_groups + 2}
"""
    return sql, parameters


READ_FIELDS = tuple(field for field in EVENT_FIELDS if field.name != "project")
COLUMNS = tuple(
    f"toUnixTimestamp64Milli({STORED_AS[field.name]})" if field.name in STORED_AS else field.name
    for field in READ_FIELDS
)


def _matching(filter: EventFilter) -> str:
    """Return the conditions of a filter beside project and time."""
    conditions = ["AND event_name IN {event_names:Array(String)}"] if filter.event_names is not None else []
    conditions += ["AND event_id = {event_id:String}"] if filter.event_id is not None else []
    conditions += ["AND user_id = {user_id:String}"] if filter.user_id is not None else []
    return " ".join(conditions)


_AFTER = """
  AND (-toUnixTimestamp64Milli(timestamp), event_name, event_id) >
      (-{before_ms:Int64}, {before_name:String}, {before_id:String})
"""


def page(filter: EventFilter, before: Position | None, limit: int) -> tuple[str, dict[str, Any]]:
    """Select rows of COLUMNS in the order of a scan."""
    sql = f"""
SELECT {", ".join(COLUMNS)}
{_LIVE} {_matching(filter)} {_AFTER if before else ""}
ORDER BY timestamp DESC, event_name, event_id
LIMIT {limit:d}
"""
    position: dict[str, Any] = {}
    if before is not None:
        position = {"before_ms": before.timestamp_ms, "before_name": before.event_name, "before_id": before.event_id}
    return sql, _parameters(filter) | position


def rows(filter: EventFilter) -> tuple[str, dict[str, Any]]:
    """Count the rows in a span of time, including duplicates and erased ones: cheap, by the sorting key."""
    sql = f"SELECT count() FROM events WHERE project = {{project:String}} {_TIME} {_matching(filter)}"
    return sql, _parameters(filter)


def newest(filter: EventFilter) -> tuple[str, dict[str, Any]]:
    """Select one row: the number of matching rows, and the time of the newest."""
    sql = f"""
SELECT count(), toUnixTimestamp64Milli(max(timestamp)) FROM events
WHERE project = {{project:String}} {_TIME} {_matching(filter)}
"""
    return sql, _parameters(filter)


_USER = """
project = {project:String} AND user_id = {user_id:String}
  AND timestamp <= fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
"""
# The number of the user's events by month, without events that an earlier erasure hides already.
OF_USER = f"""
SELECT toYYYYMM(timestamp) AS month,
       uniqExactIf((event_name, timestamp, event_id), timestamp > fromUnixTimestamp64Milli({{before_ms:Int64}}, 'UTC'))
FROM events WHERE {_USER} GROUP BY month
"""
ERASED_BEFORE = """
SELECT toUnixTimestamp64Milli(max(until)) FROM erasures WHERE project = {project:String} AND user_id = {user_id:String}
"""
ERASE = """
INSERT INTO erasures (project, user_id, until)
SELECT {project:String}, {user_id:String}, fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
"""


def empty(months: Iterable[int]) -> str:
    """Empty the user's rows of these months in the background, without reading other partitions."""
    row = ", ".join(f"{name} = {literal(value)}" for name, value in FORGOTTEN.items())
    updates = [f"UPDATE {row} IN PARTITION {month:d} WHERE {_USER}" for month in months]
    return f"ALTER TABLE events {', '.join(updates)} SETTINGS mutations_sync = 0"


# One row: the server's time, and a fingerprint that changes with each tombstone.
ERASURES_FINGERPRINT = """
SELECT toUnixTimestamp(now()), count(), groupBitXor(cityHash64(project, user_id, until)) FROM erasures
"""
ERASURES = "SELECT project, user_id, toUnixTimestamp64Milli(until), toUnixTimestamp(erased_at) FROM erasures"


def find(project: str, identities: Iterable[Identity]) -> tuple[str, dict[str, Any]]:
    """Select rows of COLUMNS of these events by their exact keys, without FINAL, which would read whole granules."""
    sql = f"""
SELECT {", ".join(COLUMNS)} FROM (
    SELECT * FROM events WHERE {_KEYS} ORDER BY version DESC LIMIT 1 BY event_name, timestamp, event_id
) AS found
{_ERASED}
WHERE {_VISIBLE}
"""
    return sql, {"project": project, "keys": [_key(identity) for identity in identities]}


def written(event: Event) -> tuple[str, dict[str, Any]]:
    """Select one row if this event or a newer version of it can be read."""
    sql = f"SELECT 1 FROM events WHERE {_KEYS} AND version >= {{version:UInt64}} LIMIT 1"
    return sql, {"project": event.project, "keys": [_key(event.identity)], "version": event.version}


# By the sorting key, so that only the granules of these events are read.
_KEYS = """project = {project:String}
    AND (event_name, timestamp, event_id) IN {keys:Array(Tuple(String, DateTime64(3, 'UTC'), String))}"""


def _key(identity: Identity) -> tuple[str, str, str]:
    seconds, milliseconds = divmod(identity.timestamp_ms, 1000)
    return identity.event_name, f"{seconds}.{milliseconds:03}", identity.event_id


def _parameters(filter: EventFilter) -> dict[str, Any]:
    parameters: dict[str, Any] = {"project": filter.project, "start_ms": filter.start_ms, "end_ms": filter.end_ms}
    chosen: dict[str, Any] = {"event_names": None if filter.event_names is None else list(filter.event_names)}
    chosen |= {"event_id": filter.event_id, "user_id": filter.user_id}
    return parameters | {name: value for name, value in chosen.items() if value is not None}
