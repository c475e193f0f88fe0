"""Dead letters, depth, checks and migrations."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from eventmill import (
    PartialFailure,
    Queue,
    QueueUnavailable,
    Unknown,
)
from eventmill.testing.contract import check_metrics, eventually
from eventmill.testing.queue_contract.suite import BODIES, QueueSuite, bodies_of, drain, receive, soon, stays_empty


class QueueOperating(QueueSuite):
    """Dead letters, depth, checks and migrations."""

    async def test_dead_letters_are_separate_from_messages(self, queue: Queue) -> None:
        """The dead-letter queue is a separate queue. Likely cause: both have the same name."""
        await queue.dead.publish([b"dead"], soon())
        await stays_empty(queue)
        await queue.publish([b"alive"], soon())
        assert await drain(queue.dead, 1) == Counter([b"dead"])
        assert await drain(queue, 1) == Counter([b"alive"])

    async def test_dead_letters_can_be_listed_purged_and_replayed(self, queue: Queue) -> None:
        """Dead letters can be received, released and acked. Likely cause: `dead` implements publishing only."""
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
        """Dead letters keep their bytes, up to max_body_bytes.

        Likely cause: the dead-letter queue has a smaller limit.
        """
        largest = b"\xff" * queue.max_body_bytes
        await queue.dead.publish([*BODIES, largest], soon())
        async with self.another(queue, settings) as second:
            assert bodies_of(await receive(second.dead, len(BODIES) + 1)) == Counter([*BODIES, largest])

    async def test_depth_counts_ready_and_leased_messages(self, queue: Queue) -> None:
        """depth counts ready and leased messages, or returns None.

        Likely cause: leased messages are counted as ready.
        """

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
        """check returns a list of warnings. Likely cause: check returns None."""
        warnings = await queue.check()
        assert isinstance(warnings, list)
        assert all(isinstance(warning, str) for warning in warnings)

    async def test_metrics_have_proper_names_and_few_labels(self, queue: Queue) -> None:
        """collect returns metrics whose names start with the backend's, with few labels and counters that only grow.

        Likely cause: a label holds an id, an address or an error text; or a gauge is declared as a counter.
        """
        before = list(queue.collect())
        await queue.publish([b"%d" % number for number in range(150)], soon())
        await queue.ack(await receive(queue, 100))
        await queue.depth()
        check_metrics(before, list(queue.collect()), f"eventmill_queue_{self.backend.name.lower()}_")

    async def test_migrating_again_keeps_all_messages(self, queue: Queue) -> None:
        """migrate is idempotent, also concurrently. Likely cause: the queue is recreated."""
        await queue.publish([b"kept"], soon())
        await asyncio.gather(queue.migrate(), queue.migrate())
        assert bodies_of(await receive(queue, 1)) == Counter([b"kept"])

    async def test_an_unreachable_server_is_reported_in_time(self, settings: Any, unreachable_settings: Any) -> None:
        """Without a server every call raises within its time limit.

        Likely cause: the driver retries, or has a long connect timeout.
        """
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
