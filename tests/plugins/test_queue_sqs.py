"""What SQS does on bad days, shown by a server that can fail; and how its queues are set up."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import boto3
import pytest
from pydantic import ValidationError

import eventmill_queue_sqs
import eventmill_store_memory
from eventmill import Delivery, PartialFailure, Queue, QueueMisconfigured, QueueUnavailable, Refused, Unknown
from eventmill.consumer.consumer import DRAIN_SECONDS, Consumer
from eventmill.event import encode_line
from eventmill.frames import decode_dead, encode_frame
from eventmill.shutdown import Shutdown
from eventmill.testing import make_events
from eventmill.testing.contract import eventually
from eventmill.testing.queue_contract.suite import bodies_of, drain, receive, soon
from eventmill_queue_sqs import clients
from eventmill_queue_sqs.settings import SqsQueueSettings
from eventmill_store_memory.settings import MemoryStoreSettings
from support import services
from support.proxies import QueueProxy

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[services.SqsServer]:
    for name, value in services.AWS.items():
        monkeypatch.setenv(name, value)
    with services.running_sqs() as server:
        yield server


def url_of(server: services.SqsServer, name: str = "events") -> str:
    return f"{server.endpoint}/000000000000/{name}"


@asynccontextmanager
async def opened(server: services.SqsServer, *, migrated: bool = True, **fields: Any) -> AsyncIterator[Queue]:
    settings = SqsQueueSettings(url=url_of(server), **({"lease_seconds": 2} | fields))
    async with eventmill_queue_sqs.backend.open(settings) as queue:
        if migrated:
            await queue.migrate()
        yield queue


def client(server: services.SqsServer) -> Any:
    """Another program's client."""
    return boto3.client("sqs", endpoint_url=server.endpoint)


# bad days of sending


@pytest.mark.parametrize(("kind", "verdict"), [("partial", Unknown), ("refuse", Refused)])
async def test_bodies_that_fail_in_a_batch_are_named_with_their_verdict(
    server: services.SqsServer, kind: str, verdict: type
) -> None:
    async with opened(server) as queue:
        server.fail(kind)
        with pytest.raises(PartialFailure) as failure:
            await queue.publish([b"%d" % n for n in range(10)], soon())
        assert {index: type(why) for index, why in failure.value.failed.items()} == dict.fromkeys(
            range(1, 10, 2), verdict
        )
        assert await drain(queue, 5) == Counter(b"%d" % n for n in range(0, 10, 2))


