"""Subprocesses that find out which events a process dies of."""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

from eventmill import frames
from eventmill.consumer.dead_letters import Letter
from eventmill.consumer.messages import halves
from eventmill.errors import UndecodableMessage

TRIALS = 3  # a message that so many subprocesses in a row did not survive is dead
MAX_PARTS = 100  # of one message; then what is left of it, which died together, counts as dead


class Verdict(Enum):
    """What a subprocess made of messages."""

    SURVIVED = "survived"
    DIED = "died"
    UNKNOWN = "unknown"  # it could not be started, or did not finish in time


Trial = Callable[[Sequence[bytes]], Awaitable[Verdict]]


class Trials:
    """Tries messages, and parts of them, by `trial`; without one everything survives."""

    def __init__(self, trial: Trial | None) -> None:
        self._trial = trial

    async def verdict(self, bodies: Sequence[bytes]) -> Verdict:
        """What subprocesses make of these bodies together; a single one counts as deadly only after three deaths."""
        return await self._try(bodies, TRIALS if len(bodies) == 1 else 1)

    async def find_survivors(self, lines: Sequence[bytes]) -> tuple[list[Sequence[bytes]], list[Letter]] | None:
        """Parts of a frame that a subprocess survives, and letters for the events of which none survives.

        Return None if that cannot be found out now.
        """
        survivors: list[Sequence[bytes]] = []
        letters: list[Letter] = []
        error = UndecodableMessage(f"{TRIALS} processes in a row did not survive it")
        parts = halves(lines) if len(lines) > 1 else []
        if not parts:
            letters.append(Letter("killer", frames.encode_frame(lines), error))
        for trials in itertools.count():
            if not parts:
                return survivors, letters
            part = parts.pop()
            is_over = trials >= MAX_PARTS
            times = TRIALS if len(part) == 1 else 1  # a death by chance costs only a further halving
            verdict = Verdict.DIED if is_over else await self._try([frames.encode_frame(part)], times)
            if verdict is Verdict.UNKNOWN:
                return None
            if verdict is Verdict.SURVIVED:
                survivors.append(part)
            elif len(part) > 1 and not is_over:
                parts += halves(part)
            else:
                letters.append(Letter("killer", frames.encode_frame(part), error))
        return None

    async def _try(self, bodies: Sequence[bytes], times: int) -> Verdict:
        """What subprocesses make of these bodies: DIED only if so many in a row die of them."""
        verdict = Verdict.SURVIVED
        if self._trial is not None:
            for _ in range(times):
                verdict = await self._trial(bodies)
                if verdict is not Verdict.DIED:
                    break
        return verdict
