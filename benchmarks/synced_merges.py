"""What it costs that merges sync their parts, as a power cut demands: inserts with it against inserts without."""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import clickhouse_connect
import msgspec
from pydantic import SecretStr

import eventmill_store_clickhouse
from eventmill import Event, EventBatch
from eventmill.ingest.validation import parse_event
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from figures import Figure, compare, in_turn
from support import real_events

ROUNDS = 5
BAR = 0.7
SHAPES = {"large batches": (200_000, 20_000), "small batches": (5_000, 50)}  # events, and how many in an insert


def synced_merges() -> list[Figure]:
    """In the batches of a full queue, and in those of an idle one, which merge much more often."""
    figures = []
    for shape, (count, rows) in SHAPES.items():
        events = make_events(count)
        batches = [EventBatch.of(events[start : start + rows]) for start in range(0, count, rows)]
        with tempfile.TemporaryDirectory() as folder:
            rates = in_turn(ROUNDS, *(partial(_insert, folder, batches, is_synced) for is_synced in (True, False)))
        figures.append(compare(f"synced merges, {shape}", "merges that are not", "events/s", *rates, at_least=BAR))
    return figures


def make_events(count: int) -> list[Event]:
    """The real events again and again, each a new one."""
    now_ms = time.time_ns() // 1_000_000
    real = [parse_event(line, "default", now_ms) for line in real_events.lines()]
    repeated = itertools.islice(itertools.cycle(real), count)
    return [msgspec.structs.replace(event, event_id=f"{number:032x}") for number, event in enumerate(repeated)]


def _insert(folder: str, batches: Sequence[EventBatch], is_synced: bool) -> float:
    """Events a second into an empty table."""
    path = Path(folder) / "chdb"
    settings = ClickHouseStoreSettings(url=SecretStr(f"chdb://{path}"))
    rows = int(is_synced)
    sync = f"min_rows_to_fsync_after_merge = {rows}, min_compressed_bytes_to_fsync_after_merge = {rows}"

    async def insert() -> float:
        async with eventmill_store_clickhouse.backend.open(settings) as store:
            await store.migrate()
            with clickhouse_connect.get_client(interface="chdb", path=str(path)) as client:
                client.command("TRUNCATE TABLE events")
                client.command(f"ALTER TABLE events MODIFY SETTING {sync}")
                started = time.perf_counter()
                for batch in batches:
                    await store.insert(batch)
                return sum(map(len, batches)) / (time.perf_counter() - started)

    return asyncio.run(insert())
