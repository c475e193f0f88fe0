"""Repeat what fails, with patience, until it succeeds or the time is up."""

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable

from eventmill.errors import EventmillError, QueueMisconfigured, RejectedEvents, StoreMisconfigured

log = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.2, 30.0)


class Stopped(Exception):
    """The time is up: what is not settled stays in the queue."""


class Retry:
    """Full-jitter backoff from 0.2 to 30 s, for as long as it takes; once stopped, for the seconds that are left."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.deadline = float("inf")

    def stop(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.stopping.set()

    @property
    def left(self) -> float | None:
        """Seconds that are left once stopped, or None."""
        return max(0.0, self.deadline - time.monotonic()) if self.stopping.is_set() else None

    @property
    def is_over(self) -> bool:
        return self.left == 0.0

    async def run(self, trouble: str, operation: Callable[[], Awaitable[object]]) -> None:
        """Repeat the operation until it succeeds. Raises RejectedEvents at once, and Stopped when time is up."""
        for failures in itertools.count():
            try:
                await operation()
            except RejectedEvents:
                raise
            except Exception as error:
                await self.pause(trouble, error, failures)
            else:
                return

    async def pause(self, trouble: str, error: Exception, failures: int) -> None:
        """Report the failure and wait. Raises Stopped when time is up."""
        expected = isinstance(error, EventmillError)
        alarming = not expected or isinstance(error, StoreMisconfigured | QueueMisconfigured)
        level = logging.ERROR if alarming else logging.WARNING
        log.log(level, "%s (%s): %s", trouble, type(error).__name__, error, exc_info=None if expected else error)
        first, longest = BACKOFF_SECONDS
        seconds = random.uniform(0, min(longest, first * 2 ** min(failures, 16)))
        if self.stopping.is_set():
            if self.is_over:
                raise Stopped
            await asyncio.sleep(max(0.0, min(seconds, 1.0, self.deadline - time.monotonic())))
        else:
            await self.sleep(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until stopped."""
        if seconds and not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), seconds)


class Breaker:
    """Closed, everybody may try at once. After a failure it is open: one tries at a time, until one succeeds."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()
        self._closed.set()
        self._turn = asyncio.Lock()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    async def wait(self, seconds: float) -> None:
        """Wait until it is closed, or so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def call(self, operation: Callable[[], Awaitable[None]]) -> None:
        if self.is_closed:
            await self._call(operation)
        else:
            async with self._turn:
                await self._call(operation)

    async def _call(self, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await operation()
        except RejectedEvents:
            self._closed.set()  # the store answers
            raise
        except Exception:
            self._closed.clear()
            raise
        self._closed.set()
