"""A reproducible event loop: its clock is virtual, so that hours take milliseconds, and its scheduler is seeded."""

import asyncio
import contextlib
import itertools
import random
import sys
import time
from collections.abc import Coroutine, Iterator
from typing import Any
from unittest import mock

EPOCH_SECONDS = 1_700_000_000.0  # the wall clock when a simulation starts
MAX_STEPS = 150_000
_STEP_SECONDS = 1e-6  # virtual time that a step takes
_LAST_STEPS = 2_000
_STACK_FRAMES = 150


class StuckError(AssertionError):
    """The loop is deadlocked, or runs far too many steps."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs ready callbacks in random order. If none is ready, time jumps to the next timer.

    Attributes:
        wall_offset_seconds: what a clock jump has added to the wall clock so far.
        errors: what callbacks raised.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.wall_offset_seconds = 0.0
        self._seconds = 0.0
        self._rng = rng
        self._steps = 0
        self._selector = self  # the loop calls only `select` of its selector
        numbers = itertools.count()
        self.set_task_factory(lambda loop, coro, **options: _Task(next(numbers), coro, loop=loop, **options))
        self.errors: list[str] = []
        self.set_exception_handler(lambda loop, context: self.errors.append(str(context.get("message"))))

    def time(self) -> float:
        return self._seconds

    def wall_seconds(self) -> float:
        return EPOCH_SECONDS + self._seconds + self.wall_offset_seconds

    def wall_nanoseconds(self) -> int:
        return int(self.wall_seconds() * 1e9)

    def select(self, timeout: float | None) -> list[Any]:
        """Let virtual time pass instead of waiting for sockets."""
        self._steps += 1
        ready = self._ready  # type: ignore[attr-defined]  # there is no public access to ready callbacks
        if self._steps > MAX_STEPS or (timeout is None and not ready):
            raise StuckError(f"stuck after {self._steps} steps, at {self._seconds:.1f} s")
        if len(ready) > 1:
            self._rng.shuffle(ready)
        self._seconds += (timeout or 0.0) + _STEP_SECONDS
        return []

    def give_up_after(self, steps: int) -> None:
        """Raise StuckError after this many steps."""
        self._steps = MAX_STEPS - steps

    def _process_events(self, event_list: list[Any]) -> None:
        return


class _Task(asyncio.Task[Any]):
    """A task with a reproducible hash, so that sets of tasks have the same order in each process."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


def run(main: Coroutine[Any, Any, None], loop: VirtualLoop, seed: int) -> None:
    """Run `main` on the loop, with virtual clocks in `time`, seeded random numbers and a small stack."""
    with _virtual_time(loop), _seeded(seed), _shallow_stack():
        try:
            loop.run_until_complete(main)
        finally:
            loop.give_up_after(_LAST_STEPS)
            with contextlib.suppress(StuckError):
                loop.run_until_complete(_cancel(asyncio.all_tasks(loop)))
            loop.close()


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _virtual_time(loop: VirtualLoop) -> Iterator[None]:
    with (
        mock.patch.object(time, "monotonic", loop.time),
        mock.patch.object(time, "time", loop.wall_seconds),
        mock.patch.object(time, "time_ns", loop.wall_nanoseconds),
    ):
        yield


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def _shallow_stack() -> Iterator[None]:
    """Limit the stack, so that recursion over data fails with a hundred events already."""
    depth, limit = 0, sys.getrecursionlimit()
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        depth, frame = depth + 1, caller
    sys.setrecursionlimit(depth + _STACK_FRAMES)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
