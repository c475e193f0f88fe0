"""Decide from what receives bring how many to keep in flight, and how long to pause between them."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MAX_FULL_RECEIVERS = 4
MAX_RECEIVERS = 8  # while answers are short, though messages wait
WORTHWHILE = 2  # messages that a receive should bring on average; else it is cheaper to pause first
LATEST = 8  # receives that are averaged
FEW = 2  # a probe that ends after so many receives has found nothing
MAX_PROBE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receive brought: `count` of the `wanted` messages."""

    count: int
    wanted: int

    @property
    def is_full(self) -> bool:
        return self.count == self.wanted


class Pace:
    """A receive may bring fewer messages than wait, or none: SQS asks some of its servers. So one is no evidence.

    After a full answer the next receive starts at once. After any other the receiver pauses, since a call has its price
    however little it brings; but now and then it probes: it receives again at once, and goes on while the latest
    receives bring at least two messages on average. Then messages wait, and each receive adds a receiver. A probe that
    finds messages makes the next one due at once; one that finds nothing doubles the time to it, up to 4 s.

    An empty answer needs no pause: that receive has waited.
    """

    def __init__(self, pause_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.receivers = 1
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._is_probing = False
        self._probes = 0  # receives of this probe
        self._latest: deque[int] = deque(maxlen=LATEST)  # what they brought
        self._probe_at = clock()
        self._probe_seconds = 0.0  # from one probe to the next

    def note(self, answer: Answer) -> float:
        """Learn from an answer; return the seconds to pause before the next receive."""
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
        """Whether the probe goes on after a receive that brought so many."""
        self._probes += 1
        self._latest.append(count)
        return sum(self._latest) >= WORTHWHILE * len(self._latest)

    def _end_probe(self) -> None:
        longer = min(MAX_PROBE_SECONDS, max(2 * self._probe_seconds, self._pause_seconds))
        self._probe_seconds = longer if self._probes <= FEW else 0.0
        self._probe_at = self._clock() + self._probe_seconds
        self._is_probing = False
