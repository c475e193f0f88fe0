"""A ClickHouse server over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from eventmill_store_clickhouse import memory, profile
from eventmill_store_clickhouse.connection import Connection, Rows
from eventmill_store_clickhouse.profile import PINNED, Profile
from eventmill_store_clickhouse.settings import Address

CONNECT_SECONDS = 2
HANDSHAKE_SECONDS = 4
QUERY_SECONDS = 15  # the engine ends a query after 10 s
_CONNECTIONS = 16
_HEAVY_QUERIES = 4  # of all programs, that need their memory at the same time
# The memory of the server's machine or container.
_MEMORY = """
SELECT min(value) FROM system.asynchronous_metrics WHERE metric IN ('OSMemoryTotal', 'CGroupMemoryTotal') AND value > 0
"""
_QUERIES = 12  # concurrent; the other connections are for inserts and checks
# With these settings the response reports how many rows were written, and an error at the very end.
_CONFIRMED = {"wait_end_of_query": 1, "send_progress_in_http_headers": 0}
# The server stops a query whose connection is closed only if the query is read-only.
_READ_ONLY = {"readonly": 2}

T = TypeVar("T")


class ServerConnection(Connection):
    """A pool of connections, which reconnects when an unavailable server is back."""

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._client: AsyncClient | None = None
        self._attempt: asyncio.Task[AsyncClient] | None = None
        self._profile: Profile | None = None
        self._queries = asyncio.Semaphore(_QUERIES)
        self._memory_limits: dict[str, Any] = {}

    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        async with self._fitting({}) as (client, fitted):
            await client.command(sql, parameters=dict(parameters), settings=fitted)

    async def query(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        async with self._queries:
            return await self._query(sql, parameters, dict(settings) | _READ_ONLY)

    async def lookup(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        return await self._query(sql, parameters, {})

    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        async with self._fitting(settings) as (client, fitted):
            summary = await client.raw_insert(
                table, list(columns), lines, settings=fitted | _CONFIRMED, fmt="JSONEachRow"
            )
        return summary.written_rows

    async def memory_limits(self) -> dict[str, Any]:
        async with self._fitting({}):
            return self._memory_limits

    async def close(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
        if self._client is not None:
            await self._client.close()

    async def _query(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        async with self._fitting(settings) as (client, fitted):
            answer = client.query(sql, parameters=dict(parameters), settings=fitted)
            return (await _within(QUERY_SECONDS, answer)).result_rows

    @asynccontextmanager
    async def _fitting(self, settings: Mapping[str, Any]) -> AsyncIterator[tuple[AsyncClient, dict[str, Any]]]:
        """Yield the client and the settings that the server accepts.

        The server is asked for its settings once, and again after it rejects one.
        """
        client = await self._connect()
        try:
            if self._profile is None:
                self._memory_limits = memory.limits(await _read_memory(client), _HEAVY_QUERIES)
                answer = client.query(profile.LOOKUP, settings=profile.FOR_LOOKUP)
                self._profile = Profile.read((await _within(HANDSHAKE_SECONDS, answer)).result_rows)
            yield client, self._profile.fit({**PINNED, **settings})
        except DatabaseError as error:
            if error.code in profile.STALE:
                self._profile = None
            raise

    async def _connect(self) -> AsyncClient:
        """Return the client. Creating it requests the version of the server, so it is created on demand, and once."""
        if self._client is None:
            if self._attempt is None or self._attempt.done():
                self._attempt = asyncio.create_task(_within(HANDSHAKE_SECONDS, self._open()))
            self._client = await asyncio.shield(self._attempt)
        return self._client

    async def _open(self) -> AsyncClient:
        return await clickhouse_connect.get_async_client(
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


async def _read_memory(client: AsyncClient) -> int:
    """Return the memory of the server's machine or container; a default if the user may not know it."""
    try:
        [[total]] = (await _within(HANDSHAKE_SECONDS, client.query(_MEMORY))).result_rows
    except DatabaseError:
        return memory.DEFAULT_BYTES
    return int(total) or memory.DEFAULT_BYTES


async def _within(seconds: float, call: Awaitable[T]) -> T:
    """Await a call. Raise OperationalError, like a failed connection, if it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError as error:
        raise OperationalError(f"Network Error: no response within {seconds:g} s") from error
