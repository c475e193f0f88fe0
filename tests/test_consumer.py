"""From the queue into the store: batches, poison, outages, stopping."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

import eventmill.consumer.dead_letters as dead_letters_module
import eventmill_queue_memory
import eventmill_store_memory
from eventmill import (
    Delivery,
    Event,
    EventBatch,
    EventFilter,
    PartialFailure,
    Queue,
    QueueUnavailable,
    RejectedEvents,
    Store,
    StoreMisconfigured,
    StoreUnavailable,
    Unknown,
    frames,
)
from eventmill.consumer import backoff as consumer_backoff
from eventmill.consumer import dead_letters as consumer_dead_letters
from eventmill.consumer import quarantine as consumer_quarantine
from eventmill.consumer.consumer import DRAIN_SECONDS, Consumer
from eventmill.consumer.trials import TRIALS, Verdict
from eventmill.event import MAX_TIME_MS, MIN_TIME_MS, encode_line
from eventmill.frames import DeadRecord, decode_dead, decode_frame, encode_dead, encode_frame
from eventmill.queries.reference import pages
from eventmill.shutdown import Shutdown
from eventmill.testing import make_event, make_events
from eventmill.testing.contract import eventually
from eventmill_queue_memory.settings import MemoryQueueSettings
from eventmill_store_memory.settings import MemoryStoreSettings
from support.proxies import QueueProxy, StoreProxy

pytestmark = pytest.mark.anyio


class Probe(StoreProxy):
    """Notes the batches; fails as it is told, for as often as it is told."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.batches: list[EventBatch] = []
        self.failures: list[Exception] = []
        self.rejected_users: set[str] = set()
        self.names_indexes = True
        self.away = False

    async def insert(self, batch: EventBatch) -> None:
        self.batches.append(batch)
        if self.away:
            raise StoreUnavailable("away")
        if self.failures:
            raise self.failures.pop(0)
        bad = [index for index, event in enumerate(batch.events) if event.user_id in self.rejected_users]
        if bad:
            raise RejectedEvents("no such user", bad if self.names_indexes else None)
        await self.inner.insert(batch)

    async def check(self) -> list[str]:
        if self.away:
            raise StoreUnavailable("away")
        return []

    async def events(self) -> list[Event]:
        everything = EventFilter("default", MIN_TIME_MS, MAX_TIME_MS)
        return [event async for page in pages(self.inner, everything) for event in page]


class Refusing(QueueProxy):
    """Takes no message."""

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        raise QueueUnavailable("away")


class WithoutDead(QueueProxy):
    """A queue whose dead letters are away."""

    @property
    def dead(self) -> Queue:
        return Refusing(self.inner.dead)


@asynccontextmanager
async def opened(lease_seconds: float = 60) -> AsyncIterator[tuple[Queue, Probe]]:
    async with (
        eventmill_queue_memory.backend.open(MemoryQueueSettings(lease_seconds=lease_seconds)) as queue,
        eventmill_store_memory.backend.open(MemoryStoreSettings()) as store,
    ):
        yield queue, Probe(store)


@asynccontextmanager
async def consuming(queue: Queue, store: Store, **options: Any) -> AsyncIterator[Shutdown]:
    shutdown, drain_seconds = Shutdown(), options.pop("drain_seconds", DRAIN_SECONDS)
    consumer = Consumer(queue, store, shutdown, **({"batch_seconds": 0.05, "receive_seconds": 0.05} | options))
    task = asyncio.create_task(consumer.run())
    yield shutdown
    if not shutdown.is_asked:
        shutdown.begin(drain_seconds)
    async with asyncio.timeout(10):
        await task


async def publish(queue: Queue, *groups: Sequence[Event]) -> None:
    bodies = [encode_frame([encode_line(event) for event in group]) for group in groups]
    await queue.publish(bodies, time.monotonic() + 5)


async def is_settled(queue: Queue) -> bool:
    depth = await queue.depth()
    return depth.ready == depth.in_flight == 0


async def dead_letters(queue: Queue) -> list[DeadRecord]:
    return [decode_dead(delivery.body) for delivery in await queue.dead.receive(1000, 0)]


async def test_published_events_are_stored_and_acked() -> None:
    events = make_events(1000)
    async with opened() as (queue, store), consuming(queue, store):
        await publish(queue, events[:300], events[300:])
        await eventually(lambda: is_settled(queue))
        assert len(await store.events()) == 1000


