"""The store: confirmed inserts, bounded queries, lasting erasures."""

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from clickhouse_connect.driver.exceptions import ClickHouseError
from prometheus_client import Metric

from eventmill import (
    EVENT_FIELDS,
    Event,
    EventBatch,
    EventFilter,
    EventName,
    Funnel,
    FunnelQuery,
    Identity,
    InvalidQuery,
    Metrics,
    MetricsQuery,
    Position,
    Property,
    RejectedEvents,
    Retention,
    RetentionQuery,
    SqlResult,
    Store,
    StoreMisconfigured,
    StoreUnavailable,
    order_names,
)
from eventmill_store_clickhouse import counts, failures, funnels, metrics, migrations, queries, retention
from eventmill_store_clickhouse.canary import Canary
from eventmill_store_clickhouse.connection import Connection
from eventmill_store_clickhouse.erasures import Erasures
from eventmill_store_clickhouse.properties import Table
from eventmill_store_clickhouse.schema import Schema
from eventmill_store_clickhouse.statements import Statements

LINE_COLUMNS = tuple(field.name for field in EVENT_FIELDS)
INSERT = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "deduplicate_insert": "disable",  # the new name, which newer servers prefer
    "max_partitions_per_insert_block": 0,
    "input_format_allow_errors_num": 0,
    "input_format_allow_errors_ratio": 0,
    "input_format_defaults_for_omitted_fields": 1,
    "input_format_parallel_parsing": 0,  # for one batch, one thread is faster than several
    "input_format_json_read_objects_as_strings": 1,
    "input_format_skip_unknown_fields": 0,
}
MAX_PAGE = 50_000
_SQL_ROWS = 10_000
_MAX_COLUMNS = 50  # each makes inserts slower
_READ_BACK_SECONDS = 1.0
_FIRST_WINDOW_MS = 86_400_000
_KEYS = 100  # per statement, since a server accepts URLs of at most 1 MiB
_ROWS_PER_EVENT = 4  # a window with more rows per event of a page is made smaller


