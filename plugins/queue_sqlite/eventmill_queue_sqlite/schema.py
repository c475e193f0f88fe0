"""The tables: large rows with bodies that never change, and small rows with leases."""

import sqlite3
import time

from eventmill import ConfigurationError

APPLICATION_ID = 0x656D7132  # "emq2" identifies the file
_FIRST_APPLICATION_ID = 0x656D7131  # "emq1": bodies and leases in one table

_TABLES = ("messages", "dead_letters")
# A lease or an ack writes a few small pages, regardless of the size of the bodies.
_CREATE = (
    """
CREATE TABLE IF NOT EXISTS {name}_bodies (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    enqueued_at_ms INTEGER NOT NULL,
    body BLOB NOT NULL
)""",
    """
CREATE TABLE {name}_line (
    id INTEGER PRIMARY KEY,
    visible_at REAL NOT NULL,           -- seconds on the clock that starts with the machine; the line's order
    since REAL NOT NULL,                -- when that was written, on the same clock
    lease INTEGER NOT NULL DEFAULT 0,   -- a random number that only its holder knows, or 0
    attempts INTEGER NOT NULL DEFAULT 0
)""",
    "CREATE INDEX {name}_turn ON {name}_line (visible_at, id)",
    "CREATE TRIGGER {name}_done AFTER DELETE ON {name}_line BEGIN DELETE FROM {name}_bodies WHERE id = old.id; END",
)
_UPGRADE = (
    # The first version created its tables one by one: create those that an interruption left out.
    """
CREATE TABLE IF NOT EXISTS {name} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    visible_at REAL NOT NULL DEFAULT 0,
    lease INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    enqueued_at_ms INTEGER NOT NULL,
    body BLOB NOT NULL
)""",
    "DROP INDEX IF EXISTS {name}_visible",
    "ALTER TABLE {name} RENAME TO {name}_bodies",
    *_CREATE,
    "INSERT INTO {name}_line (id, visible_at, since, attempts) SELECT id, 0, 0, attempts FROM {name}_bodies",
)

_EARLIER = "SELECT 1 FROM {name}_line WHERE visible_at > ? AND since > ? LIMIT 1"
_END_EARLIER = "UPDATE {name}_line SET visible_at = 0, lease = 0 WHERE visible_at > ? AND since > ?"


def prepare(file: sqlite3.Connection, name: str) -> None:
    """Create the tables in a new file, or upgrade them. Raise ConfigurationError for a file of another program."""
    owner = _owner(file)
    tables = file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if owner not in (APPLICATION_ID, _FIRST_APPLICATION_ID) and (owner or tables):
        raise ConfigurationError(f"{name} belongs to another program: choose another file")
    is_wal = file.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    if owner != APPLICATION_ID or not is_wal:  # otherwise write nothing, since another process may hold the file
        _create(file)
    _end_earlier_leases(file)


def _owner(file: sqlite3.Connection) -> int:
    return int(file.execute("PRAGMA application_id").fetchone()[0])


def _create(file: sqlite3.Connection) -> None:
    until = time.monotonic() + 5
    while True:
        try:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as error:
            # If two processes create the file, SQLite does not wait for the other to change the journal mode.
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)
    if (owner := _owner(file)) != APPLICATION_ID:
        for statement in _UPGRADE if owner == _FIRST_APPLICATION_ID else _CREATE:
            for table in _TABLES:
                file.execute(statement.format(name=table))
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    file.execute("COMMIT")


def _end_earlier_leases(file: sqlite3.Connection) -> None:
    """End leases and delays from before a restart of the machine, whose clock started again."""
    now = time.monotonic()
    for table in _TABLES:
        if file.execute(_EARLIER.format(name=table), (now, now)).fetchone():
            file.execute(_END_EARLIER.format(name=table), (now, now)).fetchall()
