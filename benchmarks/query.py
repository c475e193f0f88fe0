"""Questions over millions of rows: eventmill's table against the layout ORDER BY (event_id, timestamp), and growth.

All tables lie in chDB and hold synthetic events: 20 skewed event names, 100 000 users, half of the rows sent twice.
They are generated once, into data/.
"""

import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from eventmill import EventFilter, MetricsQuery, parse_property
from eventmill_store_clickhouse import metrics, migrations, queries
from eventmill_store_clickhouse.properties import Table
from figures import Figure, compare, in_turn

ROUNDS = 7
MILLION = 1_000_000
MERGES = 5
ROWS, DAYS = 10 * MILLION, 90
GROWTH = {1: 9, 10: 90, 50: 450}  # million rows: days, of equal density
START_S, DAY_S = 1_740_000_000, 86_400
EVENT_NAME = "event_3"
DAY_BAR, ALL_BAR, GROWTH_BAR = 10.0, 5.0, 1.5
DATA = Path(__file__).parent / "data"

# One row of numbers(), as an event; the name's skew is that of the square of a uniform number.
_ROW = """
    concat('event_', toString(toUInt8(20 * pow(sipHash64(number, 1) % 1000000 / 1000000, 2)))) AS event_name,
    toInt64({start}) * 1000 + sipHash64(number, 2) % ({days} * 86400 * 1000) AS ms,
    hex(sipHash128(number)) AS event_id,
    arrayElement(['web', 'mobile', 'bot', 'other'], 1 + sipHash64(number, 3) % 4) AS channel,
    concat('user_', toString(sipHash64(number, 4) % 100000)) AS user_id,
    concat('{{"path":"/page/', toString(number % 5000), '","status":200}}') AS metadata
"""
_REFERENCE = """
CREATE TABLE reference (
    event_id String, event_name LowCardinality(String), channel LowCardinality(String), campaign_id String,
    user_id String, timestamp Int64, tags Array(String), metadata String, processed_at DateTime64(3), version UInt64
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(toDateTime(timestamp)) PRIMARY KEY event_id ORDER BY (event_id, timestamp)
"""
_WHERE = "event_name = {event_name:String} AND timestamp >= {start_s:Int64} AND timestamp <= {end_s:Int64}"
_TOTALS = f"SELECT count(), uniq(user_id) FROM reference FINAL WHERE {_WHERE}"
_GROUPS = f"SELECT channel, count(), uniq(user_id) FROM reference FINAL WHERE {_WHERE} GROUP BY channel"


def reference() -> list[Figure]:
    """A day, all time, and a day by channel, in both layouts."""
    day = (START_S + 40 * DAY_S, START_S + 41 * DAY_S)
    everything = (START_S, START_S + DAYS * DAY_S)
    with filled(ROWS, DAYS, with_reference=True) as client:
        return [
            _against_reference("query_day", client, day, None, DAY_BAR),
            _against_reference("query_all", client, everything, None, ALL_BAR),
            _against_reference("group_by, a day by channel", client, day, "channel", DAY_BAR),
            _against_reference("group_by, all time by channel", client, everything, "channel", ALL_BAR),
        ]


def growth() -> list[Figure]:
    """The same day at 10 and 50 million rows, against 1 million."""
    with ExitStack() as stack:
        pools = []
        for millions, days in GROWTH.items():
            with filled(millions * MILLION, days) as client:
                _merge(client)
            # A process has one engine, so each size runs in a separate process.
            context, arguments = multiprocessing.get_context("spawn"), (millions * MILLION, days)
            pools.append(stack.enter_context(ProcessPoolExecutor(1, context, _open, arguments)))
            pools[-1].submit(_ask_a_day).result()
        first, *others = in_turn(3 * ROUNDS, *(lambda pool=pool: pool.submit(_ask_a_day).result() for pool in pools))
    return [
        compare(f"query_growth, {millions} million rows", "itself at 1 million", "ms", ms, first, at_most=GROWTH_BAR)
        for millions, ms in zip(list(GROWTH)[1:], others, strict=True)
    ]


_opened: list[Client] = []


def _open(rows: int, days: int) -> None:
    """Open the engine of a size, in its own process."""
    _opened.append(clickhouse_connect.get_client(interface="chdb", path=str(_folder(rows, days) / "chdb")))


def _ask_a_day() -> float:
    """Milliseconds for the same day at every size."""
    sql, parameters = _ours((START_S + 4 * DAY_S, START_S + 5 * DAY_S), None)
    return _ask(_opened[0], sql, parameters, queries.LIMITS)[0]


