"""Acks, and concurrent use."""

import asyncio
import time
from collections import Counter
from typing import Any

from eventmill import (
    Queue,
)
from eventmill.testing.queue_contract.suite import QueueSuite, bodies_of, receive, soon, stays_empty


class QueueAcking(QueueSuite):
    """Acks, and concurrent use."""

    async def test_an_acked_message_is_never_delivered_again(self, queue: Queue) -> None:
        """An acked message is never delivered again. Likely cause: acks are not waited for."""
        await queue.publish([b"done"], soon())
        await queue.ack(await receive(queue, 1))
        await stays_empty(queue, 2 * queue.lease_seconds)

    async def test_an_ack_removes_only_the_acked_messages(self, queue: Queue) -> None:
        """An ack removes only the given messages. Likely cause: acks are cumulative in the service."""
        await queue.publish([b"%d" % number for number in range(4)], soon())
        deliveries = await receive(queue, 4)
        await queue.ack(deliveries[:2])
        rest = await receive(queue, 2, queue.lease_seconds + 2)
        assert bodies_of(rest) == bodies_of(deliveries[2:])

    async def test_acking_again_or_late_is_harmless(self, queue: Queue) -> None:
        """Acking twice, or after the lease, raises nothing.

        Likely cause: the service reports unknown messages as errors.
        """
        await queue.publish([b"slow"], soon())
        stale = await receive(queue, 1)
        fresh = await receive(queue, 1, queue.lease_seconds + 2)
        await queue.ack(stale)
        await queue.ack(fresh)
        await queue.ack(fresh)
        await queue.release(fresh)
        await stays_empty(queue, 1.5 * queue.lease_seconds)

    async def test_many_deliveries_are_handled_in_one_call(self, queue: Queue) -> None:
        """ack, release and extend accept any number of deliveries.

        Likely cause: only the first batch of the service is handled.
        """
        await queue.publish([b"%d" % number for number in range(25)], soon())
        deliveries = await receive(queue, 25)
        assert await queue.extend(deliveries) == []
        await queue.release(deliveries)
        deliveries = await receive(queue, 25)
        await queue.ack(deliveries)
        assert {delivery.attempts for delivery in deliveries} == {2}
        await stays_empty(queue, 1.5 * queue.lease_seconds)

    async def test_empty_calls_are_harmless(self, queue: Queue) -> None:
        """ack, release and extend accept an empty list. Likely cause: the service rejects empty batches."""
        await queue.ack([])
        await queue.release([])
        assert await queue.extend([]) == []

    async def test_concurrent_publishers_and_consumers_lose_and_double_nothing(
        self, queue: Queue, settings: Any
    ) -> None:
        """Concurrent calls lose and double nothing. Likely cause: one connection is shared without a lock."""
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
