"""Group commit: frames, verdicts, linger, deadlines, leaving."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

import eventmill_queue_memory
import eventmill_queue_sqs
from eventmill import ConfigurationError, PartialFailure, Queue, QueueUnavailable, Refused, Unknown
from eventmill.event import encode_line
from eventmill.frames import decode_frame
from eventmill.ingest.publisher import Publisher
from eventmill.ingest.validation import parse_event
from eventmill.testing import make_events
from eventmill_queue_memory.settings import MemoryQueueSettings
from eventmill_queue_sqs.settings import SqsQueueSettings
from support import real_events, services
from support.proxies import QueueProxy

pytestmark = pytest.mark.anyio

LINES = [encode_line(event) for event in make_events(3000)]


class Recorder(QueueProxy):
    """Notes when which bodies were published; waits at the gate; fails as it is told."""

    def __init__(self, inner: Queue) -> None:
        super().__init__(inner)
        self.calls: list[tuple[float, Sequence[bytes]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        self.calls.append((time.monotonic(), bodies))
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        await self.inner.publish(bodies, deadline)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, bodies in self.calls for body in bodies]


@asynccontextmanager
async def opened() -> AsyncIterator[Recorder]:
    async with eventmill_queue_memory.backend.open(MemoryQueueSettings()) as queue:
        yield Recorder(queue)


def lines_of(bodies: Sequence[bytes]) -> list[bytes]:
    return [line for body in bodies for _, line in decode_frame(body)]


async def test_a_published_line_is_in_the_queue_when_the_caller_is_answered() -> None:
    async with opened() as queue, Publisher(queue) as publisher:
        await publisher.publish(LINES[:1])
        [delivery] = await queue.receive(10, 0)
        assert lines_of([delivery.body]) == LINES[:1]


async def test_a_lone_caller_does_not_wait_for_the_linger() -> None:
    async with opened() as queue, Publisher(queue, linger_ms=5000) as publisher:
        started = time.monotonic()
        await publisher.publish(LINES[:1])
        assert time.monotonic() - started < 2.5


async def test_callers_during_the_linger_share_one_message() -> None:
    async with opened() as queue, Publisher(queue, linger_ms=300) as publisher:
        await publisher.publish(LINES[:1])
        await asyncio.gather(*(publisher.publish([line]) for line in LINES[1:100]))
        assert [len(bodies) for _, bodies in queue.calls] == [1, 1]
        assert queue.calls[1][0] - queue.calls[0][0] >= 0.25
        assert lines_of(queue.bodies) == LINES[:100]


async def test_callers_during_a_commit_share_the_next_one_without_any_linger() -> None:
    async with opened() as queue, Publisher(queue) as publisher:
        crowd = [asyncio.create_task(publisher.publish([line])) for line in LINES[:50]]
        await asyncio.gather(*crowd)
        assert len(queue.calls) <= 3


async def test_a_full_frame_does_not_wait_for_the_linger() -> None:
    async with opened() as queue, Publisher(queue, linger_ms=5000) as publisher:
        await publisher.publish(LINES[:1])
        started = time.monotonic()
        await asyncio.gather(*(publisher.publish([line]) for line in LINES[:1100]))
        assert len(lines_of(queue.bodies)) == 1101
        assert time.monotonic() - started < 3
        assert queue.calls[1][0] - started < 2.5


async def test_a_large_bulk_is_split_into_frames_that_the_queue_takes() -> None:
    async with opened() as queue, Publisher(queue) as publisher:
        await publisher.publish(LINES)
        assert all(len(body) <= 60 * 1024 for body in queue.bodies)
        assert lines_of(queue.bodies) == LINES


async def test_a_thousand_real_events_fit_one_billed_unit_of_sqs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in services.AWS.items():
        monkeypatch.setenv(name, value)
    now_ms = time.time_ns() // 1_000_000
    sent = [b'%b,"event_id":"%d"}' % (line[:-1], n) for n, line in enumerate(real_events.lines()[:1000])]
    lines = [encode_line(parse_event(line, "default", now_ms)) for line in sent]
    with services.running_sqs() as sqs:
        settings = SqsQueueSettings(url=f"{sqs.endpoint}/000000000000/events")
        async with eventmill_queue_sqs.backend.open(settings) as queue, Publisher(queue) as publisher:
            await queue.migrate()
            await publisher.publish(lines)
            assert sqs.usage("units")["SendMessageBatch"] == 1
            received = [delivery.body for delivery in await queue.receive(10, 1)]
            assert sqs.usage("units")["ReceiveMessage"] <= 2
        assert lines_of(received) == lines


async def test_each_caller_gets_its_own_verdict() -> None:
    async with opened() as queue, Publisher(queue, linger_ms=200) as publisher:
        await publisher.publish(LINES[:1])
        queue.failure = PartialFailure({1: Refused("too large")})
        callers = [asyncio.create_task(publisher.publish(LINES[i * 700 : i * 700 + 700])) for i in range(3)]
        verdicts = await asyncio.gather(*callers, return_exceptions=True)
        frames = [set(lines_of([body])) for body in queue.calls[1][1]]
        for number, verdict in enumerate(verdicts):
            is_hurt = bool(frames[1] & set(LINES[number * 700 : number * 700 + 700]))
            assert isinstance(verdict, QueueUnavailable) is is_hurt
        assert None in verdicts


async def test_a_lost_reply_is_repeated_for_what_was_lost_alone() -> None:
    class Blinking(QueueProxy):
        failures: list[Exception] = [QueueUnavailable("away"), PartialFailure({1: Unknown("lost")})]  # noqa: RUF012 (one instance)
        sizes: list[int] = []  # noqa: RUF012 (one instance)

        async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
            self.sizes.append(len(bodies))
            if self.failures:
                raise self.failures.pop(0)

    async with opened() as queue:
        blinking = Blinking(queue)
        async with Publisher(blinking) as publisher:
            await publisher.publish(LINES[:2900])
            assert blinking.sizes[0] == blinking.sizes[1] > 1
            assert blinking.sizes[2:] == [1]
            assert (publisher.telemetry.confirmed, publisher.telemetry.unconfirmed) == (2900, 0)


@pytest.mark.parametrize("failure", [QueueUnavailable("away"), RuntimeError("a bug in a plugin")])
async def test_a_failing_queue_fails_its_callers_and_recovers(failure: Exception) -> None:
    async with opened() as queue, Publisher(queue) as publisher:
        queue.failure = failure
        with pytest.raises(QueueUnavailable):
            await publisher.publish(LINES[:1])
        queue.failure = None
        await publisher.publish(LINES[:1])


async def test_a_queue_that_reports_a_malformed_failure_fails_its_callers() -> None:
    failure = PartialFailure({0: Unknown("lost")})
    del failure.failed
    async with opened() as queue, Publisher(queue) as publisher, asyncio.timeout(10):
        queue.failure = failure
        with pytest.raises(QueueUnavailable):
            await publisher.publish(LINES[:1])
        assert publisher.telemetry.unconfirmed == 1
        queue.failure = None
        await publisher.publish(LINES[:1])


async def test_a_queue_that_hangs_costs_every_caller_its_deadline_and_no_more() -> None:
    async with opened() as queue, Publisher(queue, timeout_seconds=0.5) as publisher:
        queue.gate.clear()
        started = time.monotonic()
        callers = []
        for line in LINES[:40]:
            callers.append(asyncio.create_task(publisher.publish([line])))
            await asyncio.sleep(0.01)
        verdicts = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(verdict, QueueUnavailable) for verdict in verdicts)
        assert time.monotonic() - started < 2
        queue.gate.set()
        await publisher.publish(LINES[:1])


async def test_a_caller_that_goes_away_affects_no_one() -> None:
    async with opened() as queue, Publisher(queue) as publisher:
        queue.gate.clear()
        callers = [asyncio.create_task(publisher.publish([line])) for line in LINES[:3]]
        await asyncio.sleep(0.05)
        callers[1].cancel()
        queue.gate.set()
        verdicts = await asyncio.gather(*callers, return_exceptions=True)
        assert verdicts[0] is verdicts[2] is None
        assert isinstance(verdicts[1], asyncio.CancelledError)
        await publisher.publish(LINES[3:4])


async def test_stopping_answers_every_caller_after_committing() -> None:
    async with opened() as queue:
        async with Publisher(queue, linger_ms=1000) as publisher:
            await publisher.publish(LINES[:1])
            callers = [asyncio.create_task(publisher.publish([line])) for line in LINES[1:20]]
            await asyncio.sleep(0)
        assert all(caller.done() for caller in callers) or await asyncio.gather(*callers)
        assert lines_of(queue.bodies) == LINES[:20]
        with pytest.raises(QueueUnavailable, match="shutting down"):
            await publisher.publish(LINES[:1])


async def test_stopping_while_the_queue_hangs_answers_every_caller_in_time() -> None:
    async with opened() as queue:
        queue.gate.clear()
        started = time.monotonic()
        async with Publisher(queue, timeout_seconds=0.5) as publisher:
            caller = asyncio.create_task(publisher.publish(LINES[:1]))
            await asyncio.sleep(0.05)
        with pytest.raises(QueueUnavailable):
            await caller
        assert time.monotonic() - started < 2


async def test_a_queue_for_too_small_bodies_is_rejected() -> None:
    class Tiny(QueueProxy):
        @property
        def max_body_bytes(self) -> int:
            return 1024

    async with opened() as queue:
        with pytest.raises(ConfigurationError, match="1024"):
            Publisher(Tiny(queue))


async def test_nobody_is_reported_kept_when_callers_end_between_two_steps_of_a_commit() -> None:
    async with opened() as queue, Publisher(queue, timeout_seconds=0.3) as publisher:
        queue.failure = QueueUnavailable("away")
        verdicts: list[object] = []

        async def caller(line: bytes, turns: int | None) -> None:
            publishing = asyncio.ensure_future(publisher.publish([line]))
            if turns is not None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                publishing.cancel()
                publisher._sweep()  # as its timer might, at the worst moment
            verdicts.extend(await asyncio.gather(publishing, return_exceptions=True))

        for turns in [*range(10)] * 4:
            await asyncio.gather(*(caller(line, turns if n % 2 == 0 else None) for n, line in enumerate(LINES[:10])))
        assert None not in verdicts


async def test_a_commit_that_hangs_keeps_nothing_of_callers_that_were_answered() -> None:
    class Lines(list[bytes]):
        """A list that a weak reference can watch."""

    class Hanging(QueueProxy):
        async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
            if not any(b"answered" in body for body in bodies):
                begun.set()
                await asyncio.sleep(60)

    begun = asyncio.Event()
    async with opened() as inner, Publisher(Hanging(inner), timeout_seconds=1) as publisher:
        hanging = asyncio.create_task(publisher.publish([b"hanging"]))
        await begun.wait()
        lines = Lines([b"answered"])
        watched = weakref.ref(lines)
        await publisher.publish(lines)
        del lines
        gc.collect()
        assert watched() is None
        with pytest.raises(QueueUnavailable):
            await hanging
