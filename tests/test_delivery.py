"""Delivery on bad days: stopped and killed consumers, a store that is broken, slow or full, mixed versions."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

import eventmill_queue_sqlite
import eventmill_store_clickhouse
from eventmill import Queue, Store
from eventmill.consumer.consumer import DRAIN_SECONDS, Consumer
from eventmill.event import encode_line
from eventmill.frames import decode_dead, encode_frame
from eventmill.shutdown import Shutdown
from eventmill.testing import make_event, make_events
from eventmill.testing.contract import eventually
from eventmill.testing.store_contract.suite import everything, scan_all
from eventmill_queue_sqlite.settings import SqliteQueueSettings
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from support import services
from support.mill import Program, install, running, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path: Path) -> Iterator[services.ClickHouse]:
    with services.running_clickhouse(tmp_path / "server") as server:
        yield server


@asynccontextmanager
async def opened(folder: Path, url: str) -> AsyncIterator[tuple[Queue, Store]]:
    queue_settings = SqliteQueueSettings(path=folder / "queue.db", lease_seconds=2)
    store_settings = ClickHouseStoreSettings(url=SecretStr(url), timeout_seconds=2)
    async with (
        eventmill_queue_sqlite.backend.open(queue_settings) as queue,
        eventmill_store_clickhouse.backend.open(store_settings) as store,
    ):
        await store.migrate()
        yield queue, store


@asynccontextmanager
async def consuming(queue: Queue, store: Store) -> AsyncIterator[None]:
    shutdown = Shutdown()
    consumer = Consumer(queue, store, shutdown, batch_seconds=0.1, receive_seconds=0.1)
    task = asyncio.create_task(consumer.run())
    yield
    shutdown.begin(DRAIN_SECONDS)
    await task


async def publish(queue: Queue, seeds: range) -> None:
    """Twenty events for each seed, a message each."""
    bodies = [encode_frame([encode_line(event) for event in make_events(20, seed=seed)]) for seed in seeds]
    await queue.publish(bodies, time.monotonic() + 10)


async def is_empty(queue: Queue) -> bool:
    depth = await queue.depth()
    return not depth.ready and not depth.in_flight


async def stored(store: Store) -> int:
    return len(await scan_all(store, everything()))


def execute(server: services.ClickHouse, sql: str) -> None:
    httpx.post(server.url, content=sql).raise_for_status()


@pytest.mark.parametrize("kind", ["500", "cut before", "cut after", "half", "exception in 200", "slow"])
async def test_a_store_that_fails_for_a_while_costs_no_event(
    tmp_path: Path, server: services.ClickHouse, kind: str
) -> None:
    async with opened(tmp_path, server.url) as (queue, store), consuming(queue, store):
        await publish(queue, range(5))
        await eventually(lambda: is_empty(queue), 20)
        server.fail(kind, count=4 if kind != "slow" else 1)
        await publish(queue, range(5, 20))
        await eventually(lambda: is_empty(queue), 60)
        assert await stored(store) == 400
        assert (await queue.dead.depth()).ready == 0


async def test_a_column_that_is_missing_while_events_flow_kills_none(
    tmp_path: Path, server: services.ClickHouse
) -> None:
    async with opened(tmp_path, server.url) as (queue, store), consuming(queue, store):
        await publish(queue, range(5))
        await eventually(lambda: is_empty(queue), 20)
        execute(server, "ALTER TABLE events DROP COLUMN campaign_id")
        await publish(queue, range(5, 10))
        await asyncio.sleep(2)
        assert (await queue.dead.depth()).ready == 0
        assert not await is_empty(queue)
        execute(server, "ALTER TABLE events ADD COLUMN campaign_id LowCardinality(String) AFTER user_id")
        await eventually(lambda: is_empty(queue), 60)
        assert await stored(store) == 200
        assert (await queue.dead.depth()).ready == 0


async def test_a_storm_of_redeliveries_changes_no_number(tmp_path: Path, server: services.ClickHouse) -> None:
    async with opened(tmp_path, server.url) as (queue, store):
        for _ in range(5):
            await publish(queue, range(10))
        async with consuming(queue, store), consuming(queue, store):
            await eventually(lambda: is_empty(queue), 30)
        assert await stored(store) == 200


async def test_one_event_in_a_hundred_is_rejected_and_the_others_are_stored(
    tmp_path: Path, server: services.ClickHouse
) -> None:
    async with opened(tmp_path, server.url) as (queue, store), consuming(queue, store):
        for number in range(1000):
            line = encode_line(make_event(event_id=f"{number}"))
            if number % 100 == 50:
                line = line.replace(b'"version":', b'"version":1,"version":')  # ClickHouse rejects repeated keys
            await queue.publish([encode_frame([line])], time.monotonic() + 10)
        await eventually(lambda: is_empty(queue), 60)
        assert await stored(store) == 990
        letters = [decode_dead(delivery.body) for delivery in await queue.dead.receive(100, 0)]
        assert {letter.reason for letter in letters} == {"rejected"}
        assert len(letters) == 10


async def test_frames_of_this_and_of_a_newer_version_live_together(tmp_path: Path, server: services.ClickHouse) -> None:
    async with opened(tmp_path, server.url) as (queue, store), consuming(queue, store):
        newer = encode_frame([encode_line(make_event())], version=3)
        await queue.publish([newer], time.monotonic() + 5)
        await publish(queue, range(5))

        async def only_the_newer_is_left() -> bool:
            depth = await queue.depth()
            return (depth.ready or 0) + (depth.in_flight or 0) == 1 and await stored(store) == 100

        await eventually(only_the_newer_is_left, 20)
        assert (await queue.dead.depth()).ready == 0


def test_a_consumer_that_is_stopped_for_longer_than_its_lease_doubles_nothing(
    tmp_path: Path, server: services.ClickHouse
) -> None:
    settings = {
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db"),
        "EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS": "1",
        "EVENTMILL_STORE": "clickhouse",
        "EVENTMILL_STORE_CLICKHOUSE_URL": server.url,
        "EVENTMILL_BATCH_SECONDS": "0.5",
    }

    async def start() -> None:
        async with opened(tmp_path, server.url) as (queue, _):
            await publish(queue, range(20))

    async def look() -> tuple[bool, int]:
        async with opened(tmp_path, server.url) as (queue, store):
            return await is_empty(queue), await stored(store)

    asyncio.run(start())
    with running("consume", cwd=tmp_path, settings=settings) as frozen:
        frozen.wait_for("consuming from")
        os.kill(frozen.process.pid, signal.SIGSTOP)
        time.sleep(1.5)  # longer than its lease
        with running("consume", cwd=tmp_path, settings=settings) as other:
            wait_until(lambda: asyncio.run(look()) == (True, 400), 40)
            os.kill(frozen.process.pid, signal.SIGCONT)
            assert other.stop() == 0, other.output
        assert frozen.stop() == 0, frozen.output
    assert asyncio.run(look()) == (True, 400)


async def test_stopping_under_load_leaves_nothing_to_redeliver(tmp_path: Path, server: services.ClickHouse) -> None:
    settings = {
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db"),
        "EVENTMILL_STORE": "clickhouse",
        "EVENTMILL_STORE_CLICKHOUSE_URL": server.url,
    }
    async with opened(tmp_path, server.url) as (queue, store):
        with running("consume", cwd=tmp_path, settings=settings) as consumer:
            for start in range(0, 300, 5):
                await publish(queue, range(start, start + 5))
                if start == 150:
                    consumer.wait_for("consuming from")
                    consumer.process.send_signal(signal.SIGTERM)
            left_at = time.monotonic()
            assert await asyncio.to_thread(consumer.process.wait, 30) == 0
            assert time.monotonic() - left_at < 20
        taken = await stored(store)
        assert (await queue.depth()).in_flight == 0
        left = []
        while deliveries := await queue.receive(1000, 0):
            left += deliveries
        assert {delivery.attempts for delivery in left} <= {1}
        assert taken + 20 * len(left) == 6000


KILLER = """
import os, signal
from contextlib import asynccontextmanager
import eventmill_store_clickhouse as real
from eventmill import StoreBackend, hookimpl
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings, SettingsConfigDict

