"""The queue: one stream and one group. A lease is a pending entry of the group."""

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
    describe_skew,
)
from eventmill_queue_redis import entries, scripts
from eventmill_queue_redis.connection import BLOCK_SECONDS, Connection, explain, is_groupless, warnings_of
from eventmill_queue_redis.settings import RedisQueueSettings

T = TypeVar("T")

GROUP = "eventmill"
CHECK_SECONDS = 1.8
_MAX_BODY_BYTES = 1024 * 1024
_CLAIM_SECONDS = 1.0  # the longest time between two checks for expired leases
_REAP_SECONDS = 3600.0  # consumers that were idle for this long and hold nothing are removed
_LEAVE_SECONDS = 1.0


class RedisQueue(Queue):
    """One stream. This handle is a consumer with a unique name; a lease is (id, attempt)."""

    def __init__(
        self, connection: Connection, key: str, settings: RedisQueueSettings, dead: "RedisQueue | None" = None
    ) -> None:
        self._connection = connection
        self._redis = connection.commands
        self._key = key
        self._delays = f"{key}:delays"  # the rest of delays that are longer than a lease
        self._lease_seconds = settings.lease_seconds
        self._max_messages = settings.max_messages
        self._length = 0  # of the stream, when it was last read
        self._dead = dead
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._has_received = False
        self._cursor = b"0-0"
        self._claim_at = self._reap_at = self._begin_at = 0.0
        self._is_claiming = False
        self._create = self._redis.register_script(scripts.CREATE)
        self._add = self._redis.register_script(scripts.ADD)
        self._claim = self._redis.register_script(scripts.CLAIM)
        self._hold = self._redis.register_script(scripts.HOLD)
        self._ack = self._redis.register_script(scripts.ACK)
        self._begin = self._redis.register_script(scripts.BEGIN)
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
        if good and self._dead is None:
            await self._connection.run(self._add([self._key], [bodies[i] for i in good]), deadline - time.monotonic())
        elif good:
            failed |= await self._publish({i: bodies[i] for i in good}, deadline)
        if failed:
            raise PartialFailure(failed)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        until = time.monotonic() + wait_seconds
        self._has_received = True
        while True:
            # Expired leases and new messages alternate, so that neither starve the others.
            self._is_claiming = time.monotonic() >= self._claim_at and not self._is_claiming
            if self._is_claiming and (claimed := await self._take_over(max_messages)):
                return claimed
            block_seconds = min(until, self._claim_at, time.monotonic() + BLOCK_SECONDS) - time.monotonic()
            if fresh := await self._read(max_messages, block_seconds):
                return fresh
            if until <= time.monotonic() < self._claim_at:
                return []

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            arguments = [GROUP, self._consumer, *_leases(deliveries)]
            await self._in_group(lambda: self._ack([self._key, self._delays], arguments), None)

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        # Setting the idle time to a lease ends it now. The rest of a delay longer than a lease is stored.
        left_seconds = self._lease_seconds - delay_seconds
        await self._change(deliveries, "released", max(0.0, left_seconds), max(0.0, -left_seconds))
        self._claim_at = 0.0

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        lost = await self._change(deliveries, self._consumer, 0, 0)
        return [delivery for delivery in deliveries if delivery.lease[0] in lost]

    async def depth(self) -> Depth:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xlen(self._key)
        pipeline.xrange(self._key, count=1)
        pipeline.xpending(self._key, GROUP)
        answers = await self._connection.run(pipeline.execute(raise_on_error=False))
        if errors := [one for one in answers if isinstance(one, Exception) and not is_groupless(one)]:
            raise explain(errors[0])
        length, oldest, pending = answers
        in_flight = 0 if isinstance(pending, Exception) else pending["pending"]
        age_seconds = max(0.0, time.time() - entries.enqueued_at_ms(oldest[0][0]) / 1000) if oldest else 0.0
        return Depth(max(0, length - in_flight), in_flight, age_seconds)

    async def check(self) -> list[str]:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xlen(self._key)
        pipeline.xlen(f"{self._key}:dead")
        pipeline.xadd(self._key, {b"b": b""}, id="0-0")  # an invalid id: Redis checks the permissions first
        pipeline.time()
        pipeline.info()
        *answers, clock, info = await self._connection.run(pipeline.execute(raise_on_error=False), CHECK_SECONDS)
        for answer in answers:
            if isinstance(answer, Exception) and "must be greater than 0-0" not in str(answer):
                raise explain(answer)
        self._length, letters, _ = answers
        if self._is_full():
            raise QueueUnavailable(f"the queue is full ({self._max_messages} messages)")
        warnings = [] if isinstance(clock, Exception) else describe_skew(clock[0] + clock[1] / 1e6, "Redis")
        if 2 * letters >= self._max_messages:
            warnings.append(f"{letters} dead letters use memory: run `eventmill dead list`")
        if isinstance(info, NoPermissionError):
            return [*warnings, "this user may not ask Redis for INFO: memory and persistence are not checked"]
        if isinstance(info, Exception):
            raise explain(info)
        return warnings + warnings_of(info)

    async def migrate(self) -> None:
        await self._connection.run(self._create_group())
        if self._dead:
            await self._dead.migrate()

    async def leave(self) -> None:
        """Remove this consumer from the group, unless it holds messages."""
        if self._has_received:
            try:
                reaping = self._reap([self._key], [GROUP, int(_REAP_SECONDS * 1000), self._consumer])
                await self._connection.run(reaping, _LEAVE_SECONDS)
            except (QueueUnavailable, ResponseError):
                return  # another consumer removes it later

    async def _publish(self, bodies: dict[int, bytes], deadline: float) -> dict[int, Unknown]:
        """Publish within the limits; return the bodies that failed."""
        if self._is_full():
            self._length = await self._connection.run(self._redis.xlen(self._key), deadline - time.monotonic())
            if self._is_full():
                raise QueueUnavailable(f"the queue is full ({self._max_messages} messages)")
        pipeline = self._redis.pipeline(transaction=False)
        for body in bodies.values():
            pipeline.xadd(self._key, {b"b": body})
        pipeline.xlen(self._key)
        seconds = deadline - time.monotonic()
        *results, length = await self._connection.run(pipeline.execute(raise_on_error=False), seconds)
        self._length = length if isinstance(length, int) else self._length
        errors = {i: result for i, result in zip(bodies, results, strict=True) if isinstance(result, Exception)}
        if len(errors) == len(bodies):
            raise explain(next(iter(errors.values())))
        return {i: Unknown(str(error)) for i, error in errors.items()}

    def _is_full(self) -> bool:
        # A dead letter replaces a message: refusing it would only keep the message.
        return self._dead is not None and self._length >= self._max_messages

    async def _take_over(self, max_messages: int) -> list[Delivery]:
        """Receive messages whose lease has expired."""
        await self._keep_house()
        lease_ms = int(self._lease_seconds * 1000)
        arguments: list[Any] = [GROUP, self._consumer, lease_ms, max_messages, self._cursor]
        keys = [self._key, self._delays]
        self._cursor, taken = await self._in_group(lambda: self._claim(keys, arguments), (b"0-0", []))
        if not taken and self._cursor == b"0-0":
            self._claim_at = time.monotonic() + min(_CLAIM_SECONDS, self._lease_seconds / 4)
        return [entries.delivery(entry, attempts, fields) for entry, attempts, fields in taken]

    async def _read(self, max_messages: int, block_seconds: float) -> list[Delivery]:
        """Receive messages that were never delivered."""
        block_ms = int(block_seconds * 1000)
        reads = self._connection.reads

        def read() -> Awaitable[Any]:
            block = block_ms if block_ms > 0 else None  # 0 means forever in Redis
            return reads.xreadgroup(GROUP, self._consumer, {self._key: ">"}, max_messages, block)

        streams: list[Any] = await self._in_group(read, [], BLOCK_SECONDS + 6)
        return [entries.delivery(entry, 1, fields) for _, added in streams for entry, fields in added]

    async def _change(
        self, deliveries: Sequence[Delivery], owner: str, idle_seconds: float, delay_seconds: float
    ) -> set[bytes]:
        """Change leases that this consumer still holds; return the ids of the others."""
        everything = {delivery.lease[0] for delivery in deliveries}
        if not everything:
            return everything
        arguments: list[Any] = [GROUP, self._consumer, owner, int(idle_seconds * 1000), int(delay_seconds * 1000)]
        arguments += _leases(deliveries)
        return set(await self._in_group(lambda: self._hold([self._key, self._delays], arguments), everything))

    async def _in_group(self, command: Callable[[], Awaitable[Any]], without: T, seconds: float = 6.0) -> Any | T:
        """Run a command of the group. If the group does not exist, create it and return `without`."""
        try:
            return await self._connection.run(command(), seconds)
        except ResponseError:
            await self._connection.run(self._create_group())
            return without

    async def _create_group(self) -> None:
        await self._create([self._key], [GROUP])

    async def _keep_house(self) -> None:
        now = time.monotonic()
        if now >= self._begin_at:
            self._begin_at = now + self._lease_seconds
            await self._in_group(lambda: self._begin([self._key], [GROUP]), None)
        if now >= self._reap_at:
            self._reap_at = now + _REAP_SECONDS
            idle_ms = int(_REAP_SECONDS * 1000)
            await self._in_group(lambda: self._reap([self._key], [GROUP, idle_ms, ""]), None)


def _leases(deliveries: Sequence[Delivery]) -> list[Any]:
    return [part for delivery in deliveries for part in delivery.lease]
