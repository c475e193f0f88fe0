"""Statements on a connection, with the exceptions of the contract."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from clickhouse_connect.driver.exceptions import ClickHouseError

from eventmill import SqlResult, StoreMisconfigured
from eventmill_store_clickhouse import failures, queries, sql
from eventmill_store_clickhouse.connection import Connection, Rows


class Statements:
    """Runs statements. All methods raise StoreUnavailable and StoreMisconfigured, and `query` also QueryTooLarge."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._functions: sql.Functions | None = None

    async def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that returns no rows."""
        try:
            await self._connection.execute(sql, parameters or {})
        except ClickHouseError as error:
            raise failures.explain(error) from error

    async def lookup(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a small query without waiting for queries of clients."""
        try:
            return await self._connection.lookup(sql, parameters or {})
        except ClickHouseError as error:
            raise failures.explain(error) from error

    async def query(self, sql: str, parameters: Mapping[str, Any], limits: dict[str, Any] | None = None) -> Rows:
        """Run a query within these limits, by default those for queries of clients."""
        try:
            within = (queries.LIMITS if limits is None else limits) | await self._connection.memory_limits()
            return await self._connection.query(sql, parameters, within)
        except ClickHouseError as error:
            raise failures.explain_query(error) from error

    async def sql(self, statement: str, max_rows: int) -> SqlResult:
        """Run a statement of an operator. Raise InvalidQuery if it is wrong, or does more than to read tables."""
        wrapped, ask = sql.wrap(statement, max_rows + 1), self._connection.query
        try:
            limits = sql.limits(queries.LIMITS | await self._connection.memory_limits())
            if self._functions is None:
                self._functions = sql.Functions.of(await ask(sql.FUNCTIONS, {}, queries.LIMITS))
            [[databases, tables]] = await ask(sql.NAMES, {}, queries.LIMITS)
            explained = await ask(f"EXPLAIN AST {wrapped}", {}, limits)
            sql.check((line for (line,) in explained), sql.Engine(self._functions, databases, tables))
            started = time.monotonic()
            described = await ask(f"DESCRIBE ({wrapped})", {}, limits)
            left = limits["max_execution_time"] - (time.monotonic() - started)
            rows = await ask(sql.to_json(wrapped), {}, limits | sql.RESULT | {"max_execution_time": max(0.1, left)})
        except ClickHouseError as error:
            raise failures.explain_sql(error) from error
        columns = tuple(str(column[0]) for column in described)
        lines = tuple(msgspec.Raw(line.encode()) for (line,) in rows[:max_rows])
        return SqlResult(columns, lines, len(rows) <= max_rows)

    async def engine(self) -> str:
        """Return the engine of the table events, including its TTL."""
        sql = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'events'"
        found = await self.lookup(sql)
        if not found:
            raise StoreMisconfigured("the table events does not exist: it was removed or renamed")
        return str(found[0][0])
