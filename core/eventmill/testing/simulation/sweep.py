"""Many seeds, on all cores."""

import os
from collections.abc import Iterator
from multiprocessing import get_context

from eventmill.testing.simulation.simulation import Run, simulate

_CHUNK = 20


def sweep(first: int, count: int) -> Iterator[Run | None]:
    """Run `count` seeds, starting with `first`. Yield one item per seed: its run if it broke a promise, else None."""
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        yield from pool.imap_unordered(_broken_run, range(first, first + count), _CHUNK)


def _broken_run(seed: int) -> Run | None:
    run = simulate(seed)
    return run if run.violations else None
