"""A power cut takes nothing that was acknowledged: what is on the disk then is what was synced."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mill import wait_until
from support.power_cut import Disk, Mill, NoDisk, disk


@pytest.fixture
def cuttable(tmp_path: Path) -> Iterator[Disk]:
    try:
        with disk(tmp_path) as made:
            yield made
    except NoDisk as reason:
        pytest.skip(str(reason))


def test_a_power_cut_during_inserts_and_merges_loses_nothing_acknowledged(cuttable: Disk) -> None:
    mill = Mill(cuttable)
    mill.make()
    mill.post_and_cut(6)
    assert mill.acknowledged > 1000
    assert mill.lost() == 0


def test_a_power_cut_takes_nothing_from_a_queue_that_is_new(cuttable: Disk) -> None:
    mill = Mill(cuttable, batch_seconds=5)  # nothing has left the queue when the power is cut
    mill.post_and_cut(0)
    assert mill.acknowledged > 0
    assert mill.lost() == 0


_ERASER = """
import asyncio, sys
import eventmill_store_clickhouse
from eventmill import EventBatch, EventFilter
from eventmill.testing import make_event
from eventmill.testing.events import NOON_MS
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings

async def main():
    async with eventmill_store_clickhouse.backend.open(ClickHouseStoreSettings(url=sys.argv[1])) as store:
        if sys.argv[2] == "erase":
            events = [make_event(event_id=f"{n}", user_id=f"user_{n}") for n in range(100)]
            await store.insert(EventBatch.of(events))
            await store.erase("default", "user_7", NOON_MS)
            print("erased", flush=True)
            await asyncio.sleep(60)
        found = await store.scan(EventFilter("default", 0, NOON_MS + 1), None, 1000)
        print(len(found), any(event.user_id == "user_7" for event in found))

asyncio.run(main())
"""


def test_a_power_cut_after_an_erasure_takes_nothing_else_and_brings_nothing_back(cuttable: Disk) -> None:
    mill = Mill(cuttable)
    mill.make()
    command = [sys.executable, "-c", _ERASER, mill.store_url]
    with subprocess.Popen([*command, "erase"], stdout=subprocess.PIPE, text=True) as eraser:
        assert eraser.stdout is not None
        try:
            assert eraser.stdout.readline() == "erased\n"
            wait_until(lambda: len(mill.parts()) == 1)  # the one from before the erasure is gone
            cuttable.commit()
            cuttable.cut()
        finally:
            eraser.kill()
    cuttable.unmount()
    cuttable.mount()
    found = subprocess.run([*command, "look"], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout == "99 False\n"
