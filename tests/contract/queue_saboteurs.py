"""Queues that break the contract, each in one way. They wrap the memory queue."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import Counter, Metric
from prometheus_client.core import GaugeMetricFamily

import eventmill_queue_memory
from eventmill import Delivery, Depth, Queue, QueueBackend, QueueUnavailable
from eventmill_queue_memory.settings import MemoryQueueSettings
from support.proxies import QueueProxy
from support.switch import Switch

SWITCH = Switch(QueueUnavailable)


class Honest(QueueProxy):
    """The base of the saboteurs, which must pass the suite. It behaves as if a server held its messages."""

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        await SWITCH.reach(deadline)
        await self.inner.publish(bodies, deadline)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        await SWITCH.reach()
        return await self.inner.receive(max_messages, wait_seconds)

    async def depth(self) -> Depth:
        await SWITCH.reach()
        return await self.inner.depth()

    async def check(self) -> list[str]:
        await SWITCH.reach()
        return await self.inner.check()


class Loses(Honest):
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        if kept := [body for number, body in enumerate(bodies) if number % 100 != 99]:
            await self.inner.publish(kept, deadline)


class Doubles(Honest):
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        await self.inner.publish([*bodies, bodies[0]], deadline)


class Truncates(Honest):
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        await self.inner.publish([body.split(b"\0")[0] for body in bodies], deadline)


class CutsLargeBodies(Honest):
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        await self.inner.publish([body[: 512 * 1024] for body in bodies], deadline)


class RefusesAllForOne(Honest):
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        if any(len(body) > self.max_body_bytes for body in bodies):
            raise QueueUnavailable("one is too large")
        await self.inner.publish(bodies, deadline)


class MergesEqualBodies(Honest):
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        await self.inner.publish(list(dict.fromkeys(bodies)), deadline)


class ForgetsAcks(Honest):
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        return


class AcksOnlyTen(Honest):
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self.inner.ack(deliveries[:10])


class AcksByReceiving(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        await self.inner.ack(deliveries)
        return deliveries


class ChokesOnOldAcks(Honest):
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        if await self.inner.extend(deliveries):
            raise QueueUnavailable("stale")
        await self.inner.ack(deliveries)


class RedeliversLate(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        await self.inner.release(deliveries, 10)
        return deliveries


class Unleased(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        await self.inner.release(deliveries)
        return deliveries


class ForgetsToCount(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        return [dataclasses.replace(delivery, attempts=1) for delivery in deliveries]


class ForgetsTheTime(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        now_ms = time.time_ns() // 1_000_000
        return [dataclasses.replace(delivery, enqueued_at_ms=now_ms) for delivery in deliveries]


class GivesTooMany(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        return await self.inner.receive(max_messages + 1, wait_seconds)


class Impatient(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        return await self.inner.receive(max_messages, 0)


class Sleepy(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        await asyncio.sleep(wait_seconds)
        return await self.inner.receive(max_messages, 0)


class Newest(Honest):
    """Remembers the newest delivery of each body, so that a stale holder can act in its name."""

    def __init__(self, inner: Queue) -> None:
        super().__init__(inner)
        self.newest: dict[bytes, Delivery] = {}

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        self.newest |= {delivery.body: delivery for delivery in deliveries}
        return deliveries


class StealsByExtending(Newest):
    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        lost = await self.inner.extend([self.newest[delivery.body] for delivery in deliveries])
        return [delivery for delivery in deliveries if self.newest[delivery.body] in lost]


class ProlongsForOthers(Newest):
    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        await self.inner.extend([self.newest[delivery.body] for delivery in deliveries])
        return await self.inner.extend(deliveries)


class StealsByReleasing(Newest):
    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        await self.inner.release([self.newest[delivery.body] for delivery in deliveries], delay_seconds)


class ExtendsNothing(Honest):
    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return []


class ReleasesNothing(Honest):
    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        return


class IgnoresDelays(Honest):
    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        await self.inner.release(deliveries)


class SharesItsDead(Honest):
    @property
    def dead(self) -> Queue:
        return self.inner


class LosesItsDead(Honest):
    @property
    def dead(self) -> Queue:
        return Truncates(self.inner.dead)


class Miscounts(Honest):
    async def depth(self) -> Depth:
        depth = await self.inner.depth()
        return Depth((depth.ready or 0) + (depth.in_flight or 0), 0, depth.oldest_age_seconds)


class EmptiesByMigrating(Honest):
    async def migrate(self) -> None:
        await self.inner.ack(await self.inner.receive(1000, 0))


class FiresAndForgets(Honest):
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        async def later() -> None:
            await asyncio.sleep(0.1)
            await self.inner.publish(bodies, deadline)

        self.later = asyncio.create_task(later())


class ExtendsOnlyTen(Honest):
    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return await self.inner.extend(deliveries[:10])


class KillsAfterThree(Honest):
    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        await self.inner.ack([delivery for delivery in deliveries if delivery.attempts > 3])
        return [delivery for delivery in deliveries if delivery.attempts <= 3]


class DeadForgetsAcks(Honest):
    @property
    def dead(self) -> Queue:
        return ForgetsAcks(self.inner.dead)


class Ageless(Honest):
    async def depth(self) -> Depth:
        return dataclasses.replace(await self.inner.depth(), oldest_age_seconds=0.0)


class PrefersFreshMessages(Honest):
    """Gives back what was received before as long as there is something else."""

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        fresh = [delivery for delivery in deliveries if delivery.attempts == 1]
        if fresh and len(fresh) < len(deliveries):
            await self.inner.release([delivery for delivery in deliveries if delivery.attempts > 1])
        return fresh or deliveries


class PrefersOldMessages(Honest):
    """Gives back fresh messages as long as there is something else."""

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(1000, wait_seconds)
        chosen = sorted(deliveries, key=lambda delivery: -delivery.attempts)[:max_messages]
        await self.inner.release([delivery for delivery in deliveries if delivery not in chosen])
        return chosen


class TrustsTheClock(Honest):
    """Hides what comes again while the clock is behind the lease's begin."""

    def __init__(self, inner: Queue) -> None:
        super().__init__(inner)
        self.latest = 0.0

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await self.inner.receive(max_messages, wait_seconds)
        if deliveries and time.time() < self.latest:
            await self.inner.release(deliveries, 1)
            return []
        self.latest = time.time()
        return deliveries


