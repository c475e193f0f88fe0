"""The state of the queue and the store, for an operator."""

import asyncio
import json
import time
from pathlib import Path

import pytest

import eventmill_queue_memory
import eventmill_queue_sqlite
import eventmill_store_memory
from eventmill import EventBatch, StoreUnavailable
from eventmill.api.status import Watch
from eventmill.testing import make_event
from eventmill.testing.contract import eventually
from eventmill_queue_memory.settings import MemoryQueueSettings
from eventmill_queue_sqlite.settings import SqliteQueueSettings
from eventmill_store_memory.settings import MemoryStoreSettings
from support.mill import eventmill, running_mill
from support.proxies import StoreProxy

pytestmark = pytest.mark.anyio


async def test_a_backlog_is_reported_with_its_age_and_when_it_will_be_gone() -> None:
    async with (
        eventmill_queue_memory.backend.open(MemoryQueueSettings()) as queue,
        eventmill_store_memory.backend.open(MemoryStoreSettings()) as store,
    ):
        watch = Watch(queue, store)
        await queue.publish([b"%d" % n for n in range(100)], time.monotonic() + 1)
        await queue.dead.publish([b"dead"], time.monotonic() + 1)
        await store.insert(EventBatch.of([make_event()]))
        first = await watch.status()
        assert (first.ready, first.in_flight, first.dead, first.newest_event_ms) == (
            100,
            0,
            1,
            make_event().timestamp_ms,
        )
        held = await queue.receive(50, 0)
        await queue.ack(held[:40])
        await asyncio.sleep(0.2)
        second = await watch.status()
        assert (second.ready, second.in_flight) == (50, 10)
        assert second.drained_per_second is not None
        assert 40 < second.drained_per_second < 250
        assert second.drained_in_seconds == pytest.approx(60 / second.drained_per_second)
        await queue.publish([b"more"] * 200, time.monotonic() + 1)
        assert (await watch.status()).drained_in_seconds is None


async def test_a_store_that_is_unavailable_leaves_only_its_part_empty() -> None:
    class Away(StoreProxy):
        async def scan(self, *_: object) -> list[object]:  # type: ignore[override]  # it answers nothing
            raise StoreUnavailable("away")

    async with running_mill(wrap_store=Away) as mill:
        details = (await mill.client.get("/status")).json()
        assert (details["ready"], details["dead"], details["newest_event_at"]) == (0, 0, None)


async def test_the_api_shows_its_details_and_what_it_counted_itself() -> None:
    async with running_mill() as mill:
        for number in range(3):
            event = {"event_name": "a", "channel": "b", "user_id": f"{number}", "timestamp": 1_700_000_000}
            assert (await mill.client.post("/events", json=event)).status_code == 202

        async def is_stored() -> bool:
            return bool((await mill.client.get("/status")).json()["newest_event_at"] == 1_700_000_000)

        await eventually(is_stored)
        details = (await mill.client.get("/status")).json()
        assert details["since_start"]["events_accepted"] == 3
        assert details["since_start"]["events_unconfirmed"] == 0


@pytest.mark.parametrize("is_away", [False, True])
async def test_status_is_printed_as_text_and_as_json(tmp_path: Path, is_away: bool) -> None:
    path = tmp_path / "queue.db"
    settings = {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(path), "EVENTMILL_STORE": "none"}
    if is_away:
        settings |= {"EVENTMILL_QUEUE": "redis", "EVENTMILL_QUEUE_REDIS_URL": "redis://127.0.0.1:1/0"}
    async with eventmill_queue_sqlite.backend.open(SqliteQueueSettings(path=path)) as queue:
        await queue.publish([b"one", b"two"], time.monotonic() + 5)
        await queue.dead.publish([b"dead"], time.monotonic() + 5)
        done = await asyncio.to_thread(
            eventmill, "status", "--json", "--seconds", "0.2", cwd=tmp_path, settings=settings
        )
        assert done.returncode == int(is_away), done.stderr
        status = json.loads(done.stdout)
        assert (status["ready"], status["dead"]) == ((None, None) if is_away else (2, 1))
        text = await asyncio.to_thread(eventmill, "status", "--seconds", "0.2", cwd=tmp_path, settings=settings)
        assert text.stdout.splitlines()[0] == f"messages ready\t{'unknown' if is_away else 2}"
