"""What only a real engine shows: crashes, outages, bad rows, wrong settings."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from pydantic import SecretStr, ValidationError

import eventmill_store_clickhouse
from eventmill import (
    ALL_TIME,
    MAX_TIME_MS,
    Condition,
    ConfigurationError,
    EventBatch,
    EventFilter,
    InvalidQuery,
    Measure,
    MetricsQuery,
    QueryTooLarge,
    RejectedEvents,
    Store,
    StoreMisconfigured,
    StoreUnavailable,
    parse_property,
    reference,
)
from eventmill.testing import make_event, make_events
from eventmill.testing.contract import eventually
from eventmill.testing.events import NOON_MS
from eventmill.testing.store_contract.suite import everything, metrics_query, scan_all
from eventmill_store_clickhouse import counts, failures, migrations, queries
from eventmill_store_clickhouse.clickhouse_store import ClickHouseStore
from eventmill_store_clickhouse.connection import Rows
from eventmill_store_clickhouse.embedded import EmbeddedConnection
from eventmill_store_clickhouse.server import ServerConnection
from eventmill_store_clickhouse.settings import Address, ClickHouseStoreSettings
from support import services
from support.mill import environment

pytestmark = pytest.mark.anyio
_AFTER_MERGE = ("min_rows_to_fsync_after_merge", "min_compressed_bytes_to_fsync_after_merge")
CLUSTER = Path(eventmill_store_clickhouse.__file__).parents[1] / "cluster.sql"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    settings = ClickHouseStoreSettings(url=SecretStr(url), timeout_seconds=2)
    async with eventmill_store_clickhouse.backend.open(settings) as store:
        yield store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[services.ClickHouse]:
    with services.running_clickhouse(tmp_path / "server") as server:
        yield server


@pytest.fixture(params=["chdb", "http"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An engine of each kind, empty."""
    if request.param == "chdb":
        return f"chdb://{tmp_path}/chdb"
    server = request.getfixturevalue("server")
    assert isinstance(server, services.ClickHouse)
    return server.url


async def count(store: Store) -> int:
    return len(await scan_all(store, everything()))


# bad rows


@pytest.mark.parametrize("bad", [0, 499, 999])
async def test_one_bad_row_among_a_thousand_is_named_and_nothing_is_stored(url: str, bad: int) -> None:
    batch = EventBatch.of(make_events(1000))
    lines = list(batch.lines)
    lines[bad] = lines[bad].replace(b'"version":', b'"version":"x",')
    async with opened(url) as store:
        await store.migrate()
        with pytest.raises(RejectedEvents) as rejection:
            await store.insert(replace(batch, lines=lines))
        assert rejection.value.indexes == [bad]
        assert await count(store) == 0
        await store.insert(batch.take(i for i in range(1000) if i != bad))
        assert await count(store) == 999


UNAVAILABLE: tuple[int, ...] = (
    3,
    23,
    159,
    173,
    201,
    202,
    209,
    210,
    225,
    241,
    242,
    243,
    252,
    279,
    285,
    286,
    319,
    364,
    373,
    394,
    425,
    439,
    473,
    999,
    1234567,
)
MISCONFIGURED = (
    8,
    10,
    16,
    20,
    36,
    43,
    44,
    46,
    47,
    48,
    60,
    62,
    81,
    115,
    164,
    170,
    192,
    193,
    194,
    291,
    344,
    452,
    497,
    516,
)
REJECTED = (6, 25, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 130, 131, 349, 469)


@pytest.mark.parametrize(
    ("kind", "codes"),
    [(StoreUnavailable, (*UNAVAILABLE, None)), (StoreMisconfigured, MISCONFIGURED), (RejectedEvents, REJECTED)],
)
def test_errors_of_an_insert_have_their_class(kind: type[Exception], codes: tuple[int | None, ...]) -> None:
    for code in codes:
        error = DatabaseError(f"Code: {code}. DB::Exception: some words", code=code)
        assert type(failures.explain_insert(error, 5)) is kind, code


