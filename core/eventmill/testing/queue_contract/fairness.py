"""Turns and clocks."""

import time

import pytest

from eventmill import (
    Queue,
)
from eventmill.testing.queue_contract.suite import QueueSuite, bodies_of, receive, soon


class QueueFairness(QueueSuite):
    """Turns and clocks."""

    async def test_new_messages_do_not_starve_expired_leases(self, queue: Queue) -> None:
        """A message with an expired lease is delivered while new ones arrive.

        Likely cause: new messages are always served first.
        """
        await queue.publish([b"expired"], soon())
        await receive(queue, 1)
        until = time.monotonic() + queue.lease_seconds + 5
        bodies: set[bytes] = set()
        while b"expired" not in bodies:
            assert time.monotonic() < until, "new messages are always served first"
            await queue.publish([b"fresh"] * 10, soon())
            deliveries = await queue.receive(10, 1)
            await queue.ack(deliveries)
            bodies.update(bodies_of(deliveries))

    async def test_released_messages_do_not_starve_new_ones(self, queue: Queue) -> None:
        """New messages are delivered while others are released again and again.

        Likely cause: released messages are always served first.
        """
        await queue.publish([b"sick"] * 20, soon())
        await queue.release(await receive(queue, 20))
        await queue.publish([b"fresh"], soon())
        until = time.monotonic() + 5
        bodies: set[bytes] = set()
        while b"fresh" not in bodies:
            assert time.monotonic() < until, "released messages are always served first"
            deliveries = await queue.receive(10, 1)
            await queue.release(deliveries)
            bodies.update(bodies_of(deliveries))

    @pytest.mark.parametrize("seconds", [-3600, 3600])
    async def test_changing_the_clock_changes_no_lease_and_no_delay(
        self, queue: Queue, monkeypatch: pytest.MonkeyPatch, seconds: int
    ) -> None:
        """A changed system clock of the process affects no lease and no delay.

        Likely cause: leases are computed with time.time().
        """
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
