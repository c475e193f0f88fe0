"""Messages inside the consumer: their rows, and a bounded buffer that sorts them by kind."""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

import msgspec

from eventmill import frames
from eventmill.event import Event, EventBatch, Identity
from eventmill.interfaces import Delivery

T = TypeVar("T")

QUARANTINE_ATTEMPTS = 5  # a message that was received more often is quarantined


class Row(msgspec.Struct, frozen=True, gc=False):
    """One event, its line, and the delivery that it came with."""

    event: Event
    line: bytes
    delivery: Delivery


class Kind(IntEnum):
    """How a message is handled. A batch holds one kind only, so that a failing message delays only its kind."""

    FRESH = 0  # received for the first time
    AGAIN = 1  # received before: the store was unavailable, or the process died
    QUARANTINED = 2  # received so often that it may crash consumers; not decoded in this process yet


@dataclass(eq=False, slots=True)
class Message:
    """A delivery and its rows. It is acked only when every row is settled."""

    delivery: Delivery
    body: bytes
    rows: Sequence[Row] = ()
    received_at: float = field(default_factory=lambda: time.monotonic())
    bytes: int = 0

    @property
    def kind(self) -> Kind:
        if self.delivery.attempts > QUARANTINE_ATTEMPTS:
            return Kind.QUARANTINED
        return Kind.AGAIN if self.delivery.attempts > 1 else Kind.FRESH

    @property
    def events(self) -> int:
        return len(self.rows) or frames.count(self.body)


def open_message(delivery: Delivery, body: bytes) -> Message:
    """Decode a body. Raise UndecodableMessage, UnknownFrameVersion, or any error that the decoder may have."""
    pairs = frames.decode_frame(body)
    rows = [Row(event, line, delivery) for event, line in pairs]
    return Message(delivery, body, rows, bytes=sum([len(line) for _, line in pairs]))


def latest(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows with only the greatest version of each event."""
    if len({row.event.event_id for row in rows}) == len(rows):  # nearly always, and cheaper than comparing identities
        return rows
    winners: dict[Identity, Row] = {}
    for row in rows:
        other = winners.setdefault(row.event.identity, row)
        if row.event.version > other.event.version:
            winners[row.event.identity] = row
    return list(winners.values())


def cut(rows: Sequence[Row], max_rows: int, max_bytes: int) -> Iterator[Sequence[Row]]:
    """Yield the rows in parts within the limits, even if one message alone exceeds them."""
    start = size = 0
    for index, row in enumerate(rows):
        if index > start and (index - start == max_rows or size + len(row.line) > max_bytes):
            yield rows[start:index]
            start, size = index, 0
        size += len(row.line)
    yield rows[start:]


def batch_of(rows: Sequence[Row]) -> EventBatch:
    """Return rows of distinct events as a batch; `rows[i]` has index i in it."""
    return EventBatch([row.event for row in rows], [row.line for row in rows])


def halves(items: Sequence[T]) -> list[Sequence[T]]:
    """Return both halves in random order, so that a time limit does not always exclude the same rows."""
    half = len(items) // 2
    both = [items[:half], items[half:]]
    random.shuffle(both)
    return both


class Buffer:
    """Messages in order of arrival, separately for each kind, with their total size."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.changed = asyncio.Event()
        self.is_closed = False  # no more messages will arrive
        self._messages: dict[Kind, deque[Message]] = {kind: deque() for kind in Kind}
        self._events = dict.fromkeys(Kind, 0)
        self._bytes = dict.fromkeys(Kind, 0)
        self._max_events = max_events
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return sum(map(len, self._messages.values()))

    @property
    def events(self) -> int:
        return sum(self._events.values())

    @property
    def bytes(self) -> int:
        return sum(self._bytes.values())

    @property
    def free_bytes(self) -> int:
        return max(0, self._max_bytes - self.bytes)

    @property
    def free_events(self) -> int:
        """The number of events for which there is room."""
        if not self.free_bytes:
            return 0
        return max(0, self._max_events - self.events)

    def is_crowded(self, kind: Kind) -> bool:
        """Return whether this kind already uses half of the buffer."""
        return self._events[kind] * 2 >= self._max_events or self._bytes[kind] * 2 >= self._max_bytes

    def holds(self, kind: Kind, events: int, bytes: int) -> bool:
        """Return whether at least this much of the kind waits."""
        return bool(self._messages[kind]) and (self._events[kind] >= events or self._bytes[kind] >= bytes)

    def oldest_at(self, kind: Kind) -> float | None:
        """Return when the oldest message of this kind was received, or None."""
        queue = self._messages[kind]
        return queue[0].received_at if queue else None

    def append(self, message: Message) -> None:
        self._messages[message.kind].append(message)
        self._events[message.kind] += message.events
        self._bytes[message.kind] += message.bytes
        self.changed.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a change, at most this many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()

    def close(self) -> None:
        self.is_closed = True
        self.changed.set()

    def take(self, kind: Kind, max_events: int, max_bytes: int) -> list[Message]:
        """Remove and return the oldest message of this kind, and as many more as fit within the limits."""
        queue, taken = self._messages[kind], list[Message]()
        events = size = 0
        while queue and (not taken or (events + queue[0].events <= max_events and size + queue[0].bytes <= max_bytes)):
            message = queue.popleft()
            events, size = events + message.events, size + message.bytes
            taken.append(message)
        self._events[kind] -= events
        self._bytes[kind] -= size
        return taken