async def test_messages_are_batched_until_there_are_enough_rows() -> None:
    events = make_events(1000)
    async with opened() as (queue, store):
        await publish(queue, *(events[start : start + 100] for start in range(0, 1000, 100)))
        async with consuming(queue, store, batch_events=10_000, batch_seconds=0.3):
            await eventually(lambda: is_settled(queue))
        assert [len(batch) for batch in store.batches] == [1000]


@pytest.mark.parametrize("limits", [{"batch_events": 700}, {"batch_events": 1}, {"batch_bytes": 100_000}])
async def test_no_insert_is_larger_than_the_limits(limits: dict[str, int]) -> None:
    events = make_events(3000)
    async with opened() as (queue, store):
        await publish(queue, *(events[start : start + 150] for start in range(0, 3000, 150)))
        async with consuming(queue, store, **limits):
            await eventually(lambda: is_settled(queue), 20)
        assert max(len(batch) for batch in store.batches) <= limits.get("batch_events", 3000)
        assert max(sum(map(len, batch.lines)) for batch in store.batches) <= limits.get("batch_bytes", 10**7)
        assert len(await store.events()) == 3000


async def test_a_crowd_of_messages_does_not_hold_up_the_loop() -> None:
    events = make_events(20_000)
    async with opened() as (queue, store):
        await publish(queue, *(events[start : start + 500] for start in range(0, 20_000, 500)))
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        turning = asyncio.create_task(turn())
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue), 20)
        turning.cancel()
        assert turns >= 40


async def test_a_batch_waits_no_longer_than_its_age_allows() -> None:
    async with opened() as (queue, store), consuming(queue, store, batch_seconds=0.2):
        started = time.monotonic()
        while time.monotonic() - started < 1:
            await publish(queue, [make_event(event_id=str(time.monotonic()))])
            await asyncio.sleep(0.02)
        assert len(store.batches) >= 2


async def test_an_event_that_comes_twice_in_a_batch_is_inserted_once() -> None:
    old, new = (make_event(event_id="same", received_at_ms=1_700_000_000_000 + late) for late in (0, 1))
    async with opened() as (queue, store):
        await publish(queue, [new], [old], [new])
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue))
        assert [list(batch.events) for batch in store.batches] == [[new]]


async def test_nothing_is_received_before_the_store_passes_its_check() -> None:
    async with opened() as (queue, store):
        store.away = True
        await publish(queue, make_events(10))
        async with consuming(queue, store):
            await asyncio.sleep(0.3)
            depth = await queue.depth()
            assert (depth.ready, depth.in_flight) == (1, 0)
            store.away = False
            await eventually(lambda: is_settled(queue))


@pytest.mark.parametrize(
    "failure", [StoreUnavailable("away"), StoreMisconfigured("no such column"), RuntimeError("a bug in a plugin")]
)
async def test_a_failing_insert_is_repeated_with_the_same_batch(failure: Exception) -> None:
    async with opened() as (queue, store):
        store.failures = [failure, failure]
        await publish(queue, make_events(10))
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue))
        assert len(store.batches) == 3
        assert store.batches[0] == store.batches[1] == store.batches[2]
        assert await dead_letters(queue) == []


async def test_leases_are_kept_while_the_store_is_unavailable() -> None:
    async with opened(lease_seconds=0.4) as (queue, store), consuming(queue, store):
        await publish(queue, make_events(10))
        store.away = True
        await publish(queue, make_events(10, seed=1))
        await asyncio.sleep(1.5)
        store.away = False
        await eventually(lambda: is_settled(queue), 10)
        assert len(await store.events()) == 20
        await queue.publish([b"probe"], time.monotonic() + 1)
        [record] = [decode_dead((await queue.dead.receive(1, 5))[0].body)]
        assert record.attempts == 1


@pytest.mark.parametrize("names_indexes", [True, False])
@pytest.mark.parametrize("bad", [[0], [499], [3, 4, 250], list(range(500))])
async def test_rejected_events_are_dead_lettered_and_the_others_stored(names_indexes: bool, bad: list[int]) -> None:
    events = [make_event(event_id=f"{n}", user_id="bad" if n in bad else "good") for n in range(500)]
    async with opened() as (queue, store):
        store.rejected_users, store.names_indexes = {"bad"}, names_indexes
        await publish(queue, events[:200], events[200:])
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue), 10)
        assert {event.event_id for event in await store.events()} == {f"{n}" for n in range(500)} - {
            f"{n}" for n in bad
        }
        records = await dead_letters(queue)
        assert sorted(event.event_id for record in records for event, _ in decode_frame(record.body)) == sorted(
            f"{n}" for n in bad
        )
        assert {(record.reason, record.code, record.message) for record in records} == {
            ("rejected", "RejectedEvents", "no such user")
        }


