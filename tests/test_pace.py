"""How many receives are in flight and what they cost when answers are full and short, on a virtual clock."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from eventmill.consumer.pace import MAX_FULL_RECEIVERS, Answer, Pace

ASKED = 100
ROUND_TRIP, LONG_POLL, PAUSE = 0.01, 5.0, 0.2
Answers = Callable[[Random, int], int]


@dataclass
class Simulation:
    """A consumer that receives as the pace wants; receives in flight share a round trip."""

    answer: Answers
    per_second: float = 0.0
    now: float = 0.0
    calls: int = 0
    arrived: int = 0
    waiting: deque[float] = field(default_factory=deque)
    waits: list[float] = field(default_factory=list)
    source: Random = field(default_factory=lambda: Random(1))

    def run(self, seconds: float) -> "Simulation":
        pace = Pace(PAUSE, lambda: self.now)
        while self.now < seconds and (self.per_second or self.waiting):
            self.pass_time(ROUND_TRIP / pace.receivers)
            if not self.waiting:
                self.pass_time(min(LONG_POLL, self.arrived / self.per_second + 1e-9 - self.now))
            count = min(len(self.waiting), self.answer(self.source, len(self.waiting)))
            self.calls += max(1, -(-count // 10))
            self.waits += [self.now - self.waiting.popleft() for _ in range(count)]
            self.pass_time(pace.note(Answer(count, ASKED)))
        return self

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        while self.per_second and self.arrived <= self.now * self.per_second:
            self.waiting.append(self.arrived / self.per_second)
            self.arrived += 1


def full(_: Random, waiting: int) -> int:
    return min(ASKED, waiting)


def short(source: Random, _: int) -> int:
    """From one message to all ten that a call may bring, however many wait."""
    return source.randint(1, 10)


def few(source: Random, waiting: int) -> int:
    """About an eighth of what waits: one server of eight answers."""
    return min(10, max(1, source.randint(0, waiting // 4)))


def test_full_answers_add_receivers_without_a_pause() -> None:
    pace = Pace(PAUSE)
    assert [pace.note(Answer(ASKED, ASKED)) for _ in range(10)] == [0.0] * 10
    assert pace.receivers == MAX_FULL_RECEIVERS


def test_an_empty_queue_keeps_one_long_poll_after_another() -> None:
    pace = Pace(PAUSE)
    pace.note(Answer(ASKED, ASKED))
    assert [(pace.note(Answer(0, ASKED)), pace.receivers) for _ in range(10)] == [(0.0, 1)] * 10


@pytest.mark.parametrize("per_second", [3, 10, 33, 50])
def test_full_answers_at_a_slow_rate_cost_a_call_per_pause_or_per_ten_messages(per_second: int) -> None:
    done = Simulation(full, per_second).run(120)
    assert done.calls < 120 * (1 / PAUSE + per_second / 10)
    assert max(done.waits) < 2 * PAUSE


@pytest.mark.parametrize("answer", [short, few])
@pytest.mark.parametrize("per_second", [10, 50, 200])
def test_messages_do_not_pile_up_when_answers_are_short(answer: Answers, per_second: int) -> None:
    done = Simulation(answer, per_second).run(120)
    late = done.waits[len(done.waits) // 2 :]
    assert sum(late) / len(late) < 1.5
    assert max(late) < 5
    assert done.calls < 120 * (1 / PAUSE + per_second / 2)


@pytest.mark.parametrize("answer", [short, few])
def test_a_backlog_is_received_without_pauses_when_answers_are_short(answer: Answers) -> None:
    done = Simulation(answer, waiting=deque([0.0] * 2500)).run(60)
    assert not done.waiting
    assert done.now < 3
