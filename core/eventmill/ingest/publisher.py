"""Group commit: pack the events of many callers into few queue messages, and confirm each caller's own."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import chain
from types import TracebackType

from eventmill import frames
from eventmill.errors import ConfigurationError, EventmillError, PartialFailure, QueueUnavailable, Refused, Unknown
from eventmill.event import DEFAULT_PROJECT
from eventmill.ingest.recent import RecentFrames
from eventmill.ingest.telemetry import IngestTelemetry
from eventmill.interfaces import MIN_BODY_BYTES, Queue

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
ATTEMPTS = 3  # per commit, with full jitter between them
PAUSE_SECONDS = 0.1
MAX_COMMITS = 8  # concurrent
MAX_COMMIT_BYTES = 3 * frames.MAX_FRAME_LINE_BYTES  # of lines; one caller may have more
_SHARE_SECONDS = 0.005  # the longest wait for a running commit, so that concurrent callers share the next one
_SWEEP_SECONDS = 0.25


class Waiter:
    """One caller: its lines, their project, its deadline and its verdict."""

    __slots__ = ("bytes", "count", "deadline", "lines", "project", "verdict")

    def __init__(self, lines: Sequence[bytes], project: str, deadline: float, verdict: asyncio.Future[None]) -> None:
        self.lines = lines
        self.project = project
        self.count = len(lines)
        self.bytes = sum(map(len, lines))
        self.deadline = deadline
        self.verdict = verdict

    def settle(self, error: EventmillError | None) -> None:
        """Answer the caller, which must still wait."""
        self.lines = ()  # a commit that hangs must not keep the lines of callers that were answered
        if error is None:
            self.verdict.set_result(None)
        else:
            self.verdict.set_exception(error)


class Publisher:
    """Packs the lines of many callers into frames, and answers each caller when its own lines are durable.

    After an idle linger interval a call is committed at once. Until a frame is full, further commits start at most once
    per interval, so that concurrent callers share them. Full means as many lines, or bytes, as a frame may hold.

    Use it as an async context manager: on exit it commits the pending lines and answers every caller.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        linger_ms: float = 0,
        timeout_seconds: float = TIMEOUT_SECONDS,
        telemetry: IngestTelemetry | None = None,
    ) -> None:
        if queue.max_body_bytes < MIN_BODY_BYTES:
            raise ConfigurationError(
                f"the queue accepts bodies of at most {queue.max_body_bytes} bytes, but {MIN_BODY_BYTES} are required"
            )
        self.telemetry = telemetry or IngestTelemetry()
        self.recent = RecentFrames()
        self._queue = queue
        self._linger_seconds = linger_ms / 1000
        self._timeout_seconds = timeout_seconds
        self._body_bytes = frames.body_limit(queue.max_body_bytes)
        self._pending: deque[Waiter] = deque()
        self._pending_bytes = self._pending_lines = 0
        self._commits: dict[asyncio.Task[None], list[Waiter]] = {}
        self._last_commit = -1e9
        self._changed = asyncio.Event()
        self._closing = False
        self._sweeper: asyncio.TimerHandle | None = None

    async def publish(self, lines: Sequence[bytes], project: str = DEFAULT_PROJECT) -> None:
        """Return when all lines are durable in the queue; there must be at least one, all of this project.

        Raise QueueUnavailable if a line was not confirmed within 5 s; repeating all of them is harmless. Cancelling the
        call does not withdraw the lines.
        """
        if self._closing:
            raise QueueUnavailable("this process is shutting down")
        loop = asyncio.get_running_loop()
        waiter = Waiter(lines, project, time.monotonic() + self._timeout_seconds, loop.create_future())
        self._pending.append(waiter)
        self._pending_lines += waiter.count
        self._pending_bytes += waiter.bytes
        if len(self._pending) == 1 or self._is_full():
            self._changed.set()
        if self._sweeper is None:
            self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep)
        try:
            await waiter.verdict
        finally:
            del waiter  # it holds an error that refers to this frame: the cycle would keep the request's body alive

    async def __aenter__(self) -> "Publisher":
        self._committer = asyncio.create_task(self._run(), name="eventmill-publisher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._changed.set()
        await self._committer
        if self._sweeper is not None:
            self._sweeper.cancel()
        for waiter in chain(*self._commits.values()):
            self._settle(waiter, QueueUnavailable("the queue did not confirm the events before this process stopped"))

    async def _run(self) -> None:
        while not self._closing or self._pending:
            if not self._pending:
                await self._wait(None)
            elif (seconds := self._linger_left()) > 0:
                await self._wait(seconds)
            elif waiters := self._take():
                self._start(waiters)
        if self._commits:
            await asyncio.wait(self._commits, timeout=self._timeout_seconds)

    async def _wait(self, seconds: float | None) -> None:
        """Wait until something changes: a first caller, a full frame, a finished commit, or closing."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _linger_left(self) -> float:
        """Return for how many seconds the pending lines should wait for further callers."""
        if len(self._commits) >= MAX_COMMITS:
            return _SWEEP_SECONDS
        if self._closing or self._is_full():
            return 0
        linger = max(self._linger_seconds, _SHARE_SECONDS) if self._commits else self._linger_seconds
        return self._last_commit + linger - time.monotonic()

    def _is_full(self) -> bool:
        return self._pending_lines >= frames.MAX_FRAME_EVENTS or self._pending_bytes >= frames.MAX_FRAME_LINE_BYTES

    def _take(self) -> list[Waiter]:
        """Remove and return the oldest callers that still wait, as many as fit into one commit."""
        taken: list[Waiter] = []
        size = 0
        while self._pending and size < MAX_COMMIT_BYTES:
            waiter = self._next()
            if not waiter.verdict.done():
                taken.append(waiter)
                size += waiter.bytes
        return taken

    def _next(self) -> Waiter:
        waiter = self._pending.popleft()
        self._pending_lines -= waiter.count
        self._pending_bytes -= waiter.bytes
        return waiter

    def _start(self, waiters: list[Waiter]) -> None:
        self._last_commit = time.monotonic()
        commit = asyncio.create_task(self._commit(waiters))
        self._commits[commit] = waiters
        commit.add_done_callback(self._finished)

    def _finished(self, commit: asyncio.Task[None]) -> None:
        waiters = self._commits.pop(commit)
        if error := None if commit.cancelled() else commit.exception():
            log.error("cannot commit the events of %d callers", len(waiters), exc_info=error)
            for waiter in waiters:
                self._settle(waiter, QueueUnavailable("the events could not be committed"))
        self._changed.set()

    async def _commit(self, waiters: list[Waiter]) -> None:
        """Publish the lines of these callers, and answer each whether all of its lines are durable."""
        lines = [line for waiter in waiters for line in waiter.lines]
        counts, bodies = [], []
        for count, body in frames.pack(lines, self._body_bytes):
            counts.append(count)
            bodies.append(body)
            await asyncio.sleep(0)
        started = time.monotonic()
        failed = await self._publish(bodies, waiters[-1].deadline)
        self.telemetry.commit(time.monotonic() - started)
        if not failed:
            self.recent.add(bodies)
            for waiter in waiters:
                self._settle(waiter, None)
            return
        self.recent.add([body for index, body in enumerate(bodies) if index not in failed])
        lost = [index in failed for index, count in enumerate(counts) for _ in range(count)]
        start = 0
        for waiter in waiters:
            unconfirmed = any(lost[start : start + waiter.count])
            self._settle(waiter, QueueUnavailable("the queue did not confirm the events") if unconfirmed else None)
            start += waiter.count

    async def _publish(self, bodies: list[bytes], deadline: float) -> set[int]:
        """Publish with a few attempts, and return the indexes of the bodies that were not confirmed."""
        refused: set[int] = set()
        wanted = list(range(len(bodies)))
        for attempt in range(ATTEMPTS):
            failed = await self._try([bodies[index] for index in wanted], deadline)
            refused |= {index for place, index in enumerate(wanted) if isinstance(failed.get(place), Refused)}
            wanted = [index for place, index in enumerate(wanted) if isinstance(failed.get(place), Unknown)]
            pause = random.uniform(0, PAUSE_SECONDS * 2**attempt)
            if not wanted or attempt == ATTEMPTS - 1 or time.monotonic() + pause >= deadline:
                break
            await asyncio.sleep(pause)
        return refused | set(wanted)

    async def _try(self, bodies: list[bytes], deadline: float) -> Mapping[int, Refused | Unknown]:
        """Publish once; return what was not confirmed."""
        self.telemetry.send(bodies)
        try:
            await self._queue.publish(bodies, deadline)
        except PartialFailure as failure:
            self.telemetry.fail(failure)
            log.warning(
                "the queue confirmed %d of %d messages: %s", len(bodies) - len(failure.failed), len(bodies), failure
            )
            return failure.failed
        except QueueUnavailable as error:
            self.telemetry.fail(error)
            log.warning("the queue is unavailable: %s", error)
        except Exception as error:
            self.telemetry.fail(error)
            log.exception("the queue failed to publish")
        else:
            return {}
        return {index: Unknown("unavailable") for index in range(len(bodies))}

    def _settle(self, waiter: Waiter, error: EventmillError | None) -> None:
        """Answer a caller, and count its events."""
        if waiter.verdict.done():
            return
        if error is None:
            self.telemetry.accept(waiter.project, waiter.count, waiter.bytes)
        else:
            self.telemetry.unconfirmed += waiter.count
        waiter.settle(error)

    def _sweep(self) -> None:
        """Answer the callers whose deadline has passed, even if the queue hangs."""
        now = time.monotonic()
        for waiter in chain(self._pending, *self._commits.values()):
            if waiter.deadline <= now:
                late = QueueUnavailable(f"the queue did not confirm the events within {self._timeout_seconds:g} s")
                self._settle(waiter, late)
        while self._pending and self._pending[0].verdict.done():
            self._next()
        is_needed = bool(self._pending or self._commits)
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep) if is_needed else None