class ClickHouseStore(Store):
    """Events in a ReplacingMergeTree that is ordered by identity. Servers and chDB run the same SQL."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._statements = Statements(connection)
        self._erasures = Erasures(self._statements)
        self._schema = Schema(self._statements)
        self._canary = Canary(self._prove)

    async def migrate(self, retention_days: int | None = None) -> None:
        await self._schema.migrate(retention_days)

    async def insert(self, batch: EventBatch) -> None:
        if batch:
            prepared = await self._erasures.prepare(batch)
            await self._write(prepared)
            self._canary.confirm([])
            await self._erasures.finish(prepared)

    async def _write(self, batch: EventBatch) -> None:
        try:
            written = await self._connection.insert("events", LINE_COLUMNS, b"\n".join(batch.lines), INSERT)
        except ClickHouseError as error:
            raise failures.explain_insert(error, len(batch)) from error
        if written < len(batch):
            raise StoreUnavailable(f"only {written} of {len(batch)} rows were confirmed")

    async def scan(self, filter: EventFilter, before: Position | None, limit: int) -> list[Event]:
        limit = min(limit, MAX_PAGE)
        rest = filter if before is None else replace(filter, end_ms=min(filter.end_ms, before.timestamp_ms + 1))
        window_ms, table = _FIRST_WINDOW_MS, await self._table(filter.project)
        events: list[Event] = []
        while len(events) < limit and rest.start_ms < rest.end_ms:
            window, rows = await self._window(rest, window_ms, limit, table)
            rest = replace(rest, end_ms=window.start_ms)
            if rows:
                events += await self._page(window, before, limit - len(events), table)
            else:
                left, newest_ms = (await self._statements.query(*queries.newest(rest, table)))[0]
                rest = replace(rest, end_ms=newest_ms + 1 if left else rest.start_ms)
            window_ms = (window.end_ms - window.start_ms) * 4
        return events

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        return await self._erasures.add(project, user_id, until_ms)

    async def check(self) -> list[str]:
        skew = await self._schema.check()
        return [*await self._canary.warnings(), *self._connection.warnings(), *skew]

    def collect(self) -> Iterable[Metric]:
        return self._connection.collect()

    async def find(self, identities: Sequence[Identity]) -> list[Event]:
        found = []
        for project in {identity.project for identity in identities}:
            wanted = [identity for identity in identities if identity.project == project]
            for start in range(0, len(wanted), _KEYS):
                rows = await self._statements.query(*queries.find(project, wanted[start : start + _KEYS]))
                found += [_event(project, row) for row in rows]
        return found

    async def metrics(self, query: MetricsQuery) -> Metrics:
        table = await self._table(query.filter.project)
        if counts.is_plain(query, table) and (count := await self._count(query.filter)) is not None:
            return Metrics(count, None)
        sql, values = metrics.select(query, table)
        limits = queries.LIMITS | metrics.limits(query)
        return metrics.read(query, await self._statements.query(sql, values, limits))

    async def event_names(self, filter: EventFilter, limit: int) -> list[EventName]:
        rows = await self._statements.query(*queries.event_names(filter, limit, await self._table(filter.project)))
        return order_names((EventName(*row) for row in rows), limit)

    async def funnel(self, query: FunnelQuery) -> Funnel:
        sql, values = funnels.select(query, await self._table(query.span.project))
        return funnels.read(query, await self._statements.query(sql, values))

    async def retention(self, query: RetentionQuery) -> Retention:
        sql, values = retention.select(query, await self._table(query.span.project))
        return retention.read(query, await self._statements.query(sql, values))

    async def sql(self, statement: str) -> SqlResult:
        return await self._statements.sql(statement, _SQL_ROWS)

    async def projects(self) -> list[str]:
        return [str(project) for (project,) in await self._statements.query(queries.PROJECTS, {})]

    async def materialize(self, property: Property) -> bool:
        if "MergeTree" not in await self._statements.engine():
            raise StoreMisconfigured("the table events is Distributed: add the column to the tables of the shards")
        columns = (await self._table("")).columns
        if property.keys not in columns and len(columns) >= _MAX_COLUMNS:
            raise InvalidQuery(f"{_MAX_COLUMNS} properties are materialized already, which is the limit", "name")
        for statement in migrations.materialize(property.keys):
            await self._statements.execute(statement)
        return True

    async def _count(self, wanted: EventFilter) -> int | None:
        """Return the number of events from the primary index, None if that cannot tell."""
        before = counts.merged(await self._statements.query(counts.PARTS, {}))
        if (selected := counts.select(wanted, before)) is None:
            return None
        [[count]] = await self._statements.query(*selected)
        after = counts.merged(await self._statements.query(counts.PARTS, {}))
        return int(count) if before.items() <= after.items() else None

    async def _prove(self, event: Event) -> list[str]:
        """Write an event and read it; return a warning if the server's user may only read."""
        try:
            await self._write(EventBatch.of([event]))
        except RejectedEvents as error:
            raise StoreMisconfigured(f"the store rejects every event: {error}") from error
        except StoreMisconfigured as error:
            if isinstance(error.__cause__, ClickHouseError) and failures.code_of(error.__cause__) in failures.DENIED:
                return [
                    "the store's user may not insert, which is enough for `serve` but not for `consume`, nor to pause:"
                    " run `GRANT INSERT ON DATABASE.* TO USER`"
                ]
            raise
        until = time.monotonic() + _READ_BACK_SECONDS
        while not await self._statements.lookup(*queries.written(event)):
            if time.monotonic() > until:
                raise StoreUnavailable("an event that was written cannot be read")
            await asyncio.sleep(0.1)  # another replica may need time to see it
        return []

    async def _window(self, filter: EventFilter, window_ms: int, limit: int, table: Table) -> tuple[EventFilter, int]:
        """Return the newest span of time that holds about a page, and its number of rows."""
        while True:
            window = replace(filter, start_ms=max(filter.start_ms, filter.end_ms - window_ms))
            rows = (await self._statements.query(*queries.rows(window, table)))[0][0]
            if rows <= _ROWS_PER_EVENT * limit or window_ms == 1:
                return window, rows
            window_ms = max(1, min(window_ms // 2, window_ms * limit // rows))

    async def _page(self, window: EventFilter, before: Position | None, limit: int, table: Table) -> list[Event]:
        rows = await self._statements.query(*queries.page(window, before, limit, table))
        return [_event(window.project, row) for row in rows]

    async def _table(self, project: str) -> Table:
        """Return what statements must know. Every erasure that has ended is seen."""
        [[erasures, columns]] = await self._statements.query(queries.TABLE, {"project": project})
        return Table(bool(erasures), {tuple(json.loads(comment)): name for name, comment in columns})


def _to_raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


# How to convert a column that the driver does not return as the type of the field.
_CONVERT = {
    index: tuple if isinstance(field.default, tuple) else _to_raw
    for index, field in enumerate(queries.READ_FIELDS)
    if isinstance(field.default, tuple | msgspec.Raw)
}
_NAMES = tuple(field.name for field in queries.READ_FIELDS)


def _event(project: str, row: Sequence[Any]) -> Event:
    """Return the event of a row of `queries.COLUMNS`."""
    values = list(row)
    for index, convert in _CONVERT.items():
        values[index] = convert(values[index])
    return Event(project=project, **dict(zip(_NAMES, values, strict=True)))
