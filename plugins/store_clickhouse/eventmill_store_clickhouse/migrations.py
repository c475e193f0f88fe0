"""The schema: numbered migrations that only add, are applied once each in order, and never change.

Columns for fields that were added to the table of event fields need no migration: `missing_columns` adds them.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from eventmill import EVENT_FIELDS, EventField


@dataclass(frozen=True, slots=True)
class Migration:
    """One step.

    Attributes:
        number: its position in the order, starting with 1.
        readable_from: programs that know the migrations up to this number can still use the schema.
        statements: each can be repeated, and run in several processes at the same time.
    """

    number: int
    readable_from: int
    statements: tuple[str, ...]


BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS eventmill_migrations (
    number UInt32,
    readable_from UInt32,
    applied_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree ORDER BY number
"""

RECORD = "INSERT INTO eventmill_migrations (number, readable_from) SELECT {number}, {readable_from}"

_EVENTS = """
CREATE TABLE IF NOT EXISTS events (
    project LowCardinality(String),
    event_name LowCardinality(String),
    timestamp DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(timestamp_ms, 'UTC'),
    event_id String CODEC(ZSTD(1)),
    channel LowCardinality(String),
    user_id String CODEC(ZSTD(1)),
    campaign_id LowCardinality(String),
    tags Array(LowCardinality(String)),
    metadata String CODEC(ZSTD(3)),
    received_at DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(received_at_ms, 'UTC'),
    version UInt64,
    timestamp_ms Int64 EPHEMERAL,
    received_at_ms Int64 EPHEMERAL
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (project, event_name, timestamp, event_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1
"""

_ERASURES = """
CREATE TABLE IF NOT EXISTS erasures (
    project String,
    user_id String,
    until DateTime64(3, 'UTC'),
    erased_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree(until)
ORDER BY (project, user_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
"""

# Merges and mutations replace parts that were synced, so the parts that they write must be synced as well.
_SYNCED = "ALTER TABLE {} MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1,"
_SYNCED += " min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1"
_FIRST_COLUMNS = re.findall(r"^    (\w+) ", _EVENTS, re.MULTILINE)
_TABLES = ("events", "erasures", "eventmill_migrations")

# A month to which nothing is added for a day becomes one part, which FINAL reads without merging.
_QUIET_SECONDS = 86_400
_ONE_PART = f"""
ALTER TABLE events MODIFY SETTING min_age_to_force_merge_seconds = {_QUIET_SECONDS},
    min_age_to_force_merge_on_partition_only = 1
"""

MIGRATIONS = (
    Migration(1, 1, (_EVENTS, _ERASURES)),
    Migration(2, 1, tuple(_SYNCED.format(table) for table in _TABLES)),
    Migration(3, 1, (_ONE_PART,)),
)
NEWEST = MIGRATIONS[-1].number


# The columns of migration 1 whose names or types differ from the field.
STORED_AS = {"timestamp_ms": "timestamp", "received_at_ms": "received_at"}


def missing_columns(present: Collection[str]) -> list[str]:
    """Return the statements that add the columns of fields which the table of events lacks."""
    return [
        f"ALTER TABLE events ADD COLUMN IF NOT EXISTS {_with_default(field)}"
        for field in EVENT_FIELDS
        if STORED_AS.get(field.name, field.name) not in present
    ]


def _with_default(field: EventField) -> str:
    """Return name, type and default of a column; the default stands between the type and its codec."""
    kind, codec, arguments = field.column.partition(" CODEC")
    return f"{field.name} {kind} DEFAULT {literal(field.default)}{codec}{arguments}"


def literal(default: object) -> str:
    """Return the default of a field in SQL: a text, an empty list or an empty object."""
    if isinstance(default, str):
        return "'" + default.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "[]" if isinstance(default, tuple) else "'{}'"


def materialize(keys: Sequence[str]) -> list[str]:
    """Return the statements that give a value of the metadata a column of its own; old parts follow in the background.

    The comment of the column names the keys, so that programs find it.
    """
    path = json.dumps(keys, ensure_ascii=False)
    name = f"property_{blake2b(path.encode(), digest_size=8).hexdigest()}"
    expression = f"JSONExtractRaw(metadata, {', '.join(map(literal, keys))})"
    column = f"{name} String MATERIALIZED {expression} CODEC(ZSTD(1)) COMMENT {literal(path)}"
    return [
        f"ALTER TABLE events ADD COLUMN IF NOT EXISTS {column}",
        f"ALTER TABLE events MATERIALIZE COLUMN {name} SETTINGS mutations_sync = 0",
    ]


def ttl(days: int | None) -> str | None:
    """Return the TTL of the table for a retention."""
    return None if days is None else f"toDateTime(timestamp) + toIntervalDay({days:d})"


def script(days: int | None) -> str:
    """Return all statements as text, to be executed by hand with other permissions."""
    statements = [BOOKKEEPING]
    for migration in MIGRATIONS:
        statements += migration.statements
        statements.append(RECORD.format(number=migration.number, readable_from=migration.readable_from))
    statements += missing_columns(_FIRST_COLUMNS)
    if days is None:
        statements.append("-- Only to remove a former retention:\n-- ALTER TABLE events REMOVE TTL")
    else:
        statements.append(f"ALTER TABLE events MODIFY TTL {ttl(days)}")
    return ";\n\n".join(statement.strip() for statement in statements) + ";\n"
