"""Draining a queue into chDB against clickhouse-connect inserting the same rows into the same engine."""

import asyncio
import gc
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import clickhouse_connect
import msgspec
import uvloop
from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

import eventmill_queue_redis
import eventmill_queue_sqlite
import eventmill_store_clickhouse
from eventmill import Event, Queue, QueueBackend
from eventmill.consumer.consumer import DRAIN_SECONDS, Consumer
from eventmill.event import encode_line
from eventmill.frames import MAX_FRAME_BYTES, pack
from eventmill.ingest.validation import parse_event
from eventmill.settings import PluginSettings
from eventmill.shutdown import Shutdown
from eventmill_queue_redis.settings import RedisQueueSettings
from eventmill_queue_sqlite.settings import SqliteQueueSettings
from eventmill_store_clickhouse.clickhouse_store import INSERT, LINE_COLUMNS
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from figures import Figure, compare, in_turn
from support import real_events, services

EVENTS, ROUNDS = 500_000, 3
BATCH = 20_000
BATCH_SECONDS = 0.1  # so that the last batch does not wait for company
BAR = 0.60
_TYPES = ["LowCardinality(String)", "LowCardinality(String)", "Int64", "String", "LowCardinality(String)", "String"]
_TYPES += ["LowCardinality(String)", "Array(LowCardinality(String))", "String", "Int64", "UInt64"]


def consume() -> list[Figure]:
    """From SQLite and from Redis."""
    events = make_events()
    bodies = [body for _, body in pack([encode_line(event) for event in events], MAX_FRAME_BYTES)]
    with tempfile.TemporaryDirectory() as name, services.running_redis(Path(name) / "redis") as redis:
        folder = Path(name)
        store = ClickHouseStoreSettings(url=SecretStr(f"chdb://{folder}/chdb"))
        asyncio.run(_migrate(store))
        chdb = str(folder / "chdb")
        batches = [_columns(events[start : start + BATCH]) for start in range(0, EVENTS, BATCH)]
        insert = partial(_insert, chdb, batches)
        queues: dict[str, tuple[QueueBackend, PluginSettings]] = {
            "sqlite": (eventmill_queue_sqlite.backend, SqliteQueueSettings(path=folder / "queue.db")),
            "redis": (eventmill_queue_redis.backend, RedisQueueSettings(url=SecretStr(redis.url))),
        }
        gc.collect()
        gc.freeze()  # what the benchmark holds is no garbage of the consumer's
        figures = []
        for queue, (backend, settings) in queues.items():

            def drain(backend: QueueBackend = backend, settings: PluginSettings = settings) -> float:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `eventmill consume` does
                    seconds = runner.run(_drain(backend, settings, store, bodies))
                with emptied(chdb):
                    return EVENTS / seconds

            rates = in_turn(ROUNDS, drain, insert)
            of = "clickhouse-connect inserting columns"
            figures.append(compare(f"consume, {queue}", of, "events/s", *rates, at_least=BAR))
    return figures


def make_events() -> list[Event]:
    """The real events again and again, each a new one."""
    now_ms = time.time_ns() // 1_000_000
    real = [parse_event(line, "default", now_ms) for line in real_events.lines()]
    repeated = itertools.islice(itertools.cycle(real), EVENTS)
    return [msgspec.structs.replace(event, event_id=f"{number:032x}") for number, event in enumerate(repeated)]


async def _migrate(settings: ClickHouseStoreSettings) -> None:
    async with eventmill_store_clickhouse.backend.open(settings) as store:
        await store.migrate()


async def _drain(
    backend: QueueBackend, settings: PluginSettings, store_settings: ClickHouseStoreSettings, bodies: Sequence[bytes]
) -> float:
    """Seconds to move all of it."""
    async with backend.open(settings) as queue, eventmill_store_clickhouse.backend.open(store_settings) as store:
        await queue.migrate()
        await _publish(queue, bodies)
        shutdown = Shutdown()
        consumer = Consumer(queue, store, shutdown, batch_seconds=BATCH_SECONDS)
        consuming = asyncio.create_task(consumer.run())
        started = time.perf_counter()
        while (depth := await queue.depth()).ready or depth.in_flight:  # noqa: ASYNC110 (only the queue knows)
            await asyncio.sleep(0.02)
        seconds = time.perf_counter() - started
        shutdown.begin(DRAIN_SECONDS)
        await consuming
        return seconds


async def _publish(queue: Queue, bodies: Sequence[bytes]) -> None:
    for start in range(0, len(bodies), 100):
        await queue.publish(bodies[start : start + 100], time.monotonic() + 60)


def _columns(events: Sequence[Event]) -> list[list[object]]:
    """The rows as columns: what the driver likes best."""
    columns = [[getattr(event, name) for event in events] for name in LINE_COLUMNS]
    place = LINE_COLUMNS.index("metadata")
    columns[place] = [bytes(value).decode() for value in columns[place]]
    return columns


def _insert(path: str, batches: Sequence[list[list[object]]]) -> float:
    """Events a second."""
    names = list(LINE_COLUMNS)
    with emptied(path) as client:
        started = time.perf_counter()
        for columns in batches:
            client.insert("events", columns, names, column_oriented=True, column_type_names=_TYPES, settings=INSERT)
        return EVENTS / (time.perf_counter() - started)


@contextmanager
def emptied(path: str) -> Iterator[Client]:
    """A client of that engine; in the end all events must be there, and are removed."""
    client = clickhouse_connect.get_client(interface="chdb", path=path)
    yield client
    # A check of the store writes an event of its own.
    assert client.command("SELECT count() FROM events WHERE project != '_eventmill'") == EVENTS
    client.command("TRUNCATE TABLE events")
    client.close()
