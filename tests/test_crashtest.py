"""`eventmill crashtest`: the proof, and that it would notice."""

import json
from pathlib import Path

import pytest

from mill import eventmill, install, running, wait_until


def test_ten_seconds_of_crashes_lose_and_double_nothing(tmp_path: Path) -> None:
    done = eventmill("crashtest", "--seconds", "10", "--rate", "100", "--kill9", "--json", cwd=tmp_path)
    figures = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < figures["accepted"] <= figures["stored"] <= figures["attempted"]
    assert figures["crashes"] >= 2
    assert figures["dead"] >= figures["poison"] > 0
    assert figures["lost"] == figures["doubled"] == figures["unexpected"] == figures["dead_events"] == 0


def test_a_store_that_loses_doubles_and_alters_is_found_out(tmp_path: Path) -> None:
    install(tmp_path, "leaky", "leaky")
    (tmp_path / "leaky.py").write_text(LEAKY)
    settings = {"PYTHONPATH": str(tmp_path), "EVENTMILL_STORE_LEAKY_URL": f"chdb://{tmp_path}/chdb"}
    options = ("--seconds", "4", "--rate", "100", "--store", "leaky", "--json")
    done = eventmill("crashtest", *options, cwd=tmp_path, settings=settings)
    assert done.stderr == ""
    figures = json.loads(done.stdout)
    assert done.returncode == 1
    assert min(figures["lost"], figures["doubled"], figures["altered"]) > 0


LEAKY = """
from contextlib import asynccontextmanager
import msgspec
import eventmill_store_clickhouse as real
from eventmill import EventBatch, StoreBackend, hookimpl
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings, SettingsConfigDict

class Settings(ClickHouseStoreSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_STORE_LEAKY_")

@asynccontextmanager
async def open_store(settings):
    async with real.backend.open(settings) as store:
        insert = store.insert
        async def leak(batch):
            kept = batch.events[:-1]
            late = [msgspec.structs.replace(event, timestamp_ms=event.timestamp_ms + 1) for event in kept[:1]]
            odd = [msgspec.structs.replace(event, channel="odd") for event in kept[1:2]]
            await insert(EventBatch.of([*late, *kept[:1], *odd, *kept[2:]]))
        store.insert = leak
        yield store

@hookimpl
def eventmill_store_backends():
    return [StoreBackend("leaky", Settings, open_store)]
"""


def test_a_crashtest_that_is_ended_ends_its_programs(tmp_path: Path) -> None:
    with running("crashtest", "--seconds", "60", cwd=tmp_path) as test:
        children = Path(f"/proc/{test.process.pid}/task/{test.process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) >= 1, 30)
        pids = [int(pid) for pid in children.read_text().split()]
        assert test.stop() == 130
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        assert "Traceback" not in test.output


@pytest.mark.parametrize("options", [("--queue", "memory"), ("--store", "memory")])
def test_crashing_what_lives_in_memory_is_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = eventmill("crashtest", "--kill9", *options, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "memory" in done.stderr
