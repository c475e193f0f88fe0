"""The only path to the dead-letter queue."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from eventmill import frames
from eventmill.consumer.backoff import Backoff
from eventmill.consumer.leases import Leases
from eventmill.consumer.messages import Message, open_message
from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.errors import PartialFailure, Refused, UnknownFrameVersion
from eventmill.interfaces import MIN_BODY_BYTES, Delivery, Queue

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 5.0
_PAGE = 100  # letters per publish
MAX_WAITING = 100  # messages that wait for the dead-letter queue; others are released with a delay
CROWDED_DELAY_SECONDS = 10.0
UNKNOWN_VERSION_DELAY_SECONDS = 60.0
UPGRADE_SECONDS = 24 * 3600.0  # a message that no consumer understands by then may be damaged


class Letter(NamedTuple):
    """A dead body, the reason for its record, and the error."""

    reason: str
    body: bytes
    error: Exception


class DeadLetters:
    """Publishes dead letters in tasks of `group`, so that an unavailable dead-letter queue delays nothing else."""

    def __init__(
        self,
        queue: Queue,
        leases: Leases,
        backoff: Backoff,
        group: asyncio.TaskGroup,
        telemetry: ConsumerTelemetry,
    ) -> None:
        self._queue = queue
        self._telemetry = telemetry
        self._leases = leases
        self._backoff = backoff
        self._group = group
        self._waiting = 0

    def dead_letter(self, delivery: Delivery, letters: Sequence[Letter]) -> None:
        """Publish a record for each letter, then ack the delivery that held them."""
        if self._waiting >= MAX_WAITING:
            self.release([delivery], CROWDED_DELAY_SECONDS)
            return
        self._waiting += 1
        first = letters[0]  # its text may quote events, so it is only in the letter
        log.error("%d dead letter(s), the first one %s (%s)", len(letters), first.reason, type(first.error).__name__)
        self._group.create_task(self._settle(delivery, letters))

    def release(self, deliveries: Sequence[Delivery], delay_seconds: float) -> None:
        """Release messages with a delay."""
        self._group.create_task(self._leases.release(deliveries, delay_seconds))

    def open(self, delivery: Delivery) -> Message | None:
        """Return the decoded message. Dead-letter an undecodable one, and release one that a newer program wrote."""
        body = original_body(delivery)
        try:
            return open_message(delivery, body)
        except UnknownFrameVersion as error:
            if time.time() - delivery.enqueued_at_ms / 1000 > UPGRADE_SECONDS:
                self.dead_letter(delivery, [Letter("undecodable", body, error)])
            else:
                log.error("%s: upgrade the consumers; the message stays in the queue", error)
                self.release([delivery], UNKNOWN_VERSION_DELAY_SECONDS)
        except MemoryError:
            log.error("not enough memory to decode a message: releasing it")
            self.release([delivery], CROWDED_DELAY_SECONDS)
        except Exception as error:  # any error, because it must not affect the messages received with this one
            self.dead_letter(delivery, [Letter("undecodable", body, error)])
        return None

    def _record(self, delivery: Delivery, letter: Letter) -> frames.DeadRecord:
        return frames.DeadRecord(
            reason=letter.reason,
            code=type(letter.error.__cause__ or letter.error).__name__,
            message=str(letter.error),
            attempts=delivery.attempts,
            origin=type(self._queue).__name__,
            enqueued_at_ms=delivery.enqueued_at_ms,
            died_at_ms=time.time_ns() // 1_000_000,
            body=letter.body,
        )

    def _encode(self, record: frames.DeadRecord) -> bytes:
        """Return the encoded record. If a foreign message is too large for it, return the body alone, or cut it."""
        limit = self._queue.dead.max_body_bytes
        encoded = frames.encode_dead(record)
        if len(encoded) <= limit:
            return encoded
        return record.body if len(record.body) <= limit else frames.encode_dead(record, limit)

    async def _settle(self, delivery: Delivery, letters: Sequence[Letter]) -> None:
        records = [self._record(delivery, letter) for letter in letters]
        try:
            bodies = [self._encode(record) for record in records]
            await self._backoff.retry("dead-letter", lambda: self._publish(bodies, records))
            for reason, count in Counter(letter.reason for letter in letters).items():
                self._telemetry.bury(reason, count)
            await self._leases.ack([delivery])
        finally:
            self._waiting -= 1

    async def _publish(self, bodies: list[bytes], records: list[frames.DeadRecord]) -> None:
        """Publish the bodies, and remove the confirmed ones from both lists, so that a retry publishes only the rest.

        Cut a body that the queue refuses to the size that every queue accepts.
        """
        while bodies:
            page, partial = bodies[:_PAGE], None
            try:
                await self._queue.dead.publish(page, time.monotonic() + PUBLISH_SECONDS)
            except PartialFailure as failure:
                partial = failure
            for index in reversed(range(len(page))):
                why = partial.failed.get(index) if partial else None
                if why is None:
                    del bodies[index], records[index]
                elif isinstance(why, Refused):
                    bodies[index] = frames.encode_dead(records[index], MIN_BODY_BYTES)
            if partial:
                raise partial


def original_body(delivery: Delivery) -> bytes:
    """Return the body, or for a dead letter that the queue itself moved back, the dead body inside it."""
    return frames.decode_dead(delivery.body).body if frames.is_dead(delivery.body) else delivery.body
