"""What only a real Redis shows: crashes, flushes, full memory, wrong rights, names left behind."""

import asyncio
import contextlib
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

import eventmill_queue_redis
from eventmill import ConfigurationError, Depth, PartialFailure, Queue, QueueMisconfigured, QueueUnavailable
from eventmill.testing.contract import eventually
from eventmill.testing.queue_contract.suite import bodies_of, drain, receive, soon, stays_empty
from eventmill_queue_redis.settings import RedisQueueSettings
from support import services

pytestmark = pytest.mark.anyio
GROUP = "eventmill"
README = Path(eventmill_queue_redis.__file__).parents[1] / "README.md"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[services.RedisServer]:
    with services.running_redis(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def opened(url: str, **fields: Any) -> AsyncIterator[Queue]:
    settings = RedisQueueSettings(url=SecretStr(url), **({"lease_seconds": 1} | fields))
    async with eventmill_queue_redis.backend.open(settings) as queue:
        yield queue


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url, protocol=2) as redis:
        yield redis


async def command(url: str, words: str) -> None:
    async with client(url) as redis:
        await redis.execute_command(*words.split())


# crashes and outages


async def test_a_server_that_is_killed_comes_back_with_every_confirmed_message(server: services.RedisServer) -> None:
    async with opened(server.url) as queue:
        await queue.publish([b"%d" % n for n in range(100)], soon())
        held = await receive(queue, 10)
        server.kill()
        for failing in (queue.publish([b"no"], soon()), queue.receive(1, 1), queue.ack(held), queue.check()):
            with pytest.raises(QueueUnavailable):
                await failing
        server.start()
        await queue.ack(held)
        assert await drain(queue, 90) == Counter(b"%d" % n for n in range(100)) - bodies_of(held)


async def test_a_server_that_hangs_is_reported_before_the_deadline_and_recovers(server: services.RedisServer) -> None:
    assert server.process is not None
    async with opened(server.url) as queue:
        await queue.publish([b"before"], soon())
        server.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(QueueUnavailable):
            await queue.publish([b"during"], time.monotonic() + 1)
        with pytest.raises(QueueUnavailable):
            await queue.check()
        assert time.monotonic() - started < 4
        server.process.send_signal(signal.SIGCONT)
        await queue.publish([b"after"], soon())
        bodies = {delivery.body for delivery in await receive(queue, 2)}
        assert bodies <= {b"before", b"during", b"after"}


async def test_a_reader_that_is_cancelled_loses_nothing(server: services.RedisServer) -> None:
    async with opened(server.url) as queue, opened(server.url) as other:
        for number in range(20):
            reading = asyncio.create_task(queue.receive(1, 1))
            await asyncio.sleep(0.001 * number)
            publishing = asyncio.create_task(queue.publish([b"%d" % number], soon()))
            reading.cancel()
            await publishing
        assert set(await drain(other, 20)) == {b"%d" % number for number in range(20)}


@pytest.mark.parametrize(
    ("words", "kept"),
    [("FLUSHALL", []), ("DEL {eventmill}", []), (f"XGROUP DESTROY {{eventmill}} {GROUP}", [b"old"])],
)
async def test_a_group_that_is_gone_is_created_again(
    server: services.RedisServer, words: str, kept: list[bytes]
) -> None:
    async with opened(server.url) as queue:
        await queue.publish([b"old"], soon())
        held = await receive(queue, 1)
        await command(server.url, words)
        assert await queue.extend(held) == held
        await queue.release(held)
        await queue.ack(held)
        await queue.publish([b"new"], soon())
        assert bodies_of(await receive(queue, len(kept) + 1)) == Counter([*kept, b"new"])
        assert (await queue.depth()).in_flight == len(kept) + 1


async def test_an_old_ack_removes_nothing_from_a_server_that_was_emptied(server: services.RedisServer) -> None:
    async with opened(server.url) as queue, opened(server.url) as other, client(server.url) as redis:
        await queue.publish([b"old"], soon())
        held = await receive(queue, 1)
        await redis.flushall()
        await redis.xadd("{eventmill}", {"b": "new"}, id=held[0].lease[0])  # as when the server's clock is set back
        await queue.ack(held)
        fresh = await receive(other, 1)
        await queue.ack(held)
        assert bodies_of(fresh) == Counter([b"new"])
        assert await other.extend(fresh) == []


# memory


