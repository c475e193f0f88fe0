"""Publishing and receiving."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from eventmill import (
    MIN_BODY_BYTES,
    PartialFailure,
    Queue,
    Refused,
)
from eventmill.testing.queue_contract.suite import BODIES, QueueSuite, bodies_of, drain, receive, soon


class QueuePublishing(QueueSuite):
    """Publishing and receiving."""

    async def test_bodies_come_back_byte_for_byte(self, queue: Queue) -> None:
        """A received body equals the published bytes.

        Likely cause: an encoding that cannot carry arbitrary bytes, or a text column.
        """
        await queue.publish(BODIES, soon())
        assert bodies_of(await receive(queue, len(BODIES))) == Counter(BODIES)

    async def test_the_largest_body_comes_back_whole(self, queue: Queue) -> None:
        """A body of max_body_bytes is delivered whole.

        Likely cause: max_body_bytes ignores the overhead of an encoding such as base64.
        """
        assert queue.max_body_bytes >= MIN_BODY_BYTES
        body = bytes(i % 251 for i in range(queue.max_body_bytes))
        await queue.publish([body], soon())
        assert (await receive(queue, 1))[0].body == body

    @pytest.mark.parametrize("count", [1, 10, 11, 1000])
    async def test_any_number_of_messages_arrives_once_each(self, queue: Queue, count: int) -> None:
        """Any number of bodies in one publish is delivered, each once.

        Likely cause: batches of the service (such as ten per call) are cut wrongly, or a failed batch is
        repeated whole.
        """
        sent = [b"message %d" % number for number in range(count)]
        await queue.publish(sent, soon())
        assert await drain(queue, count) == Counter(sent)

    async def test_more_than_a_mebibyte_in_one_call_arrives(self, queue: Queue) -> None:
        """The total size of one publish has no limit.

        Likely cause: the request size limit of the service is not split.
        """
        sent = [bytes([number]) * MIN_BODY_BYTES for number in range(30)]
        await queue.publish(sent, soon())
        assert await drain(queue, len(sent)) == Counter(sent)

    async def test_equal_bodies_are_different_messages(self, queue: Queue) -> None:
        """Equal bodies are separate messages. Likely cause: a deduplication by content."""
        await queue.publish([b"same", b"same"], soon())
        await queue.publish([b"same"], soon())
        assert await drain(queue, 3) == Counter({b"same": 3})

    async def test_a_body_that_is_too_large_is_rejected_alone(self, queue: Queue) -> None:
        """A body above the limit is Refused in a PartialFailure; the other bodies are published.

        Likely cause: the size is checked by the service for the whole batch.
        """
        bodies = [b"before", b"x" * (2 * 1024 * 1024), b"after"]
        with pytest.raises(PartialFailure) as failure:
            await queue.publish(bodies, soon())
        assert list(failure.value.failed) == [1]
        assert isinstance(failure.value.failed[1], Refused)
        assert await drain(queue, 2) == Counter([b"before", b"after"])

    async def test_an_empty_queue_answers_after_the_wait(self, queue: Queue) -> None:
        """A receive from an empty queue returns [] after wait_seconds.

        Likely cause: wait_seconds is ignored, or rounded.
        """
        await queue.receive(10, 0)  # the first call may load a driver
        started = time.monotonic()
        assert await queue.receive(10, 1) == []
        assert 0.5 < time.monotonic() - started < 2.5

    async def test_without_a_wait_an_empty_queue_answers_at_once(self, queue: Queue) -> None:
        """With wait_seconds=0 a receive does not wait. Likely cause: the service treats 0 as its default wait."""
        await queue.receive(10, 0)  # the first call may load a driver
        started = time.monotonic()
        assert await queue.receive(10, 0) == []
        assert time.monotonic() - started < 1

    async def test_a_waiting_receiver_is_woken_by_a_message(self, queue: Queue) -> None:
        """A waiting receive returns when a message is published.

        Likely cause: the receive sleeps for its whole wait.
        """
        waiting = asyncio.create_task(queue.receive(10, 5))
        await asyncio.sleep(0.2)
        published = time.monotonic()
        await queue.publish([b"hello"], soon())
        assert bodies_of(await waiting) == Counter([b"hello"])
        assert time.monotonic() - published < 1

    async def test_a_receive_returns_at_most_the_requested_messages(self, queue: Queue) -> None:
        """A receive returns at most max_messages. Likely cause: a prefetch is handed over whole."""
        await queue.publish([b"%d" % number for number in range(25)], soon())
        for limit in (1, 3, 12):
            assert 1 <= len(await queue.receive(limit, 1)) <= limit

    async def test_messages_from_before_the_first_receiver_are_delivered(self, queue: Queue, settings: Any) -> None:
        """Messages are kept before the first receiver exists.

        Likely cause: the consumer group or subscription starts at the end of the stream.
        """
        await queue.publish([b"early"], soon())
        async with self.another(queue, settings) as second:
            assert bodies_of(await receive(second, 1)) == Counter([b"early"])

    async def test_messages_are_stored_before_publish_returns(self, queue: Queue, settings: Any) -> None:
        """A message is stored when publish returns.

        Likely cause: publish does not wait for the confirmation of the service.
        """
        # A remote queue may need time to deliver: there only killing the publisher would prove it.
        wait_seconds = 5 if settings.reach == "network" else 0
        async with self.another(queue, settings) as second:
            for number in range(5):
                await queue.publish([b"%d" % number], soon())
                assert bodies_of(await second.receive(10, wait_seconds)) == Counter([b"%d" % number])

    async def test_the_time_of_publishing_stays_with_the_message(self, queue: Queue) -> None:
        """enqueued_at_ms is the time of publication in every delivery.

        Likely cause: the time of delivery is reported, or a release publishes a copy.
        """
        before = time.time() * 1000
        await queue.publish([b"dated"], soon())
        after = time.time() * 1000
        [first] = await receive(queue, 1)
        assert before - 2000 <= first.enqueued_at_ms <= after + 2000
        await queue.release([first], delay_seconds=1)
        [again] = await receive(queue, 1)
        assert again.enqueued_at_ms == first.enqueued_at_ms
