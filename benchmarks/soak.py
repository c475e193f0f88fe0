"""Crash everything for ten minutes on each deployment, and prove that nothing is lost or doubled.

    PYTHONPATH=tests python benchmarks/soak.py [SECONDS]

`eventmill crashtest --kill9` kills the API and the consumer; meanwhile redis-server and ClickHouse's gateway are killed
and started again, and the SQS server of the tests throttles, loses replies, fails in part and delivers twice. The
figures go to benchmarks/soak.json. Exit 1 when any deployment lost or doubled an event.
"""

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

import services
from eventmill.cli.output import print_table
from mill import environment, eventmill

RESULTS = Path(__file__).parent / "soak.json"
OUTAGE_SECONDS = (1.0, 5.0)
CALM_SECONDS = (5.0, 15.0)
FAULTS = ("throttle", "lost", "partial", "error", "cut")

Outage = tuple[Callable[[], object], Callable[[], object]]


def embedded(folder: Path, stack: ExitStack) -> tuple[dict[str, str], list[Outage]]:
    return {}, []


def redis(folder: Path, stack: ExitStack) -> tuple[dict[str, str], list[Outage]]:
    # Everything that was confirmed is on the disk: a killed server loses nothing.
    server = stack.enter_context(
        services.running_redis(folder / "redis", "--appendonly", "yes", "--appendfsync", "always")
    )
    settings, outages = clickhouse(folder, stack)
    settings |= {"EVENTMILL_QUEUE": "redis", "EVENTMILL_QUEUE_REDIS_URL": server.url}
    return settings | {"EVENTMILL_QUEUE_REDIS_LEASE_SECONDS": "5"}, [*outages, (server.kill, server.start)]


def sqs(folder: Path, stack: ExitStack) -> tuple[dict[str, str], list[Outage]]:
    server = stack.enter_context(services.running_sqs())
    settings, outages = clickhouse(folder, stack)
    settings |= services.AWS | {
        "EVENTMILL_QUEUE": "sqs",
        "EVENTMILL_QUEUE_SQS_URL": f"{server.endpoint}/000000000000/events",
        "EVENTMILL_QUEUE_SQS_LEASE_SECONDS": "5",
    }
    mend = partial(server.fail, "", 0)
    troubles: list[Outage] = [(partial(server.fail, kind, -1), mend) for kind in FAULTS]
    receives = "ReceiveMessage"
    troubles.append((partial(server.fail, "duplicate", -1, receives), partial(server.fail, "", 0, receives)))
    return settings, [*outages, *troubles]


def clickhouse(folder: Path, stack: ExitStack) -> tuple[dict[str, str], list[Outage]]:
    server = stack.enter_context(services.running_clickhouse(folder / "clickhouse"))
    settings = {"EVENTMILL_STORE": "clickhouse", "EVENTMILL_STORE_CLICKHOUSE_URL": server.url}
    return settings, [(server.kill, server.start)]


@contextmanager
def troubled(outages: list[Outage]) -> Iterator[list[int]]:
    """Something is broken now and then; in the end everything is whole."""
    ending, count = threading.Event(), [0]

    def trouble() -> None:
        while not ending.wait(random.uniform(*CALM_SECONDS)):
            break_it, mend_it = random.choice(outages)
            break_it()
            ending.wait(random.uniform(*OUTAGE_SECONDS))
            mend_it()
            count[0] += 1

    thread = threading.Thread(target=trouble)
    if outages:
        thread.start()
    yield count
    ending.set()
    if outages:
        thread.join()


def soak(name: str, settings: Mapping[str, str], outages: list[Outage], seconds: float) -> dict[str, object]:
    """One crashtest with trouble around it, which ends before the crashtest drains."""
    command = [sys.executable, "-m", "eventmill", "crashtest", "--seconds", str(seconds), "--kill9", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        if settings:
            done = eventmill("migrate", cwd=Path(folder), settings=settings)
            assert done.returncode == 0, done.stderr
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=environment(settings), stdout=subprocess.PIPE, text=True)
        with troubled(outages) as count:
            time.sleep(seconds)
        out, _ = process.communicate(timeout=600)
    figures = json.loads(out) if out else {}
    took = round(time.monotonic() - started)
    return {"deployment": name, "exit": process.returncode, "outages": count[0], "seconds": took} | figures


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    results = []
    for deployment in (embedded, redis, sqs):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            settings, outages = deployment(Path(folder), stack)
            with Console(stderr=True).status(f"{deployment.__name__}: {seconds:g} s of crashes"):
                results.append(soak(deployment.__name__, settings, outages, seconds))
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    columns = list(results[0])
    print_table(columns, [[str(result.get(column, "")) for column in columns] for result in results])
    # A deployment that should have had outages and had none proves nothing.
    unproved = [result for result in results if result["deployment"] != "embedded" and not result["outages"]]
    sys.exit(1 if unproved or any(result["exit"] for result in results) else 0)


if __name__ == "__main__":
    main()
