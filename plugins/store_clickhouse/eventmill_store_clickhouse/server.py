"""A ClickHouse server over HTTP."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient

from eventmill_store_clickhouse.connection import Connection, Rows
from eventmill_store_clickhouse.settings import Address

CONNECT_SECONDS = 2
_CONNECTIONS = 16
# The engine says how much it wrote only at the end, and with these also whether it failed there.
_PROVED = {"wait_end_of_query": 1, "send_progress_in_http_headers": 0}


class ServerConnection(Connection):
    """One pool of connections; it finds a server that was away again by itself."""

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        await (await self._connect()).command(sql, parameters=dict(parameters))

    async def ask(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        client = await self._connect()
        return (await client.query(sql, parameters=dict(parameters), settings=dict(settings))).result_rows

    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        client = await self._connect()
        summary = await client.raw_insert(
            table, list(columns), lines, settings=dict(settings) | _PROVED, fmt="JSONEachRow"
        )
        return summary.written_rows

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _connect(self) -> AsyncClient:
        """The client; making it asks the server for its version, so it is made when it is needed."""
        async with self._connecting:
            if self._client is None:
                self._client = await clickhouse_connect.get_async_client(
                    interface=self._address.scheme,
                    host=self._address.host,
                    port=self._address.port,
                    username=self._address.user,
                    password=self._address.password,
                    database=self._address.database,
                    connect_timeout=CONNECT_SECONDS,
                    send_receive_timeout=self._timeout_seconds,
                    query_retries=0,
                    connector_limit=_CONNECTIONS,
                    connector_limit_per_host=_CONNECTIONS,
                    compress=False,
                )
            return self._client
