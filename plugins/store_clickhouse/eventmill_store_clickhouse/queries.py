"""The SQL for events: scans, lookups and erasures. Values are passed as parameters, never as part of the text."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from eventmill import EVENT_FIELDS, FORGOTTEN, MAX_SECONDS, Event, EventFilter, Identity, Position
from eventmill_store_clickhouse import properties
from eventmill_store_clickhouse.migrations import STORED_AS, literal
from eventmill_store_clickhouse.properties import Table, Values

LIMITS = {
    "max_execution_time": MAX_SECONDS,
    "max_rows_to_read": 1_000_000_000,
    "max_result_rows": 100_000,
    "join_use_nulls": 0,  # a user without a tombstone must get the year 1970, not NULL
    "group_by_use_nulls": 0,
    # Correct, because the sorting key determines the partition: equal identities are in one partition.
    "do_not_merge_across_partitions_select_final": 1,
}

# 64 bits identify a user: among 2 million users the odds of a collision, which makes a count smaller by 1, are 1e-7.
# XXH3 takes a third of the time of sipHash64. A constructed collision gains nothing: the same id twice does the same.
USER = "xxh3(user_id)"

# An erased event may still be on disk or arrive again, so a query joins the tombstones, if the project has any. A row
# that was emptied has no user; its identity and version remain, so that it still hides older versions.
_ERASED = """
LEFT ANY JOIN (
    SELECT user_id, max(until) AS erased_until FROM erasures WHERE project = {project:String} GROUP BY user_id
) AS erased USING (user_id)
"""
_VISIBLE = "timestamp > erased_until AND user_id != ''"
PROJECTS = "SELECT project FROM events GROUP BY project"
TABLE = """
SELECT
    (SELECT count() FROM (SELECT 1 FROM erasures WHERE project = {project:String} LIMIT 1)),
    (SELECT groupArray((name, comment)) FROM system.columns
     WHERE database = currentDatabase() AND table = 'events' AND startsWith(name, 'property_'))
"""


def live(
    filter: EventFilter,
    values: Values,
    *,
    event_names: Collection[str] | None = None,
    is_final: bool = True,
) -> str:
    """Return FROM and WHERE of the matching events, without erased ones, and each once if `is_final`.

    `event_names` replaces the names of the filter.
    """
    wanted = filter if event_names is None else replace(filter, event_names=event_names)
    erased = (_ERASED, f"AND {_VISIBLE}") if values.table.has_erasures else ("", "")
    return f"FROM events {'FINAL' if is_final else ''} {erased[0]} WHERE {_matching(wanted, values)} {erased[1]}"


def _matching(filter: EventFilter, values: Values) -> str:
    """Return the conditions of a filter."""
    values.bound["project"] = filter.project
    start, end = values.bind("Int64", filter.start_ms), values.bind("Int64", filter.end_ms)
    conditions = [
        "project = {project:String}",
        f"timestamp >= fromUnixTimestamp64Milli({start}, 'UTC')",
        f"timestamp < fromUnixTimestamp64Milli({end}, 'UTC')",
    ]
    if filter.event_names is not None:
        conditions.append(f"event_name IN {values.bind('Array(String)', list(filter.event_names))}")
    for name, wanted in (("event_id", filter.event_id), ("user_id", filter.user_id)):
        conditions += [f"{name} = {values.bind('String', wanted)}"] if wanted is not None else []
    conditions += [properties.condition(condition, values) for condition in filter.where]
    return " AND ".join(f"({condition})" for condition in conditions)


READ_FIELDS = tuple(field for field in EVENT_FIELDS if field.name != "project")
COLUMNS = tuple(
    f"toUnixTimestamp64Milli({STORED_AS[field.name]})" if field.name in STORED_AS else field.name
    for field in READ_FIELDS
)


_AFTER = """
  AND (-toUnixTimestamp64Milli(timestamp), event_name, event_id) >
      (-{before_ms:Int64}, {before_name:String}, {before_id:String})
"""


def event_names(filter: EventFilter, limit: int, table: Table) -> tuple[str, dict[str, Any]]:
    """Select rows of (name, events, users, first, last)."""
    values = Values(table)
    sql = f"""
SELECT event_name, count() AS total_count, uniqExact({USER}),
    toUnixTimestamp64Milli(min(timestamp)), toUnixTimestamp64Milli(max(timestamp))
{live(filter, values)}
GROUP BY event_name ORDER BY total_count DESC, event_name LIMIT {limit:d}
"""
    return sql, values.bound


def page(filter: EventFilter, before: Position | None, limit: int, table: Table) -> tuple[str, dict[str, Any]]:
    """Select rows of COLUMNS in the order of a scan."""
    values = Values(table)
    if before is not None:
        position = {"before_ms": before.timestamp_ms, "before_name": before.event_name, "before_id": before.event_id}
        values.bound.update(position)
    sql = f"""
SELECT {", ".join(COLUMNS)}
{live(filter, values)} {_AFTER if before else ""}
ORDER BY timestamp DESC, event_name, event_id
LIMIT {limit:d}
"""
    return sql, values.bound


def rows(filter: EventFilter, table: Table) -> tuple[str, dict[str, Any]]:
    """Count the rows in a span of time, including duplicates and erased ones: cheap, by the sorting key."""
    values = Values(table)
    return f"SELECT count() FROM events WHERE {_matching(filter, values)}", values.bound


def newest(filter: EventFilter, table: Table) -> tuple[str, dict[str, Any]]:
    """Select one row: the number of matching rows, and the time of the newest."""
    values = Values(table)
    sql = f"SELECT count(), toUnixTimestamp64Milli(max(timestamp)) FROM events WHERE {_matching(filter, values)}"
    return sql, values.bound


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
