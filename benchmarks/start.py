"""The time to start: `--help`, and a server until the response to its first event."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx

from figures import Figure, compare, in_turn
from support import services
from support.mill import environment

HELP_ROUNDS, SERVE_ROUNDS = 9, 5
HELP_BAR, SERVE_BAR = 1.5, 2.0
HERE = Path(__file__).parent
EVENT = {"event_name": "start", "channel": "web", "user_id": "1", "timestamp": 1_700_000_000}


def start() -> list[Figure]:
    """`eventmill --help` and `eventmill serve` over Redis, against empty programs of the same libraries."""
    with tempfile.TemporaryDirectory() as name, services.running_redis(Path(name) / "redis") as redis:
        helped = in_turn(
            HELP_ROUNDS,
            partial(_run, [sys.executable, "-m", "eventmill", "--help"]),
            partial(_run, [sys.executable, str(HERE / "empty_typer.py"), "--help"]),
        )
        settings = {
            "EVENTMILL_QUEUE": "redis",
            "EVENTMILL_QUEUE_REDIS_URL": redis.url,
            "EVENTMILL_STORE": "none",
            "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
        }
        port, other_port = services.free_port(), services.free_port()
        serve = [sys.executable, "-m", "eventmill", "serve", "--listen", f"127.0.0.1:{port}"]
        empty = [sys.executable, str(HERE / "empty_fastapi.py"), str(other_port)]
        served = in_turn(
            SERVE_ROUNDS,
            partial(_answer, serve, port, settings),
            partial(_answer, empty, other_port, {}),
        )
    return [
        compare("start, eventmill --help", "an empty typer program", "s", *helped, at_most=HELP_BAR),
        compare(
            "start, serve (Redis, no store) to its first 202",
            "an empty FastAPI program",
            "s",
            *served,
            at_most=SERVE_BAR,
        ),
    ]


def _run(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def _answer(command: Sequence[str], port: int, settings: Mapping[str, str]) -> float:
    """Seconds from the start of a server until it answers an event with 202."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment(settings), stderr=subprocess.DEVNULL)
    try:
        while not _is_accepted(port):
            assert process.poll() is None
            time.sleep(0.005)
        return time.perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def _is_accepted(port: int) -> bool:
    try:
        return httpx.post(f"http://127.0.0.1:{port}/events", json=EVENT).status_code == 202
    except httpx.TransportError:
        return False