@pytest.mark.parametrize(
    ("words", "indexes"),
    [
        ("cannot parse (at row 3)", [2]),
        ("before: 'ada (at row 1)': (at row 3)", [2]),
        ("cannot parse (at row 99)", None),
        ("cannot parse (at row 0)", None),
        ("cannot parse", None),
    ],
)
def test_the_row_at_fault_is_the_one_that_clickhouse_names(words: str, indexes: list[int] | None) -> None:
    error = failures.explain_insert(DatabaseError(f"Code: 27. DB::Exception: {words}", code=27), 5)
    assert isinstance(error, RejectedEvents)
    assert error.indexes == indexes


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 502])
async def test_a_server_that_is_not_clickhouse_is_distinguished_from_one_that_is_unavailable(status: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy" % status)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/"
        with pytest.raises(StoreUnavailable if status == 502 else StoreMisconfigured):
            async with opened(address) as store:
                await store.check()


async def test_a_query_that_fails_midway_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    for _ in range(3):
        with pytest.raises(ClickHouseError):
            await connection.query("SELECT throwIf(number = 200000) FROM numbers(300000)", {}, {})
        assert await connection.query("SELECT 42", {}, {}) == [(42,)]
    await connection.close()


# crashes and outages

_WRITER = """
import asyncio, sys
import eventmill_store_clickhouse
from eventmill import EventBatch
from eventmill.testing import make_events
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings

async def main():
    async with eventmill_store_clickhouse.backend.open(ClickHouseStoreSettings(url=sys.argv[1])) as store:
        await store.migrate()
        for seed in range(1000):
            await store.insert(EventBatch.of(make_events(100, seed=seed)))
            print(seed, flush=True)

asyncio.run(main())
"""


def start_writer(address: str) -> subprocess.Popen[str]:
    """A process that inserts batches of 100 and prints the number of each once it is acknowledged."""
    return subprocess.Popen([sys.executable, "-c", _WRITER, address], stdout=subprocess.PIPE, text=True)


async def test_a_writer_that_is_killed_loses_no_acknowledged_row(tmp_path: Path) -> None:
    address = f"chdb://{tmp_path}/chdb"
    stored = 0
    for _ in range(2):
        writer = start_writer(address)
        assert writer.stdout is not None
        for _ in range(12):
            acknowledged = int(writer.stdout.readline()) + 1
        writer.kill()
        writer.wait()
        rest = writer.stdout.read().split()
        writer.stdout.close()
        stored = max(stored, int(rest[-1]) + 1 if rest else acknowledged)
    async with opened(address) as store:
        assert stored * 100 <= await count(store) <= (stored + 1) * 100


async def test_a_server_that_goes_and_comes_back_needs_no_new_client(server: services.ClickHouse) -> None:
    batch = EventBatch.of(make_events(100))
    async with opened(server.url) as store:
        await store.migrate()
        await store.insert(batch)
        server.kill()
        for failing in (store.insert(batch), store.check(), store.metrics(metrics_query())):
            with pytest.raises(StoreUnavailable):
                await failing
        server.start()
        assert await store.check() == []
        await store.insert(batch)
        assert await count(store) == 100


async def test_a_store_can_be_opened_before_its_server_is_there(tmp_path: Path) -> None:
    with services.running_clickhouse(tmp_path / "server") as server:
        server.kill()
        async with opened(server.url) as store:
            with pytest.raises(StoreUnavailable):
                await store.check()
            server.start()
            await store.migrate()
            assert await store.check() == []


@pytest.mark.parametrize("kind", ["500", "exception in 200", "cut before", "cut after", "half", "slow"])
async def test_an_insert_of_unknown_outcome_can_be_repeated(server: services.ClickHouse, kind: str) -> None:
    batch = EventBatch.of(make_events(1000))
    async with opened(server.url) as store:
        await store.migrate()
        server.fail(kind, count=3)  # the driver itself may try again after a cut connection
        with pytest.raises(StoreUnavailable):
            await store.insert(batch)
        until = time.monotonic() + 20
        while True:
            try:
                await store.insert(batch)
                break
            except StoreUnavailable:
                assert time.monotonic() < until
        assert await count(store) == 1000


async def test_inserts_do_not_wait_for_slow_queries_on_a_server(server: services.ClickHouse) -> None:
    async with opened(server.url) as store:
        await store.migrate()
        server.fail("slow", count=12, on="question")
        asking = [asyncio.create_task(store.metrics(metrics_query())) for _ in range(20)]
        await asyncio.sleep(0.5)
        async with asyncio.timeout(2):
            await store.insert(EventBatch.of(make_events(10)))
        assert not any(task.done() for task in asking)
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_server_that_hangs_costs_every_caller_the_same_short_time() -> None:
    connections: list[asyncio.StreamWriter] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.read()

    hanging = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = hanging.sockets[0].getsockname()[1]
    started = time.monotonic()
    async with opened(f"http://127.0.0.1:{port}/") as store:
        batch = EventBatch.of(make_events(1))
        calls = (store.check(), store.metrics(metrics_query()), store.insert(batch), store.check())
        verdicts = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(verdict) for verdict in verdicts] == [StoreUnavailable] * 4
    assert time.monotonic() - started < 7
    for writer in connections:
        writer.close()
    hanging.close()
    await hanging.wait_closed()


async def test_a_schema_at_fault_is_distinguished_from_bad_events(server: services.ClickHouse) -> None:
    async with opened(server.url) as store:
        await store.migrate()
        server.fail("misconfigured")
        with pytest.raises(StoreMisconfigured):
            await store.insert(EventBatch.of(make_events(1)))


@pytest.mark.parametrize("kind", ["500", "cut before", "slow"])
async def test_a_query_that_fails_recovers(server: services.ClickHouse, kind: str) -> None:
    async with opened(server.url) as store:
        await store.migrate()
        await store.insert(EventBatch.of([make_event()]))
        for failing in (store.metrics, store.check):
            server.fail(kind, count=2, on="question")  # the driver repeats a question whose connection was cut
            with pytest.raises(StoreUnavailable):
                await (failing(metrics_query()) if failing == store.metrics else store.check())
            server.fail(kind, count=0, on="question")
        assert (await store.metrics(metrics_query())).total_count == 1
        assert await store.check() == []


# erasures


async def settled(connection: EmbeddedConnection) -> None:
    """Wait until the engine has changed all the rows that it was told to change."""

    async def is_settled() -> bool:
        return await connection.lookup("SELECT count() FROM system.mutations WHERE NOT is_done", {}) == [(0,)]

    await eventually(is_settled, 20)


async def on_disk(connection: EmbeddedConnection, user_id: str) -> int:
    [[count]] = await connection.lookup("SELECT count() FROM events WHERE user_id = {u:String}", {"u": user_id})
    return int(count)


