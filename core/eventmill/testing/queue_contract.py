"""The suite that every queue must pass."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from eventmill import (
    MIN_BODY_BYTES,
    Delivery,
    PartialFailure,
    Queue,
    QueueBackend,
    QueueUnavailable,
    Refused,
    Unknown,
)
from eventmill.testing.contract import Contract, eventually

BODIES = [
    bytes(range(256)),
    b"x",
    b"\0",
    b"line\nline\r\n",
    "emoji \U0001f600, \ufffe and \uffff".encode(),
    b"\xff\xfe\xfd",
    b'{"json": "\\u0000"}',
]


def soon() -> float:
    """A deadline for publishing."""
    return time.monotonic() + 5


async def receive(queue: Queue, count: int, seconds: float = 5.0) -> list[Delivery]:
    """Exactly `count` deliveries, in as many calls as it takes."""
    until = time.monotonic() + seconds
    deliveries: list[Delivery] = []
    while len(deliveries) < count and time.monotonic() < until:
        deliveries += await queue.receive(count - len(deliveries), 1)
    assert len(deliveries) == count, f"{len(deliveries)} of {count} messages came within {seconds} s"
    return deliveries


async def drain(queue: Queue, count: int) -> Counter[bytes]:
    """The bodies of `count` messages, each acked as soon as it came, so that none comes twice; then nothing is left."""
    until = time.monotonic() + 20
    bodies: Counter[bytes] = Counter()
    while bodies.total() < count and time.monotonic() < until:
        deliveries = await queue.receive(min(100, count - bodies.total()), 1)
        await queue.ack(deliveries)
        bodies += bodies_of(deliveries)
    await stays_empty(queue)
    return bodies


async def stays_empty(queue: Queue, seconds: float = 0.0) -> None:
    """Nothing can be received, for so long."""
    until = time.monotonic() + seconds
    while True:
        assert await queue.receive(10, min(1.0, max(0.0, until - time.monotonic()))) == []
        if time.monotonic() >= until:
            return


def bodies_of(deliveries: Iterable[Delivery]) -> Counter[bytes]:
    return Counter(delivery.body for delivery in deliveries)


class QueueContract(Contract):
    """Subclass it, name the `backend`, define the fixture `settings` with `lease_seconds` of about 1."""

    backend: ClassVar[QueueBackend]

    @pytest.fixture
    async def queue(self, settings: Any) -> AsyncIterator[Queue]:
        async with self.backend.open(settings) as queue:
            await queue.migrate()
            assert queue.lease_seconds <= 2, "let the fixture `settings` ask for leases of about 1 second"
            yield queue

    @asynccontextmanager
    async def another(self, queue: Queue, settings: Any) -> AsyncIterator[Queue]:
        """A second handle, as another process would have; the same one where the reach is one process."""
        if settings.reach == "process":
            yield queue
        else:
            async with self.backend.open(settings) as second:
                yield second

    # publishing and receiving

    async def test_bodies_come_back_byte_for_byte(self, queue: Queue) -> None:
        await queue.publish(BODIES, soon())
        assert bodies_of(await receive(queue, len(BODIES))) == Counter(BODIES)

    async def test_the_largest_body_comes_back_whole(self, queue: Queue) -> None:
        assert queue.max_body_bytes >= MIN_BODY_BYTES
        body = bytes(i % 251 for i in range(queue.max_body_bytes))
        await queue.publish([body], soon())
        assert (await receive(queue, 1))[0].body == body

    @pytest.mark.parametrize("count", [1, 10, 11, 1000])
    async def test_any_number_of_messages_arrives_once_each(self, queue: Queue, count: int) -> None:
        sent = [b"message %d" % number for number in range(count)]
        await queue.publish(sent, soon())
        assert await drain(queue, count) == Counter(sent)

    async def test_more_than_a_mebibyte_in_one_call_arrives(self, queue: Queue) -> None:
        sent = [bytes([number]) * MIN_BODY_BYTES for number in range(30)]
        await queue.publish(sent, soon())
        assert await drain(queue, len(sent)) == Counter(sent)

    async def test_equal_bodies_are_different_messages(self, queue: Queue) -> None:
        await queue.publish([b"same", b"same"], soon())
        await queue.publish([b"same"], soon())
        assert await drain(queue, 3) == Counter({b"same": 3})

    async def test_a_body_that_is_too_large_is_refused_alone(self, queue: Queue) -> None:
        bodies = [b"before", b"x" * (2 * 1024 * 1024), b"after"]
        with pytest.raises(PartialFailure) as failure:
            await queue.publish(bodies, soon())
        assert list(failure.value.failed) == [1]
        assert isinstance(failure.value.failed[1], Refused)
        assert await drain(queue, 2) == Counter([b"before", b"after"])

    async def test_an_empty_queue_answers_after_the_wait(self, queue: Queue) -> None:
        started = time.monotonic()
        assert await queue.receive(10, 1) == []
        assert 0.5 < time.monotonic() - started < 2.5

    async def test_without_a_wait_an_empty_queue_answers_at_once(self, queue: Queue) -> None:
        await queue.receive(10, 0)  # the first call may load a driver
        started = time.monotonic()
        assert await queue.receive(10, 0) == []
        assert time.monotonic() - started < 1

    async def test_a_waiting_receiver_is_woken_by_a_message(self, queue: Queue) -> None:
        waiting = asyncio.create_task(queue.receive(10, 5))
        await asyncio.sleep(0.2)
        published = time.monotonic()
        await queue.publish([b"hello"], soon())
        assert bodies_of(await waiting) == Counter([b"hello"])
        assert time.monotonic() - published < 1

    async def test_no_more_messages_come_than_were_asked_for(self, queue: Queue) -> None:
        await queue.publish([b"%d" % number for number in range(25)], soon())
        for limit in (1, 3, 12):
            assert 1 <= len(await queue.receive(limit, 1)) <= limit

    async def test_what_was_published_before_anybody_received_is_not_lost(self, queue: Queue, settings: Any) -> None:
        await queue.publish([b"early"], soon())
        async with self.another(queue, settings) as second:
            assert bodies_of(await receive(second, 1)) == Counter([b"early"])

    async def test_what_was_published_is_kept_before_publish_returns(self, queue: Queue, settings: Any) -> None:
        # Far away "kept" need not mean "seen at once": there only a test that kills the publisher can tell.
        wait_seconds = 5 if settings.reach == "network" else 0
        async with self.another(queue, settings) as second:
            for number in range(5):
                await queue.publish([b"%d" % number], soon())
                assert bodies_of(await second.receive(10, wait_seconds)) == Counter([b"%d" % number])

    async def test_the_time_of_publishing_stays_with_the_message(self, queue: Queue) -> None:
        before = time.time() * 1000
        await queue.publish([b"dated"], soon())
        after = time.time() * 1000
        [first] = await receive(queue, 1)
        assert before - 2000 <= first.enqueued_at_ms <= after + 2000
        await queue.release([first], delay_seconds=1)
        [again] = await receive(queue, 1)
        assert again.enqueued_at_ms == first.enqueued_at_ms

    # leases

    async def test_concurrent_receivers_never_share_a_message(self, queue: Queue, settings: Any) -> None:
        sent = [b"%d" % number for number in range(60)]
        await queue.publish(sent, soon())
        async with self.another(queue, settings) as second:
            groups = await asyncio.gather(*(handle.receive(10, 1) for handle in [queue, second] * 3))
        received = [delivery for group in groups for delivery in group]
        assert received
        assert max(bodies_of(received).values()) == 1

    async def test_a_leased_message_is_hidden_from_others(self, queue: Queue, settings: Any) -> None:
        await queue.publish([b"mine"], soon())
        await receive(queue, 1)
        async with self.another(queue, settings) as second:
            await stays_empty(second)

    async def test_an_unacked_message_comes_again_soon_after_its_lease(self, queue: Queue, settings: Any) -> None:
        await queue.publish([b"again"], soon())
        [first] = await receive(queue, 1)
        leased = time.monotonic()
        assert first.attempts == 1
        async with self.another(queue, settings) as second:
            [again] = await receive(second, 1, queue.lease_seconds + 2)
        assert time.monotonic() - leased >= queue.lease_seconds * 0.7
        assert (again.body, again.attempts) == (b"again", 2)

    async def test_extending_keeps_messages_hidden_beyond_their_lease(self, queue: Queue) -> None:
        await queue.publish([b"%d" % number for number in range(25)], soon())
        held = await receive(queue, 25)
        until = time.monotonic() + 2.2 * queue.lease_seconds
        while time.monotonic() < until:
            assert await queue.extend(held) == []
            await stays_empty(queue, queue.lease_seconds / 4)
        again = await receive(queue, 25, queue.lease_seconds + 2)
        assert {delivery.attempts for delivery in again} == {2}, "extending must not count as an attempt"

    async def test_attempts_alone_never_end_a_message(self, queue: Queue) -> None:
        await queue.publish([b"stubborn"], soon())
        for attempt in range(1, 13):
            [delivery] = await receive(queue, 1)
            assert delivery.attempts == attempt
            await queue.release([delivery])

    async def test_a_released_message_comes_again_at_once(self, queue: Queue) -> None:
        await queue.publish([b"back"], soon())
        await queue.release(await receive(queue, 1))
        released = time.monotonic()
        [again] = await receive(queue, 1)
        assert again.body == b"back"
        assert time.monotonic() - released < queue.lease_seconds * 0.8

    async def test_a_release_with_a_delay_waits_that_long(self, queue: Queue) -> None:
        await queue.publish([b"later"], soon())
        await queue.release(await receive(queue, 1), delay_seconds=2)
        released = time.monotonic()
        [again] = await receive(queue, 1, 5)
        assert again.body == b"later"
        assert 1 <= time.monotonic() - released <= 4

    async def test_a_stale_holder_changes_nothing_for_the_new_one(self, queue: Queue, settings: Any) -> None:
        await queue.publish([b"contested"], soon())
        stale = await receive(queue, 1)
        async with self.another(queue, settings) as second:
            fresh = await receive(second, 1, queue.lease_seconds + 2)
            leased = time.monotonic()
            assert await queue.extend(stale) == stale
            await queue.release(stale)
            await stays_empty(queue)
            assert await second.extend(fresh) == []
            assert time.monotonic() - leased < queue.lease_seconds, "this machine is too slow to tell"
            await second.ack(fresh)
        await stays_empty(queue, 1.5 * queue.lease_seconds)

    async def test_a_stale_extend_does_not_prolong_the_new_lease(self, queue: Queue, settings: Any) -> None:
        await queue.publish([b"contested"], soon())
        stale = await receive(queue, 1)
        async with self.another(queue, settings) as second:
            await receive(second, 1, queue.lease_seconds + 2)
            leased = time.monotonic()
            await asyncio.sleep(queue.lease_seconds * 0.8)
            await queue.extend(stale)
            await receive(second, 1, queue.lease_seconds + 2)
            assert time.monotonic() - leased < 1.6 * queue.lease_seconds

    async def test_extending_what_was_acked_says_it_is_lost(self, queue: Queue) -> None:
        await queue.publish([b"one", b"two"], soon())
        deliveries = await receive(queue, 2)
        await queue.ack(deliveries[:1])
        assert await queue.extend(deliveries) == deliveries[:1]

    # turns and clocks

    async def test_an_expired_lease_gets_its_turn_beside_fresh_messages(self, queue: Queue) -> None:
        await queue.publish([b"expired"], soon())
        await receive(queue, 1)
        until = time.monotonic() + queue.lease_seconds + 5
        bodies: set[bytes] = set()
        while b"expired" not in bodies:
            assert time.monotonic() < until, "fresh messages are always served first"
            await queue.publish([b"fresh"] * 10, soon())
            deliveries = await queue.receive(10, 1)
            await queue.ack(deliveries)
            bodies.update(bodies_of(deliveries))

    async def test_messages_that_always_come_back_do_not_hold_up_fresh_ones(self, queue: Queue) -> None:
        await queue.publish([b"sick"] * 20, soon())
        await queue.release(await receive(queue, 20))
        await queue.publish([b"fresh"], soon())
        until = time.monotonic() + 5
        bodies: set[bytes] = set()
        while b"fresh" not in bodies:
            assert time.monotonic() < until, "messages that were received before are always served first"
            deliveries = await queue.receive(10, 1)
            await queue.release(deliveries)
            bodies.update(bodies_of(deliveries))

    @pytest.mark.parametrize("seconds", [-3600, 3600])
    async def test_a_clock_that_is_set_changes_no_lease_and_no_delay(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch, seconds: int
    ) -> None:
        real, real_ns = time.time, time.time_ns
        await queue.publish([b"leased", b"delayed"], soon())
        held = {delivery.body: delivery for delivery in await receive(queue, 2)}
        await queue.release([held[b"delayed"]], delay_seconds=2 * queue.lease_seconds)
        started = time.monotonic()
        monkeypatch.setattr(time, "time", lambda: real() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + seconds * 10**9)
        for body, after_seconds in ((b"leased", queue.lease_seconds), (b"delayed", 2 * queue.lease_seconds)):
            [again] = await receive(queue, 1, queue.lease_seconds + 3)
            assert again.body == body
            assert time.monotonic() - started >= 0.7 * after_seconds
            await queue.ack([again])

    # acking

    async def test_an_acked_message_never_comes_again(self, queue: Queue) -> None:
        await queue.publish([b"done"], soon())
        await queue.ack(await receive(queue, 1))
        await stays_empty(queue, 2 * queue.lease_seconds)

    async def test_only_what_was_acked_is_gone(self, queue: Queue) -> None:
        await queue.publish([b"%d" % number for number in range(4)], soon())
        deliveries = await receive(queue, 4)
        await queue.ack(deliveries[:2])
        rest = await receive(queue, 2, queue.lease_seconds + 2)
        assert bodies_of(rest) == bodies_of(deliveries[2:])

    async def test_acking_again_or_late_is_harmless(self, queue: Queue) -> None:
        await queue.publish([b"slow"], soon())
        stale = await receive(queue, 1)
        fresh = await receive(queue, 1, queue.lease_seconds + 2)
        await queue.ack(stale)
        await queue.ack(fresh)
        await queue.ack(fresh)
        await queue.release(fresh)
        await stays_empty(queue, 1.5 * queue.lease_seconds)

    async def test_many_deliveries_are_handled_in_one_call(self, queue: Queue) -> None:
        await queue.publish([b"%d" % number for number in range(25)], soon())
        deliveries = await receive(queue, 25)
        assert await queue.extend(deliveries) == []
        await queue.release(deliveries)
        deliveries = await receive(queue, 25)
        await queue.ack(deliveries)
        assert {delivery.attempts for delivery in deliveries} == {2}
        await stays_empty(queue, 1.5 * queue.lease_seconds)

    async def test_nothing_to_do_is_harmless(self, queue: Queue) -> None:
        await queue.ack([])
        await queue.release([])
        assert await queue.extend([]) == []

    async def test_publishers_and_consumers_at_once_lose_and_double_nothing(self, queue: Queue, settings: Any) -> None:
        sent = {b"%d-%d" % (publisher, number) for publisher in range(10) for number in range(50)}
        received: Counter[bytes] = Counter()

        async def publish(publisher: int) -> None:
            for start in range(0, 50, 5):
                await queue.publish([b"%d-%d" % (publisher, number) for number in range(start, start + 5)], soon())

        async def consume(handle: Queue) -> None:
            until = time.monotonic() + 20
            while len(received) < len(sent) and time.monotonic() < until:
                deliveries = await handle.receive(10, 0.2)
                received.update(bodies_of(deliveries))
                await handle.ack(deliveries)

        async with self.another(queue, settings) as second:
            await asyncio.gather(*(publish(number) for number in range(10)), consume(queue), consume(second))
        assert set(received) == sent
        assert max(received.values()) == 1

    # dead letters

    async def test_dead_letters_are_apart_from_messages(self, queue: Queue) -> None:
        await queue.dead.publish([b"dead"], soon())
        await stays_empty(queue)
        await queue.publish([b"alive"], soon())
        assert await drain(queue.dead, 1) == Counter([b"dead"])
        assert await drain(queue, 1) == Counter([b"alive"])

    async def test_dead_letters_can_be_listed_purged_and_replayed(self, queue: Queue) -> None:
        await queue.dead.publish([b"one", b"two", b"three"], soon())
        listed = await receive(queue.dead, 3)
        await queue.dead.release(listed)
        again = {delivery.body: delivery for delivery in await receive(queue.dead, 3)}
        await queue.dead.ack([again[b"one"]])
        await queue.publish([b"two"], soon())
        await queue.dead.ack([again[b"two"]])
        await queue.dead.release([again[b"three"]])
        assert await drain(queue, 1) == Counter([b"two"])
        assert await drain(queue.dead, 1) == Counter([b"three"])
        await stays_empty(queue.dead, 1.5 * queue.lease_seconds)

    async def test_dead_letters_come_back_byte_for_byte(self, queue: Queue, settings: Any) -> None:
        largest = b"\xff" * queue.max_body_bytes
        await queue.dead.publish([*BODIES, largest], soon())
        async with self.another(queue, settings) as second:
            assert bodies_of(await receive(second.dead, len(BODIES) + 1)) == Counter([*BODIES, largest])

    # what an operator sees

    async def test_depth_counts_what_waits_and_what_is_leased(self, queue: Queue) -> None:
        async def is_depth(ready: int, in_flight: int) -> bool:
            depth = await queue.depth()
            return depth.ready in (ready, None) and depth.in_flight in (in_flight, None)

        await eventually(lambda: is_depth(0, 0))
        await queue.publish([b"%d" % number for number in range(5)], soon())
        await eventually(lambda: is_depth(5, 0))
        deliveries = await receive(queue, 2)
        await eventually(lambda: is_depth(3, 2), queue.lease_seconds)
        await queue.ack(deliveries)
        await eventually(lambda: is_depth(3, 0))

        async def is_aged() -> bool:
            age = (await queue.depth()).oldest_age_seconds
            return age is None or 0.5 < age < 60

        await eventually(is_aged)

    async def test_a_working_queue_passes_its_check(self, queue: Queue) -> None:
        warnings = await queue.check()
        assert isinstance(warnings, list)
        assert all(isinstance(warning, str) for warning in warnings)

    async def test_migrating_again_keeps_what_is_there(self, queue: Queue) -> None:
        await queue.publish([b"kept"], soon())
        await asyncio.gather(queue.migrate(), queue.migrate())
        assert bodies_of(await receive(queue, 1)) == Counter([b"kept"])

    async def test_a_server_that_is_away_is_reported_in_time(self, settings: Any, unreachable_settings: Any) -> None:
        if unreachable_settings is None:
            assert settings.reach != "network", "define the fixture `unreachable_settings`"
            return
        async with self.backend.open(unreachable_settings) as queue:
            started = time.monotonic()
            with pytest.raises(QueueUnavailable):
                await queue.check()
            assert time.monotonic() - started < 3
            with pytest.raises((QueueUnavailable, PartialFailure)) as failure:
                await queue.publish([b"lost"], time.monotonic() + 2)
            if isinstance(failure.value, PartialFailure):
                assert isinstance(failure.value.failed[0], Unknown)
            assert time.monotonic() - started < 7
            with pytest.raises(QueueUnavailable):
                await queue.receive(1, 1)
            assert time.monotonic() - started < 15
