"""Canary: an event that is written and read to prove that the store works."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from eventmill import Event, create_event

FRESH_SECONDS = 30.0  # checks run every few seconds, and every proof adds a part on disk
_PROJECT = "_eventmill"
_HOUR_MS = 3_600_000


class Canary:
    """Writes and reads an event at most every 30 s. A real insert proves the same."""

    def __init__(self, prove: Callable[[Event], Awaitable[list[str]]]) -> None:
        self._prove = prove
        self._proved_at = -FRESH_SECONDS
        self._warnings: list[str] = []
        self._attempt: asyncio.Task[None] | None = None

    def confirm(self, warnings: list[str]) -> None:
        """Record a proof."""
        self._proved_at, self._warnings = time.monotonic(), warnings

    async def warnings(self) -> list[str]:
        """Return the warnings of the latest proof, after a new one if it is too old. Raise what an insert raises."""
        if time.monotonic() - self._proved_at >= FRESH_SECONDS:
            if self._attempt is None or self._attempt.done():
                self._attempt = asyncio.create_task(self._try(), name="eventmill-canary")
                self._attempt.add_done_callback(_retrieve)
            # Shielded: a caller that times out does not cancel the proof, which the next caller can use.
            await asyncio.shield(self._attempt)
        return self._warnings

    async def _try(self) -> None:
        self.confirm(await self._prove(_create(time.time_ns() // 1_000_000)))


def _create(now_ms: int) -> Event:
    """Return an event that replaces the previous one of the same hour."""
    return create_event(
        project=_PROJECT,
        event_name="check",
        channel="check",
        user_id="check",
        timestamp_us=now_ms // _HOUR_MS * _HOUR_MS * 1000,
        event_id="check",
        received_at_ms=now_ms,
    )


def _retrieve(attempt: asyncio.Task[None]) -> None:
    """Retrieve the error, since all callers may have timed out."""
    if not attempt.cancelled():
        attempt.exception()