class Settings(ClickHouseStoreSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_STORE_MORTAL_")

@asynccontextmanager
async def open_store(settings):
    async with real.backend.open(settings) as store:
        insert = store.insert
        async def die(batch):
            if any(event.user_id == "poison" for event in batch.events):
                os.kill(os.getpid(), signal.SIGKILL)
            await insert(batch)
        store.insert = die
        yield store

@hookimpl
def eventmill_store_backends():
    return [StoreBackend("mortal", Settings, open_store)]
"""


async def test_a_message_that_kills_consumers_is_quarantined_and_dead_lettered(
    tmp_path: Path, server: services.ClickHouse
) -> None:
    install(tmp_path, "mortal", "mortal")
    (tmp_path / "mortal.py").write_text(KILLER)
    settings = {
        "PYTHONPATH": str(tmp_path),
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db"),
        "EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS": "0.5",
        "EVENTMILL_STORE": "mortal",
        "EVENTMILL_STORE_MORTAL_URL": server.url,
        "EVENTMILL_BATCH_SECONDS": "0.1",
    }
    async with opened(tmp_path, server.url) as (queue, store):
        await publish(queue, range(5))
        await queue.publish([encode_frame([encode_line(make_event(user_id="poison"))])], time.monotonic() + 5)
        deaths = 0
        while not (await queue.dead.depth()).ready:
            with running("consume", cwd=tmp_path, settings=settings) as consumer:

                async def is_decided(program: Program = consumer) -> bool:
                    return program.process.poll() is not None or await is_empty(queue)

                await eventually(is_decided, 60)
                deaths += consumer.process.poll() is not None
                assert deaths <= 7
        [letter] = [decode_dead(delivery.body) for delivery in await queue.dead.receive(10, 0)]
        assert letter.reason == "poison"
        assert deaths == 5
        assert await stored(store) == 100


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_of_the_embedded_store_costs_no_event(tmp_path: Path, small_disk: Path) -> None:
    async with opened(tmp_path, f"chdb://{small_disk}/chdb") as (queue, store), consuming(queue, store):
        await publish(queue, range(5))
        await eventually(lambda: is_empty(queue), 20)
        filler = small_disk / "filler"
        try:
            with filler.open("wb") as file:
                while True:
                    file.write(b"x" * 4096)
                    file.flush()
        except OSError:
            pass
        await publish(queue, range(5, 10))
        await asyncio.sleep(2)
        assert (await queue.dead.depth()).ready == 0
        filler.unlink()
        await eventually(lambda: is_empty(queue), 60)
        assert await stored(store) == 200
        assert (await queue.dead.depth()).ready == 0
