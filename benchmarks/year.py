"""Questions about a year of 100 million events, against the engine's own scan of the columns that they need.

20 skewed event names, of which the busiest has 22 % of all events, and 2 million users, of whom few are busy. The
events are inserted in the order of time, in blocks that the engine merges as it likes: the parts are those that
ingestion leaves. A copy has what comes later: the engine has merged closed months, as it does after a quiet day. Both
are created once, into data/, in about seven minutes.
"""

import asyncio
import multiprocessing
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from eventmill import (
    Bucket,
    Condition,
    EventBatch,
    EventFilter,
    FunnelQuery,
    Measure,
    MetricsQuery,
    Property,
    Step,
    parse_property,
)
from eventmill.testing import make_event
from eventmill_store_clickhouse import migrations, queries
from eventmill_store_clickhouse.clickhouse_store import ClickHouseStore
from eventmill_store_clickhouse.embedded import EmbeddedConnection
from figures import Figure, alone, compare

EVENTS = 100_000_000
INSERTS = 5  # of a month
ROUNDS = 5
RATE = 2_000  # events per second, in the rounds with ingestion
DATA = Path(__file__).parent / "data"
LEFT, LATER = DATA / "year", DATA / "year_later"
STATUS = parse_property("metadata.status", "status")
CODE = parse_property("metadata.code", "code")  # like status, but materialized
NAMES = ("event_0", "event_1", "event_2")
_MERGE_SECONDS = 900

_ROWS = """
INSERT INTO events (project, event_name, timestamp, event_id, channel, user_id, metadata, received_at, version)
SELECT 'default', concat('event_', toString(toUInt8(20 * pow(sipHash64(number, 1) % 1000000 / 1000000, 2)))),
    fromUnixTimestamp64Milli(toInt64({start}) * 1000 + sipHash64(number, 2) % ({seconds} * 1000), 'UTC') AS at,
    lower(hex(sipHash128(number))),
    arrayElement(['web', 'ios', 'android', 'mail', 'api'], 1 + toUInt8(5 * pow(sipHash64(number, 3) % 1000 / 1000, 2))),
    concat('user_', toString(toUInt32(2000000 * pow(sipHash64(number, 4) % 1000000007 / 1000000007, 1.5)))),
    concat('{{"path":"/page/', toString(sipHash64(number, 6) % 5000),
        '","status":', toString(arrayElement([200, 200, 200, 404, 500], 1 + sipHash64(number, 5) % 5)),
        ',"code":', toString(arrayElement([200, 200, 200, 404, 500], 1 + sipHash64(number, 8) % 5)),
        ',"price":', toString(sipHash64(number, 7) % 10000 / 100), '}}'),
    at, number
FROM numbers({first}, {count})
"""


def year() -> list[Figure]:
    """Measure both states, each in a process of its own, since a process has one engine."""
    if not (LEFT / "filled").exists():
        _in_process(_fill)
    if not (LATER / "filled").exists():
        _in_process(_merge)
    return [*_in_process(_measure_left), *_in_process(_measure_later)]


def _in_process(work: Callable[[], Any]) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


