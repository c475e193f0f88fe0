"""Crash everything for ten minutes on each deployment, and prove that nothing is lost or doubled.

    PYTHONPATH=tests python benchmarks/soak.py [SECONDS [OUTAGE_SECONDS]]

`eventmill crashtest --kill9` kills the API and the consumer; meanwhile redis-server and ClickHouse's gateway are killed
and started again, or a part of the rows fails; the SQS server of the tests throttles, loses replies, fails in part,
delivers twice and answers short; and another program fills the disk of SQLite and chDB. The three deployments are
crashed at the same time. Then each, alone, goes through the gates of `gates.py`, with outages of half a minute, and the
power of a disk is cut for a minute. The figures go to benchmarks/soak.json. Exit 1 when anything was lost or doubled,
or a gate is not passed.
"""

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

import deployments
from deployments import Deployment
from eventmill.cli.output import print_table
from gates import Gates
from support.mill import environment, eventmill
from support.power_cut import NoDisk, cut_for

RESULTS = Path(__file__).parent / "soak.json"
OUTAGE_SECONDS = (1.0, 5.0)
CALM_SECONDS = (5.0, 15.0)
POWER_CUT_SECONDS = 60.0


@contextmanager
def troubled(deployment: Deployment, seconds: float) -> Iterator[list[int]]:
    """Something is broken now and then, once the store for a tenth of the time; in the end everything is whole."""
    ending, count = threading.Event(), [0]
    long_at = time.monotonic() + seconds / 2

    def trouble() -> None:
        is_long_due = deployment.store is not None
        while not ending.wait(random.uniform(*CALM_SECONDS)):
            if is_long := is_long_due and time.monotonic() > long_at:
                is_long_due = False
            outage = deployment.store if is_long and deployment.store else random.choice(deployment.outages)
            outage.begin()
            ending.wait(seconds / 10 if is_long else random.uniform(*OUTAGE_SECONDS))
            outage.end()
            count[0] += 1

    with ThreadPoolExecutor() as pool:
        troubling = pool.submit(trouble) if deployment.outages else None
        try:
            yield count
        finally:
            ending.set()
            if troubling:
                troubling.result()  # trouble that died unnoticed would prove nothing


def crash(name: str, seconds: float) -> dict[str, Any]:
    """One crashtest with trouble around it, which ends before the crashtest drains."""
    command = [sys.executable, "-m", "eventmill", "crashtest", "--seconds", str(seconds), "--kill9", "--json"]
    with tempfile.TemporaryDirectory() as folder, getattr(deployments, name)(Path(folder)) as deployment:
        migrate(deployment, Path(folder))
        started = time.monotonic()
        variables = environment(deployment.settings) | dict(deployment.environment)
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True)
        try:
            with troubled(deployment, seconds) as count:
                time.sleep(seconds)
            out, _ = process.communicate(timeout=600)
        finally:
            process.terminate()  # it ends its programs
            process.wait()
    figures = json.loads(out) if out else {}
    figures.pop("outages", None)  # those of `crashtest --outage-command`, which is not used here
    took = round(time.monotonic() - started)
    return {"deployment": name, "exit": process.returncode, "outages": count[0], "seconds": took} | figures


def pass_gates(name: str, seconds: float) -> dict[str, Any]:
    """Run the gates on a separate deployment."""
    with tempfile.TemporaryDirectory() as folder, getattr(deployments, name)(Path(folder)) as deployment:
        migrate(deployment, Path(folder))
        gates = Gates(deployment, Path(folder), seconds)
        gates.run()
    return {"deployment": name, **gates.figures, "failed": gates.failed}


def cut_power(seconds: float) -> dict[str, Any]:
    """Cut the power of a disk repeatedly for this long, if this machine can create one."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            cuts, acknowledged, lost = cut_for(Path(folder), seconds)
        except NoDisk as error:
            return {"not run": str(error)}
    return {"cuts": cuts, "acknowledged": acknowledged, "lost": lost}


def migrate(deployment: Deployment, folder: Path) -> None:
    if deployment.settings:
        done = eventmill("migrate", cwd=folder, settings=deployment.settings)
        assert done.returncode == 0, done.stderr


def show(results: list[dict[str, Any]]) -> None:
    """A table with a row for each figure and a column for each deployment."""
    names = dict.fromkeys(name for result in results for name in result)
    rows = [[name, *(str(result.get(name, "")) for result in results)] for name in names if name != "deployment"]
    print_table(["figure", *(result["deployment"] for result in results)], rows)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    outage_seconds = float(sys.argv[2]) if len(sys.argv) > 2 else min(30.0, seconds)
    names = [deployment.__name__ for deployment in deployments.ALL]
    console = Console(stderr=True)
    with console.status(f"{seconds:g} s of crashes"), ThreadPoolExecutor() as pool:
        crashed = list(pool.map(lambda name: crash(name, seconds), names))
    show(crashed)
    passed = []
    for name in names:
        with console.status(f"the gates of {name}"):
            passed.append(pass_gates(name, outage_seconds))
    show(passed)
    with console.status("power cuts"):
        power = cut_power(min(POWER_CUT_SECONDS, seconds))
    print_table(("power cuts", ""), [(name, str(figure)) for name, figure in power.items()])
    RESULTS.write_text(json.dumps({"crashes": crashed, "gates": passed, "power_cuts": power}, indent=2) + "\n")
    # A deployment that should have had outages and had none proves nothing.
    unproved = [result for result in crashed if not result["outages"]]
    failed = any(result["exit"] for result in crashed) or any(result["failed"] for result in passed)
    sys.exit(1 if unproved or failed or power.get("lost", 1) else 0)


if __name__ == "__main__":
    main()
