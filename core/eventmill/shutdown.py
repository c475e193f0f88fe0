"""Shutdown: one object that everything which waits or works shares, to learn when to stop."""

import asyncio
import contextlib
import time
from types import TracebackType

_SWEEP_SECONDS = 1.0


class Shutdown:
    """Asked for first, then begun: `ask` wakes whatever waits, `begin` also sets the time by which all work ends.

    Attributes:
        drain: whether a consumer goes on receiving until its queue is empty.
        deadline: when all work has ended, on the clock of `time.monotonic()`; infinite until `begin`.
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
        """How long ago the shutdown was asked for."""
        return max(0.0, time.monotonic() - self._asked_at)

    def ask(self) -> None:
        """Say that the process is to stop, without a time limit yet."""
        self._asked_at = min(self._asked_at, time.monotonic())
        self._asked.set()

    def begin(self, seconds: float, *, drain: bool = False) -> None:
        """End all work within so many seconds."""
        self.drain = drain
        self.deadline = time.monotonic() + seconds
        for limit in self._limits:
            limit.shorten(seconds)
        self.ask()

    async def wait(self) -> None:
        """Wait until asked."""
        await self._asked.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until asked."""
        if seconds > 0 and not self.is_asked:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._asked.wait()

    def limit(self, seconds: float = float("inf"), *, last_seconds: float = float("inf")) -> "Limit":
        """A block that raises TimeoutError when it takes longer, to a second, or when the shutdown's time is up.

        Args:
            seconds: how long it may take in any case.
            last_seconds: how long it may still take once a shutdown has begun.
        """
        return Limit(self, time.monotonic() + seconds, last_seconds)

    def add(self, limit: "Limit") -> None:
        """Watch over a limit. One timer serves all: a timer for each would cost more than the rest of a request."""
        self._limits[limit] = None
        if self.deadline < float("inf"):
            limit.shorten(max(0.0, self.deadline - time.monotonic()))
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def remove(self, limit: "Limit") -> None:
        self._limits.pop(limit, None)

    def _sweep(self) -> None:
        """End the blocks whose time is up."""
        now = time.monotonic()
        for limit in self._limits:
            if limit.until <= now:
                limit.shorten(0)
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._limits else None


class Limit:
    """An asynchronous context manager; see `Shutdown.limit`.

    Attributes:
        until: when it ends, on the clock of `time.monotonic()`.
    """

    __slots__ = ("_last_seconds", "_shutdown", "_timeout", "until")

    def __init__(self, shutdown: Shutdown, until: float, last_seconds: float) -> None:
        self.until = until
        self._shutdown = shutdown
        self._last_seconds = last_seconds
        self._timeout = asyncio.timeout(None)

    def shorten(self, seconds: float) -> None:
        """End the block so many seconds from now, unless it ends before."""
        if self._timeout.expired():
            return
        left = max(0.0, min(seconds, self._last_seconds, self.until - time.monotonic()))
        self._timeout.reschedule(asyncio.get_running_loop().time() + left)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._shutdown.add(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shutdown.remove(self)
        await self._timeout.__aexit__(kind, error, trace)