async def test_an_undecodable_message_is_dead_lettered_whole() -> None:
    async with opened() as (queue, store), consuming(queue, store):
        await queue.publish([b"\0 what is this?"], time.monotonic() + 5)
        await publish(queue, make_events(10))
        await eventually(lambda: is_settled(queue))
        assert len(await store.events()) == 10
        [record] = await dead_letters(queue)
        assert (record.reason, record.body, record.attempts) == ("undecodable", b"\0 what is this?", 1)
        assert 0 < record.enqueued_at_ms <= record.died_at_ms


async def test_a_message_that_breaks_the_decoder_affects_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = frames.decode_frame

    def break_down(body: bytes) -> list[tuple[Event, bytes]]:
        if body == b"unforeseen":
            raise ValueError("nobody thought of that")
        return decode(body)

    monkeypatch.setattr(frames, "decode_frame", break_down)
    async with opened() as (queue, store), consuming(queue, store):
        await queue.publish([b"unforeseen"], time.monotonic() + 5)
        await publish(queue, make_events(10), make_events(10, seed=1))
        await eventually(lambda: is_settled(queue))
        assert len(await store.events()) == 20
        assert [letter.body for letter in await dead_letters(queue)] == [b"unforeseen"]


@pytest.mark.parametrize("count", [1, 150])
async def test_a_dead_queue_that_is_unavailable_delays_nothing_else(count: int) -> None:
    async with opened() as (queue, store), consuming(WithoutDead(queue), store, drain_seconds=0.3):
        await queue.publish([b"\0 what is this?"] * count, time.monotonic() + 5)
        await publish(queue, make_events(10))

        async def all_but_the_undecodable_is_settled() -> bool:
            depth = await queue.depth()
            return (depth.ready or 0) + (depth.in_flight or 0) == count and len(await store.events()) == 10

        await eventually(all_but_the_undecodable_is_settled)


async def test_a_dead_letter_shows_the_attempts_of_its_own_message() -> None:
    async with opened() as (queue, store):
        store.rejected_users = {"bad"}
        await publish(queue, [make_event(event_id="often", user_id="bad")])
        await receive_and_release(queue, 3)
        await publish(queue, [make_event(event_id="once", user_id="bad")])
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue))
        records = await dead_letters(queue)
        attempts = {event.event_id: record.attempts for record in records for event, _ in decode_frame(record.body)}
        assert attempts == {"often": 4, "once": 1}


async def test_a_frame_of_a_newer_version_is_kept_in_the_queue() -> None:
    body = encode_frame([encode_line(make_event())], version=3)
    async with opened() as (queue, store), consuming(queue, store):
        await queue.publish([body], time.monotonic() + 5)
        await publish(queue, make_events(10))

        async def only_that_is_left() -> bool:
            depth = await queue.depth()
            return (depth.ready, depth.in_flight) == (1, 0) and len(await store.events()) == 10

        await eventually(only_that_is_left)
        assert await dead_letters(queue) == []


async def test_a_frame_that_no_consumer_understands_for_a_day_is_dead_lettered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters_module, "UPGRADE_SECONDS", 0.0)
    body = encode_frame([encode_line(make_event())], version=3)
    async with opened() as (queue, store), consuming(queue, store):
        await queue.publish([body], time.monotonic() + 5)
        await eventually(lambda: is_settled(queue))
        [record] = await dead_letters(queue)
        assert (record.reason, record.code, record.body) == ("undecodable", "UnknownFrameVersion", body)


async def test_stopping_stores_what_was_received_and_leaves_the_rest() -> None:
    async with opened() as (queue, store):
        async with consuming(queue, store, batch_seconds=5) as shutdown:
            await publish(queue, make_events(10))

            async def is_received() -> bool:
                return (await queue.depth()).in_flight == 1

            await eventually(is_received)
            shutdown.begin(DRAIN_SECONDS)
        assert len(await store.events()) == 10
        assert await is_settled(queue)


