"""Delivery in a simulated world: a thousand seeds keep every promise, and a broken promise is noticed."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

import eventmill.testing
from eventmill import Delivery, EventBatch
from eventmill.consumer.dead_letters import DeadLetters, Letter
from eventmill.consumer.inserter import Inserter
from eventmill.consumer.leases import Leases
from eventmill.consumer.messages import Row
from eventmill.consumer.receiver import Receiver
from eventmill.consumer.trials import Trials, Verdict
from eventmill.testing.simulation import Plan, Post, Window, draw, simulate, simulate_plan, sweep
from support.proxies import QueueProxy

SEEDS = 1000
PLANS = 200  # of a kind, in which a planted fault must show


def test_a_thousand_seeds_keep_every_promise() -> None:
    broken = [run for run in sweep(0, SEEDS) if run is not None]
    assert not broken, f"seed {broken[0].seed}:\n" + "\n".join(broken[0].story)


def test_a_seed_gives_the_same_story_in_every_process() -> None:
    stories = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "eventmill.testing.simulation", "17"],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        stories.append(done.stdout)
    assert stories[0] == stories[1]
    assert len(stories[0].splitlines()) > 10


def test_the_plans_of_a_thousand_seeds_hold_every_kind_of_fault_and_of_bad_event() -> None:
    plans = [draw(seed) for seed in range(SEEDS)]
    kinds = frozenset[str]().union(*(plan.kinds for plan in plans))
    assert len(kinds) == 18
    assert {plan.rejection for plan in plans} == {"all named", "one named", "none named"}
    assert {post.bad for plan in plans for post in plan.posts} == {"", "rejected", "poison"}
    assert sum(plan.is_harmless for plan in plans) > 50


# a world written by hand


def plan(posts: Sequence[Post], *windows: Window, seconds: float = 60) -> Plan:
    kinds = frozenset(window.kind for window in windows)
    return Plan(seed=1, seconds=seconds, kinds=kinds, windows=list(windows), posts=list(posts), batch_events=2000)


@pytest.mark.parametrize("rejection", ["all named", "one named", "none named"])
def test_a_crowd_of_rejected_events_is_dead_lettered_without_recursion(rejection: str) -> None:
    crowd = replace(plan([Post(1, 160, "rejected"), Post(1.1, 5, "")]), rejection=rejection)  # type: ignore[arg-type]
    assert simulate_plan(crowd).violations == []


def test_healthy_events_flow_while_a_part_of_the_store_is_unavailable_for_an_hour() -> None:
    posts = [Post(at, 5, "") for at in range(1, 3600, 60)]
    run = simulate_plan(plan(posts, Window("store partly unavailable", 0, 3600), seconds=3600))
    assert run.violations == []


def test_a_dead_queue_that_is_unavailable_delays_no_healthy_event() -> None:
    posts = [Post(at, 2, "rejected" if at % 20 == 1 else "") for at in range(1, 600, 10)]
    run = simulate_plan(plan(posts, Window("dead queue unavailable", 0, 600), seconds=600))
    assert run.violations == []


def test_a_message_that_every_process_dies_of_is_dead_lettered_also_if_few_trials_can_start() -> None:
    for seed in range(20):
        poisons = replace(plan([Post(1, 1, "poison"), Post(2, 5, "")]), seed=seed, trial_starts=0.3)
        assert simulate_plan(poisons).violations == []


def test_a_layer_of_a_plugin_is_simulated_with_the_rest() -> None:
    class Layer(QueueProxy):
        published = 0

        async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
            Layer.published += len(bodies)
            await self.inner.publish(bodies, deadline)

    class Forgetful(QueueProxy):
        async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
            await self.inner.publish(bodies[1:], deadline)

    assert eventmill.testing.simulate(1, wrap_queue=Layer).violations == []
    assert Layer.published > 0
    assert eventmill.testing.simulate(1, wrap_queue=Forgetful).violations != []


# planted faults


def is_noticed(kinds: Callable[[Plan], bool]) -> bool:
    """Whether a seed whose plan is of this kind breaks a promise."""
    seeds = [seed for seed in range(PLANS * 5) if kinds(draw(seed))][:PLANS]
    return any(simulate(seed).violations for seed in seeds)


def test_an_ack_before_the_insert_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    insert = Inserter.insert

    async def forget(self: Inserter, rows: Sequence[Row]) -> bool:
        await insert(self, rows[1:])
        return True

    monkeypatch.setattr(Inserter, "insert", forget)
    assert is_noticed(lambda plan: True)


def test_a_lease_that_is_never_released_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep(self: Leases, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        return

    monkeypatch.setattr(Leases, "release", keep)
    assert is_noticed(lambda plan: "store partly unavailable" in plan.kinds)


def test_a_failure_that_counts_as_a_rejection_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate = Inserter.isolate

    async def accuse(self: Inserter, rows: Sequence[Row]) -> object:
        outcome = await isolate(self, rows)
        outcome.rejected += [(row, RuntimeError("no reason")) for row in outcome.failed]  # type: ignore[misc]
        outcome.failed.clear()
        return outcome

    monkeypatch.setattr(Inserter, "isolate", accuse)
    assert is_noticed(lambda plan: "store partly unavailable" in plan.kinds)


def test_a_trial_that_cannot_start_and_counts_as_a_death_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def condemn(self: Trials, bodies: Sequence[bytes], times: int) -> Verdict:
        return Verdict.DIED

    monkeypatch.setattr(Trials, "_try", condemn)
    assert is_noticed(lambda plan: plan.has_poison)


def test_a_dead_letter_that_is_acked_and_not_published_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(self: DeadLetters, bodies: list[bytes], records: list[object]) -> None:
        return

    monkeypatch.setattr(DeadLetters, "_publish", lose)
    assert is_noticed(lambda plan: any(post.bad == "rejected" for post in plan.posts))


def test_a_receiver_that_stops_after_an_error_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def give_up(self: Receiver, answers: Sequence[object]) -> bool:
        return not any(isinstance(answer, Exception) for answer in answers)

    monkeypatch.setattr(Receiver, "_go_on", give_up)
    assert is_noticed(lambda plan: "queue unavailable" in plan.kinds)


def test_an_insert_that_does_not_wait_for_the_store_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def once(self: Inserter, rows: Sequence[Row]) -> bool:
        await self._store.insert(EventBatch([row.event for row in rows], [row.line for row in rows]))
        return True

    monkeypatch.setattr(Inserter, "insert", once)
    assert is_noticed(lambda plan: "store unavailable" in plan.kinds)


def test_a_lease_that_is_never_extended_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(self: Leases) -> None:
        await asyncio.sleep(1e9)

    monkeypatch.setattr(Leases, "keep_alive", sleep)
    assert is_noticed(lambda plan: plan.is_orderly and "store hangs" in plan.kinds)


def test_a_dead_letter_that_is_published_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    dead_letter = DeadLetters.dead_letter

    def double(self: DeadLetters, delivery: Delivery, letters: Sequence[Letter]) -> None:
        dead_letter(self, delivery, [*letters, *letters])

    monkeypatch.setattr(DeadLetters, "dead_letter", double)
    assert is_noticed(lambda plan: plan.is_orderly and bool(plan.garbage))


def test_good_events_that_are_dropped_beside_a_poison_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = Trials.find_survivors

    async def drop(self: Trials, lines: Sequence[bytes]) -> object:
        found = await find(self, lines)
        return found and ([], found[1])

    monkeypatch.setattr(Trials, "find_survivors", drop)
    assert is_noticed(lambda plan: any(post.bad == "poison" and post.count > 1 for post in plan.posts))


def test_a_task_that_is_left_behind_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[object] = []
    insert = Inserter.insert

    async def leave(self: Inserter, rows: Sequence[Row]) -> bool:
        left.append(asyncio.create_task(asyncio.sleep(1e9)))
        return await insert(self, rows)

    monkeypatch.setattr(Inserter, "insert", leave)
    assert is_noticed(lambda plan: not plan.kinds)
