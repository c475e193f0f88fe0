"""Trials: subprocesses find out which events crash a process."""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

from eventmill import frames
from eventmill.consumer.dead_letters import Letter
from eventmill.consumer.messages import halves
from eventmill.errors import UndecodableMessage

# A body that crashes this many subprocesses in a row is poison. Three condemned a good event in 1 of 17,000 simulated
# runs whose subprocesses also crash at random.
TRIALS = 5
MAX_PARTS = 100  # trials per message; then the remaining parts, which crashed together, are poison


class Verdict(Enum):
    """The result of a trial."""

    SURVIVED = "survived"
    DIED = "died"
    UNKNOWN = "unknown"  # the subprocess could not start, or did not end in time


Trial = Callable[[Sequence[bytes]], Awaitable[Verdict]]


class Trials:
    """Runs trials of messages and of their parts. Without a `trial` everything survives."""

    def __init__(self, trial: Trial | None) -> None:
        self._trial = trial

    async def verdict(self, bodies: Sequence[bytes]) -> Verdict:
        """Return the verdict on these bodies together. A single body needs five crashes in a row."""
        return await self._try(bodies, TRIALS if len(bodies) == 1 else 1)

    async def find_survivors(self, lines: Sequence[bytes]) -> tuple[list[Sequence[bytes]], list[Letter]] | None:
        """Return the parts of a frame that a subprocess survives, and letters for the events that crash it.

        Return None if trials are not possible now.
        """
        survivors: list[Sequence[bytes]] = []
        letters: list[Letter] = []
        error = UndecodableMessage(f"it crashed {TRIALS} processes in a row")
        parts = halves(lines) if len(lines) > 1 else []
        if not parts:
            letters.append(Letter("poison", frames.encode_frame(lines), error))
        for trials in itertools.count():
            if not parts:
                return survivors, letters
            part = parts.pop()
            is_over = trials >= MAX_PARTS
            times = TRIALS if len(part) == 1 else 1  # a crash by chance costs only one more split
            verdict = Verdict.DIED if is_over else await self._try([frames.encode_frame(part)], times)
            if verdict is Verdict.UNKNOWN:
                return None
            if verdict is Verdict.SURVIVED:
                survivors.append(part)
            elif len(part) > 1 and not is_over:
                parts += halves(part)
            else:
                letters.append(Letter("poison", frames.encode_frame(part), error))
        return None

    async def _try(self, bodies: Sequence[bytes], times: int) -> Verdict:
        """Return the verdict of up to `times` trials, DIED only if all of them crash."""
        verdict = Verdict.SURVIVED
        if self._trial is not None:
            for _ in range(times):
                verdict = await self._trial(bodies)
                if verdict is not Verdict.DIED:
                    break
        return verdict