async def test_one_call_that_fails_of_several_leaves_the_others_confirmed(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        server.fail("throttle", action="SendMessageBatch")
        with pytest.raises(PartialFailure) as failure:
            await queue.publish([b"%d" % n for n in range(25)], soon())
        failed = failure.value.failed
        assert len(failed) in (5, 10)
        assert all(isinstance(why, Unknown) for why in failed.values())
        assert set(await drain(queue, 25 - len(failed))) == {b"%d" % n for n in range(25) if n not in failed}


async def test_a_lost_reply_is_not_a_confirmation_and_repeating_only_doubles(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        server.fail("lost", action="SendMessageBatch")
        with pytest.raises(QueueUnavailable):
            await queue.publish([b"twice"], soon())
        await queue.publish([b"twice"], soon())
        assert await drain(queue, 2) == Counter({b"twice": 2})


@pytest.mark.parametrize("kind", ["cut", "throttle", "error"])
async def test_every_method_reports_an_outage_and_recovers(server: services.SqsServer, kind: str) -> None:
    async with opened(server) as queue:
        await queue.publish([b"held", b"kept"], soon())
        held = await receive(queue, 1)
        server.fail(kind, -1)
        calls: list[Awaitable[object]] = [queue.publish([b"no"], soon()), queue.receive(1, 0), queue.ack(held)]
        for failing in [*calls, queue.extend(held), queue.depth(), queue.check()]:
            with pytest.raises(QueueUnavailable) as outage:
                await failing
            assert type(outage.value) is QueueUnavailable
        server.fail(kind, 0)
        await queue.ack(held)
        assert await drain(queue, 1) == Counter({b"held", b"kept"}) - bodies_of(held)


async def test_a_slow_reply_ends_with_the_deadline(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        server.fail("slow", action="SendMessageBatch")
        started = time.monotonic()
        with pytest.raises(QueueUnavailable):
            await queue.publish([b"slow"], time.monotonic() + 1)
        assert time.monotonic() - started < 2
        server.fail("slow", action="GetQueueAttributes")
        with pytest.raises(QueueUnavailable):
            await queue.check()
        assert time.monotonic() - started < 5


async def test_deliveries_at_hand_are_kept_when_a_further_call_fails(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        await queue.publish([b"%d" % n for n in range(20)], soon())
        server.fail("throttle", action="ReceiveMessage", after=1)
        assert len(await queue.receive(20, 1)) == 10
        assert len(await queue.receive(20, 1)) == 10


async def test_a_duplicate_is_handed_over_like_any_other(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        await queue.publish([b"again"], soon())
        server.fail("duplicate", action="ReceiveMessage")
        first = await receive(queue, 1)
        second = await receive(queue, 1)
        assert bodies_of(first) == bodies_of(second)
        await queue.ack(first)
        await queue.ack(second)
        assert (await queue.depth()).in_flight == 0


async def test_a_body_that_another_program_sent_is_handed_over(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        client(server).send_message(QueueUrl=url_of(server), MessageBody='{"not": "base64"}')
        assert await drain(queue, 1) == Counter({b'{"not": "base64"}': 1})


@pytest.mark.filterwarnings("ignore:Sending a large body")  # of aiohttp, above a mebibyte
async def test_a_message_of_another_program_as_large_as_sqs_takes_is_dead_lettered(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        text = "%" * 1024 * 1024
        client(server).send_message(QueueUrl=url_of(server), MessageBody=text)
        async with consuming(queue):
            await eventually(lambda: is_settled(queue), 10)
        [delivery] = await receive(queue.dead, 1)
        record = decode_dead(delivery.body)
        assert record.body == text[: len(record.body)].encode()
        assert len(record.body) > 700 * 1024
        assert "cut from 1048576 bytes" in record.message


async def test_what_is_too_large_even_for_the_dead_letters_is_rejected(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        with pytest.raises(PartialFailure) as failure:
            await queue.dead.publish([b"\xff" * 800_000, b"dead"], soon())
        assert {index: type(why) for index, why in failure.value.failed.items()} == {0: Refused}
        assert await drain(queue.dead, 1) == Counter({b"dead": 1})


async def test_an_ack_from_before_a_queue_was_created_again_deletes_nothing(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        await queue.publish([b"old"], soon())
        old = await receive(queue, 1)
        client(server).delete_queue(QueueUrl=url_of(server))
        await queue.migrate()
        await queue.publish([b"new"], soon())
        await queue.ack(old)
        assert await drain(queue, 1) == Counter({b"new": 1})


@pytest.mark.parametrize("wait_seconds", [0, 1])
async def test_a_receive_that_hangs_ends_three_seconds_after_its_wait(
    server: services.SqsServer, wait_seconds: int
) -> None:
    async with opened(server) as queue:
        await queue.receive(10, 0)  # the first call also loads the driver, which takes long on a busy machine
        server.fail("hang", action="ReceiveMessage")
        started = time.monotonic()
        with pytest.raises(QueueUnavailable):
            await queue.receive(10, wait_seconds)
        assert time.monotonic() - started < wait_seconds + 4


# consuming


@asynccontextmanager
async def consuming(queue: Queue, drain_seconds: float = DRAIN_SECONDS) -> AsyncIterator[None]:
    """A consumer with the pauses of `eventmill consume`; in the end it is asked to stop."""
    async with eventmill_store_memory.backend.open(MemoryStoreSettings()) as store:
        shutdown = Shutdown()
        consumer = Consumer(queue, store, shutdown, receive_seconds=5, pause_seconds=0.2, batch_seconds=0.1)
        task = asyncio.create_task(consumer.run())
        yield
        shutdown.begin(drain_seconds)
        await task


async def is_settled(queue: Queue) -> bool:
    depth = await queue.depth()
    return depth.ready == depth.in_flight == 0


class Counting(QueueProxy):
    """Counts the receives that began."""

    receives = 0

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        self.receives += 1
        return await self.inner.receive(max_messages, wait_seconds)


async def test_a_consumer_ends_within_its_time_when_sqs_hangs(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        counting = Counting(queue)
        async with consuming(counting, drain_seconds=2):
            server.fail("hang", -1)
            before = counting.receives

            async def hangs() -> bool:
                return counting.receives > before

            await eventually(hangs, 10)
            started = time.monotonic()
        assert time.monotonic() - started < 12


async def test_a_backlog_drains_fast_when_answers_are_short(server: services.SqsServer) -> None:
    async with opened(server, lease_seconds=60) as queue:
        await queue.publish([encode_frame([encode_line(event)]) for event in make_events(400)], soon())
        server.fail("short", -1, "ReceiveMessage")
        async with consuming(queue):
            await eventually(lambda: is_settled(queue), 10)


async def test_a_short_answer_brings_a_part_of_what_waits_and_a_long_poll_at_least_one(
    server: services.SqsServer,
) -> None:
    async with opened(server, lease_seconds=60) as queue:
        await queue.publish([b"%d" % n for n in range(200)], soon())
        server.fail("short", -1, "ReceiveMessage")
        counts: dict[int, list[int]] = {0: [], 1: []}
        for wait_seconds in [0, 1] * 12:
            answer = client(server).receive_message(
                QueueUrl=url_of(server), MaxNumberOfMessages=10, WaitTimeSeconds=wait_seconds
            )
            counts[wait_seconds].append(len(answer.get("Messages", [])))
        assert all(1 <= min(some) < max(some) <= 10 for some in counts.values())
        await receive(queue, 200 - sum(map(sum, counts.values())), 10)
        answers = [client(server).receive_message(QueueUrl=url_of(server)) for _ in range(3)]
        assert not any(answer.get("Messages") for answer in answers)


# rights and wrong settings


async def test_sending_needs_one_right_alone(server: services.SqsServer) -> None:
    async with opened(server):
        before = Counter(server.usage())
    async with opened(server, migrated=False) as queue:
        for _ in range(3):
            await queue.publish([b"x"] * 10, soon())
    assert Counter(server.usage()) - before == Counter({"SendMessageBatch": 3})


async def test_a_role_that_may_only_send_passes_its_check_with_a_warning(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        server.fail("deny", -1, "GetQueueAttributes")
        [warning] = await queue.check()
        assert "not checked" in warning
        server.fail("deny", -1, "SendMessageBatch")
        with pytest.raises(QueueMisconfigured):
            await queue.check()


async def test_missing_rights_are_distinguished_from_an_outage(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        server.fail("deny", -1)
        for failing in (queue.publish([b"x"], soon()), queue.receive(1, 0), queue.check()):
            with pytest.raises(QueueMisconfigured, match="AccessDenied"):
                await failing


async def test_wrong_credentials_are_reported(server: services.SqsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    async with opened(server, migrated=False) as queue:
        for failing in (queue.publish([b"x"], soon()), queue.receive(1, 0), queue.check(), queue.migrate()):
            with pytest.raises(QueueMisconfigured, match="InvalidClientTokenId"):
                await failing


async def test_missing_credentials_are_reported_with_what_to_do(
    server: services.SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in services.AWS:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with opened(server, migrated=False) as queue:
        with pytest.raises(QueueMisconfigured, match="AWS_ACCESS_KEY_ID.*AWS_REGION"):
            await queue.publish([b"x"], soon())


async def test_a_queue_that_is_not_there_is_reported(server: services.SqsServer) -> None:
    async with opened(server, migrated=False) as queue:
        for failing in (queue.publish([b"x"], soon()), queue.receive(1, 0), queue.check()):
            with pytest.raises(QueueMisconfigured, match="does not exist"):
                await failing


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "URL of a queue"),
        ("events", "URL of a queue"),
        ("https://sqs.eu-west-1.amazonaws.com/", "URL of a queue"),
        ("http://127.0.0.1:99999/0/q", "not a URL"),
        ("http://127.0.0.1:abc/0/q", "not a URL"),
        ("http://exa mple/0/q", "URL of a queue"),
        ("https://sqs.eu-west-1.amazonaws.com/123/events.fifo", "FIFO"),
    ],
)
def test_a_url_that_cannot_be_used_is_rejected_with_a_message(url: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SqsQueueSettings(url=url)


async def test_credentials_that_are_corrected_are_found_without_restart(
    server: services.SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "RENEW_SECONDS", 0.0)
    async with opened(server):
        pass
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    async with opened(server, migrated=False) as queue:
        with pytest.raises(QueueMisconfigured):
            await queue.publish([b"x"], soon())
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        await queue.publish([b"x"], soon())


async def test_a_server_that_is_not_sqs_is_reported_and_not_asked_in_a_loop(
    server: services.SqsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}/000000000000/events"
        async with eventmill_queue_sqs.backend.open(SqsQueueSettings(url=url)) as queue:
            with pytest.raises(QueueUnavailable):
                await queue.check()
            before = calls
            assert await queue.receive(10, 1) == []
            assert calls - before == 1


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("sqs.eu-west-1.amazonaws.com", "eu-west-1"),
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("vpce-0a1-b2.sqs.eu-central-1.vpce.amazonaws.com", "eu-central-1"),
        ("sqs-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
    ],
)
async def test_region_and_endpoint_follow_the_url(
    server: services.SqsServer, monkeypatch: pytest.MonkeyPatch, host: str, region: str
) -> None:
    seen = []

    def note(self: object, *, region_name: str, endpoint_url: str, **_: object) -> object:
        seen.append((region_name, endpoint_url))
        raise ValueError("far enough")

    monkeypatch.setattr("aioboto3.Session.client", lambda self, service, **options: note(self, **options))
    async with eventmill_queue_sqs.backend.open(SqsQueueSettings(url=f"https://{host}/123/events")) as queue:
        with pytest.raises(QueueMisconfigured):
            await queue.publish([b"x"], soon())
    assert seen == [(region, f"https://{host}")]


async def test_leases_that_were_extended_are_kept_when_others_fail(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        await queue.publish([b"%d" % n for n in range(20)], soon())
        held = await receive(queue, 20)
        await asyncio.sleep(1)
        server.fail("throttle", action="ChangeMessageVisibilityBatch", after=1)
        with pytest.raises(QueueUnavailable):
            await queue.extend(held)
        await asyncio.sleep(1.2)
        assert len(await queue.extend(held)) == 10


# setting up


def attributes(server: services.SqsServer, name: str) -> dict[str, str]:
    answer = client(server).get_queue_attributes(QueueUrl=url_of(server, name), AttributeNames=["All"])
    return dict(answer["Attributes"])


async def test_migrating_creates_both_queues_with_sound_settings(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        assert await queue.check() == []
    for name in ("events", "events-dead"):
        assert attributes(server, name)["MessageRetentionPeriod"] == "1209600"
    policy = attributes(server, "events")["RedrivePolicy"]
    assert '"maxReceiveCount": 1000' in policy
    assert "events-dead" in policy


async def test_migrating_keeps_the_settings_of_a_queue_that_is_there(server: services.SqsServer) -> None:
    client(server).create_queue(QueueName="events", Attributes={"MessageRetentionPeriod": "600000"})
    async with opened(server) as queue:
        await queue.migrate()
        await queue.dead.publish([b"dead"], soon())
        assert await drain(queue.dead, 1) == Counter({b"dead": 1})
    assert attributes(server, "events")["MessageRetentionPeriod"] == "600000"
    assert "events-dead" in attributes(server, "events")["RedrivePolicy"]


async def test_a_queue_that_is_there_gets_its_backstop_also_with_a_named_dead_letter_queue(
    server: services.SqsServer,
) -> None:
    client(server).create_queue(QueueName="events")
    async with opened(server, dead_letter_url=url_of(server, "graveyard")) as queue:
        assert await queue.check() == []
    assert "graveyard" in attributes(server, "events")["RedrivePolicy"]


async def test_a_dead_letter_queue_that_is_named_is_used(server: services.SqsServer) -> None:
    async with opened(server, dead_letter_url=url_of(server, "graveyard")) as queue:
        await queue.dead.publish([b"dead"], soon())
        assert attributes(server, "graveyard")["ApproximateNumberOfMessages"] == "1"
        assert await queue.check() == []


async def test_migrating_without_the_right_is_reported(server: services.SqsServer) -> None:
    async with opened(server, migrated=False) as queue:
        server.fail("deny", -1, "CreateQueue")
        with pytest.raises(QueueMisconfigured, match="not authorized"):
            await queue.migrate()


async def test_the_printed_commands_name_both_queues(server: services.SqsServer) -> None:
    statements = SqsQueueSettings(url=url_of(server)).statements()
    dead, main = statements.splitlines()
    assert dead.startswith("aws sqs create-queue --queue-name events-dead ")
    assert main.startswith("aws sqs create-queue --queue-name events ")
    assert "RedrivePolicy" in main


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"MessageRetentionPeriod": "3600"}, "after 1 hours"),
        (
            {"RedrivePolicy": '{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:0:d","maxReceiveCount":"3"}'},
            "after 3 receives",
        ),
        ({}, "no redrive policy"),
        ({"MaximumMessageSize": "16384"}, "above 16384 bytes"),
    ],
)
async def test_settings_that_may_lose_events_are_reported(
    server: services.SqsServer, settings: dict[str, str], words: str
) -> None:
    client(server).create_queue(QueueName="events", Attributes=settings)
    async with opened(server, migrated=False) as queue:
        assert any(words in warning for warning in await queue.check())


async def test_dead_letters_without_a_queue_are_rejected_with_what_to_do(server: services.SqsServer) -> None:
    client(server).create_queue(QueueName="events")
    async with opened(server, migrated=False) as queue:
        with pytest.raises(QueueMisconfigured, match="eventmill migrate"):
            await queue.dead.publish([b"dead"], soon())


async def test_what_sqs_moved_by_itself_is_among_the_dead_letters(server: services.SqsServer) -> None:
    async with opened(server) as queue:
        policy = attributes(server, "events")["RedrivePolicy"].replace("1000", "2")
        client(server).set_queue_attributes(QueueUrl=url_of(server), Attributes={"RedrivePolicy": policy})
        await queue.publish([b"poison"], soon())
        for _ in range(2):
            await queue.release(await receive(queue, 1))
        assert await queue.receive(1, 0) == []
        assert await drain(queue.dead, 1) == Counter({b"poison": 1})