async def test_stopping_releases_what_the_store_does_not_take_in_time() -> None:
    async with opened() as (queue, store):
        async with consuming(queue, store, drain_seconds=0.3):
            store.away = True
            await publish(queue, make_events(10))

            async def is_tried() -> bool:
                return bool(store.batches)

            store.away = False
            store.failures = [StoreUnavailable("away")] * 1000
            await eventually(is_tried)
        [delivery] = await queue.receive(10, 0)
        assert len(decode_frame(delivery.body)) == 10


async def test_emptying_goes_on_until_the_queue_is_empty() -> None:
    events = make_events(3000)
    async with opened() as (queue, store):
        await publish(queue, *(events[start : start + 10] for start in range(0, 3000, 10)))
        async with consuming(queue, store, batch_events=100) as shutdown:
            shutdown.begin(DRAIN_SECONDS, drain=True)
            await eventually(lambda: is_settled(queue))
        assert len(await store.events()) == 3000


async def test_a_queue_that_fails_is_asked_again() -> None:
    class Flaky(QueueProxy):
        failures = ["receive", "receive", "ack"]  # noqa: RUF012 (one instance)

        async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
            self.fail("receive")
            return await self.inner.receive(max_messages, wait_seconds)

        async def ack(self, deliveries: Sequence[Delivery]) -> None:
            self.fail("ack")
            await self.inner.ack(deliveries)

        def fail(self, call: str) -> None:
            if self.failures[:1] == [call]:
                self.failures.pop(0)
                raise RuntimeError("connection reset")

    async with opened() as (queue, store):
        await publish(queue, make_events(10))
        flaky = Flaky(queue)
        async with consuming(flaky, store):
            await eventually(lambda: is_settled(queue))
        assert flaky.failures == []


# inserts under way, and a store that is away


async def test_two_inserts_are_under_way_at_once_and_no_more() -> None:
    class Slow(StoreProxy):
        now = most = 0

        async def insert(self, batch: EventBatch) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.05)
            self.now -= 1

    async with opened() as (queue, store):
        await publish(queue, *(make_events(10, seed=seed) for seed in range(40)))
        slow = Slow(store)
        async with consuming(queue, slow, batch_events=10):
            await eventually(lambda: is_settled(queue), 10)
        assert slow.most == 2


async def test_nothing_is_received_while_the_store_is_unavailable() -> None:
    async with opened() as (queue, store), consuming(queue, store):
        await publish(queue, make_events(10))
        await eventually(lambda: is_settled(queue))
        store.failures = [StoreUnavailable("away")] * 1000
        await publish(queue, make_events(10, seed=1))

        async def is_tried() -> bool:
            return len(store.batches) > 2

        await eventually(is_tried)
        await asyncio.sleep(0.2)  # a receive that was under way may still have brought something
        await publish(queue, *(make_events(10, seed=seed) for seed in range(2, 6)))
        await asyncio.sleep(0.3)
        assert ((await queue.depth()).ready or 0) >= 3
        store.failures = []
        await eventually(lambda: is_settled(queue), 10)
        assert len(await store.events()) == 60
        assert await dead_letters(queue) == []


async def test_what_is_held_at_once_is_bounded() -> None:
    held: set[int] = set()

    class Stuck(StoreProxy):
        async def insert(self, batch: EventBatch) -> None:
            await asyncio.sleep(0.4)

    async with opened() as (queue, store):
        await publish(queue, *(make_events(400, seed=seed) for seed in range(300)))
        async with consuming(queue, Stuck(store), batch_events=1000, drain_seconds=0.5):
            for _ in range(10):
                await asyncio.sleep(0.1)
                held.add((await queue.depth()).in_flight or 0)
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 5
        assert 125 <= max(held) <= 125 + 4 * 100 + 5  # the buffer, what four receivers add at once, two inserts


# poison


