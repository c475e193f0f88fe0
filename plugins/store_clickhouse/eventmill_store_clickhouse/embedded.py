"""chDB: ClickHouse's engine inside this process."""

import asyncio
import fcntl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from eventmill import ConfigurationError
from eventmill_store_clickhouse.connection import Connection, Rows
from eventmill_store_clickhouse.profile import PINNED

T = TypeVar("T")


_READERS = 2
_KILL_EVERY_SECONDS = 0.1


class EmbeddedConnection(Connection):
    """Clients of one engine, each with a thread of its own, since a client takes one statement at a time: questions,
    inserts, what inserts look up, and statements do not wait for each other.

    The engine locks its folder for this process.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if _is_locked(path / "status"):
                raise ConfigurationError(
                    f"another process uses the chDB folder {path}: end it, or choose another folder"
                )
            self._inserter, self._executor, self._looker = (_Worker(path) for _ in range(3))
            self._readers: asyncio.Queue[_Worker] = asyncio.Queue()
            for _ in range(_READERS):
                self._readers.put_nowait(_Worker(path))
        except (ClickHouseError, OSError) as error:
            raise ConfigurationError(f"cannot open the chDB folder {path}: {error}") from error
        self._killing: set[asyncio.Task[None]] = set()
        self._is_leaving = False

    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        await asyncio.shield(self._executor.run(lambda client: client.command(sql, parameters=dict(parameters))))

    async def ask(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        """Ask as soon as a reader is free. Cancelled, the question leaves the line, or the engine ends it."""
        reader = await self._readers.get()
        if self._is_leaving:
            self._readers.put_nowait(reader)
            raise ClickHouseError("the process leaves")
        mark = uuid4().hex
        marked = dict(settings) | {"log_comment": mark}
        asking = reader.run(lambda client: _ask(client, sql, parameters, marked))
        asking.add_done_callback(lambda _: self._readers.put_nowait(reader))
        try:
            await asyncio.wait([asking])
            return asking.result()
        except asyncio.CancelledError:
            killing = asyncio.create_task(self._kill(mark, asking), name="eventmill-chdb-kill")
            self._killing.add(killing)
            killing.add_done_callback(self._killing.discard)
            raise

    async def look(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        return await asyncio.shield(self._looker.run(lambda client: _ask(client, sql, parameters, {})))

    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        def insert(client: Client) -> int:
            summary = client.raw_insert(table, list(columns), lines, settings=dict(settings), fmt="JSONEachRow")
            return summary.written_rows

        return await asyncio.shield(self._inserter.run(insert))

    async def close(self) -> None:
        # A thread inside the engine must not be left behind: the process would crash on its way out.
        self._is_leaving = True
        try:
            await self._looker.run(lambda client: client.command("KILL QUERY WHERE query_kind = 'Select' ASYNC"))
        finally:
            for _ in range(_READERS):
                await (await self._readers.get()).close()
            await asyncio.gather(*self._killing)
            for worker in (self._executor, self._looker, self._inserter):
                await worker.close()

    async def _kill(self, mark: str, asking: asyncio.Future[Rows]) -> None:
        """End a question that is under way; it may take a moment until the engine lists it."""
        sql = f"KILL QUERY WHERE Settings['log_comment'] = '{mark}' ASYNC"
        while not asking.done():
            await self._looker.run(lambda client: client.command(sql))
            await asyncio.wait([asking], timeout=_KILL_EVERY_SECONDS)
        asking.exception()  # taken, or asyncio would log it


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

    def run(self, work: Callable[[Client], T]) -> asyncio.Future[T]:
        """Let the thread do it. Await it shielded: a caller that goes away cannot take the thread with it."""
        return asyncio.wrap_future(self._thread.submit(self._run, work))

    def _open(self) -> Client:
        client = clickhouse_connect.get_client(interface="chdb", path=self._path)
        for name, value in PINNED.items():
            known = client.server_settings.get(name)
            if known is not None and known.value != str(value):
                client.set_client_setting(name, value)
        return client

    def _run(self, work: Callable[[Client], T]) -> T:
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
