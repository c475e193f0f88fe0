"""The queue: one stream, one group; a lease is an entry of the group's list of pending ones."""

import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from redis.exceptions import NoPermissionError, ResponseError

from eventmill import (
    Delivery,
    Depth,
    PartialFailure,
    Queue,
    QueueUnavailable,
    Refused,
    Unknown,
)
from eventmill_queue_redis import entries, scripts
from eventmill_queue_redis.connection import BLOCK_SECONDS, Connection, explain, is_groupless, warnings_of
from eventmill_queue_redis.settings import RedisQueueSettings

T = TypeVar("T")

GROUP = "eventmill"
CHECK_SECONDS = 1.8
_MAX_BODY_BYTES = 1024 * 1024
_CLAIM_SECONDS = 1.0  # how often to look for leases that have ended, at the least
_REAP_SECONDS = 3600.0  # consumers that were quiet for so long and hold nothing are removed
_LEAVE_SECONDS = 1.0


class RedisQueue(Queue):
    """One stream. This handle is a consumer with a name of its own; a lease is (id, attempt)."""

    def __init__(
        self, connection: Connection, key: str, settings: RedisQueueSettings, dead: "RedisQueue | None" = None
    ) -> None:
        self._connection = connection
        self._redis = connection.commands
        self._key = key
        self._parked = f"{key}:parked"
        self._lease_seconds = settings.lease_seconds
        self._max_messages = settings.max_messages
        self._length = 0  # of the stream, when it was last seen
        self._dead = dead
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._has_received = False
        self._cursor = b"0-0"
        self._claim_at = self._reap_at = 0.0
        self._claim = self._redis.register_script(scripts.CLAIM)
        self._hold = self._redis.register_script(scripts.HOLD)
        self._reap = self._redis.register_script(scripts.REAP)

    @property
    def max_body_bytes(self) -> int:
        return _MAX_BODY_BYTES

    @property
    def lease_seconds(self) -> float:
        return self._lease_seconds

    @property
    def dead(self) -> Queue:
        return self._dead or self

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        failed: dict[int, Refused | Unknown] = {
            i: Refused(f"{len(body)} bytes") for i, body in enumerate(bodies) if len(body) > _MAX_BODY_BYTES
        }
        good = [i for i in range(len(bodies)) if i not in failed]
        if good:
            await self._refuse_when_full(deadline)
            pipeline = self._redis.pipeline(transaction=False)
            for i in good:
                pipeline.xadd(self._key, {b"b": bodies[i]})
            pipeline.xlen(self._key)
            seconds = deadline - time.monotonic()
            *results, length = await self._connection.run(pipeline.execute(raise_on_error=False), seconds)
            self._length = length if isinstance(length, int) else self._length
            errors = {i: result for i, result in zip(good, results, strict=True) if isinstance(result, Exception)}
            if len(errors) == len(good):
                raise explain(errors[good[0]])
            failed |= {i: Unknown(str(error)) for i, error in errors.items()}
        if failed:
            raise PartialFailure(failed)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        until = time.monotonic() + wait_seconds
        self._has_received = True
        while True:
            if time.monotonic() >= self._claim_at and (claimed := await self._take_over(max_messages)):
                return claimed
            block_seconds = min(until, self._claim_at, time.monotonic() + BLOCK_SECONDS) - time.monotonic()
            if fresh := await self._read(max_messages, block_seconds):
                return fresh
            if time.monotonic() >= until:
                return []

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        ids = [delivery.lease[0] for delivery in deliveries]
        if ids:
            # In one transaction: an entry that is acked and not deleted would stay for ever.
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.xack(self._key, GROUP, *ids)
            pipeline.xdel(self._key, *ids)
            pipeline.zrem(self._parked, *ids)
            await self._connection.run(pipeline.execute())

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        # An idle time of a lease ends it now. A delay of more than a lease takes a note of its end.
        idle_seconds = max(0.0, self._lease_seconds - delay_seconds)
        parked_until = time.time() + delay_seconds if delay_seconds > self._lease_seconds else 0
        await self._change(deliveries, "released", idle_seconds, parked_until)
        self._claim_at = 0.0

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        lost = await self._change(deliveries, self._consumer, 0, 0)
        return [delivery for delivery in deliveries if delivery.lease[0] in lost]

    async def depth(self) -> Depth:
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.xlen(self._key)
        pipeline.xrange(self._key, count=1)
        pipeline.xpending(self._key, GROUP)
        length, oldest, pending = await self._connection.run(pipeline.execute(raise_on_error=False))
        if isinstance(pending, Exception) and not is_groupless(pending):
            raise explain(pending)
        in_flight = 0 if isinstance(pending, Exception) else pending["pending"]
        age_seconds = max(0.0, time.time() - entries.enqueued_at_ms(oldest[0][0]) / 1000) if oldest else 0.0
        return Depth(max(0, length - in_flight), in_flight, age_seconds)

    async def check(self) -> list[str]:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xlen(self._key)
        pipeline.xadd(self._key, {b"b": b""}, id="0-0")  # never a valid id: Redis looks at the rights first
        pipeline.info()
        length, added, info = await self._connection.run(pipeline.execute(raise_on_error=False), CHECK_SECONDS)
        for answer in (length, added):
            if isinstance(answer, Exception) and "must be greater than 0-0" not in str(answer):
                raise explain(answer)
        self._length = length
        if length >= self._max_messages:
            raise QueueUnavailable(f"the queue is full ({self._max_messages} messages)")
        if isinstance(info, NoPermissionError):
            return ["this user may not ask Redis for INFO: persistence and eviction are not checked"]
        if isinstance(info, Exception):
            raise explain(info)
        return warnings_of(info)

    async def migrate(self) -> None:
        await self._connection.run(self._create_group())
        if self._dead:
            await self._dead.migrate()

    async def leave(self) -> None:
        """Remove this consumer's name from the group, unless it holds messages."""
        if self._has_received:
            try:
                reaping = self._reap([self._key], [GROUP, int(_REAP_SECONDS * 1000), self._consumer])
                await self._connection.run(reaping, _LEAVE_SECONDS)
            except (QueueUnavailable, ResponseError):
                return  # others remove it later

    async def _refuse_when_full(self, deadline: float) -> None:
        if self._length >= self._max_messages:
            self._length = await self._connection.run(self._redis.xlen(self._key), deadline - time.monotonic())
            if self._length >= self._max_messages:
                raise QueueUnavailable(f"the queue is full ({self._max_messages} messages)")

    async def _take_over(self, max_messages: int) -> list[Delivery]:
        """Messages whose lease has ended, whoever held it."""
        await self._reap_consumers()
        lease_ms = int(self._lease_seconds * 1000)
        now_ms = time.time_ns() // 1_000_000
        arguments: list[Any] = [GROUP, self._consumer, lease_ms, max_messages, self._cursor, now_ms]
        keys = [self._key, self._parked]
        self._cursor, taken = await self._in_group(lambda: self._claim(keys, arguments), (b"0-0", []))
        if not taken and self._cursor == b"0-0":
            self._claim_at = time.monotonic() + min(_CLAIM_SECONDS, self._lease_seconds / 4)
        return [entries.delivery(entry, attempts, fields) for entry, attempts, fields in taken]

    async def _read(self, max_messages: int, block_seconds: float) -> list[Delivery]:
        """Messages that nobody had yet."""
        block_ms = int(block_seconds * 1000)
        reads = self._connection.reads

        def read() -> Awaitable[Any]:
            block = block_ms if block_ms > 0 else None  # to Redis, 0 means for ever
            return reads.xreadgroup(GROUP, self._consumer, {self._key: ">"}, max_messages, block)

        streams: list[Any] = await self._in_group(read, [], BLOCK_SECONDS + 6)
        return [entries.delivery(entry, 1, fields) for _, added in streams for entry, fields in added]

    async def _change(
        self, deliveries: Sequence[Delivery], owner: str, idle_seconds: float, parked_until: float
    ) -> set[bytes]:
        """Change leases that are still this consumer's; return the ids of the others."""
        arguments: list[Any] = [GROUP, self._consumer, owner, int(idle_seconds * 1000), int(parked_until * 1000)]
        for delivery in deliveries:
            arguments += delivery.lease
        everything = {delivery.lease[0] for delivery in deliveries}
        if not everything:
            return everything
        return set(await self._in_group(lambda: self._hold([self._key, self._parked], arguments), everything))

    async def _in_group(self, command: Callable[[], Awaitable[Any]], without: T, seconds: float = 6.0) -> Any | T:
        """Run a command of the group; where the group is gone, create it and answer `without`."""
        try:
            return await self._connection.run(command(), seconds)
        except ResponseError:
            await self._connection.run(self._create_group())
            return without

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._key, GROUP, "0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _reap_consumers(self) -> None:
        if time.monotonic() >= self._reap_at:
            self._reap_at = time.monotonic() + _REAP_SECONDS
            idle_ms = int(_REAP_SECONDS * 1000)
            await self._in_group(lambda: self._reap([self._key], [GROUP, idle_ms, ""]), None)