async def test_a_full_queue_rejects_until_there_is_room(server: services.RedisServer) -> None:
    async with opened(server.url, max_messages=5) as queue, opened(server.url, max_messages=5) as other:
        await queue.publish([b"%d" % n for n in range(5)], soon())
        for handle in (queue, other):
            with pytest.raises(QueueUnavailable, match="full"):
                await handle.check()
            with pytest.raises(QueueUnavailable, match="full"):
                await handle.publish([b"too many"], soon())
        await queue.ack(await receive(queue, 3))
        await queue.publish([b"again"], soon())
        await other.publish([b"again"], soon())
        assert (await queue.depth()).ready == 4


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[services.RedisServer]:
    """A server with memory for some hundred messages."""
    with services.running_redis(tmp_path / "small", "--maxmemory", "8mb", "--maxmemory-policy", "noeviction") as server:
        yield server


async def publish_until_refused(queue: Queue) -> int:
    """Publish until the server is out of memory; return how many messages it took."""
    for count in range(1000):
        try:
            await queue.publish([b"x" * 20_000], soon())
        except (QueueUnavailable, PartialFailure) as error:
            if "memory" not in str(error):
                raise
            return count
    pytest.fail("the server never runs out of memory")


async def use_every_call(queue: Queue, count: int) -> None:
    """Ack so many messages, and use every other call of a consumer on the way."""
    while count:
        deliveries = await queue.receive(10, 2)
        assert deliveries
        assert await queue.extend(deliveries) == []
        released = [delivery for delivery in deliveries[:1] if delivery.attempts == 1]
        await queue.release(released, delay_seconds=queue.lease_seconds * 1.5)
        assert ((await queue.depth()).in_flight or 0) >= len(deliveries)
        await queue.dead.publish([deliveries[-1].body], soon())
        await queue.ack(deliveries[len(released) :])
        count -= len(deliveries) - len(released)


async def test_a_server_without_memory_can_be_drained_and_then_accepts_messages_again(
    small_server: services.RedisServer,
) -> None:
    async with opened(small_server.url) as publisher:
        confirmed = await publish_until_refused(publisher)
        assert (await publisher.depth()).ready == confirmed > 100
        with pytest.raises(QueueUnavailable, match="memory"):
            await publisher.check()
        async with opened(small_server.url) as consumer:
            await use_every_call(consumer, confirmed)
            assert (await consumer.depth()) == Depth(0, 0, 0.0)
        await publisher.check()
        assert await publish_until_refused(publisher) > confirmed / 2


async def test_memory_that_another_program_takes_stops_publishers_only(small_server: services.RedisServer) -> None:
    async with opened(small_server.url) as queue, client(small_server.url) as redis:
        await queue.publish([b"%d" % number for number in range(50)], soon())
        with contextlib.suppress(OutOfMemoryError):
            for number in range(10_000):
                await redis.set(f"other:{number}", b"x" * (100_000 if number < 60 else 1000))
        late = await publish_until_refused(queue)  # Redis frees buffers of connections now and then: some may fit
        with pytest.raises(QueueUnavailable, match="memory"):
            await queue.check()
        await use_every_call(queue, 50 + late)
        await redis.delete(*await redis.keys("other:*"))
        await queue.check()
        await queue.publish([b"again"], soon())
        assert await drain(queue, 1) == Counter([b"again"])


