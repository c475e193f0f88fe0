"""The queue: bodies in base64, in batches as large as SQS accepts."""

import asyncio
import base64
import binascii
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import Metric

from eventmill import (
    Delivery,
    Depth,
    PartialFailure,
    Queue,
    QueueMisconfigured,
    QueueUnavailable,
    Refused,
    Unknown,
)
from eventmill_queue_sqs.clients import Clients
from eventmill_queue_sqs.service import Service
from eventmill_queue_sqs.settings import MAX_LEASE_SECONDS

T = TypeVar("T")

CHECK_SECONDS = 1.8
MAX_BODY_BYTES = 46 * 1024  # with base64 within one billing unit of 64 KiB
_BATCH = 10
_BATCH_BYTES = 1024 * 1024  # also the limit of one message
MAX_DEAD_BODY_BYTES = _BATCH_BYTES // 4 * 3  # with base64 the most that SQS accepts
# The error codes of SQS for an expired lease or a deleted message.
_STALE = {"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight", "InvalidReceiptHandle"}
_STALE |= {f"AWS.SimpleQueueService.{code}" for code in _STALE}


@dataclass(slots=True)
class Lease:
    """A lease. SQS sometimes accepts an expired receipt handle, so a lease that has ended by our clock is not used."""

    receipt: str
    ends: float  # on the clock of time.monotonic()