async def test_a_store_that_rejects_everything_is_at_fault_not_the_data(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(StoreProxy):
        is_broken = True

        async def insert(self, batch: EventBatch) -> None:
            if self.is_broken:
                raise RejectedEvents("no column tags", [0])
            await self.inner.insert(batch)

    async with opened() as (queue, store):
        broken = Broken(store)
        await publish(queue, make_events(10))
        async with consuming(queue, broken):

            async def is_alarmed() -> bool:
                return "the store rejects every event: no column tags" in caplog.text

            await eventually(is_alarmed)
            assert await dead_letters(queue) == []
            broken.is_broken = False
            await eventually(lambda: is_settled(queue), 10)
        assert len(await store.events()) == 10
        assert await dead_letters(queue) == []


async def test_an_event_on_which_the_store_fails_without_rejecting_it_waits_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_backoff, "BACKOFF_SECONDS", (0.001, 0.002))

    class Choking(StoreProxy):
        async def insert(self, batch: EventBatch) -> None:
            if any(event.user_id == "bad" for event in batch.events):
                raise RuntimeError("choked")
            await self.inner.insert(batch)

    events = [make_event(event_id=f"{n}", user_id="bad" if n == 77 else "good") for n in range(200)]
    async with opened() as (queue, store):
        await publish(queue, events)
        async with consuming(queue, Choking(store)):

            async def the_others_are_stored() -> bool:
                return len(await store.events()) == 199

            await eventually(the_others_are_stored, 10)
        assert await dead_letters(queue) == []
        depth = await queue.depth()
        assert (depth.ready or 0) + (depth.in_flight or 0) == 1


@pytest.mark.parametrize("failure", [StoreUnavailable("a shard is away"), RuntimeError("a bug in a plugin")])
async def test_rows_that_the_store_cannot_take_now_delay_no_others_and_are_never_dead_lettered(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(consumer_backoff, "BACKOFF_SECONDS", (0.001, 0.002))
    monkeypatch.setattr(consumer_quarantine, "FAILED_DELAY_SECONDS", (0.1, 0.2))

    class PartlyAway(StoreProxy):
        is_away = True

        async def insert(self, batch: EventBatch) -> None:
            if self.is_away and any(event.user_id == "sick" for event in batch.events):
                raise failure
            await self.inner.insert(batch)

    events = [make_event(event_id=f"{n}", user_id="sick" if n % 2 else "healthy") for n in range(2000)]
    async with opened() as (queue, store):
        partly = PartlyAway(store)
        await publish(queue, *(events[start : start + 100] for start in range(0, 2000, 100)))
        async with consuming(queue, partly):

            async def the_healthy_are_stored() -> bool:
                return len(await store.events()) == 1000

            await eventually(the_healthy_are_stored, 20)
            assert await dead_letters(queue) == []
            partly.is_away = False
            await eventually(lambda: is_settled(queue), 20)
        assert len(await store.events()) == 2000
        assert await dead_letters(queue) == []


async def test_two_thousand_events_that_are_rejected_one_at_a_time_are_dead_lettered() -> None:
    class OneAtATime(StoreProxy):
        async def insert(self, batch: EventBatch) -> None:
            for index, event in enumerate(batch.events):
                if event.user_id == "bad":
                    raise RejectedEvents("no such user", [index])
            await self.inner.insert(batch)

    events = [make_event(event_id=f"{n}", user_id="bad" if n >= 10 else "good") for n in range(2010)]
    async with opened() as (queue, store):
        await publish(queue, *(events[start : start + 402] for start in range(0, 2010, 402)))
        async with consuming(queue, OneAtATime(store)):
            await eventually(lambda: is_settled(queue), 30)
        assert len(await store.events()) == 10
        letters = [record for page in range(3) for record in await dead_letters(queue)]
        assert len({decode_frame(record.body)[0][0].event_id for record in letters}) == 2000


async def test_rejected_events_delay_no_others_while_the_dead_queue_is_unavailable() -> None:
    async with opened() as (queue, store):
        store.rejected_users = {"bad"}
        for number in range(4):
            await publish(queue, [make_event(event_id=f"bad {number}", user_id="bad")], make_events(100, seed=number))
        async with consuming(WithoutDead(queue), store, drain_seconds=0.3):

            async def the_others_are_stored() -> bool:
                return len(await store.events()) == 400

            await eventually(the_others_are_stored, 10)


async def test_an_unexplained_failure_of_an_unhealthy_store_discards_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_backoff, "BACKOFF_SECONDS", (0.001, 0.002))
    async with opened() as (queue, store):
        store.failures = [RuntimeError("choked")] * 100
        await publish(queue, [make_event()])
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue), 10)
        assert len(await store.events()) == 1
        assert await dead_letters(queue) == []


# messages that come again and again


