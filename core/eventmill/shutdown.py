"""Shutdown: one object that all parts of a process share to learn when to stop."""

import asyncio
import contextlib
import time
from types import TracebackType

_SWEEP_SECONDS = 1.0


class Shutdown:
    """A shutdown has two steps: `ask` wakes all waiting tasks, and `begin` sets the deadline for all work.

    Attributes:
        drain: whether a consumer continues to receive until its queue is empty.
        deadline: when all work must have ended, on the clock of `time.monotonic()`; infinite until `begin`.
    """

    def __init__(self) -> None:
        self.drain = False
        self.deadline = float("inf")
        self._asked = asyncio.Event()
        self._asked_at = float("inf")
        self._limits: dict[Limit, None] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def asked_seconds(self) -> float:
        """The seconds since the shutdown was asked for."""
        return max(0.0, time.monotonic() - self._asked_at)

    def ask(self) -> None:
        """Ask the process to stop, without a deadline yet."""
        self._asked_at = min(self._asked_at, time.monotonic())
        self._asked.set()

    def begin(self, seconds: float, *, drain: bool = False) -> None:
        """Set the deadline: all work must end within this many seconds."""
        self.drain = drain
        self.deadline = time.monotonic() + seconds
        for limit in self._limits:
            limit.shorten(seconds)
        self.ask()

    async def wait(self) -> None:
        """Wait until the shutdown is asked for."""
        await self._asked.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait for this many seconds, or until the shutdown is asked for."""
        if seconds > 0 and not self.is_asked:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._asked.wait()

    def limit(self, seconds: float = float("inf"), *, last_seconds: float = float("inf")) -> "Limit":
        """Return a context manager for a block that raises TimeoutError if it takes too long.

        Args:
            seconds: the longest that the block may take, with a precision of one second.
            last_seconds: the longest that it may take after a shutdown has begun; the deadline applies in any case.
        """
        return Limit(self, time.monotonic() + seconds, last_seconds)

    def add(self, limit: "Limit") -> None:
        """Enforce a limit. One timer serves all, since a timer per request would cost more than the rest of it."""
        self._limits[limit] = None
        if self.deadline < float("inf"):
            limit.shorten(max(0.0, self.deadline - time.monotonic()))
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def remove(self, limit: "Limit") -> None:
        self._limits.pop(limit, None)

    def _sweep(self) -> None:
        """End the blocks that have exceeded their limit."""
        now = time.monotonic()
        for limit in self._limits:
            if limit.until <= now:
                limit.shorten(0)
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._limits else None


class Limit:
    """A context manager for code with `await`; see `Shutdown.limit`.

    It ends a block as `asyncio.timeout` does, but takes 1.7 instead of 4.6 µs: every request needs a limit.

    Attributes:
        until: when it ends, on the clock of `time.monotonic()`.
    """

    __slots__ = ("_cancelling", "_is_expired", "_last_seconds", "_shutdown", "_task", "_timer", "until")

    def __init__(self, shutdown: Shutdown, until: float, last_seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a limit needs a task")
        self.until = until
        self._shutdown = shutdown
        self._last_seconds = last_seconds
        self._task = task
        self._cancelling = task.cancelling()
        self._timer: asyncio.TimerHandle | None = None
        self._is_expired = False

    def shorten(self, seconds: float) -> None:
        """End the block in this many seconds, unless it ends earlier."""
        if self._is_expired:
            return
        left = max(0.0, min(seconds, self._last_seconds, self.until - time.monotonic()))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(left, self._expire)

    def extend(self, seconds: float) -> None:
        """Let the block take so many seconds from now on; after a shutdown has begun this changes nothing."""
        self.until = time.monotonic() + seconds

    def _expire(self) -> None:
        self._is_expired = True
        self._task.cancel()

    def __enter__(self) -> "Limit":
        self._shutdown.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shutdown.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        # A task that was cancelled by others, too, stays cancelled.
        if self._is_expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
