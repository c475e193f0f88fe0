"""Leases: hiding, extending, releasing."""

import asyncio
import time
from typing import Any

from eventmill import (
    Queue,
)
from eventmill.testing.queue_contract.suite import QueueSuite, bodies_of, receive, soon, stays_empty


class QueueLeasing(QueueSuite):
    """Leases: hiding, extending, releasing."""

    async def test_concurrent_receivers_never_share_a_message(self, queue: Queue, settings: Any) -> None:
        """A message is leased to one receiver at a time.

        Likely cause: receiving and leasing are two steps without a lock.
        """
        sent = [b"%d" % number for number in range(60)]
        await queue.publish(sent, soon())
        async with self.another(queue, settings) as second:
            groups = await asyncio.gather(*(handle.receive(10, 1) for handle in [queue, second] * 3))
        received = [delivery for group in groups for delivery in group]
        assert received
        assert max(bodies_of(received).values()) == 1

    async def test_a_leased_message_is_hidden_from_others(self, queue: Queue, settings: Any) -> None:
        """A leased message is not delivered to others. Likely cause: the lease starts too late."""
        await queue.publish([b"mine"], soon())
        await receive(queue, 1)
        async with self.another(queue, settings) as second:
            await stays_empty(second)

    async def test_an_unacked_message_is_delivered_again_after_its_lease(self, queue: Queue, settings: Any) -> None:
        """After lease_seconds a message is delivered again, with one attempt more.

        Likely cause: leases are longer than lease_seconds says, or attempts are not counted by the service.
        """
        await queue.publish([b"again"], soon())
        [first] = await receive(queue, 1)
        leased = time.monotonic()
        assert first.attempts == 1
        async with self.another(queue, settings) as second:
            [again] = await receive(second, 1, queue.lease_seconds + 2)
        assert time.monotonic() - leased >= queue.lease_seconds * 0.7
        assert (again.body, again.attempts) == (b"again", 2)

    async def test_extending_keeps_messages_hidden_beyond_their_lease(self, queue: Queue) -> None:
        """Extending restarts the lease, for any number of messages, and is no attempt.

        Likely cause: only the first batch is extended, or the extension adds to an old end.
        """
        await queue.publish([b"%d" % number for number in range(25)], soon())
        held = await receive(queue, 25)
        until = time.monotonic() + 2.2 * queue.lease_seconds
        while time.monotonic() < until:
            assert await queue.extend(held) == []
            await stays_empty(queue, queue.lease_seconds / 4)
        again = await receive(queue, 25, queue.lease_seconds + 2)
        assert {delivery.attempts for delivery in again} == {2}, "extending must not count as an attempt"

    async def test_attempts_grow_by_one_and_never_end_a_message(self, queue: Queue) -> None:
        """Each delivery has exactly one attempt more, and no number of attempts removes a message.

        Likely cause: a maximum number of deliveries in the service.
        """
        await queue.publish([b"stubborn"], soon())
        for attempt in range(1, 13):
            [delivery] = await receive(queue, 1)
            assert delivery.attempts == attempt
            await queue.release([delivery])

    async def test_a_released_message_is_delivered_again_at_once(self, queue: Queue) -> None:
        """A released message can be received at once. Likely cause: a release waits for the end of the lease."""
        await queue.publish([b"back"], soon())
        await queue.release(await receive(queue, 1))
        released = time.monotonic()
        [again] = await receive(queue, 1)
        assert again.body == b"back"
        assert time.monotonic() - released < queue.lease_seconds * 0.8

    async def test_a_release_with_a_delay_waits_that_long(self, queue: Queue) -> None:
        """A release with a delay hides the message for about that time.

        Likely cause: the delay is ignored or capped, for example at the lease.
        """
        await queue.publish([b"later"], soon())
        await queue.release(await receive(queue, 1), delay_seconds=3)
        released = time.monotonic()
        [again] = await receive(queue, 1, 6)
        assert again.body == b"later"
        assert 2 <= time.monotonic() - released <= 5

    async def test_a_stale_holder_changes_nothing_for_the_new_one(self, queue: Queue, settings: Any) -> None:
        """After its lease a former holder cannot extend or release the message of the new one.

        Likely cause: leases have no token that changes with each delivery.
        """
        await queue.publish([b"contested"], soon())
        stale = await receive(queue, 1)
        async with self.another(queue, settings) as second:
            fresh = await receive(second, 1, queue.lease_seconds + 2)
            leased = time.monotonic()
            assert await queue.extend(stale) == stale
            await queue.release(stale)
            await stays_empty(queue)
            assert await second.extend(fresh) == []
            assert time.monotonic() - leased < queue.lease_seconds, "this machine is too slow for this test"
            await second.ack(fresh)
        await stays_empty(queue, 1.5 * queue.lease_seconds)

    async def test_a_stale_extend_does_not_prolong_the_new_lease(self, queue: Queue, settings: Any) -> None:
        """An extension by a former holder does not prolong the new lease.

        Likely cause: the extension does not check the token of the lease.
        """
        await queue.publish([b"contested"], soon())
        stale = await receive(queue, 1)
        async with self.another(queue, settings) as second:
            await receive(second, 1, queue.lease_seconds + 2)
            leased = time.monotonic()
            await asyncio.sleep(queue.lease_seconds * 0.8)
            await queue.extend(stale)
            await receive(second, 1, queue.lease_seconds + 2)
            assert time.monotonic() - leased < 1.6 * queue.lease_seconds

    async def test_extending_an_acked_message_reports_it_as_lost(self, queue: Queue) -> None:
        """extend returns acked messages as lost. Likely cause: missing messages are ignored."""
        await queue.publish([b"one", b"two"], soon())
        deliveries = await receive(queue, 2)
        await queue.ack(deliveries[:1])
        assert await queue.extend(deliveries) == deliveries[:1]