async def test_what_is_erased_leaves_the_disk_and_hides_older_versions_forever(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    older = [make_event(event_id=f"{n}", user_id="kept") for n in range(20)]
    newer = [make_event(event_id=f"{n}", user_id="gone", received_at_ms=NOON_MS + 1) for n in range(20)]
    await store.insert(EventBatch.of(older[:10]))
    await store.insert(EventBatch.of(newer))
    await store.erase("default", "gone", NOON_MS)
    await settled(connection)
    assert await on_disk(connection, "gone") == 0
    for _ in range(2):
        await store.insert(EventBatch.of(older))
        await store.insert(EventBatch.of(newer))
        assert await count(store) == 0
        assert await on_disk(connection, "gone") == 0
        await connection.execute("OPTIMIZE TABLE events FINAL", {})
    await connection.close()


async def test_a_tombstone_that_appears_late_takes_what_was_written_meanwhile(tmp_path: Path) -> None:
    """As on a replica that lags: the tombstone comes with a time at which it could not be seen here."""
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    await store.insert(EventBatch.of([make_event(user_id="gone", event_id="1"), make_event(event_id="2")]))
    await connection.execute(
        "INSERT INTO erasures (project, user_id, until, erased_at)"
        " SELECT 'default', 'gone', fromUnixTimestamp64Milli({noon:Int64}, 'UTC'), now() - 3600",
        {"noon": NOON_MS},
    )
    assert [event.user_id for event in await scan_all(store, everything())] == ["user_1"]
    await store.insert(EventBatch.of([make_event(event_id="3")]))
    await settled(connection)
    assert await on_disk(connection, "gone") == 0
    assert await count(store) == 2
    await connection.close()


async def test_an_insert_does_not_wait_for_an_erasure(tmp_path: Path) -> None:
    """Rows are emptied in the background; while the engine may not start with that, all goes on."""
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    await store.insert(EventBatch.of([make_event(user_id="gone", event_id="1"), make_event(event_id="2")]))
    await connection.execute("SYSTEM STOP MERGES events", {})
    async with asyncio.timeout(20):
        assert await store.erase("default", "gone", NOON_MS) == 1
        await store.insert(EventBatch.of([make_event(user_id="gone", event_id="3"), make_event(event_id="4")]))
        assert [event.event_id for event in await scan_all(store, everything())] == ["2", "4"]
    assert await on_disk(connection, "gone") == 2
    await connection.execute("SYSTEM START MERGES events", {})
    await settled(connection)
    assert await on_disk(connection, "gone") == 0
    await connection.close()


# wrong settings, in words


async def test_a_missing_schema_is_reported_with_what_to_do(url: str) -> None:
    async with opened(url) as store:
        with pytest.raises(StoreMisconfigured, match="run `eventmill migrate`"):
            await store.check()
        with pytest.raises(StoreMisconfigured, match="run `eventmill migrate`"):
            await store.insert(EventBatch.of(make_events(1)))


async def test_a_wrong_password_is_reported(server: services.ClickHouse) -> None:
    async with opened(f"http://default:wrong@127.0.0.1:{server.port}/") as store:
        with pytest.raises(StoreMisconfigured, match="Authentication failed"):
            await store.check()


async def test_a_missing_database_is_reported(server: services.ClickHouse) -> None:
    async with opened(f"{server.url}?database=nowhere") as store:
        with pytest.raises(StoreMisconfigured, match="nowhere"):
            await store.check()


async def test_a_folder_in_use_is_reported(tmp_path: Path) -> None:
    address = f"chdb://{tmp_path}/chdb"
    writer = start_writer(address)
    assert writer.stdout is not None
    writer.stdout.readline()
    try:
        with pytest.raises(ConfigurationError, match="another process uses"):
            async with opened(address):
                pass
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "chdb://relative",
        "chdb:///",
        "chdb:///a?database=x",
        "ftp://x",
        "http://",
        "http://h/?user=x",
        "http://h/path",
        "http://h:0/",
        "http://h/?database=a&database=b",
        "http://u:secret#1@h:8123/",
        "clickhouse://h",
    ],
)
async def test_an_invalid_address_is_reported_without_secrets(address: str) -> None:
    with pytest.raises(ValidationError, match="chdb:///PATH|database=NAME|%XX") as refusal:
        ClickHouseStoreSettings(url=SecretStr(address))
    assert "secret" not in str(refusal.value)


async def test_addresses_are_read_in_all_their_parts() -> None:
    assert Address.parse("chdb:///a%20b/c") == Address("chdb", path="/a b/c")
    full = Address.parse("https://me:p%40ss@host:1234/?database=events")
    assert full == Address("https", host="host", port=1234, user="me", password="p@ss", database="events")  # noqa: S106
    assert Address.parse("http://host").port == 8123
    assert "p@ss" not in repr(full)


# schema


