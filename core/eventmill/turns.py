"""Turns: a process does expensive work in short pieces, and its clients take turns."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from eventmill.errors import Overloaded

PIECE_SECONDS = 0.002
_BUSY_SECONDS, _REST_SECONDS = 0.002, 0.001
MAX_WAITING = 512  # requests of one client


class Turns:
    """Runs one piece of expensive work in each pass of the event loop, so that cheap requests hardly wait for it.

    The clients take turns, however much work each of them has.

    Args:
        rests: whether to rest for 1 ms after every 2 ms of pieces. A loop that is always busy keeps a processor and the
            interpreter's lock, and the threads of queues and stores wait for both.
    """

    def __init__(self, *, rests: bool = False) -> None:
        self._rests = rests
        self._rested_at = 0.0
        self._ran_at = 0.0
        self._pieces: dict[str, deque[Callable[[], object]]] = {}  # of each client; the first client is the next
        self._lines: dict[str, Line] = {}

    def add(self, client: str, piece: Callable[[], object]) -> None:
        """Run a piece of work, which takes about 2 ms at most, when it is the turn of this client."""
        if not self._pieces:
            now = time.monotonic()
            if now - self._ran_at > _REST_SECONDS:  # nothing ran for a while
                self._rested_at = now
            self._schedule()
        self._pieces.setdefault(client, deque()).append(piece)

    def _run_next(self) -> None:
        client = next(iter(self._pieces))
        pieces = self._pieces.pop(client)
        piece = pieces.popleft()
        if pieces:
            self._pieces[client] = pieces  # behind the other clients
        if self._pieces:
            self._schedule()
        self._ran_at = time.monotonic()
        piece()

    def _schedule(self) -> None:
        """Run the next piece in the next pass, or after a rest."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        if self._rests and now - self._rested_at > _BUSY_SECONDS:
            self._rested_at = now + _REST_SECONDS
            loop.call_later(_REST_SECONDS, self._run_next)
        else:
            loop.call_soon(self._run_next)

    @asynccontextmanager
    async def line(self, client: str) -> "AsyncIterator[Line]":
        """Wait until the earlier requests of this client are done, and do the work of one in the block.

        One request at a time needs less memory, and the first ones are done sooner. Raise Overloaded if too many wait.
        """
        line = self._lines.setdefault(client, Line(self, client))
        if line.length >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} requests of this client wait for their turn: try again")
        line.length += 1
        try:
            async with line.lock:
                yield line
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[client]


class Line:
    """The requests of one client that wait for expensive work, and the one that does it.

    Attributes:
        length: the number of these requests.
    """

    def __init__(self, turns: Turns, client: str) -> None:
        self.lock = asyncio.Lock()
        self.length = 0
        self._turns = turns
        self._client = client

    async def turn(self) -> float:
        """Wait for the turn of this client. Return when it ends, on the clock of `time.monotonic()`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.add(self._client, lambda: _finish(turn))
        await turn
        return time.monotonic() + PIECE_SECONDS


def _finish(turn: asyncio.Future[None]) -> None:
    if not turn.done():  # the request may have been cancelled
        turn.set_result(None)