async def receive_and_release(queue: Queue, times: int) -> None:
    for _ in range(times):
        await queue.release(await queue.receive(100, 1))


async def test_attempts_alone_kill_no_message() -> None:
    async with opened() as (queue, store):
        await publish(queue, make_events(10), make_events(10, seed=1))
        await receive_and_release(queue, 50)
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue), 10)
        assert len(await store.events()) == 20
        assert await dead_letters(queue) == []


async def test_a_message_that_came_too_often_is_tried_alone() -> None:
    async with opened() as (queue, store):
        await publish(queue, make_events(10))
        await receive_and_release(queue, 6)
        await publish(queue, *(make_events(10, seed=seed) for seed in range(1, 5)))
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue), 10)
        suspects = {event.identity for event in make_events(10)}
        mixed = [batch for batch in store.batches if suspects & {event.identity for event in batch.events}]
        assert [len(batch) for batch in mixed] == [10]


async def test_a_message_that_no_process_survives_ends_as_a_dead_letter_and_the_others_stored() -> None:
    trials: list[int] = []

    async def trial(bodies: Sequence[bytes]) -> Verdict:
        trials.append(len(bodies))
        users = [event.user_id for body in bodies for event, _ in decode_frame(body)]
        return Verdict.DIED if "poison" in users else Verdict.SURVIVED

    async with opened() as (queue, store):
        groups = [make_events(5, seed=seed) for seed in range(16)]
        groups[3] = [make_event(user_id="poison")]
        await publish(queue, *groups)
        await receive_and_release(queue, 6)
        async with consuming(queue, store, trial=trial):
            await eventually(lambda: is_settled(queue), 10)
        [record] = await dead_letters(queue)
        assert (record.reason, [event.user_id for event, _ in decode_frame(record.body)]) == ("poison", ["poison"])
        assert len(await store.events()) == 75
        assert trials.count(1) >= TRIALS
        assert len(trials) - TRIALS < 13, "the others are tried in groups"


async def test_a_crowd_that_came_too_often_is_tried_at_once() -> None:
    trials: list[int] = []

    async def trial(bodies: Sequence[bytes]) -> Verdict:
        trials.append(len(bodies))
        return Verdict.SURVIVED

    async with opened() as (queue, store):
        for seed in range(0, 40, 2):
            await publish(queue, make_events(5, seed=seed))
            await receive_and_release(queue, 1)
        await receive_and_release(queue, 6)
        await publish(queue, *(make_events(5, seed=seed) for seed in range(1, 40, 2)))
        async with consuming(queue, store, trial=trial):
            await eventually(lambda: is_settled(queue), 10)
        assert sum(trials) == 20
        assert len(trials) <= 3, "also when others come in between"
        assert len(await store.events()) == 200


async def test_a_foreign_body_as_large_as_can_be_is_dead_lettered_and_stops_no_consumer() -> None:
    async with opened() as (queue, store):
        large = b"x" * queue.max_body_bytes
        await queue.publish([large], time.monotonic() + 5)
        await publish(queue, make_events(10))
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue), 10)
        assert [record.body for record in await dead_letters(queue)] == [large]
        assert len(await store.events()) == 10


async def test_draining_ends_in_time_also_when_an_insert_hangs() -> None:
    class Hanging(StoreProxy):
        async def insert(self, batch: EventBatch) -> None:
            await asyncio.sleep(60)

    async with opened() as (queue, store):
        await publish(queue, *(make_events(10, seed=seed) for seed in range(30)))
        shutdown = Shutdown()
        consumer = Consumer(queue, Hanging(store), shutdown, batch_events=10, batch_seconds=0.01)
        running = asyncio.create_task(consumer.run())
        await eventually(lambda: is_leased(queue))
        shutdown.begin(0.5)
        async with asyncio.timeout(5):
            await running
        assert (await queue.depth()).in_flight == 0


async def is_leased(queue: Queue) -> bool:
    return bool((await queue.depth()).in_flight)


async def test_a_dead_letter_that_the_queue_itself_moved_back_is_processed() -> None:
    record = DeadRecord(reason="rejected", body=encode_frame([encode_line(make_event())]))
    async with opened() as (queue, store):
        await queue.publish([encode_dead(record)], time.monotonic() + 5)
        async with consuming(queue, store):
            await eventually(lambda: is_settled(queue))
        assert await store.events() == [make_event()]


