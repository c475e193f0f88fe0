"""A server that is only pretended: the saboteurs of the contract suites behave as if it held their data."""

import asyncio
import contextlib
import time

from eventmill.testing import Server


class Switch(Server):
    """Counts how often it was killed, and lets callers wait or fail while it is frozen or down."""

    def __init__(self, unavailable: type[Exception]) -> None:
        self._unavailable = unavailable
        self.reset()

    def reset(self) -> "Switch":
        self.kills = 0
        self._is_up = True
        self._thawed = asyncio.Event()
        self._thawed.set()
        return self

    async def reach(self, deadline: float | None = None) -> None:
        """Return if the server answers. Raise if it is down, or frozen until the deadline, by default for 1 s."""
        seconds = 1.0 if deadline is None else deadline - time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._thawed.wait(), seconds)
        if not (self._thawed.is_set() and self._is_up):
            raise self._unavailable("the server does not answer")

    async def stop(self) -> None:
        self.kills += 1
        self._is_up = False

    async def start(self) -> None:
        self._is_up = True

    async def freeze(self) -> None:
        self._thawed.clear()

    async def resume(self) -> None:
        self._thawed.set()