def _against_reference(
    name: str, client: Client, span: tuple[int, int], group_by: str | None, at_least: float
) -> Figure:
    sql, parameters = _ours(span, group_by)
    other_parameters = {"event_name": EVENT_NAME, "start_s": span[0], "end_s": span[1] - 1}
    ours, theirs = in_turn(
        ROUNDS,
        partial(_ask, client, sql, parameters, queries.LIMITS),
        partial(_ask, client, _GROUPS if group_by else _TOTALS, other_parameters, {}),
    )
    assert {counts for _, counts in ours} == {counts for _, counts in theirs}
    times = [ms for ms, _ in ours], [ms for ms, _ in theirs]
    return compare(name, "ORDER BY (event_id, timestamp)", "ms", *times, inverse=True, at_least=at_least)


def _ours(span: tuple[int, int], group_by: Any) -> tuple[str, dict[str, Any]]:
    wanted = EventFilter("default", span[0] * 1000, span[1] * 1000, (EVENT_NAME,))
    query = MetricsQuery(wanted, (parse_property(group_by, "group_by"),) if group_by else ())
    return metrics.select(query, Table(has_erasures=False))


def _ask(client: Client, sql: str, parameters: dict[str, Any], settings: Mapping[str, Any]) -> tuple[float, Any]:
    """Milliseconds, and the counts: what both layouts must agree in. Users are approximate in the other."""
    started = time.perf_counter()
    result = client.query(sql, parameters=parameters, settings=dict(settings))
    milliseconds = (time.perf_counter() - started) * 1000
    rows = result.result_rows
    if isinstance(rows[0][-1], list):  # ours: the total and its groups, (is_other, key, events, users, value)
        [(total, *_, groups)] = rows
        return milliseconds, tuple(sorted(events for _, _, events, *_ in groups)) or (total,)
    return milliseconds, tuple(sorted(row[-2] for row in rows))


def _folder(rows: int, days: int, *, with_reference: bool = False) -> Path:
    return DATA / f"query_{rows}_{days}{'_both' if with_reference else ''}"


@contextmanager
def filled(rows: int, days: int, *, with_reference: bool = False) -> Iterator[Client]:
    """Return an engine with this many events in this many days."""
    folder = _folder(rows, days, with_reference=with_reference)
    is_fresh = not (folder / "filled").exists()
    if is_fresh:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    client = clickhouse_connect.get_client(interface="chdb", path=str(folder / "chdb"))
    if is_fresh:
        _fill(client, rows, days, with_reference=with_reference)
        (folder / "filled").touch()
    yield client
    client.close()


def _fill(client: Client, rows: int, days: int, *, with_reference: bool) -> None:
    """Insert the rows, the first half of each million twice."""
    client.command(migrations.BOOKKEEPING)
    for migration in migrations.MIGRATIONS:
        for statement in migration.statements:
            client.command(statement)
    if with_reference:
        client.command(_REFERENCE)
    row = _ROW.format(start=START_S, days=days)
    for start in range(0, rows, MILLION):
        for count in (MILLION, MILLION // 2):
            source = f"(SELECT {row} FROM numbers({start}, {count}))"
            client.command(
                "INSERT INTO events (project, event_name, timestamp_ms, event_id, channel, user_id, campaign_id, tags,"
                " metadata, received_at_ms, version)"
                " SELECT 'default', event_name, ms, event_id, channel, user_id, '', ['a'], metadata, ms, ms"
                f" FROM {source}"
            )
            if with_reference:
                client.command(
                    "INSERT INTO reference SELECT event_id, event_name, channel, '', user_id, intDiv(ms, 1000), ['a'],"
                    f" metadata, now64(3), ms FROM {source}"
                )
        sys.stderr.write(f"\r{(start + MILLION) // MILLION} of {rows // MILLION} million rows")
    sys.stderr.write("\n")
    _rest(client)


def _merge(client: Client) -> None:
    """Merge as a table does by itself within hours, so that each size is in the same state: one part for each month."""
    for _ in range(MERGES):
        many = "SELECT partition_id FROM system.parts WHERE active AND table = 'events' GROUP BY 1 HAVING count() > 1"
        for (partition,) in client.query(many).result_rows:
            client.command(f"OPTIMIZE TABLE events PARTITION ID '{partition}'")
    _rest(client)


def _rest(client: Client) -> None:
    """Wait until no merge is under way."""
    while client.query("SELECT count() FROM system.merges").result_rows[0][0]:
        time.sleep(0.5)
