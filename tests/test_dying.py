"""Processes that are killed at a given step of an event's way, or by an event."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

import eventmill_dying
import eventmill_queue_sqlite
from eventmill.consumer.messages import QUARANTINE_ATTEMPTS
from eventmill.event import encode_line
from eventmill.frames import encode_frame
from eventmill.testing import make_event
from eventmill_queue_sqlite.settings import SqliteQueueSettings
from support import services
from support.mill import Program, eventmill, install, running, wait_until

HALVES = ("serve", "consume")


class Halves:
    """`serve` and `consume`, or `run`, started again when they have died, and what a client sees of them."""

    def __init__(
        self, stack: ExitStack, folder: Path, settings: Mapping[str, str], names: Sequence[str] = HALVES
    ) -> None:
        self.deaths = 0
        self._stack, self._folder, self._settings = stack, folder, settings
        self._programs = {name: self._start(name) for name in names}
        self._url = f"http://{settings['EVENTMILL_LISTEN']}"

    def _start(self, name: str) -> Program:
        return self._stack.enter_context(running(name, cwd=self._folder, settings=self._settings))

    def revive(self) -> None:
        for name, program in self._programs.items():
            if program.process.poll() is not None:
                self.deaths += 1
                self._programs[name] = self._start(name)

    def is_accepted(self, number: int) -> bool:
        self.revive()
        event = {"event_name": "step", "channel": "a", "user_id": f"{number}", "timestamp": 1_700_000_000}
        try:
            return httpx.post(f"{self._url}/events", json=event).status_code == 202
        except httpx.TransportError:
            return False

    def counts(self) -> tuple[int, int] | None:
        self.revive()
        try:
            answer = httpx.get(f"{self._url}/metrics?event_name=step&from=1700000000&to=1700000000").json()
        except httpx.TransportError:
            return None
        return answer["total_count"], answer["unique_count"]


def dying(folder: Path, url: str, step: str) -> dict[str, str]:
    """Settings for a queue that kills the first process which comes to this step."""
    install(folder, "dying", "eventmill_dying")
    tests = Path(__file__).parent
    return {
        "PYTHONPATH": f"{folder}:{tests}:{tests / 'plugins' / 'dying'}",
        "EVENTMILL_QUEUE": "dying",
        "EVENTMILL_QUEUE_DYING_PATH": str(folder / "queue.db"),
        "EVENTMILL_QUEUE_DYING_LEASE_SECONDS": "2",
        "EVENTMILL_QUEUE_DYING_STEP": step,
        "EVENTMILL_QUEUE_DYING_MARKER": str(folder / "died"),
        "EVENTMILL_STORE": "clickhouse",
        "EVENTMILL_STORE_CLICKHOUSE_URL": url,
        "EVENTMILL_LISTEN": f"127.0.0.1:{services.free_port()}",
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
    }


@pytest.mark.parametrize("step", eventmill_dying.STEPS)
def test_a_process_that_is_killed_at_any_step_loses_and_doubles_nothing(tmp_path: Path, step: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(services.running_clickhouse(tmp_path / "server"))
        settings = dying(tmp_path, server.url, step)
        assert eventmill("migrate", cwd=tmp_path, settings=settings).returncode == 0
        halves = Halves(stack, tmp_path, settings)
        for number in range(30):
            wait_until(partial(halves.is_accepted, number), 30)
        # "before ack" all are stored before it dies
        wait_until(lambda: halves.counts() == (30, 30) and halves.deaths == 1, 30)
        assert (tmp_path / "died").exists()


def fatal(folder: Path, url: str) -> dict[str, str]:
    """Settings for a store that kills each process which inserts an event named fatal."""
    install(folder, "fatal", "eventmill_fatal")
    tests = Path(__file__).parent
    return {
        "PYTHONPATH": f"{folder}:{tests}:{tests / 'plugins' / 'dying'}",
        "EVENTMILL_QUEUE": "sqlite",
        "EVENTMILL_QUEUE_SQLITE_PATH": str(folder / "queue.db"),
        "EVENTMILL_QUEUE_SQLITE_LEASE_SECONDS": "1",
        "EVENTMILL_STORE": "fatal",
        "EVENTMILL_STORE_FATAL_URL": url,
        "EVENTMILL_STORE_FATAL_DEATHS": str(folder / "deaths"),
        "EVENTMILL_LISTEN": f"127.0.0.1:{services.free_port()}",
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
        "EVENTMILL_BATCH_SECONDS": "0.1",
    }


def publish(path: Path, names: Sequence[str], attempts: int) -> None:
    """Put a message with one event for each name into the queue, and receive all of them so often."""
    events = [
        make_event(event_name=name, user_id=f"{number}", timestamp_ms=1_700_000_000_000)
        for number, name in enumerate(names)
    ]

    async def run() -> None:
        async with eventmill_queue_sqlite.backend.open(SqliteQueueSettings(path=path)) as queue:
            await queue.publish([encode_frame([encode_line(event)]) for event in events], time.monotonic() + 5)
            for _ in range(attempts):
                await queue.release(await queue.receive(len(events), 1))

    asyncio.run(run())


def test_a_message_that_kills_every_process_with_chdb_is_dead_lettered_and_the_others_are_stored(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        settings = fatal(tmp_path, f"chdb://{tmp_path}/chdb")
        publish(tmp_path / "queue.db", ["step", "fatal", "step", "step"], QUARANTINE_ATTEMPTS)
        halves = Halves(stack, tmp_path, settings, ("run",))
        wait_until(lambda: halves.counts() == (3, 3), 60)
        wait_until(lambda: dead(tmp_path, settings) == [("poison", ["fatal"])], 30)
        assert halves.deaths == 0


def dead(folder: Path, settings: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    listed = eventmill("dead", "list", "--json", cwd=folder, settings=settings).stdout
    letters = [json.loads(line) for line in listed.splitlines()]
    return [(letter["reason"], letter["event_names"]) for letter in letters]
