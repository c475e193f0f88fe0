"""chDB: the ClickHouse engine inside this process."""

import asyncio
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from eventmill import ConfigurationError
from eventmill_store_clickhouse import memory
from eventmill_store_clickhouse.connection import Connection, Rows
from eventmill_store_clickhouse.profile import PINNED

T = TypeVar("T")


_READERS = 2
_KILL_EVERY_SECONDS = 0.1
_SPARE_BYTES = 64 * 1024
_LOW_BYTES = 1024**3
_INSERTS = "eventmill-inserts"  # the folder, inside that of the engine, for the files of inserts


class EmbeddedConnection(Connection):
    """Several clients of one engine, each with its own thread, since a client runs one statement at a time.

    So queries, inserts, lookups and statements do not wait for each other. The engine locks its folder.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if _is_locked(path / "status"):
                raise ConfigurationError(
                    f"another process uses the chDB folder {path}: stop it, or choose another folder"
                )
            self._former_tempdir, tempfile.tempdir = tempfile.tempdir, str(_empty(path / _INSERTS))
            self._inserter, self._executor, self._lookup_worker = (_Worker(path) for _ in range(3))
            self._readers: asyncio.Queue[_Worker] = asyncio.Queue()
            for _ in range(_READERS):
                self._readers.put_nowait(_Worker(path))
        except (ClickHouseError, OSError) as error:
            raise ConfigurationError(f"cannot open the chDB folder {path}: {error}") from error
        self._path = path
        self._memory_limits = memory.limits(memory.local_bytes(), _READERS)
        self._killing: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        await asyncio.shield(self._executor.run(lambda client: client.command(sql, parameters=dict(parameters))))

    async def query(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        """Run the query when a reader is free. When it is cancelled, it gives up waiting, or the engine stops it."""
        reader = await self._readers.get()
        if self._is_closing:
            self._readers.put_nowait(reader)
            raise ClickHouseError("the process is shutting down")
        mark = uuid4().hex
        marked = dict(settings) | {"log_comment": mark}
        running = reader.run(lambda client: _query(client, sql, parameters, marked))
        running.add_done_callback(lambda _: self._readers.put_nowait(reader))
        try:
            await asyncio.wait([running])
            return running.result()
        except asyncio.CancelledError:
            killing = asyncio.create_task(self._kill(mark, running), name="eventmill-chdb-kill")
            self._killing.add(killing)
            killing.add_done_callback(self._killing.discard)
            raise

    async def lookup(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        return await asyncio.shield(self._lookup_worker.run(lambda client: _query(client, sql, parameters, {})))

    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        # The driver leaves its file open if the disk is full.
        if shutil.disk_usage(self._path).free < len(lines) + _SPARE_BYTES:
            raise ClickHouseError(f"the disk with the chDB folder {self._path} is full")

        def insert(client: Client) -> int:
            summary = client.raw_insert(table, list(columns), lines, settings=dict(settings), fmt="JSONEachRow")
            return summary.written_rows

        return await asyncio.shield(self._inserter.run(insert))

    async def memory_limits(self) -> dict[str, Any]:
        return self._memory_limits

    def warnings(self) -> list[str]:
        free_bytes = shutil.disk_usage(self._path).free
        return ["less than 1 GiB is left on the disk with the chDB folder"] if free_bytes < _LOW_BYTES else []

    def collect(self) -> Iterable[Metric]:
        free_bytes = shutil.disk_usage(self._path).free
        name = "eventmill_store_clickhouse_disk_free_bytes"
        return [GaugeMetricFamily(name, "Free space on the disk with the chDB folder.", free_bytes)]

    async def close(self) -> None:
        # Wait for all threads: a thread that is still inside the engine would crash the process at exit.
        self._is_closing = True
        try:
            await self._lookup_worker.run(lambda client: client.command("KILL QUERY WHERE query_kind = 'Select' ASYNC"))
        finally:
            for _ in range(_READERS):
                await (await self._readers.get()).close()
            await asyncio.gather(*self._killing)
            for worker in (self._executor, self._lookup_worker, self._inserter):
                await worker.close()
            tempfile.tempdir = self._former_tempdir

    async def _kill(self, mark: str, running: asyncio.Future[Rows]) -> None:
        """Stop a running query. It may take a moment until the engine lists it."""
        sql = f"KILL QUERY WHERE Settings['log_comment'] = '{mark}' ASYNC"
        while not running.done():
            await self._lookup_worker.run(lambda client: client.command(sql))
            await asyncio.wait([running], timeout=_KILL_EVERY_SECONDS)
        running.exception()  # retrieve it, since asyncio logs errors that no one retrieves


def _empty(folder: Path) -> Path:
    """Return a folder for the files of inserts, which the driver writes to the process's folder for temporary files.

    They hold events. A killed process leaves them behind, so that they are removed here.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _is_locked(status: Path) -> bool:
    """Return whether another process holds the engine's lock. The error of the engine itself would not say so."""
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
        """Run the work in the thread. Await it shielded, since a thread cannot be cancelled."""
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
            # A statement that fails midway leaves rows in the client, which the next statement would return.
            failed, self._client = self._client, self._open()
            failed.close()
            raise

    async def close(self) -> None:
        await asyncio.wrap_future(self._thread.submit(lambda: self._client.close()))
        self._thread.shutdown()


def _query(client: Client, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
    return client.query(sql, parameters=dict(parameters), settings=dict(settings)).result_rows
