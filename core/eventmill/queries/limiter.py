"""QueryLimiter: a few concurrent queries, a bounded waiting line, and one deadline for waiting and answering."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

from eventmill.errors import ClientDisconnected, Overloaded, StoreUnavailable
from eventmill.queries.lookup import MAX_SECONDS
from eventmill.queries.telemetry import QueryTelemetry
from eventmill.shutdown import Shutdown

T = TypeVar("T")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

CONCURRENT_QUERIES = 8  # of one project
MAX_PENDING = 32  # of one project
_ALL_CONCURRENT, _ALL_PENDING = 1.5, 4  # how much more all projects may have than one
SHUTDOWN_SECONDS = 3.0  # the longest that a query may take once a shutdown has begun
DEADLINE_SECONDS = MAX_SECONDS + 2  # the store reaches its own limit first, and gives the reason


class QueryLimiter:
    """Runs the queries of this process. It cancels a query at its deadline, and when its client disconnects."""

    def __init__(
        self,
        shutdown: Shutdown,
        concurrent: int = CONCURRENT_QUERIES,
        max_pending: int = MAX_PENDING,
        seconds: float = DEADLINE_SECONDS,
        telemetry: QueryTelemetry | None = None,
    ) -> None:
        self._shutdown = shutdown
        self._telemetry = telemetry or QueryTelemetry()
        self._telemetry.pending.set_function(lambda: len(self._pending))
        self._slots = asyncio.Semaphore(math.ceil(concurrent * _ALL_CONCURRENT))
        self._max_pending = max_pending
        self._project_slots = concurrent
        self._projects: dict[str, _Project] = {}
        self._seconds = seconds
        self._pending: set[asyncio.Task[Any]] = set()  # waiting, running, or cancelled and not ended yet

    async def run(
        self, query: Callable[[], Coroutine[Any, Any, T]], receive: Receive | None = None, project: str = ""
    ) -> T:
        """Wait for a slot, and return the answer.

        Args:
            query: the call to the store.
            receive: the ASGI channel of the request, so that the query ends when the client disconnects.
            project: whose query it is. Each has slots and a line of its own.

        Raise Overloaded if the line is full, StoreUnavailable at the deadline, ClientDisconnected, and the errors of
        `query`.
        """
        started = time.monotonic()
        try:
            return await self._answer(query, receive, project)
        except BaseException as error:
            self._telemetry.fail(error)
            raise
        finally:
            self._telemetry.seconds.observe(time.monotonic() - started)

    async def _answer(self, query: Callable[[], Coroutine[Any, Any, T]], receive: Receive | None, project: str) -> T:
        own = self._projects.setdefault(project, _Project(asyncio.Semaphore(self._project_slots)))
        if own.pending >= self._max_pending or len(self._pending) >= _ALL_PENDING * self._max_pending:
            raise Overloaded(f"{self._max_pending} queries are pending")
        answer = asyncio.create_task(self._run(query, own), name="eventmill-query")
        disconnect = asyncio.create_task(_disconnected(receive), name="eventmill-client-disconnect")
        self._pending.add(answer)
        own.pending += 1
        answer.add_done_callback(lambda done: self._finished(done, project, own))
        try:
            with contextlib.suppress(TimeoutError), self._shutdown.limit(last_seconds=SHUTDOWN_SECONDS):
                await asyncio.wait((answer, disconnect), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if disconnect.done():
                raise ClientDisconnected
            raise StoreUnavailable(f"no answer within {self._seconds:g} s")
        finally:
            disconnect.cancel()
            answer.cancel()
            answer.add_done_callback(_retrieve_error)
            del answer, disconnect  # a traceback of this frame would keep them alive, and they keep the traceback

    async def _run(self, query: Callable[[], Coroutine[Any, Any, T]], own: "_Project") -> T:
        async with own.slots, self._slots:
            with self._telemetry.running.track_inprogress():
                return await query()

    def _finished(self, answer: asyncio.Task[Any], project: str, own: "_Project") -> None:
        self._pending.discard(answer)
        own.pending -= 1
        if not own.pending:
            self._projects.pop(project, None)


@dataclass(slots=True)
class _Project:
    """The queries of one project."""

    slots: asyncio.Semaphore
    pending: int = 0


async def _disconnected(receive: Receive | None) -> None:
    """Return when the client disconnects."""
    if receive is None:
        await asyncio.Event().wait()
        return
    while (await receive())["type"] != "http.disconnect":
        pass


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """Mark the error of a cancelled query as seen, since asyncio logs errors that no one retrieves."""
    if not task.cancelled():
        task.exception()
