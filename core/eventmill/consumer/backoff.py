"""Backoff between attempts, and a circuit breaker."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.errors import EventmillError, QueueMisconfigured, RejectedEvents, StoreMisconfigured
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_SECONDS = (0.2, 30.0)
_LAST_PAUSE_SECONDS = 1.0  # the longest pause while the process shuts down


class Backoff:
    """Full-jitter backoff from 0.2 to 30 s without a limit on attempts.

    Retries end only by success or by the deadline of the shutdown, which cancels them.
    """

    def __init__(self, shutdown: Shutdown, telemetry: ConsumerTelemetry) -> None:
        self._shutdown = shutdown
        self._telemetry = telemetry

    async def retry(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        """Repeat the operation with this name until it succeeds, and return its result."""
        failures = 0
        while True:
            try:
                return await operation()
            except Exception as error:
                await self.pause(name, error, failures)
                failures += 1

    async def pause(self, name: str, error: Exception, failures: int) -> None:
        """Log and count the failure of the operation, and wait; at most one second while the process shuts down."""
        self._telemetry.retry(name, error)
        report(name, error)
        first, longest = BACKOFF_SECONDS
        seconds = random.uniform(0, min(longest, first * 2 ** min(failures, 16)))
        if self._shutdown.is_asked:
            await asyncio.sleep(min(seconds, _LAST_PAUSE_SECONDS))
        else:
            await self._shutdown.sleep(seconds)


def report(name: str, error: Exception) -> None:
    """Log a failure: as an error if an operator must act, with a traceback if it is unexpected."""
    is_expected = isinstance(error, EventmillError)
    needs_action = not is_expected or isinstance(error, StoreMisconfigured | QueueMisconfigured)
    level = logging.ERROR if needs_action else logging.WARNING
    log.log(level, "cannot %s (%s): %s", name, type(error).__name__, error, exc_info=None if is_expected else error)


class Breaker:
    """While closed, calls run concurrently. A failure opens it: calls run one at a time until one succeeds."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()
        self._closed.set()
        self._turn = asyncio.Lock()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        """Close it after a call that succeeded, also elsewhere."""
        if not self.is_closed:
            log.info("the store accepts events again")
        self._closed.set()

    def _open(self) -> None:
        if self.is_closed:
            log.info("the store fails: receiving nothing until it accepts an insert")
        self._closed.clear()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it is closed, at most this many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def call(self, operation: Callable[[], Awaitable[None]]) -> None:
        """Run the operation. Success and RejectedEvents close the breaker; any other error opens it."""
        if self.is_closed:
            await self._call(operation)
        else:
            async with self._turn:
                await self._call(operation)

    async def _call(self, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await operation()
        except RejectedEvents:
            self.close()
            raise
        except Exception:
            self._open()
            raise
        self.close()
