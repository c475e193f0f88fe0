"""chDB: ClickHouse's engine inside this process."""

import asyncio
import fcntl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from eventmill import ConfigurationError
from eventmill_store_clickhouse.connection import Connection, Rows

T = TypeVar("T")


class EmbeddedConnection(Connection):
    """Three clients of one engine, each with a thread of its own, so that questions, inserts and what inserts look up
    do not wait for each other: a client takes one statement at a time. The engine locks its folder for this process."""

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if _is_locked(path / "status"):
                raise ConfigurationError(
                    f"another process uses the chDB folder {path}: end it, or choose another folder"
                )
            self._inserter = _Worker(path)
            self._writer = _Worker(path)
            self._reader = _Worker(path)
        except (ClickHouseError, OSError) as error:
            raise ConfigurationError(f"cannot open the chDB folder {path}: {error}") from error

    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        await self._writer.run(lambda client: client.command(sql, parameters=dict(parameters)))

    async def ask(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        return await self._reader.run(lambda client: _ask(client, sql, parameters, settings))

    async def look(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        return await self._writer.run(lambda client: _ask(client, sql, parameters, {}))

    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        def insert(client: Client) -> int:
            summary = client.raw_insert(table, list(columns), lines, settings=dict(settings), fmt="JSONEachRow")
            return summary.written_rows

        return await self._inserter.run(insert)

    async def close(self) -> None:
        # A thread inside the engine must not be left behind: the process would crash on its way out.
        self._reader.leaving = True
        try:
            await self._writer.run(lambda client: client.command("KILL QUERY WHERE query_kind = 'Select' ASYNC"))
        finally:
            await self._reader.close()
            await self._writer.close()
            await self._inserter.close()


def _is_locked(status: Path) -> bool:
    """Whether another process holds the engine's lock; the engine itself would only say that it cannot start."""
    if not status.exists():
        return False
    with status.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class _Worker:
    """One client and its thread."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="eventmill-chdb")
        self._client = self._open()
        self.leaving = False  # what still waits for its turn is refused

    async def run(self, work: Callable[[Client], T]) -> T:
        # Shielded: a caller that goes away cannot take the engine's thread with it.
        return await asyncio.shield(asyncio.wrap_future(self._thread.submit(self._run, work)))

    def _open(self) -> Client:
        return clickhouse_connect.get_client(interface="chdb", path=self._path)

    def _run(self, work: Callable[[Client], T]) -> T:
        if self.leaving:
            raise ClickHouseError("the process leaves")
        try:
            return work(self._client)
        except ClickHouseError:
            # A statement that fails midway leaves rows behind, which the handle would give to the next one.
            failed, self._client = self._client, self._open()
            failed.close()
            raise

    async def close(self) -> None:
        await asyncio.wrap_future(self._thread.submit(lambda: self._client.close()))
        self._thread.shutdown()


def _ask(client: Client, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
    return client.query(sql, parameters=dict(parameters), settings=dict(settings)).result_rows
