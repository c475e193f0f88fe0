"""Statements on a connection, whose errors are the contract's."""

from collections.abc import Mapping
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from eventmill import StoreMisconfigured
from eventmill_store_clickhouse import failures, questions
from eventmill_store_clickhouse.connection import Connection, Rows


class Statements:
    """Runs, looks up and asks. Raises StoreUnavailable, StoreMisconfigured and, where it asks, QueryTooLarge."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that has no answer."""
        try:
            await self._connection.execute(sql, parameters or {})
        except ClickHouseError as error:
            raise failures.explain(error) from error

    async def look(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Look something small up, without waiting for questions."""
        try:
            return await self._connection.look(sql, parameters or {})
        except ClickHouseError as error:
            raise failures.explain(error) from error

    async def ask(self, sql: str, parameters: Mapping[str, Any], limits: Mapping[str, Any] | None = None) -> Rows:
        """Ask a question, within these limits; those of clients' questions if there are no others."""
        try:
            return await self._connection.ask(sql, parameters, questions.LIMITS if limits is None else limits)
        except ClickHouseError as error:
            raise failures.explain_question(error) from error

    async def engine(self) -> str:
        """How the engine of the table of events reads, its TTL included."""
        sql = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'events'"
        found = await self.look(sql)
        if not found:
            raise StoreMisconfigured("the table events is missing: somebody removed or renamed it")
        return str(found[0][0])
