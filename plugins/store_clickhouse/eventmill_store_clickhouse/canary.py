"""The proof that the store works: a row that is written and read."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from eventmill import Event, create_event

FRESH_SECONDS = 30.0  # a check is asked for every few seconds, and each proof leaves a part on the disk
_PROJECT = "_eventmill"
_HOUR_MS = 3_600_000


class Canary:
    """Writes and reads a row now and then; a real insert proves the same."""

    def __init__(self, prove: Callable[[Event], Awaitable[list[str]]]) -> None:
        self._prove = prove
        self._proved_at = -FRESH_SECONDS
        self._warnings: list[str] = []
        self._attempt: asyncio.Task[None] | None = None

    def lives(self, warnings: list[str]) -> None:
        """Note a proof."""
        self._proved_at, self._warnings = time.monotonic(), warnings

    async def look(self) -> list[str]:
        """Return the warnings of the latest proof; make one where it is too old. Raises what an insert raises."""
        if time.monotonic() - self._proved_at >= FRESH_SECONDS:
            if self._attempt is None or self._attempt.done():
                self._attempt = asyncio.create_task(self._try(), name="eventmill-canary")
                self._attempt.add_done_callback(_retrieve)
            # Shielded: a caller in a hurry gives up alone, and the next one finds the proof.
            await asyncio.shield(self._attempt)
        return self._warnings

    def close(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()

    async def _try(self) -> None:
        self.lives(await self._prove(_create(time.time_ns() // 1_000_000)))


def _create(now_ms: int) -> Event:
    """A row that takes the place of the one before it, but for one an hour."""
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
    """Nobody may be left to whom the error could be raised."""
    if not attempt.cancelled():
        attempt.exception()
