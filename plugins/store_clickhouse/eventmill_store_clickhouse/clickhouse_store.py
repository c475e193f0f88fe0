"""The store: inserts that are proved, questions that are bounded, erasures that hold."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from clickhouse_connect.driver.exceptions import ClickHouseError

from eventmill import (
    Event,
    EventBatch,
    EventFilter,
    Group,
    Identity,
    Metrics,
    MetricsQuery,
    Position,
    QueryTooLarge,
    RejectedEvents,
    Store,
    StoreMisconfigured,
    StoreUnavailable,
)
from eventmill_store_clickhouse import failures, migrations, questions
from eventmill_store_clickhouse.canary import Canary
from eventmill_store_clickhouse.connection import Connection
from eventmill_store_clickhouse.erasures import Erasures
from eventmill_store_clickhouse.statements import Statements

LINE_COLUMNS = tuple(Event.__struct_fields__)
MAX_GROUPS = 10_000
INSERT = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "deduplicate_insert": "disable",  # its new name, which counts where a server knows both
    "max_partitions_per_insert_block": 0,
    "input_format_allow_errors_num": 0,
    "input_format_allow_errors_ratio": 0,
    "input_format_defaults_for_omitted_fields": 1,
    "input_format_parallel_parsing": 0,  # one thread reads a batch in less time than several need to share it
    "input_format_json_read_objects_as_strings": 1,
    "input_format_skip_unknown_fields": 0,
}
MAX_PAGE = 50_000
_READ_BACK_SECONDS = 1.0
_FIRST_WINDOW_MS = 86_400_000
_KEYS = 100  # in one statement, which a server takes as a URL of at most 1 MiB
_ROWS_PER_EVENT = 4  # a window may hold so many rows per event of a page before it is made smaller


class ClickHouseStore(Store):
    """Events in a ReplacingMergeTree ordered by their identity; one SQL for every engine."""

    def __init__(self, connection: Connection, retention_days: int | None) -> None:
        self._connection = connection
        self._statements = Statements(connection)
        self._erasures = Erasures(self._statements)
        self._retention_days = retention_days
        self._canary = Canary(self._prove)

    async def migrate(self) -> None:
        await self._statements.execute(migrations.BOOKKEEPING)
        applied = await self._applied()
        _refuse_newer(applied)
        for migration in migrations.MIGRATIONS:
            if migration.number not in applied:
                for statement in migration.statements:
                    await self._statements.execute(statement)
                await self._statements.execute(
                    migrations.RECORD.format(number=migration.number, readable_from=migration.readable_from)
                )
        await self._retain()

    async def insert(self, batch: EventBatch) -> None:
        if batch:
            prepared = await self._erasures.prepare(batch)
            await self._write(prepared)
            self._canary.lives([])
            await self._erasures.follow(prepared)

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
        window_ms = _FIRST_WINDOW_MS
        events: list[Event] = []
        while len(events) < limit and rest.start_ms < rest.end_ms:
            window, rows = await self._window(rest, window_ms, limit)
            rest = replace(rest, end_ms=window.start_ms)
            if rows:
                events += await self._page(window, before, limit - len(events))
            else:
                left, newest_ms = (await self._statements.ask(*questions.newest(rest)))[0]
                rest = replace(rest, end_ms=newest_ms + 1 if left else rest.start_ms)
            window_ms = (window.end_ms - window.start_ms) * 4
        return events

    async def erase(self, project: str, user_id: str, until_ms: int) -> int:
        return await self._erasures.add(project, user_id, until_ms)

    async def check(self) -> list[str]:
        applied = await self._applied()
        if not applied:
            raise StoreMisconfigured("the schema is missing: run `eventmill migrate`")
        if max(applied) < migrations.NEWEST:
            raise StoreMisconfigured(
                f"the schema is {max(applied)}, needed is {migrations.NEWEST}: run `eventmill migrate`"
            )
        _refuse_newer(applied)
        tables = {
            name
            for (name,) in await self._statements.look(
                "SELECT name FROM system.tables WHERE database = currentDatabase()", {}
            )
        }
        if missing := {"events", "erasures"} - tables:
            raise StoreMisconfigured(
                f"the table {', '.join(sorted(missing))} is missing: somebody removed or renamed it"
            )
        return await self._canary.look()

    async def find(self, identities: Sequence[Identity]) -> list[Event]:
        found = []
        for project in {identity.project for identity in identities}:
            wanted = [identity for identity in identities if identity.project == project]
            for start in range(0, len(wanted), _KEYS):
                rows = await self._statements.ask(*questions.find(project, wanted[start : start + _KEYS]))
                found += [_event(project, row) for row in rows]
        return found

    async def metrics(self, query: MetricsQuery) -> Metrics:
        rows = await self._statements.ask(*questions.metrics(query, MAX_GROUPS))
        if len(rows) > MAX_GROUPS + 1:
            raise QueryTooLarge(f"there are more than {MAX_GROUPS} groups: ask for a shorter time", "group_by")
        (_, _, total_count, unique_count), *groups = rows or [(1, "", 0, 0)]
        return Metrics(
            total_count, unique_count, tuple(Group(value, total, unique) for _, value, total, unique in groups)
        )

    async def close(self) -> None:
        self._canary.close()
        await self._connection.close()

    async def _prove(self, event: Event) -> list[str]:
        """Write the event and read it; return a warning where the server's user may only read."""
        try:
            await self._write(EventBatch.of([event]))
        except RejectedEvents as error:
            raise StoreMisconfigured(f"the store rejects every event: {error}") from error
        except StoreMisconfigured as error:
            if isinstance(error.__cause__, ClickHouseError) and failures.code_of(error.__cause__) in failures.DENIED:
                return ["the store's user may not insert: that is enough for `serve`, but not for `consume`"]
            raise
        until = time.monotonic() + _READ_BACK_SECONDS
        while not await self._statements.look(*questions.written(event)):
            if time.monotonic() > until:
                raise StoreUnavailable("a row that was written cannot be read")
            await asyncio.sleep(0.1)  # another replica may answer, a little later
        return []

    async def _window(self, filter: EventFilter, window_ms: int, limit: int) -> tuple[EventFilter, int]:
        """The newest span of time that holds about a page, and its rows: dense data makes it short."""
        while True:
            window = replace(filter, start_ms=max(filter.start_ms, filter.end_ms - window_ms))
            rows = (await self._statements.ask(*questions.rows(window)))[0][0]
            if rows <= _ROWS_PER_EVENT * limit or window_ms == 1:
                return window, rows
            window_ms = max(1, min(window_ms // 2, window_ms * limit // rows))

    async def _page(self, window: EventFilter, before: Position | None, limit: int) -> list[Event]:
        rows = await self._statements.ask(*questions.page(window, before, limit))
        return [_event(window.project, row) for row in rows]

    async def _applied(self) -> dict[int, int]:
        """The migrations that were applied, each with the number from which programs can still read."""
        sql = "SELECT number, max(readable_from) FROM eventmill_migrations GROUP BY number"
        try:
            rows = await self._connection.look(sql, {})
        except ClickHouseError as error:
            if failures.code_of(error) == failures.UNKNOWN_TABLE:
                return {}
            raise failures.explain(error) from error
        return {int(number): int(readable_from) for number, readable_from in rows}

    async def _retain(self) -> None:
        """Make the table's retention the one that is set, where it differs."""
        engine = await self._statements.engine()
        if "MergeTree" not in engine:
            return  # a cluster's, see cluster.sql
        wanted = migrations.ttl(self._retention_days)
        if wanted is None and " TTL " in engine:
            await self._statements.execute("ALTER TABLE events REMOVE TTL")
        elif wanted is not None and f"TTL {wanted}" not in engine:
            await self._statements.execute(f"ALTER TABLE events MODIFY TTL {wanted}")


def _refuse_newer(applied: Mapping[int, int]) -> None:
    if max(applied.values(), default=0) > migrations.NEWEST:
        raise StoreMisconfigured("the schema is too new for this program: upgrade it")


def _event(project: str, row: Any) -> Event:
    name, timestamp_ms, event_id, channel, user_id, campaign_id, tags, metadata, received_at_ms, version = row
    return Event(
        project=project,
        event_name=name,
        timestamp_ms=timestamp_ms,
        event_id=event_id,
        channel=channel,
        user_id=user_id,
        campaign_id=campaign_id,
        tags=tuple(tags),
        metadata=msgspec.Raw(metadata.encode()),
        received_at_ms=received_at_ms,
        version=version,
    )