async def test_every_table_syncs_what_inserts_and_merges_write(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    await ClickHouseStore(connection).migrate()
    tables = await connection.lookup("SELECT name, engine_full FROM system.tables WHERE database = 'default'", {})
    assert {name for name, _ in tables} == {"events", "erasures", "eventmill_migrations"}
    for _, engine in tables:
        for setting in ("fsync_after_insert", "fsync_part_directory", *_AFTER_MERGE):
            assert f"{setting} = 1" in engine
    await connection.close()


async def test_a_schema_of_the_first_version_is_upgraded_with_its_events(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    for statement in (migrations.BOOKKEEPING, *migrations.MIGRATIONS[0].statements):
        await connection.execute(statement, {})
    await connection.execute(migrations.RECORD.format(number=1, readable_from=1), {})
    await store.insert(EventBatch.of(make_events(10)))
    with pytest.raises(StoreMisconfigured, match="run `eventmill migrate`"):
        await store.check()
    await store.migrate()
    assert await store.check() == []
    assert await count(store) == 10
    await connection.close()


async def test_migrating_at_once_from_two_processes_is_safe(server: services.ClickHouse) -> None:
    async with opened(server.url) as one, opened(server.url) as two:
        await asyncio.gather(*(store.migrate() for store in (one, two) * 3))
        assert await one.check() == await two.check() == []


async def test_the_longest_retention_drops_nothing(url: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    async with opened(url) as store:
        await store.migrate(7300)
        await store.insert(EventBatch.of([make_event(timestamp_ms=now_ms - 86_400_000)]))
        assert await count(store) == 1


async def test_erasures_of_many_users_do_not_stop_inserts(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    many = "SELECT 'other', toString(number), now64(3) FROM numbers(150000)"
    await connection.execute(f"INSERT INTO erasures (project, user_id, until) {many}", {})
    await store.insert(EventBatch.of(make_events(10)))
    assert await store.erase("default", "user_1", NOON_MS + 10**9) >= 0
    await store.insert(EventBatch.of([make_event(user_id="user_1"), make_event(user_id="new")]))
    assert "user_1" not in {event.user_id for event in await scan_all(store, everything())}
    await connection.close()


class _Interrupted(EmbeddedConnection):
    """Something happens right before a statement of one kind."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.before_insert = self.before_ask = ""
        self.lost_replies = 0

    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        if self.before_insert:
            await self.execute(self.before_insert, {})
        written = await super().insert(table, columns, lines, settings)
        self.lost_replies -= 1
        return 0 if self.lost_replies >= 0 else written

    async def query(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        rows = await super().query(sql, parameters, settings)
        if self.before_ask and "FROM events " in sql:
            statement, self.before_ask = self.before_ask, ""
            await self.execute(statement, {})
        return rows


@pytest.mark.parametrize("lost_replies", [0, 1])
async def test_an_erasure_during_an_insert_leaves_no_row_on_the_disk(tmp_path: Path, lost_replies: int) -> None:
    connection = _Interrupted(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    connection.before_insert = "INSERT INTO erasures (project, user_id, until) SELECT 'default', 'gone', now64(3)"
    connection.lost_replies = lost_replies
    batch = EventBatch.of([make_event(user_id="gone"), make_event(user_id="kept")])
    for _ in range(lost_replies):
        with pytest.raises(StoreUnavailable):
            await store.insert(batch)
    await store.insert(batch)
    assert [event.user_id for event in await scan_all(store, everything())] == ["kept"]
    await settled(connection)
    assert await on_disk(connection, "gone") == 0
    await connection.close()


async def test_an_erasure_touches_only_the_months_of_its_user(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    months = [make_event(event_id=f"{n}", timestamp_ms=NOON_MS - n * 31 * 86_400_000) for n in range(30)]
    await store.insert(EventBatch.of([*months, make_event(user_id="gone")]))
    await store.erase("default", "nobody", NOON_MS)
    assert await store.erase("default", "gone", NOON_MS) == 1
    mutations = "SELECT count(), uniq(extract(command, 'PARTITION (\\\\d+)')) FROM system.mutations"
    assert await connection.lookup(mutations, {}) == [(1, 1)]
    await connection.close()


async def test_a_scan_goes_on_below_what_is_inserted_meanwhile(tmp_path: Path) -> None:
    connection = _Interrupted(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    await store.insert(EventBatch.of([make_event(timestamp_ms=NOON_MS - 9 * 86_400_000)]))
    connection.before_ask = (
        "INSERT INTO events (project, event_name, timestamp, event_id, user_id, version) "
        f"SELECT 'default', 'late', fromUnixTimestamp64Milli({NOON_MS - 1}, 'UTC'), 'late', 'late', 1"
    )
    page = await store.scan(EventFilter("default", 0, NOON_MS), None, 10)
    assert [event.event_name for event in page] == ["page_view"]
    await connection.close()


async def test_a_scan_from_1970_on_ends(url: str) -> None:
    async with opened(url) as store:
        await store.migrate()
        assert await scan_all(store, EventFilter("default", 0, NOON_MS)) == []
        await store.insert(EventBatch.of([make_event(), make_event(user_id="gone", event_id="gone")]))
        await store.erase("default", "gone", NOON_MS)
        assert len(await scan_all(store, EventFilter("default", 0, NOON_MS + 1))) == 1


async def test_a_table_that_was_removed_is_reported(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    await connection.execute("RENAME TABLE events TO elsewhere", {})
    for refusing in (store.check(), store.migrate(30)):
        with pytest.raises(StoreMisconfigured, match="table events does not exist"):
            await refusing
    await connection.close()


async def test_a_newer_schema_is_rejected(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    await connection.execute("INSERT INTO eventmill_migrations (number, readable_from) SELECT 99, 99", {})
    for refusing in (store.check(), store.migrate(30)):
        with pytest.raises(StoreMisconfigured, match="newer program"):
            await refusing
    await connection.close()


async def test_the_retention_follows_its_setting(url: str) -> None:
    event = EventBatch.of([make_event()])
    for days in (30, 30, 60, None):
        async with opened(url) as store:
            await store.migrate(days)
            await store.insert(event)
            assert await store.check() == []


def test_the_printed_schema_can_be_run_by_hand(server: services.ClickHouse) -> None:
    import httpx

    settings = ClickHouseStoreSettings(url=SecretStr(server.url))
    for statement in settings.statements(90).split(";\n"):
        if statement.strip():
            httpx.post(server.url, content=statement).raise_for_status()

    async def check() -> list[str]:
        async with opened(server.url) as store:
            return await store.check()

    assert asyncio.run(check()) == []


# fast answers


MONTHS_MS = [1_698_796_800_000, 1_701_388_800_000, 1_704_067_200_000]  # 2023-11, 2023-12, 2024-01


async def test_counts_of_merged_months_are_exact_also_when_late_events_arrive(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    events = [event for month_ms in MONTHS_MS for event in make_events(200, start_ms=month_ms, seed=month_ms)]
    span = EventFilter("default", MONTHS_MS[0] + 3_600_000, MONTHS_MS[2] + 86_400_000, ("page_view", "sign_up"))
    query = MetricsQuery(span, measure=Measure("count"))

    async def is_right() -> bool:
        return await store.metrics(query) == reference.count_metrics(events, query)

    for _ in range(2):  # twice, so that parts hold duplicates
        await store.insert(EventBatch.of(events))
        assert await is_right()
    for month in ("202311", "202401"):
        await connection.execute(f"OPTIMIZE TABLE events PARTITION {month} FINAL", {})
        assert await is_right()
    merged = counts.merged(await connection.lookup(counts.PARTS, {}))
    assert set(merged) >= {"202311", "202401"}
    assert counts.select(span, merged) is not None
    await store.insert(EventBatch.of(events[:300]))
    late = make_events(50, start_ms=MONTHS_MS[0], seed=7)
    await store.insert(EventBatch.of(late))
    events += late
    assert await is_right()
    await store.erase("default", events[0].user_id, MAX_TIME_MS)
    events = [event for event in events if event.user_id != events[0].user_id]
    assert await is_right()
    await connection.close()


async def test_a_materialized_property_changes_no_answer_and_is_erased_with_its_event(tmp_path: Path) -> None:
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    path = parse_property("metadata.it's.a\\.b", "test")
    events = [
        make_event(event_id=f"{n}", user_id=f"user {n % 3}", metadata=b'{"it\'s":{"a.b":"secret %d"}}' % (n % 3))
        for n in range(30)
    ]
    await store.insert(EventBatch.of(events[:20]))
    for _ in range(2):
        assert await store.materialize(path)
    await store.insert(EventBatch.of(events[20:]))
    questions = [
        MetricsQuery(EventFilter("default", *ALL_TIME), (path,)),
        MetricsQuery(EventFilter("default", *ALL_TIME, where=(Condition(path, "=", ("secret 1",)),))),
    ]
    for query in questions:
        assert await store.metrics(query) == reference.count_metrics(events, query)
    [[column]] = await connection.lookup("SELECT name FROM system.columns WHERE startsWith(name, 'property_')", {})
    await store.erase("default", "user 1", MAX_TIME_MS)

    async def is_gone() -> bool:
        rows = await connection.lookup(f"SELECT DISTINCT {column} FROM events", {})
        return all("secret 1" not in value for (value,) in rows)

    await eventually(is_gone, 20)
    assert await store.check() == []
    await connection.close()


# SQL of operators


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count() AS `the count`, uniqExactIf(user_id, channel = 'web') FROM events FINAL",
        "WITH own AS (SELECT * FROM events FINAL) SELECT toDate(timestamp) AS day, count() FROM own GROUP BY day;",
        "SELECT count() OVER (PARTITION BY channel ORDER BY timestamp) FROM events AS e ARRAY JOIN tags AS tag",
        "SELECT e.version, x.until FROM events AS e LEFT JOIN erasures AS x ON x.user_id = e.user_id LIMIT 2",
        "SELECT CASE WHEN channel = 'web' THEN 1 ELSE 2 END FROM events",
        "SELECT JSONExtractInt(metadata, 'number') AS n, formatDateTime(timestamp, '%F') FROM events WHERE n > 1",
        "SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 2",
        "SELECT timestamp - INTERVAL 1 DAY, arrayMap(x -> x + 1, [1, 2]) FROM events WHERE user_id IN ('a', 'it''s')",
        "SELECT quantile(0.5)(number), median(number), any(number) FROM numbers(10) HAVING max(number) > 1",
        "SELECT toStartOfInterval(timestamp, INTERVAL 5 MINUTE, 'Europe/Berlin'), dateDiff('hour', timestamp, now()),"
        " date_trunc('week', timestamp, 'Asia/Tokyo'), addDays(timestamp, version % 3), toDateTime64('2020-01-01', 3),"
        " CAST(version, 'String'), user_id::FixedString(20), toString(timestamp, 'UTC'), makeDate(2020, 1 + 1, 2)"
        " FROM events",
        "SELECT windowFunnel(60)(toDateTime(timestamp), channel = 'web', channel = 'bot') FROM events",
    ],
)
async def test_a_select_of_an_operator_is_answered(url: str, statement: str) -> None:
    async with opened(url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(make_events(100)))
        assert (await store.sql(statement)).is_complete


async def test_a_select_has_at_most_10_000_rows(url: str) -> None:
    async with opened(url) as store:
        await store.migrate()
        result = await store.sql("SELECT number AS n FROM numbers(20000)")
        assert (len(result.rows), result.columns, result.is_complete) == (10_000, ("n",), False)
        [row] = (
            await store.sql("SELECT '{a:String} %s ' || '\\n', 1.5, nan, toUInt64(18446744073709551615), [1]")
        ).rows
        assert json.loads(bytes(row)) == ["{a:String} %s \n", 1.5, "nan", 18446744073709551615, [1]]


@pytest.mark.parametrize(
    "statement",
    [
        *("", ";", "SELECT", "DROP TABLE events", "SELECT 1; DROP TABLE events", "SELECT * FROM nowhere"),
        *("SHOW TABLES", "EXPLAIN SELECT 1", "INSERT INTO events (project) VALUES ('x')", "SELECT {a:String}"),
        *("SELECT file('/etc/hostname')", "SELECT FILE('/etc/hostname')", "SELECT sleep(3)", "SELECT hostName()"),
        *("SELECT arrayMap(file, ['/etc/hostname'])", 'SELECT arrayMap("file", [user_id]) FROM events'),
        *("SELECT aiGenerate('hi')", "SELECT FQDN()", "SELECT user()", "SELECT @@version", "SELECT $$a$$"),
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1', 'CSV')",
        *("SELECT * FROM remote('h', 'd', 't')", "SELECT * FROM system.users", "SELECT * FROM merge('system', 'one')"),
        *("SELECT * FROM '/etc/hostname'", 'SELECT * FROM "/etc/hostname"', "SELECT dictGet('d', 'a', 1)"),
        *("SELECT 1 INTO OUTFILE '{out}'", "SELECT 1) INTO OUTFILE '{out}' --", "SELECT 1) INTO OUTFILE '{out}' /*"),
        *("SELECT 1 FORMAT CSV", "SELECT 1) FORMAT CSV --", "SELECT 1) SETTINGS readonly = 0 --"),
        "SELECT 1) LIMIT 1; CREATE TABLE pwn (a Int8) ENGINE = Memory; SELECT * FROM (SELECT 2",
        "SELECT 1) LIMIT 1; SELECT 5 INTO OUTFILE '{out}'; SELECT * FROM (SELECT 2",
        "SELECT ‘'’) LIMIT 1; CREATE TABLE pwn (a Int8) ENGINE = Memory; # ‘\n SELECT * FROM (SELECT ‘'’",
        "SELECT count() FROM events SETTINGS max_execution_time = 0",
        "SELECT * FROM view(SELECT file('/etc/hostname'))",
        "SELECT (SELECT count() FROM url('http://127.0.0.1:1'))",
        "SELECT 1 IN (SELECT * FROM s3('http://127.0.0.1:1'))",
        "SELECT * FROM events, mysql('h:1', 'd', 't', 'u', 'p')",
        "SELECT * APPLY(file) FROM (SELECT '/etc/hostname' AS a)",
        "SELECT * APPLY(x -> file(x)) FROM (SELECT '/etc/hostname' AS a)",
        "SELECT COLUMNS('a') APPLY(sleep) FROM (SELECT 3 AS a)",
        *("SELECT file('/etc/hostname') AS \"a\n           Literal b\"", "SELECT file('/etc/hostname') AS `a\\n Set`"),
        "SELECT 1) SETTINGS max_rows_to_read = 0 UNION ALL SELECT * FROM (SELECT 2",
        *("SELECT 1) UNION ALL SELECT * FROM (SELECT 2", "SELECT 1) AS a, (SELECT 2", "SELECT 1) WHERE 1 IN (SELECT 2"),
        *("SELECT 1 IN system.one", "SELECT ('a', 'b') IN (system.build_options)", "SELECT 1 IN eventmill_migrations"),
        *("SELECT hasColumnInTable('system', 'users', 'name')", "SELECT getSetting('readonly')"),
        "SELECT * FROM eventmill_migrations",
        "SELECT toString(toDateTime(0), 'file:{zone}')",
        *("SELECT toString(now(), '{zone}')", "SELECT toTimeZone(now(), '../../../..{zone}')", "SELECT now('{zone}')"),
        "SELECT toString(toDateTime(0), concat('file:', '{zone}'))",
        "WITH 'file:{zone}' AS zone SELECT toStartOfHour(now(), zone)",
        "SELECT toDateTime('2020-01-01 00:00:00', (SELECT any('file:{zone}')))",
        "SELECT CAST('2020-01-01 00:00:00', 'DateTime(\\'file:{zone}\\')')",
        "SELECT CAST('2020-01-01 00:00:00', concat('DateTime(\\'file:', '{zone}', '\\')'))",
        "SELECT '2020-01-01 00:00:00'::DateTime('file:{zone}')",
        "SELECT now() AT TIME ZONE 'file:{zone}'",
        "SELECT JSONExtract('{\"a\":1}', 'a', 'DateTime(\\'file:{zone}\\')')",
        "SELECT makeDateTime(2020, 1, 1, 0, 0, 0, 'file:{zone}')",
        "SELECT dateDiff('day', now(), now(), 'file:{zone}')",
        "SELECT UUIDv7ToDateTime(generateUUIDv7(), concat('file:', '{zone}'))",
        f"SELECT arrayWithConstant(60000, CAST(1, 'Enum8(\\'{'a' * 10_000}\\' = 1)'))",
        "SELECT arrayMap(x -> repeat('\\x01', 1000), range(10000)) FROM numbers(6)",
        "SELECT repeat('b', if(substring(toString(generateUUIDv4()), 1, 1) < '8', 1, 20000)) FROM numbers(10000)",
        f"SELECT {' + '.join(['1'] * 3_000)}",
        *("SELECT repeat('x', 1000000) AS a, number FROM numbers(300)", "SELECT length(range(400000000))"),
    ],
)
async def test_what_does_more_than_read_the_tables_is_refused(url: str, tmp_path: Path, statement: str) -> None:
    out, zone = tmp_path / "out", tmp_path / "zone"
    zone.write_bytes(b"TZif2" + bytes(100))
    os.utime(zone, (1, 1))
    async with opened(url) as store:
        await store.migrate()
        with pytest.raises((InvalidQuery, QueryTooLarge)):
            await store.sql(statement.replace("{out}", str(out)).replace("{zone}", str(zone)))
        assert not out.exists()
        assert zone.stat().st_atime == 1  # nobody has read it
        with pytest.raises(InvalidQuery):
            await store.sql("SELECT * FROM pwn")
        assert await store.check() == []


# a cluster


def test_the_schema_of_a_cluster_has_the_columns_of_the_migrations() -> None:
    def tables(script: str) -> dict[str, str]:
        found = re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)[^(;]* \(\n(.*?)\n\) ENGINE", script, re.DOTALL)
        return {name.removesuffix("_shard"): columns for name, columns in found}

    assert tables(CLUSTER.read_text()) == tables(migrations.script(None))


def test_the_schema_of_a_cluster_syncs_as_the_migrations_do_and_records_them() -> None:
    script = CLUSTER.read_text()
    engines = re.findall(r"MergeTree\(.*?;", script, re.DOTALL)
    assert len(engines) == 3
    for engine in engines:
        for setting in ("fsync_after_insert", "fsync_part_directory", *_AFTER_MERGE):
            assert f"{setting} = 1" in engine
    recorded = ", ".join(f"({step.number}, {step.readable_from})" for step in migrations.MIGRATIONS)
    assert f"VALUES {recorded};" in script


async def test_the_schema_of_a_cluster_works_on_one_shard_without_keeper(tmp_path: Path) -> None:
    sql = re.sub(r"ReplicatedReplacingMergeTree\('[^']*', '[^']*'(, )?", "ReplacingMergeTree(", CLUSTER.read_text())
    sql = re.sub(r"\nENGINE = Distributed\([^,]*, [^,]*,", " AS remote('127.0.0.1', currentDatabase(),", sql)
    sql = sql.replace(" ON CLUSTER '{cluster}'", "").replace("AS events_shard AS", "AS")
    connection = EmbeddedConnection(tmp_path / "chdb")
    for statement in re.sub(r"--.*", "", sql).split(";\n"):
        if statement.strip():
            await connection.execute(statement, {})
    store = ClickHouseStore(connection)
    await store.migrate(30)
    assert await store.check() == []
    events = make_events(500)
    await store.insert(EventBatch.of(events))
    await store.insert(EventBatch.of(events))
    assert len(await scan_all(store, everything(), 100)) == 500
    query = metrics_query(group_by="day", start_ms=NOON_MS, end_ms=NOON_MS + 5 * 86_400_000)
    assert await store.metrics(query) == reference.count_metrics(events, query)
    assert await store.erase("default", "user_1", NOON_MS + 10**9) > 0
    assert "user_1" not in {event.user_id for event in await scan_all(store, everything())}
    await connection.close()


# queries


async def test_a_query_reads_what_it_matches(url: str) -> None:
    days = [make_event(event_id=f"{n}", timestamp_ms=NOON_MS - n * 8_640_000) for n in range(20_000)]
    async with opened(url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(days))
        started = time.perf_counter()
        day = MetricsQuery(EventFilter("default", NOON_MS - 86_400_000, NOON_MS, ("page_view",)))
        assert (await store.metrics(day)).total_count == 10
        assert time.perf_counter() - started < 5


async def test_a_query_that_takes_too_long_is_rejected(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(queries.LIMITS, "max_rows_to_read", 10)
    async with opened(url) as store:
        monkeypatch.setitem(queries.LIMITS, "max_rows_to_read", 1_000_000)
        await store.migrate()
        await store.insert(EventBatch.of(make_events(20_000)))
        monkeypatch.setitem(queries.LIMITS, "max_rows_to_read", 10)
        with pytest.raises(QueryTooLarge, match="shorter time"):
            await store.metrics(metrics_query())


async def test_inserts_do_not_wait_for_a_long_query(tmp_path: Path) -> None:
    long = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 1"
    connection = EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    question = asyncio.create_task(connection.query(long, {}, {"max_execution_time": 20, "max_threads": 1}))
    await store.insert(EventBatch.of(make_events(1000)))
    assert await store.check() == []
    assert not question.done()
    await connection.close()
    with pytest.raises(ClickHouseError):
        await question


_LEAVER = """
import asyncio, sys
from pathlib import Path
from eventmill_store_clickhouse.embedded import EmbeddedConnection

LONG = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 1"

async def main():
    connection = EmbeddedConnection(Path(sys.argv[1]))
    queries = [asyncio.create_task(connection.query(LONG, {}, {})) for _ in range(3)]
    await asyncio.sleep(0.5)
    print("leaving", flush=True)
    await connection.close()
    print(*(type(query.exception()).__name__ for query in queries), flush=True)

asyncio.run(main())
"""


def test_stopping_during_a_long_query_ends_cleanly(tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _LEAVER, str(tmp_path / "chdb")],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "leaving"
    assert "NoneType" not in done.stdout
    assert time.monotonic() - started < 20


async def test_queries_that_no_one_waits_for_delay_no_one(tmp_path: Path) -> None:
    long = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 1"
    connection = EmbeddedConnection(tmp_path / "chdb")
    asking = [asyncio.create_task(connection.query(long, {}, {"max_execution_time": 60})) for _ in range(30)]
    assert await connection.lookup("SELECT 1", {}) == [(1,)]
    for task in asking:
        task.cancel()
    async with asyncio.timeout(10):
        assert await connection.query("SELECT 42", {}, {}) == [(42,)]
        running = (
            "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64(number)%' AND query NOT LIKE '%LIKE%'"
        )
        while await connection.lookup(running, {}) != [(0,)]:
            pass
    assert {task.cancelled() for task in asking} == {True}
    await connection.close()


async def test_a_query_to_a_server_may_end_when_its_connection_does(server: services.ClickHouse) -> None:
    connection = ServerConnection(Address.parse(server.url), 5)
    sql = "SELECT value FROM system.settings WHERE name = 'readonly'"
    assert await connection.query(sql, {}, {}) == [("2",)]  # the server cancels no other question
    await connection.close()


async def test_receipts_read_a_few_granules_however_old_one_of_them_is(tmp_path: Path) -> None:
    day_ms, connection = 86_400_000, EmbeddedConnection(tmp_path / "chdb")
    store = ClickHouseStore(connection)
    await store.migrate()
    rows = 500_000
    await connection.execute(
        "INSERT INTO events (project, event_name, timestamp, event_id, user_id, metadata, version)"
        " SELECT 'default', 'page_view', fromUnixTimestamp64Milli({noon:Int64} - number * 20000, 'UTC'),"
        f" toString(number), 'ada', '{{}}', 1 FROM numbers({rows})",
        {"noon": NOON_MS},
    )
    wanted = [make_event(timestamp_ms=NOON_MS - n * 20_000, event_id=f"{n}").identity for n in (0, 1, 2, 3, rows - 1)]
    sql, parameters = queries.find("default", wanted)
    plan = "\n".join(line for (line,) in await connection.query(f"EXPLAIN indexes = 1 {sql}", parameters, {}))
    granules = [(int(some), int(all_)) for some, all_ in re.findall(r"Granules: (\d+)/(\d+)", plan)]
    assert max(all_ for _, all_ in granules) > 60
    assert min(some for some, all_ in granules if all_ > 1) <= 8, plan
    missing = make_event(timestamp_ms=NOON_MS - 300 * day_ms, event_id="missing").identity
    found = await store.find([*wanted, missing])
    assert {event.identity for event in found} == set(wanted)
    await connection.close()


async def test_reads_stay_right_while_parts_merge(url: str) -> None:
    events = make_events(3000)
    query = metrics_query(start_ms=NOON_MS - 1, end_ms=NOON_MS + 10 * 86_400_000)
    expected = sum(event.event_name == "page_view" for event in events)
    async with opened(url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(events))

        async def repeat() -> None:
            for start in range(0, 3000, 100):
                await store.insert(EventBatch.of(events[start : start + 100]))

        repeating = asyncio.create_task(repeat())
        while not repeating.done():
            assert (await store.metrics(query)).total_count == expected
        await repeating


async def test_a_scan_pages_through_sparse_and_dense_times(url: str) -> None:
    dense = [make_event(event_id=f"{n}", timestamp_ms=NOON_MS + n // 50) for n in range(2000)]
    sparse = [make_event(event_id="old", timestamp_ms=NOON_MS - n * 40 * 86_400_000) for n in range(1, 30)]
    async with opened(url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(dense + sparse))
        found = await scan_all(store, EventFilter("default", NOON_MS - 2 * 10**11, NOON_MS + 10**9), 100)
        assert [event.identity for event in found[-29:]] == [event.identity for event in sparse]
        assert len(found) == 2029


# the server's version and profile

HOSTILE = {
    "timeout": {"timeout_overflow_mode": "break", "max_execution_time": "0.000001"},
    "read": {"read_overflow_mode": "break", "max_rows_to_read": "10"},
    "result": {"result_overflow_mode": "break", "max_result_rows": "1", "max_block_size": "1"},
    "groups": {"group_by_overflow_mode": "any", "max_rows_to_group_by": "1"},
    "groups, ended": {"group_by_overflow_mode": "break", "max_rows_to_group_by": "1", "max_block_size": "1"},
    "sort": {"sort_overflow_mode": "break", "max_rows_to_sort": "1", "max_block_size": "1"},
    "set": {"set_overflow_mode": "break", "max_rows_in_set": "1"},
    "join": {"join_overflow_mode": "break", "max_rows_in_join": "1", "max_block_size": "1"},
    "distinct": {"distinct_overflow_mode": "break", "max_rows_in_distinct": "1"},
    "limit": {"limit": "1"},
    "offset": {"offset": "1"},
    "page": {"limit": "1", "page": "2"},
    "types in binary": {"output_format_native_encode_types_in_binary_format": "1"},
    "table filter": {"additional_table_filters": "{'events': 'channel != \\'web\\''}"},
    "result filter": {"additional_result_filter": "0"},
    "nulls in joins": {"join_use_nulls": "1"},
    "nulls in groups": {"group_by_use_nulls": "1"},
    "nulls in aggregates": {"aggregate_functions_null_for_empty": "1"},
    "old joins": {"any_join_distinct_right_table_keys": "1"},
    "grouping of old": {"force_grouping_standard_compatibility": "0"},
    "defaults of old": {"compatibility": "21.3"},
    "extremes": {"extremes": "1"},
    "cache": {"use_query_cache": "1", "query_cache_ttl": "600"},
    "dialect": {"dialect": "kusto"},
    "lenient inserts": {"input_format_allow_errors_num": "9", "input_format_allow_errors_ratio": "1"},
    "no defaults": {"input_format_defaults_for_omitted_fields": "0"},
    "late inserts": {"async_insert": "1", "wait_for_async_insert": "0"},
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_profile_makes_an_answer_wrong(server: services.ClickHouse, name: str) -> None:
    events = make_events(300)
    asked = [metrics_query(group_by=group, end_ms=NOON_MS + 5 * 86_400_000) for group in (None, "channel", "day")]
    async with opened(server.url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(events))
        await store.insert(EventBatch.of(events[:20]))
        await store.metrics(asked[0])  # what a cache would answer from then on
    server.set_profile(HOSTILE[name])
    more = make_events(60, seed=1)
    async with opened(server.url) as store:
        stored = events
        with suppress(StoreUnavailable, StoreMisconfigured):
            await store.insert(EventBatch.of(more))
            stored = [*stored, *more]
        for query in asked:
            with suppress(StoreUnavailable, StoreMisconfigured, QueryTooLarge):
                assert await store.metrics(query) == reference.count_metrics(stored, query)
        with suppress(StoreUnavailable, StoreMisconfigured, QueryTooLarge):
            assert len(await store.find([event.identity for event in stored[:50]])) == 50
        with suppress(StoreUnavailable, StoreMisconfigured, QueryTooLarge):
            assert await count(store) == len(stored)
        is_erased = False
        with suppress(StoreUnavailable, StoreMisconfigured, QueryTooLarge):
            await store.erase("default", "user_7", NOON_MS + 10**9)
            is_erased = True
    server.set_profile({})
    async with opened(server.url) as store:
        if not is_erased:  # what failed is repeated
            await store.erase("default", "user_7", NOON_MS + 10**9)
        assert await count(store) == sum(event.user_id != "user_7" for event in stored)


@pytest.mark.parametrize(
    ("limit", "value", "mode"),
    [
        ("max_execution_time", 0.000001, "timeout_overflow_mode"),
        ("max_rows_to_read", 10, "read_overflow_mode"),
        ("max_result_rows", 1, "result_overflow_mode"),
    ],
)
async def test_a_query_that_reaches_a_limit_fails_whatever_the_profile_says(
    server: services.ClickHouse, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, mode: str
) -> None:
    server.set_profile({mode: "break", "max_block_size": "1"})
    monkeypatch.setitem(queries.LIMITS, limit, value)
    async with opened(server.url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(make_events(300)))
        with pytest.raises(QueryTooLarge, match="shorter time"):
            await store.scan(everything(), None, 100)


async def test_a_setting_that_the_server_does_not_know_is_left_out(server: services.ClickHouse) -> None:
    server.set_profile({}, unknown=["deduplicate_insert", "final", "use_query_cache"])
    async with opened(server.url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(make_events(100)))
        assert await store.check() == []
        assert await count(store) == 100


async def test_a_limit_of_the_server_takes_the_place_of_ours(server: services.ClickHouse) -> None:
    server.set_profile(
        {"max_memory_usage": "1000000000"}, fixed=["max_memory_usage", "max_partitions_per_insert_block"]
    )
    async with opened(server.url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(make_events(100)))
        assert await count(store) == 100


async def test_a_check_proves_that_rows_can_be_written_and_read(server: services.ClickHouse) -> None:
    async with opened(server.url) as store:
        await store.migrate()
        server.fail("misconfigured")
        with pytest.raises(StoreMisconfigured, match="No such column"):
            await store.check()
        assert await store.check() == []
        server.fail("misconfigured")
        assert await store.check() == []  # proved a moment ago


async def test_a_store_that_takes_inserts_needs_no_other_proof(server: services.ClickHouse) -> None:
    async with opened(server.url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(make_events(10)))
        server.fail("misconfigured")
        assert await store.check() == []


async def test_a_user_who_may_only_read_is_reported_by_a_check_and_can_ask(server: services.ClickHouse) -> None:
    async with opened(server.url) as store:
        await store.migrate()
        await store.insert(EventBatch.of(make_events(10)))
    server.fail("denied", count=9)
    async with opened(server.url) as store:
        for _ in range(2):
            [warning] = await store.check()
            assert "may not insert" in warning
        assert await count(store) == 10
        with pytest.raises(StoreMisconfigured, match="Not enough privileges"):
            await store.insert(EventBatch.of(make_events(1)))


async def test_a_setting_that_the_server_fixes_otherwise_is_reported(server: services.ClickHouse) -> None:
    server.set_profile({"async_insert": "1"}, fixed=["async_insert"])
    async with opened(server.url) as store:
        await store.migrate()
        for refusing in (store.insert(EventBatch.of(make_events(1))), store.check()):
            with pytest.raises(StoreMisconfigured, match="fixes async_insert to '1', but eventmill needs '0'"):
                await refusing


async def test_a_server_that_is_exchanged_for_an_older_one_is_understood_at_the_next_try(
    server: services.ClickHouse,
) -> None:
    async with opened(server.url) as store:
        await store.migrate()
        server.set_profile({}, unknown=["deduplicate_insert"])
        with pytest.raises(StoreMisconfigured):
            await store.insert(EventBatch.of(make_events(10)))
        await store.insert(EventBatch.of(make_events(10)))
        assert await count(store) == 10