class SqsQueue(Queue):
    """One queue. `url` is resolved at each use, because that of the dead-letter queue may need a lookup."""

    def __init__(
        self,
        clients: Clients,
        service: Service,
        url: Callable[[], Awaitable[str]],
        lease_seconds: int,
        dead: "SqsQueue | None" = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._clients = clients
        self._service = service
        self._url = url
        self._lease_seconds = lease_seconds
        self._dead = dead
        self._max_body_bytes = max_body_bytes

    @property
    def max_body_bytes(self) -> int:
        return self._max_body_bytes

    @property
    def lease_seconds(self) -> float:
        return self._lease_seconds

    @property
    def dead(self) -> Queue:
        return self._dead or self

    async def publish(self, bodies: Sequence[bytes], deadline: float) -> None:
        failed: dict[int, Refused | Unknown] = {
            i: Refused(f"{len(body)} bytes") for i, body in enumerate(bodies) if len(body) > self._max_body_bytes
        }
        entries = [(i, base64.b64encode(body).decode()) for i, body in enumerate(bodies) if i not in failed]
        sending = {asyncio.create_task(self._send(batch)): batch for batch in _batches(entries)}
        if sending:
            try:
                await asyncio.wait(sending, timeout=max(0.0, deadline - time.monotonic()))
            finally:
                for task in sending:
                    task.cancel()  # the late ones
            verdicts = await asyncio.gather(*sending, return_exceptions=True)
            if all(isinstance(verdict, BaseException) for verdict in verdicts):
                raise _first(verdicts)
            for batch, verdict in zip(sending.values(), verdicts, strict=True):
                failed |= (
                    {i: Unknown(str(verdict)) for i, _ in batch} if isinstance(verdict, BaseException) else verdict
                )
        if failed:
            raise PartialFailure(failed)

    async def receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        url = await self._url()
        until = time.monotonic() + wait_seconds
        deliveries: list[Delivery] = []
        while len(deliveries) < max_messages:
            wanted = min(_BATCH, max_messages - len(deliveries))
            wait = 0 if deliveries else math.ceil(wait_seconds)
            try:
                received = await self._receive(url, wanted, wait)
            except QueueUnavailable:
                if deliveries:
                    break  # these are leased and must be returned
                raise
            deliveries += received
            if len(received) < wanted:
                break
        if not deliveries:
            await asyncio.sleep(until - time.monotonic())  # do not poll a server in a loop that ignores the wait
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._each("delete_message_batch", deliveries, {}, _end)

    async def release(self, deliveries: Sequence[Delivery], delay_seconds: float = 0) -> None:
        held = [delivery for delivery in deliveries if delivery.lease.ends > time.monotonic()]
        timeout = min(MAX_LEASE_SECONDS, math.ceil(delay_seconds))
        await self._each("change_message_visibility_batch", held, {"VisibilityTimeout": timeout}, _end)

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        held = [delivery for delivery in deliveries if delivery.lease.ends > time.monotonic()]

        def renew(batch: Sequence[Delivery], stale: Sequence[Delivery]) -> None:
            for delivery in batch:
                delivery.lease.ends = 0.0 if delivery in stale else time.monotonic() + self._lease_seconds

        await self._each("change_message_visibility_batch", held, {"VisibilityTimeout": self._lease_seconds}, renew)
        now = time.monotonic()
        return [delivery for delivery in deliveries if delivery.lease.ends <= now]

    async def depth(self) -> Depth:
        names = ("", "NotVisible", "Delayed")
        attributes = await self._service.attributes(
            await self._url(), *(f"ApproximateNumberOfMessages{name}" for name in names)
        )
        ready, in_flight, delayed = (int(attributes[f"ApproximateNumberOfMessages{name}"]) for name in names)
        return Depth(ready + delayed, in_flight, None)

    async def check(self) -> list[str]:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await self._service.check(await self._url())
        except TimeoutError:
            raise QueueUnavailable("SQS does not answer in time") from None

    def collect(self) -> Iterable[Metric]:
        return self._clients.usage.collect()

    async def migrate(self) -> None:
        await self._service.migrate()

    async def _send(self, batch: Sequence[tuple[int, str]]) -> dict[int, Refused | Unknown]:
        """Send one batch; return the bodies that failed."""
        url = await self._url()
        entries = [{"Id": str(i), "MessageBody": body} for i, body in batch]
        size = sum(len(body) for _, body in batch)
        answer = await self._clients.send("send_message_batch", size, QueueUrl=url, Entries=entries)
        confirmed = {int(entry["Id"]) for entry in answer.get("Successful", [])}
        failed: dict[int, Refused | Unknown] = {
            i: Unknown("SQS did not confirm it") for i, _ in batch if i not in confirmed
        }
        for entry in answer.get("Failed", []):
            kind = Refused if entry.get("SenderFault") else Unknown
            failed[int(entry["Id"])] = kind(f"{entry.get('Code')}: {entry.get('Message', '')}")
        return failed

    async def _receive(self, url: str, count: int, wait_seconds: int) -> list[Delivery]:
        answer = await self._clients.receive(
            wait_seconds,
            QueueUrl=url,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self._lease_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        ends = time.monotonic() + self._lease_seconds
        return [_delivery(message, ends) for message in answer.get("Messages", [])]

    async def _each(
        self,
        action: str,
        deliveries: Sequence[Delivery],
        fields: dict[str, Any],
        done: Callable[[Sequence[Delivery], Sequence[Delivery]], None],
    ) -> None:
        """Call a batch action for all deliveries. Pass each batch, and the leases that have ended, to `done`."""
        url = await self._url()

        async def call(batch: Sequence[Delivery]) -> None:
            entries = [{"Id": str(i), "ReceiptHandle": d.lease.receipt} | fields for i, d in enumerate(batch)]
            answer = await self._clients.send(action, QueueUrl=url, Entries=entries)
            failed = answer.get("Failed", [])
            if wrong := [entry for entry in failed if entry.get("Code") not in _STALE]:
                raise QueueUnavailable(f"SQS: {wrong[0].get('Code')}: {wrong[0].get('Message', '')}")
            done(batch, [batch[int(entry["Id"])] for entry in failed])

        batches = [deliveries[start : start + _BATCH] for start in range(0, len(deliveries), _BATCH)]
        verdicts = await asyncio.gather(*map(call, batches), return_exceptions=True)
        if any(isinstance(verdict, BaseException) for verdict in verdicts):
            raise _first(verdicts)


def _end(batch: Sequence[Delivery], stale: Sequence[Delivery]) -> None:
    for delivery in batch:
        delivery.lease.ends = 0.0


def _batches(entries: Sequence[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Yield the entries in batches of at most ten entries and 1 MiB."""
    batch: list[tuple[int, str]] = []
    size = 0
    for entry in entries:
        if len(batch) == _BATCH or size + len(entry[1]) > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry[1])
    if batch:
        yield batch


def _first(verdicts: Sequence[object]) -> Exception:
    """Return the error to raise for failed calls: first of all one that retrying cannot fix."""
    errors = [verdict for verdict in verdicts if isinstance(verdict, Exception)]
    wrong = [error for error in errors if isinstance(error, QueueMisconfigured)]
    return (wrong or errors or [QueueUnavailable("SQS does not answer in time")])[0]


def _delivery(message: dict[str, Any], ends: float) -> Delivery:
    attributes = message["Attributes"]
    return Delivery(
        _decode(message["Body"]),
        int(attributes["ApproximateReceiveCount"]),
        int(attributes["SentTimestamp"]),
        Lease(message["ReceiptHandle"], ends),
    )


def _decode(text: str) -> bytes:
    """Return the body. A message of another program that is not base64 is returned unchanged."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
