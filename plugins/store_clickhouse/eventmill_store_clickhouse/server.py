"""A ClickHouse server over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from eventmill_store_clickhouse import profile
from eventmill_store_clickhouse.connection import Connection, Rows
from eventmill_store_clickhouse.profile import PINNED, Profile
from eventmill_store_clickhouse.settings import Address

CONNECT_SECONDS = 2
HANDSHAKE_SECONDS = 4
QUESTION_SECONDS = 15  # the engine itself ends a question after 10
_CONNECTIONS = 16
_QUESTIONS = 12  # at once: the other connections are for inserts and checks
# The engine says how much it wrote only at the end, and with these also whether it failed there.
_PROVED = {"wait_end_of_query": 1, "send_progress_in_http_headers": 0}
# The server ends a question whose connection is closed, provided that it may not write (the driver asks for the rest).
_QUESTION = {"readonly": 2}

T = TypeVar("T")


class ServerConnection(Connection):
    """One pool of connections; it finds a server that was away again by itself."""

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._client: AsyncClient | None = None
        self._attempt: asyncio.Task[AsyncClient] | None = None
        self._profile: Profile | None = None
        self._questions = asyncio.Semaphore(_QUESTIONS)

    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        async with self._fitting({}) as (client, fitted):
            await client.command(sql, parameters=dict(parameters), settings=fitted)

    async def ask(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        async with self._questions:
            return await self._query(sql, parameters, dict(settings) | _QUESTION)

    async def look(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        return await self._query(sql, parameters, {})

    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        async with self._fitting(settings) as (client, fitted):
            summary = await client.raw_insert(table, list(columns), lines, settings=fitted | _PROVED, fmt="JSONEachRow")
        return summary.written_rows

    async def close(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
        if self._client is not None:
            await self._client.close()

    async def _query(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        async with self._fitting(settings) as (client, fitted):
            question = client.query(sql, parameters=dict(parameters), settings=fitted)
            return (await _within(QUESTION_SECONDS, question)).result_rows

    @asynccontextmanager
    async def _fitting(self, settings: Mapping[str, Any]) -> AsyncIterator[tuple[AsyncClient, dict[str, Any]]]:
        """The client, and what of the settings the server takes; it is asked once, and again when it refuses one."""
        client = await self._connect()
        try:
            if self._profile is None:
                answer = client.query(profile.LOOKUP, settings=profile.FOR_LOOKUP)
                self._profile = Profile.read((await _within(HANDSHAKE_SECONDS, answer)).result_rows)
            yield client, self._profile.fit({**PINNED, **settings})
        except DatabaseError as error:
            if error.code in profile.STALE:
                self._profile = None
            raise

    async def _connect(self) -> AsyncClient:
        """The client; making it asks the server for its version, so it is made when it is needed, once for all."""
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


async def _within(seconds: float, call: Awaitable[T]) -> T:
    """Await a call. Raises OperationalError, as for any network that fails, when it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError as error:
        raise OperationalError(f"Network Error: no answer within {seconds:g} s") from error
