"""Decide how many receives run concurrently, and how long to pause between them, from what they return."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MAX_FULL_RECEIVERS = 4
MAX_RECEIVERS = 8  # while answers are short although messages wait
WORTHWHILE = 2  # messages per receive on average; below that it is cheaper to pause
LATEST = 8  # receives in the average
FEW = 2  # a probe of at most this many receives counts as unsuccessful
MAX_PROBE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a receive: `count` of the `wanted` messages."""

    count: int
    wanted: int

    @property
    def is_full(self) -> bool:
        return self.count == self.wanted


class Pace:
    """Paces the receives of one consumer.

    One short or empty answer proves nothing about the queue, since SQS samples a subset of its servers. After a full
    answer the next receive starts at once. After a short one the receiver pauses, because every call costs the same.
    From time to time it probes instead: it receives again at once, and continues while the latest receives return at
    least two messages on average. During a successful probe each receive adds a concurrent receiver. A probe that finds
    messages makes the next probe due at once; a probe that finds none doubles the time to the next, up to 4 s.

    An empty answer needs no pause, since that receive has waited already.
    """

    def __init__(self, pause_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.receivers = 1
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._is_probing = False
        self._probes = 0  # receives of this probe
        self._latest: deque[int] = deque(maxlen=LATEST)  # the messages of each
        self._probe_at = clock()
        self._probe_seconds = 0.0  # between two probes

    def note(self, answer: Answer) -> float:
        """Take an answer into account; return the seconds to pause before the next receive."""
        count = answer.count
        if answer.is_full or (self._is_probing and self._is_worthwhile(count)):
            self.receivers = min(MAX_FULL_RECEIVERS if answer.is_full else MAX_RECEIVERS, self.receivers + 1)
            return 0.0
        self.receivers = 1
        if self._is_probing:
            self._end_probe()
        elif count and self._clock() >= self._probe_at:
            self._is_probing, self._probes = True, 0
            self._latest.clear()
            return 0.0
        return self._pause_seconds if count else 0.0

    def _is_worthwhile(self, count: int) -> bool:
        """Return whether the probe continues after a receive with this many messages."""
        self._probes += 1
        self._latest.append(count)
        return sum(self._latest) >= WORTHWHILE * len(self._latest)

    def _end_probe(self) -> None:
        longer = min(MAX_PROBE_SECONDS, max(2 * self._probe_seconds, self._pause_seconds))
        self._probe_seconds = longer if self._probes <= FEW else 0.0
        self._probe_at = self._clock() + self._probe_seconds
        self._is_probing = False
