"""Messages on their way through the consumer: their rows, and a bounded buffer that sorts them by kind."""

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

SUSPECT_ATTEMPTS = 5  # a message that was received more often is tried in a subprocess first


class Row(msgspec.Struct, frozen=True, gc=False):
    """One event, its line, and the delivery that brought it."""

    event: Event
    line: bytes
    delivery: Delivery


class Kind(IntEnum):
    """How a message must be handled. Kinds do not mix in a batch, so that trouble with one spares the others."""

    FRESH = 0  # received for the first time
    AGAIN = 1  # received before: its store was away, or its process died
    SUSPECT = 2  # received so often that it may be what its processes die of; not decoded here yet


@dataclass(eq=False, slots=True)
class Message:
    """A delivery and its rows. It is acked only when each of them is settled."""

    delivery: Delivery
    body: bytes
    rows: Sequence[Row] = ()
    received_at: float = field(default_factory=lambda: time.monotonic())
    bytes: int = 0

    @property
    def kind(self) -> Kind:
        if self.delivery.attempts > SUSPECT_ATTEMPTS:
            return Kind.SUSPECT
        return Kind.AGAIN if self.delivery.attempts > 1 else Kind.FRESH

    @property
    def events(self) -> int:
        return len(self.rows) or frames.count(self.body)


def open_message(delivery: Delivery, body: bytes) -> Message:
    """Decode a body. Raises UndecodableMessage, UnknownFrameVersion, or whatever a broken body makes of the decoder."""
    pairs = frames.decode_frame(body)
    rows = [Row(event, line, delivery) for event, line in pairs]
    return Message(delivery, body, rows, bytes=sum([len(line) for _, line in pairs]))


def latest(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows without those that a greater version of the same event, among them, makes pointless."""
    if len({row.event.event_id for row in rows}) == len(rows):  # nearly always: then no identities are needed
        return rows
    winners: dict[Identity, Row] = {}
    for row in rows:
        other = winners.setdefault(row.event.identity, row)
        if row.event.version > other.event.version:
            winners[row.event.identity] = row
    return list(winners.values())


def cut(rows: Sequence[Row], max_rows: int, max_bytes: int) -> Iterator[Sequence[Row]]:
    """The rows in parts that keep to the limits, even if one message alone is over them."""
    start = size = 0
    for index, row in enumerate(rows):
        if index > start and (index - start == max_rows or size + len(row.line) > max_bytes):
            yield rows[start:index]
            start, size = index, 0
        size += len(row.line)
    yield rows[start:]


def batch_of(rows: Sequence[Row]) -> EventBatch:
    """Rows of distinct events as a batch; `rows[i]` is at position i."""
    return EventBatch([row.event for row in rows], [row.line for row in rows])


def halves(items: Sequence[T]) -> list[Sequence[T]]:
    """Both halves in random order: what a time limit leaves out today comes first another time."""
    half = len(items) // 2
    both = [items[:half], items[half:]]
    random.shuffle(both)
    return both


class Buffer:
    """Messages in order of arrival, one line for each kind, and how much they are together."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.changed = asyncio.Event()
        self.is_closed = False  # nothing more comes
        self._lines: dict[Kind, deque[Message]] = {kind: deque() for kind in Kind}
        self._events = dict.fromkeys(Kind, 0)
        self._bytes = dict.fromkeys(Kind, 0)
        self._max_events = max_events
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    @property
    def free_bytes(self) -> int:
        return max(0, self._max_bytes - sum(self._bytes.values()))

    @property
    def free_events(self) -> int:
        """How many more events it may hold; 0 if there is no room left."""
        if not self.free_bytes:
            return 0
        return max(0, self._max_events - sum(self._events.values()))

    def is_crowded(self, kind: Kind) -> bool:
        """Whether so many wait that more of this kind would keep out the others."""
        return self._events[kind] * 2 >= self._max_events or self._bytes[kind] * 2 >= self._max_bytes

    def holds(self, kind: Kind, events: int, bytes: int) -> bool:
        """Whether at least so much of this kind waits."""
        return bool(self._lines[kind]) and (self._events[kind] >= events or self._bytes[kind] >= bytes)

    def oldest_at(self, kind: Kind) -> float | None:
        """When the oldest message of this kind was received."""
        line = self._lines[kind]
        return line[0].received_at if line else None

    def append(self, message: Message) -> None:
        self._lines[message.kind].append(message)
        self._events[message.kind] += message.events
        self._bytes[message.kind] += message.bytes
        self.changed.set()

    async def wait(self, seconds: float) -> None:
        """Wait until something has changed, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()

    def close(self) -> None:
        self.is_closed = True
        self.changed.set()

    def take(self, kind: Kind, max_events: int, max_bytes: int) -> list[Message]:
        """The oldest message of this kind, and as many more as fit with it."""
        line, taken = self._lines[kind], list[Message]()
        events = size = 0
        while line and (not taken or (events + line[0].events <= max_events and size + line[0].bytes <= max_bytes)):
            message = line.popleft()
            events, size = events + message.events, size + message.bytes
            taken.append(message)
        self._events[kind] -= events
        self._bytes[kind] -= size
        return taken