async def test_quarantined_messages_that_cannot_be_read_are_dead_lettered_whole_and_end_no_consumer() -> None:
    async def trial(bodies: Sequence[bytes]) -> Verdict:
        return Verdict.DIED

    damaged = encode_frame([encode_line(event) for event in make_events(20)])[:-7]
    async with opened() as (queue, store):
        await queue.publish([damaged], time.monotonic() + 5)
        await receive_and_release(queue, 6)
        async with consuming(queue, store, trial=trial):
            await publish(queue, make_events(10))
            await eventually(lambda: is_settled(queue), 10)
            assert len(await store.events()) == 10
        assert [record.body for record in await dead_letters(queue)] == [damaged]


async def test_events_that_survive_apart_are_stored_though_their_message_was_not_survived() -> None:
    async def trial(bodies: Sequence[bytes]) -> Verdict:
        return Verdict.DIED if any(len(decode_frame(body)) == 100 for body in bodies) else Verdict.SURVIVED

    async with opened() as (queue, store):
        await publish(queue, make_events(100))
        await receive_and_release(queue, 6)
        async with consuming(queue, store, trial=trial):
            await eventually(lambda: is_settled(queue), 10)
        assert len(await store.events()) == 100
        assert await dead_letters(queue) == []


async def test_dead_letters_that_are_confirmed_in_part_are_published_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_backoff, "BACKOFF_SECONDS", (0.001, 0.002))

    class PartlyRefusing(QueueProxy):
        @property
        def dead(self) -> Queue:
            return Partial(self.inner.dead)

    class Partial(QueueProxy):
        async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
            await self.inner.publish(bodies[::2], deadline)
            if len(bodies) > 1:
                raise PartialFailure({index: Unknown("not now") for index in range(1, len(bodies), 2)})

    async with opened() as (queue, store):
        store.rejected_users = {"bad"}
        await publish(queue, [make_event(event_id=f"{n}", user_id="bad") for n in range(300)])
        async with consuming(PartlyRefusing(queue), store):
            await eventually(lambda: is_settled(queue), 20)
        letters = await dead_letters(queue)
        assert sorted(event.event_id for record in letters for event, _ in decode_frame(record.body)) == sorted(
            f"{n}" for n in range(300)
        )


async def test_a_message_for_which_there_is_no_memory_is_not_dead_lettered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_dead_letters, "CROWDED_DELAY_SECONDS", 0.1)
    decode, failures = frames.decode_frame, [MemoryError()]

    def run_out(body: bytes) -> list[tuple[Event, bytes]]:
        if failures:
            raise failures.pop()
        return decode(body)

    monkeypatch.setattr(frames, "decode_frame", run_out)
    async with opened() as (queue, store), consuming(queue, store):
        await publish(queue, make_events(10))
        await eventually(lambda: is_settled(queue), 10)
        assert len(await store.events()) == 10
        assert await dead_letters(queue) == []


async def test_small_batches_hold_several_messages() -> None:
    async with opened() as (queue, store):
        await publish(queue, *([event] for event in make_events(200)))
        async with consuming(queue, store, batch_events=50):
            await eventually(lambda: is_settled(queue), 10)
        assert len(store.batches) <= 8


async def test_what_large_messages_hold_is_bounded_also_after_small_ones() -> None:
    class Stuck(StoreProxy):
        async def insert(self, batch: EventBatch) -> None:
            await asyncio.sleep(60)

    async with opened() as (queue, store):
        await publish(queue, *([event] for event in make_events(300)))
        await publish(queue, *(make_events(1000, seed=seed) for seed in range(1, 150)))
        async with consuming(queue, Stuck(store), batch_events=500, buffer_events=5000, drain_seconds=0.2):
            await eventually(lambda: is_leased(queue))
            await asyncio.sleep(1)  # long enough to receive everything, if nothing kept it from that
            held = (await queue.depth()).in_flight or 0
        assert held <= 300 + 5 + 8 * 10 + 2 < 449


def test_a_shutdown_at_its_deadline_raises_nothing_on_uvloop() -> None:
    async def stop() -> None:
        async with opened() as (queue, store):
            store.away = True
            shutdown = Shutdown()
            running = asyncio.create_task(Consumer(queue, store, shutdown).run())
            await asyncio.sleep(0)
            shutdown.begin(0.005, drain=True)
            await running

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in range(50):
            runner.run(stop())
