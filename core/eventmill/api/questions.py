"""QueryLine: what clients ask the store, a few at once, in a short line, with one deadline for all of it."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from eventmill.api.body import ClientGone
from eventmill.errors import Overloaded, StoreUnavailable
from eventmill.query import MAX_SECONDS
from eventmill.shutdown import Shutdown

T = TypeVar("T")

AT_ONCE = 8
MAX_PENDING = 32
LAST_SECONDS = 3.0
DEADLINE_SECONDS = MAX_SECONDS + 2  # the store itself gives up first, and says why


class QueryLine:
    """The questions of this process. A client that leaves and a deadline that passes cancel the call to the store."""

    def __init__(
        self,
        shutdown: Shutdown,
        at_once: int = AT_ONCE,
        max_pending: int = MAX_PENDING,
        seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._shutdown = shutdown
        self._turns = asyncio.Semaphore(at_once)
        self._max_pending = max_pending
        self._seconds = seconds
        self._pending: set[asyncio.Task[Any]] = set()  # waiting, under way, or cancelled and not yet ended

    async def ask(self, receive: Receive, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for a turn, then for the answer; both within the deadline and while the client is there.

        Raises Overloaded if the line is full, StoreUnavailable at the deadline, ClientGone, and what `question` raises.
        """
        if len(self._pending) >= self._max_pending:
            raise Overloaded(f"{self._max_pending} questions are pending already")
        answering = asyncio.create_task(self._answer(question), name="eventmill-question")
        leaving = asyncio.create_task(_client_leaves(receive), name="eventmill-client-leaves")
        self._pending.add(answering)
        answering.add_done_callback(self._pending.discard)
        try:
            with contextlib.suppress(TimeoutError):
                async with self._shutdown.limit(last_seconds=LAST_SECONDS):
                    await asyncio.wait((answering, leaving), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            if leaving.done():
                raise ClientGone
            raise StoreUnavailable(f"no answer within {self._seconds:g} s")
        finally:
            leaving.cancel()
            answering.cancel()
            answering.add_done_callback(_retrieve)
            del answering, leaving  # an error that is raised here would keep them, and they keep it

    async def _answer(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turns:
            return await question()


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take the error of a call that nobody waits for any longer; else asyncio would log it."""
    if not task.cancelled():
        task.exception()