async def test_memory_that_is_nearly_full_is_reported(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--maxmemory", "20mb", "--maxmemory-policy", "noeviction")
    with services.running_redis(tmp_path / "redis", *options) as server:
        async with opened(server.url) as queue:
            assert await queue.check() == []
            while not (warnings := await queue.check()):
                await queue.publish([b"x" * 20_000], soon())
            assert ["memory" in warning for warning in warnings] == [True]


async def test_many_dead_letters_are_reported_and_stop_nothing(server: services.RedisServer) -> None:
    async with opened(server.url, max_messages=10) as queue:
        await queue.dead.publish([b"dead"] * 4, soon())
        assert await queue.check() == []
        await queue.dead.publish([b"dead"], soon())
        [warning] = await queue.check()
        assert "5 dead letters" in warning
        await queue.dead.publish([b"dead"] * 100, soon())
        assert await queue.dead.check() == []
        await queue.publish([b"alive"], soon())
        await queue.ack(await receive(queue, 1))


async def test_what_endangers_messages_is_reported(tmp_path: Path) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with services.running_redis(tmp_path / "redis", *options) as server:
        async with opened(server.url) as queue:
            persistence, eviction = await queue.check()
            assert "append-only" in persistence
            assert "allkeys-lru" in eviction


async def test_a_safe_server_gives_no_warnings(server: services.RedisServer) -> None:
    async with opened(server.url) as queue:
        assert await queue.check() == []


# wrong settings


async def test_a_wrong_password_is_distinguished_from_an_outage(tmp_path: Path) -> None:
    with services.running_redis(tmp_path / "redis", "--requirepass", "right") as server:
        for url in (server.url, server.url.replace("//", "//:wrong@")):
            async with opened(url) as queue:
                for failing in (queue.check(), queue.publish([b"x"], soon()), queue.receive(1, 1)):
                    with pytest.raises(QueueMisconfigured):
                        await failing
        async with opened(server.url.replace("//", "//:right@")) as queue:
            await queue.publish([b"x"], soon())


async def test_missing_rights_are_reported_and_a_publisher_needs_few(server: services.RedisServer) -> None:
    await command(server.url, "ACL SETUSER reader on >pw ~* +xlen +info")
    await command(server.url, "ACL SETUSER writer on >pw ~* +xlen +xadd")
    async with opened(server.url.replace("//", "//reader:pw@")) as queue:
        for failing in (queue.publish([b"x"], soon()), queue.check()):
            with pytest.raises(QueueMisconfigured):
                await failing
    async with opened(server.url.replace("//", "//writer:pw@")) as queue:
        await queue.publish([b"x"], soon())
        assert ["INFO" in warning for warning in await queue.check()] == [True]


async def test_a_consumer_needs_no_more_rights_than_are_documented(server: services.RedisServer) -> None:
    documented = re.findall(r"`consume` needs `([^`]+)`", README.read_text())[0]
    await command(server.url, "SCRIPT FLUSH")
    await command(server.url, f"ACL SETUSER consumer on >pw ~* {documented}")
    async with opened(server.url.replace("//", "//consumer:pw@")) as queue, opened(server.url) as publisher:
        await publisher.publish([b"one", b"two"], soon())
        one, two = await receive(queue, 2)
        assert await queue.extend([one, two]) == []
        await queue.ack([one])
        await queue.release([two], delay_seconds=1.5)
        await queue.dead.publish([b"dead"], soon())
        assert await drain(queue, 1) == Counter({two.body: 1})
        assert (await queue.depth()).in_flight == 0


async def test_a_key_of_another_program_is_reported(server: services.RedisServer) -> None:
    async with client(server.url) as redis:
        await redis.set("{eventmill}", "something else")
    async with opened(server.url) as queue:
        for failing in (queue.check(), queue.publish([b"x"], soon()), queue.receive(1, 1), queue.migrate()):
            with pytest.raises(QueueMisconfigured, match="WRONGTYPE"):
                await failing


@pytest.mark.parametrize(
    "url", ["", "http://h", "redis://", "redis://h:0/", "redis://:secret#1@h:6379/0", "redis://h/zero"]
)
async def test_an_invalid_address_is_reported_without_secrets(url: str) -> None:
    with pytest.raises(ValidationError, match="redis://|%XX|number of a database") as refusal:
        RedisQueueSettings(url=SecretStr(url))
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("options", ["max_connections=abc", "bogus=1", "socket_timeout=1", "decode_responses=true"])
async def test_options_that_are_not_for_tls_are_rejected(options: str) -> None:
    with pytest.raises(ValidationError, match="TLS options only"):
        RedisQueueSettings(url=SecretStr(f"redis://127.0.0.1/0?{options}"))


async def test_an_option_that_redis_does_not_know_is_reported(server: services.RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="EVENTMILL_QUEUE_REDIS_URL"):
        async with opened(f"{server.url.replace('redis:', 'rediss:')}?ssl_bogus=1"):
            pass


# leases


async def test_the_first_receive_of_a_new_queue_finds_nothing(server: services.RedisServer) -> None:
    async with opened(server.url) as queue:
        assert await queue.receive(1, 0) == []


async def test_entries_that_were_deleted_leave_no_trace(server: services.RedisServer) -> None:
    async with opened(server.url) as queue, client(server.url) as redis:
        await queue.publish([b"one", b"two"], soon())
        held = await receive(queue, 2)
        await redis.xdel("{eventmill}", *(delivery.lease[0] for delivery in held))
        await stays_empty(queue, 2.5)
        await queue.publish([b"three"], soon())
        depth = await queue.depth()
        assert (depth.ready, depth.in_flight) == (1, 0)


async def test_an_entry_of_another_program_is_returned(server: services.RedisServer) -> None:
    async with opened(server.url) as queue, client(server.url) as redis:
        await redis.xadd("{eventmill}", {"foreign": "words"})
        assert await drain(queue, 1) == Counter([b"words"])


async def test_a_delay_longer_than_a_lease_holds_forevery_consumer(server: services.RedisServer) -> None:
    async with opened(server.url) as queue, opened(server.url) as other:
        await queue.publish([b"parked"], soon())
        await queue.release(await receive(queue, 1), delay_seconds=3.3)
        released = time.monotonic()
        await stays_empty(other, 2.5)
        [again] = await receive(other, 1)
        assert 3 <= time.monotonic() - released < 5
        assert again.attempts <= 3, "waiting is no attempt"
        await other.ack([again])
        await stays_empty(queue, 1.5)


def from_the_future(dump: bytes, began_ms: int, seconds: int) -> bytes:
    """A dump of a stream in which what was leased then, to the second, was leased later."""
    for ms in range(began_ms, began_ms + 1000):
        dump = dump.replace(ms.to_bytes(8, "little"), (ms + seconds * 1000).to_bytes(8, "little"))
    content, crc = dump[:-8], 0
    for byte in content:  # the CRC-64 of Redis, reflected
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
    return content + crc.to_bytes(8, "little")


async def test_a_clock_of_the_server_that_is_set_back_hides_messages_for_two_leases_at_most(
    server: services.RedisServer,
) -> None:
    async with opened(server.url) as queue, client(server.url) as redis:
        await queue.publish([b"one", b"two"], soon())
        began_ms = time.time_ns() // 1_000_000
        await receive(queue, 2)
        dump = from_the_future(await redis.dump("{eventmill}") or b"", began_ms, 3600)
        await redis.restore("{eventmill}", 0, dump, replace=True)
        async with opened(server.url) as other:
            started = time.monotonic()
            assert bodies_of(await receive(other, 2, 4)) == Counter([b"one", b"two"])
            assert time.monotonic() - started < 3


async def test_an_acked_message_leaves_nothing_on_the_server(server: services.RedisServer) -> None:
    async with opened(server.url) as queue, client(server.url) as redis:
        await queue.publish([b"x" * 1000] * 50, soon())
        await queue.release(await receive(queue, 50), delay_seconds=2)
        await queue.ack(await receive(queue, 50))
        assert await redis.xlen("{eventmill}") == 0
        assert await redis.keys("*") == [b"{eventmill}"]


async def consumers(url: str) -> list[bytes]:
    async with client(url) as redis:
        return [consumer["name"] for consumer in await redis.xinfo_consumers("{eventmill}", GROUP)]


async def test_a_consumer_that_leaves_takes_its_name_along_unless_it_holds_messages(
    server: services.RedisServer,
) -> None:
    async with opened(server.url) as queue:
        await queue.publish([b"one"], soon())
        await queue.ack(await receive(queue, 1))
        assert len(await consumers(server.url)) == 1
    assert await consumers(server.url) == []
    async with opened(server.url) as queue:
        await queue.publish([b"two"], soon())
        await receive(queue, 1)
    assert len(await consumers(server.url)) == 1
    async with opened(server.url) as queue:
        assert bodies_of(await receive(queue, 1)) == Counter([b"two"])


async def test_names_left_behind_are_removed_once_they_hold_nothing(
    server: services.RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eventmill_queue_redis import redis_queue

    async with client(server.url) as redis, opened(server.url) as queue:
        await queue.publish([b"held", b"done"], soon())
        await queue.migrate()
        for name in ("crashed", "finished"):
            await redis.xreadgroup(GROUP, name, {"{eventmill}": ">"}, 1)
        await redis.xack(
            "{eventmill}", GROUP, (await redis.xpending_range("{eventmill}", GROUP, "-", "+", 9))[1]["message_id"]
        )
        monkeypatch.setattr(redis_queue, "_REAP_SECONDS", 0.5)

        async def is_reaped() -> bool:
            await queue.receive(1, 0)
            names = await consumers(server.url)
            return b"finished" not in names

        await eventually(is_reaped)
        assert b"crashed" in await consumers(server.url) or bodies_of(await receive(queue, 1)) == Counter([b"held"])