class CapsDelays(Honest):
    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        await self.inner.release(deliveries, min(delay_seconds, self.lease_seconds))


class KeepsMessagesInMemory(Honest):
    """The server forgets its messages when it is killed."""

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deliveries = await super().receive(max_messages, wait_seconds)
        return [] if SWITCH.kills else deliveries


class IgnoresDeadlines(Honest):
    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        await SWITCH.reach(deadline + 10)
        await self.inner.publish(bodies, deadline)


class ChecksBlindly(Honest):
    async def check(self) -> list[str]:
        return []


class NeverReconnects(Honest):
    async def check(self) -> list[str]:
        if SWITCH.kills:
            raise QueueUnavailable("the connection is broken")
        return await super().check()


class LabelsByMessage(Honest):
    def __init__(self, inner: Queue) -> None:
        super().__init__(inner)
        self._counter = Counter("eventmill_queue_labelsbymessage_acks", "Acks.", ["body"], registry=None)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._counter.labels(delivery.body.hex()).inc()
        await super().ack(deliveries)

    def collect(self) -> Iterable[Metric]:
        return [*self._counter.collect(), GaugeMetricFamily("other_name", "It has another prefix.", 1)]


CAUGHT_BY: dict[type[Honest], str] = {
    Loses: "test_any_number_of_messages_arrives_once_each",
    Doubles: "test_any_number_of_messages_arrives_once_each",
    Truncates: "test_bodies_come_back_byte_for_byte",
    CutsLargeBodies: "test_the_largest_body_comes_back_whole",
    RefusesAllForOne: "test_a_body_that_is_too_large_is_rejected_alone",
    MergesEqualBodies: "test_equal_bodies_are_different_messages",
    ForgetsAcks: "test_an_acked_message_is_never_delivered_again",
    AcksOnlyTen: "test_many_deliveries_are_handled_in_one_call",
    AcksByReceiving: "test_an_unacked_message_is_delivered_again_after_its_lease",
    ChokesOnOldAcks: "test_acking_again_or_late_is_harmless",
    RedeliversLate: "test_an_unacked_message_is_delivered_again_after_its_lease",
    Unleased: "test_a_leased_message_is_hidden_from_others",
    ForgetsToCount: "test_an_unacked_message_is_delivered_again_after_its_lease",
    ForgetsTheTime: "test_the_time_of_publishing_stays_with_the_message",
    GivesTooMany: "test_a_receive_returns_at_most_the_requested_messages",
    Impatient: "test_an_empty_queue_answers_after_the_wait",
    Sleepy: "test_a_waiting_receiver_is_woken_by_a_message",
    StealsByExtending: "test_a_stale_holder_changes_nothing_for_the_new_one",
    ProlongsForOthers: "test_a_stale_extend_does_not_prolong_the_new_lease",
    StealsByReleasing: "test_a_stale_holder_changes_nothing_for_the_new_one",
    ExtendsNothing: "test_extending_keeps_messages_hidden_beyond_their_lease",
    ReleasesNothing: "test_a_released_message_is_delivered_again_at_once",
    IgnoresDelays: "test_a_release_with_a_delay_waits_that_long",
    SharesItsDead: "test_dead_letters_are_separate_from_messages",
    LosesItsDead: "test_dead_letters_come_back_byte_for_byte",
    Miscounts: "test_depth_counts_ready_and_leased_messages",
    FiresAndForgets: "test_messages_are_stored_before_publish_returns",
    ExtendsOnlyTen: "test_extending_keeps_messages_hidden_beyond_their_lease",
    KillsAfterThree: "test_attempts_grow_by_one_and_never_end_a_message",
    DeadForgetsAcks: "test_dead_letters_can_be_listed_purged_and_replayed",
    Ageless: "test_depth_counts_ready_and_leased_messages",
    PrefersFreshMessages: "test_new_messages_do_not_starve_expired_leases",
    PrefersOldMessages: "test_released_messages_do_not_starve_new_ones",
    TrustsTheClock: "test_changing_the_clock_changes_no_lease_and_no_delay",
    CapsDelays: "test_a_release_with_a_delay_waits_that_long",
    KeepsMessagesInMemory: "test_confirmed_messages_survive_a_killed_server",
    IgnoresDeadlines: "test_a_frozen_server_delays_no_call_beyond_its_deadline",
    ChecksBlindly: "test_a_queue_recovers_when_its_server_is_back",
    NeverReconnects: "test_a_queue_recovers_when_its_server_is_back",
    EmptiesByMigrating: "test_migrating_again_keeps_all_messages",
    LabelsByMessage: "test_metrics_have_proper_names_and_few_labels",
}


def sabotage(saboteur: type[Honest]) -> QueueBackend:
    """Return a backend whose queue is this saboteur."""

    @asynccontextmanager
    async def open_queue(settings: Any) -> AsyncIterator[Queue]:
        async with eventmill_queue_memory.backend.open(settings) as inner:
            yield saboteur(inner)

    return QueueBackend(saboteur.__name__, MemoryQueueSettings, open_queue)