def _month_start(month: int) -> int:
    return int(datetime(2025 + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp())


YEAR = (_month_start(0) * 1000, _month_start(12) * 1000)
MONTH = (_month_start(5) * 1000, _month_start(6) * 1000)
DAY = (MONTH[0] + 9 * 86_400_000, MONTH[0] + 10 * 86_400_000)


def _fill() -> None:
    shutil.rmtree(LEFT, ignore_errors=True)
    LEFT.mkdir(parents=True)
    client = _client(LEFT)
    for statement in [migrations.BOOKKEEPING, *(text for step in migrations.MIGRATIONS for text in step.statements)]:
        client.command(statement)
    for step in migrations.MIGRATIONS:
        client.command(migrations.RECORD.format(number=step.number, readable_from=step.readable_from))
    # The parts are to stay as they are, however long ago they were created; and this disk need not be safe.
    client.command("ALTER TABLE events MODIFY SETTING min_age_to_force_merge_seconds = 0, fsync_after_insert = 0")
    share = EVENTS // 12 // INSERTS
    for number in range(12 * INSERTS):
        month, part = divmod(number, INSERTS)
        seconds = (_month_start(month + 1) - _month_start(month)) // INSERTS
        start = _month_start(month) + part * seconds
        client.command(_ROWS.format(start=start, seconds=seconds, first=number * share, count=share))
    for statement in migrations.materialize(CODE.keys):
        client.command(statement)
    _wait(client, "SELECT count() FROM system.mutations WHERE NOT is_done", 0)
    client.close()
    (LEFT / "filled").touch()


def _merge() -> None:
    """Copy the data set with hard links, and let the engine merge closed months."""
    shutil.rmtree(LATER, ignore_errors=True)
    shutil.copytree(
        LEFT, LATER, symlinks=True, copy_function=os.link, ignore=shutil.ignore_patterns("status", "filled")
    )
    client = _client(LATER)
    client.command(
        "ALTER TABLE events MODIFY SETTING min_age_to_force_merge_seconds = 1, merge_selecting_sleep_ms = 500"
    )
    parts = "SELECT count() AS parts FROM system.parts WHERE active AND table = 'events' GROUP BY partition"
    _wait(client, f"SELECT max(parts) FROM ({parts})", 1)
    client.close()
    (LATER / "filled").touch()


def _wait(client: Client, sql: str, wanted: int) -> None:
    until = time.monotonic() + _MERGE_SECONDS
    while client.query(sql).result_rows[0][0] != wanted:
        if time.monotonic() > until:
            raise TimeoutError(sql)
        time.sleep(1)


def _client(folder: Path) -> Client:
    return clickhouse_connect.get_client(interface="chdb", path=str(folder / "chdb"))


Ask = Callable[[], Awaitable[Any]]


class _Bench:
    """One data set, and the questions about it."""

    def __init__(self, connection: EmbeddedConnection) -> None:
        self._connection = connection
        self.store = ClickHouseStore(connection)

    def scan(self, span: tuple[int, int], *columns: str, names: tuple[str, ...] = NAMES[:1]) -> Ask:
        """The yardstick: read these columns of the same events with FINAL."""
        lengths = ", ".join(f"sum(length({column}))" for column in columns)
        sql = f"""
            SELECT {lengths} FROM events FINAL WHERE project = 'default' AND event_name IN {{names:Array(String)}}
            AND timestamp >= fromUnixTimestamp64Milli({span[0]}, 'UTC')
            AND timestamp < fromUnixTimestamp64Milli({span[1]}, 'UTC')
        """
        return lambda: self._connection.query(sql, {"names": list(names)}, queries.LIMITS)

    def metrics(self, span: tuple[int, int], *by: Any, where: tuple[Condition, ...] = (), **options: Any) -> Ask:
        wanted = EventFilter("default", *span, NAMES[:1], where=where)
        return lambda: self.store.metrics(MetricsQuery(wanted, tuple(by), **options))

    def funnel(self, span: tuple[int, int]) -> Ask:
        steps = tuple(Step((name,)) for name in NAMES)
        query = FunnelQuery(EventFilter("default", *span), steps, 7 * 86_400_000)
        return lambda: self.store.funnel(query)

    async def against(self, name: str, ours: Ask, theirs: Ask, at_most: float) -> Figure:
        """Measure both in turn."""
        rounds = [(await _milliseconds(ours), await _milliseconds(theirs)) for _ in range(ROUNDS + 1)][1:]
        of = "a scan of the columns"
        return compare(f"query_year, {name}", of, "ms", [a for a, _ in rounds], [b for _, b in rounds], at_most=at_most)

    async def within(self, name: str, ask: Ask, at_most: float) -> Figure:
        times = [await _milliseconds(ask) for _ in range(ROUNDS + 1)][1:]
        return alone(f"query_year, {name}", "ms", times, at_most=at_most)

    @asynccontextmanager
    async def ingesting(self) -> Any:
        """Insert 2,000 events per second meanwhile, in one batch per second, as the consumer does."""
        inserting = asyncio.create_task(self._ingest())
        try:
            yield
        finally:
            inserting.cancel()
            await asyncio.gather(inserting, return_exceptions=True)

    async def _ingest(self) -> None:
        for number in range(10**6):
            started = time.monotonic()
            at_ms = YEAR[1] - 86_400_000 + number * 1000
            fields: Mapping[str, Any] = {"event_name": NAMES[0], "timestamp_ms": at_ms}
            events = [
                make_event(event_id=f"live {number} {each}", user_id=f"u{each}", **fields) for each in range(RATE)
            ]
            await self.store.insert(EventBatch.of(events))
            await asyncio.sleep(max(0.0, started + 1 - time.monotonic()))


async def _milliseconds(ask: Ask) -> float:
    started = time.perf_counter()
    await ask()
    return (time.perf_counter() - started) * 1000


def _measure_left() -> list[Figure]:
    return asyncio.run(_ask(LEFT, _left))


def _measure_later() -> list[Figure]:
    return asyncio.run(_ask(LATER, _later))


async def _ask(folder: Path, measure: Callable[[_Bench], Awaitable[list[Figure]]]) -> list[Figure]:
    connection = EmbeddedConnection(folder / "chdb")
    try:
        return await measure(_Bench(connection))
    finally:
        await connection.close()


async def _left(bench: _Bench) -> list[Figure]:
    month, channel = Bucket("month"), Property("channel")
    roughly: dict[str, Any] = {"precision": "approximate"}
    year = bench.scan(YEAR, "user_id", "channel")
    two = bench.scan(MONTH, "metadata", "user_id")
    steps = bench.scan(MONTH, "user_id", "event_name", names=NAMES)
    error, code = (Condition(STATUS, "=", ("404",)),), (Condition(CODE, "=", ("404",)),)
    counts = bench.metrics(MONTH, CODE, measure=Measure("count"))
    figures = [
        await bench.within("a day", bench.metrics(DAY), 50),
        await bench.within("a month by day", bench.metrics(MONTH, Bucket("day")), 500),
        await bench.against("a year by month", bench.metrics(YEAR, month), year, 4),
        await bench.against("a year by channel", bench.metrics(YEAR, channel), year, 4),
        await bench.against("a year by month, approximate", bench.metrics(YEAR, month, **roughly), year, 2),
        await bench.against("a year by channel, approximate", bench.metrics(YEAR, channel, **roughly), year, 2),
        await bench.against("a month, filter on metadata", bench.metrics(MONTH, where=error), two, 4),
        await bench.against("a month by metadata", bench.metrics(MONTH, STATUS), two, 4),
        await bench.against("a month, filter, materialized", bench.metrics(MONTH, where=code), two, 1.5),
        await bench.against("a month by property, materialized", bench.metrics(MONTH, CODE), two, 1.5),
        await bench.against("a month by property, materialized, counts", counts, two, 1.5),
        await bench.against("a funnel of a month", bench.funnel(MONTH), steps, 4),
    ]
    async with bench.ingesting():
        figures += [
            await bench.within("a day, during ingestion", bench.metrics(DAY), 50),
            await bench.within("a month by day, during ingestion", bench.metrics(MONTH, Bucket("day")), 500),
        ]
    return figures


async def _later(bench: _Bench) -> list[Figure]:
    return [
        await bench.within("later: count of a year", bench.metrics(YEAR, measure=Measure("count")), 100),
        await bench.within("later: a year by channel", bench.metrics(YEAR, Property("channel")), 10_000),
    ]
