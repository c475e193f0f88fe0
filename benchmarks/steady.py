"""A steady load for a long time: memory, open files, the queue's files and the store's parts must not grow.

    PYTHONPATH=tests python benchmarks/steady.py [MINUTES [EVENTS_PER_SECOND]]

`eventmill run` on SQLite and chDB takes single posts. Each second third is compared with the last third: the median of
each figure may grow by a tenth, and by a little that does not matter. Exit 1 when one does.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from eventmill.cli.output import print_table
from load import resident_mb
from sqs_cost import post_singly
from support.mill import running

RESULTS = Path(__file__).parent / "steady.json"
SAMPLE_SECONDS = 5.0
MAX_GROWTH = 1.1
# Smaller growth is noise: MB of memory, open files, MB of the queue's files, files of the store (about 20 per part).
NOISE = {"memory_mb": 15.0, "open_files": 20.0, "queue_mb": 4.0, "store_files": 400.0}


@dataclass(frozen=True)
class Sample:
    """What the process uses at one moment."""

    memory_mb: float
    open_files: float
    queue_mb: float
    store_files: float


def sample(pid: int, folder: Path) -> Sample:
    queue = sum(file.stat().st_size for file in folder.glob("queue.db*")) / 1e6
    open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    store_files = sum(len(files) for _, _, files in os.walk(folder / "chdb"))
    return Sample(resident_mb(pid), float(open_files), queue, float(store_files))


async def collect(url: str, pid: int, folder: Path, seconds: float, rate: float) -> list[Sample]:
    """Post at this rate, and look every five seconds."""
    posting = asyncio.create_task(post_singly(url, int(rate), seconds))
    samples: list[Sample] = []
    console = Console(stderr=True)
    with console.status("posting") as status:
        started = time.monotonic()
        while not posting.done():
            await asyncio.wait([posting], timeout=SAMPLE_SECONDS)
            samples.append(sample(pid, folder))
            status.update(f"{time.monotonic() - started:.0f} of {seconds:.0f} s: {samples[-1]}")
    await posting
    return samples


def judge(samples: list[Sample]) -> dict[str, dict[str, float | bool]]:
    third = len(samples) // 3
    figures: dict[str, dict[str, float | bool]] = {}
    for name, noise in NOISE.items():
        values = [getattr(one, name) for one in samples]
        second, last = statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])
        is_flat = last <= max(second * MAX_GROWTH, second + noise)
        figures[name] = {"second third": round(second, 1), "last third": round(last, 1), "is flat": is_flat}
    return figures


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 45.0
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 500.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running("run", "--listen", "127.0.0.1:0", cwd=folder, settings={}) as program:
            url, data = program.url(), folder / "eventmill-data"
            samples = asyncio.run(collect(url, program.process.pid, data, minutes * 60, rate))
            code = program.stop()
    figures = judge(samples)
    rows = [(name, *(str(value) for value in values.values())) for name, values in figures.items()]
    print_table(("figure", "second third", "last third", "is flat"), rows)
    results = {"minutes": minutes, "events_per_second": rate, "exit": code, "figures": figures}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(0 if code == 0 and all(values["is flat"] for values in figures.values()) else 1)


if __name__ == "__main__":
    main()
