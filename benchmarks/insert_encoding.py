"""What an insert costs by its encoding: the batch's JSON lines as they are, or columns encoded by the driver.

Both start from the same decoded batch and end with 20 000 rows in the same chDB engine, in turn; medians over rounds.
"""

import tempfile
import time
from collections.abc import Callable

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from eventmill import EventBatch
from eventmill.testing import make_events
from eventmill_store_clickhouse import migrations
from eventmill_store_clickhouse.clickhouse_store import INSERT, LINE_COLUMNS
from figures import Figure, compare

ROWS, ROUNDS = 20_000, 9
_TYPES = ["LowCardinality(String)", "LowCardinality(String)", "Int64", "String", "LowCardinality(String)", "String"]
_TYPES += ["LowCardinality(String)", "Array(LowCardinality(String))", "String", "Int64", "UInt64"]


def lines(client: Client, batch: EventBatch) -> None:
    client.raw_insert("events", list(LINE_COLUMNS), b"\n".join(batch.lines), settings=INSERT, fmt="JSONEachRow")


def columns(client: Client, batch: EventBatch) -> None:
    data = [[getattr(event, name) for event in batch.events] for name in LINE_COLUMNS]
    place = LINE_COLUMNS.index("metadata")
    data[place] = [bytes(value).decode() for value in data[place]]
    client.insert(
        "events",
        data,
        list(LINE_COLUMNS),
        column_oriented=True,
        column_type_names=_TYPES,
        settings=INSERT,
    )


def milliseconds(insert: Callable[[Client, EventBatch], None], client: Client, batch: EventBatch) -> float:
    started = time.perf_counter()
    insert(client, batch)
    return (time.perf_counter() - started) * 1000


def encoding() -> list[Figure]:
    """Lines against columns."""
    with tempfile.TemporaryDirectory() as folder:
        client = clickhouse_connect.get_client(interface="chdb", path=f"{folder}/chdb")
        client.command(migrations.BOOKKEEPING)
        for migration in migrations.MIGRATIONS:
            for statement in migration.statements:
                client.command(statement)
        batches = [EventBatch.of(make_events(ROWS, seed=number)) for number in range(ROUNDS)]
        rounds = [(milliseconds(lines, client, batch), milliseconds(columns, client, batch)) for batch in batches]
        client.close()
    ours, theirs = zip(*rounds, strict=True)
    return [
        compare("insert_encoding", "columns encoded by the driver", "ms for 20 000 rows", ours, theirs, inverse=True)
    ]
