"""The status for operators: the backlog, its age, and the rate at which it drains."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from eventmill.event import ALL_TIME, DEFAULT_PROJECT
from eventmill.interfaces import Depth, Queue, Store
from eventmill.queries.filters import EventFilter

T = TypeVar("T")

WINDOW_SECONDS = 60.0
MIN_LOOKS = 2
LOOKUP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a deployment; None for a figure that is unavailable.

    Attributes:
        ready, in_flight, dead: queue messages, each of up to 1,000 events.
        oldest_age_seconds: the age of the oldest message.
        drained_per_second: messages per second by which the backlog shrinks; negative while it grows.
        drained_in_seconds: how long the backlog takes at that rate; None if it does not shrink.
        newest_event_ms: the time of the newest event in the store.
    """

    ready: int | None = None
    in_flight: int | None = None
    dead: int | None = None
    oldest_age_seconds: float | None = None
    drained_per_second: float | None = None
    drained_in_seconds: float | None = None
    newest_event_ms: int | None = None


class Watch:
    """Reads the status from the queue and the store, and remembers the backlog of the last minute."""

    def __init__(self, queue: Queue, store: Store | None, project: str = DEFAULT_PROJECT) -> None:
        self._queue = queue
        self._store = store
        self._project = project
        self._backlogs: deque[tuple[float, int]] = deque()
        self._lookup: asyncio.Task[Status] | None = None

    async def status(self) -> Status:
        """Return the status now, without the figures of a service that is unavailable or slow.

        Concurrent callers share one lookup.
        """
        if self._lookup is None or self._lookup.done():
            self._lookup = asyncio.create_task(self._look_up(), name="eventmill-status")
        return await asyncio.shield(self._lookup)

    async def _look_up(self) -> Status:
        newest_event_ms, depth, dead = await asyncio.gather(
            _try(self._newest()), _try(self._queue.depth()), _try(self._queue.dead.depth())
        )
        if depth is None:
            return Status(dead=_total(dead), newest_event_ms=newest_event_ms)
        backlog = _total(depth)
        rate = None if backlog is None else self._rate(backlog)
        left = 0.0 if backlog == 0 else backlog / rate if backlog and rate and rate > 0 else None
        return Status(depth.ready, depth.in_flight, _total(dead), depth.oldest_age_seconds, rate, left, newest_event_ms)

    def _rate(self, backlog: int) -> float | None:
        now = time.monotonic()
        self._backlogs.append((now, backlog))
        while len(self._backlogs) > MIN_LOOKS and now - self._backlogs[0][0] > WINDOW_SECONDS:
            self._backlogs.popleft()
        first_at, first = self._backlogs[0]
        return (first - backlog) / (now - first_at) if now > first_at else None

    async def _newest(self) -> int | None:
        if self._store is None:
            return None
        async with asyncio.timeout(LOOKUP_SECONDS):
            newest = await self._store.scan(EventFilter(self._project, *ALL_TIME), None, 1)
        return newest[0].timestamp_ms if newest else None


async def _try(call: Awaitable[T]) -> T | None:
    """Return the result of the call, or None if it fails or is too slow."""
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait([task], timeout=LOOKUP_SECONDS)
    task.add_done_callback(lambda late: late.cancelled() or late.exception())
    return task.result() if done and task.exception() is None else None


def _total(depth: Depth | None) -> int | None:
    if depth is None or (depth.ready is None and depth.in_flight is None):
        return None
    return (depth.ready or 0) + (depth.in_flight or 0)
