"""Event and EventBatch: what travels from the API to the store. Limits, normalisation, identity."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

MAX_EVENT_BYTES = 32 * 1024
MAX_TAGS = 64
MAX_METADATA_DEPTH = 32
CLOCK_SKEW_MS = 5 * 60 * 1000
MIN_TIME_MS = 946_684_800_000  # 2000-01-01
MAX_TIME_MS = 4_102_444_800_000  # 2100-01-01
DEFAULT_PROJECT = "default"

VERSION_HASH_BITS = 21  # beside 42 bits of milliseconds (until 2109) a version fits a signed 64-bit integer

TimeMs = Annotated[int, Meta(ge=MIN_TIME_MS, le=MAX_TIME_MS)]


class Identity(NamedTuple):
    """What makes two events one: a store keeps one event per identity, the one with the greatest version."""

    project: str
    event_name: str
    timestamp_ms: int
    event_id: str


class Position(NamedTuple):
    """A place in the order of `Store.scan`: newest first, then by name, then by id."""

    timestamp_ms: int
    event_name: str
    event_id: str


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One accepted event.

    Attributes:
        project: the tenant it belongs to.
        event_name: what happened, 1–256 characters.
        timestamp_ms: when it happened, unix milliseconds.
        event_id: the sender's idempotency key, or the hex hash of the content.
        channel: where it happened, 1–64 characters.
        user_id: who did it, 1–256 characters.
        campaign_id: at most 256 characters, often empty.
        tags: at most 64 strings.
        metadata: a JSON object, the bytes that were sent; only line breaks between its tokens became spaces.
        received_at_ms: when the API took it, unix milliseconds.
        version: orders events of one identity, the greatest wins: (received_at_ms, content hash).
    """

    project: str
    event_name: str
    timestamp_ms: TimeMs
    event_id: str
    channel: str
    user_id: str
    campaign_id: str = ""
    tags: tuple[str, ...] = ()
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    received_at_ms: TimeMs
    version: Annotated[int, Meta(ge=0)]

    @property
    def identity(self) -> Identity:
        return Identity(self.project, self.event_name, self.timestamp_ms, self.event_id)

    @property
    def position(self) -> Position:
        return Position(self.timestamp_ms, self.event_name, self.event_id)


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Event)


def create_event(
    *,
    project: str,
    event_name: str,
    timestamp_us: int,
    channel: str,
    user_id: str,
    received_at_ms: int,
    campaign_id: str = "",
    tags: tuple[str, ...] = (),
    metadata: msgspec.Raw | bytes = b"{}",
    event_id: str = "",
) -> Event:
    """Build an event from valid fields; without an `event_id` the id is the hash of the content.

    Line breaks in `metadata`, mere white space in JSON, become spaces, so that an event always fits one line.

    The hash is 128 bits of BLAKE2b over the project and all fields, the time in microseconds, as a JSON array
    followed by the metadata's bytes: two events that differ in any field stay two.
    """
    metadata = bytes(metadata).replace(b"\n", b" ").replace(b"\r", b" ")
    fields = (project, event_name, timestamp_us, event_id, channel, user_id, campaign_id, tags)
    content = blake2b(_encode(fields) + metadata, digest_size=16).digest()
    return Event(
        project=project,
        event_name=event_name,
        timestamp_ms=timestamp_us // 1000,
        event_id=event_id or content.hex(),
        channel=channel,
        user_id=user_id,
        campaign_id=campaign_id,
        tags=tags,
        metadata=msgspec.Raw(metadata),
        received_at_ms=received_at_ms,
        version=received_at_ms << VERSION_HASH_BITS | int.from_bytes(content[:3]) >> (24 - VERSION_HASH_BITS),
    )


def forget(event: Event) -> Event:
    """What a store may keep of an erased event: identity and version. No accepted event has an empty `user_id`."""
    return msgspec.structs.replace(event, channel="", user_id="", campaign_id="", tags=(), metadata=msgspec.Raw(b"{}"))


def encode_line(event: Event) -> bytes:
    """The event as one JSON object on one line; its keys are the attributes of `Event`."""
    return _encode(event)


def decode_line(line: bytes) -> Event:
    """The event of a line. Raises msgspec.DecodeError, RecursionError or UnicodeDecodeError when it is none."""
    return _decoder.decode(line)


def decode_lines(lines: bytes) -> list[Event]:
    """The events of lines, one after the other. Raises as `decode_line` does."""
    return _decoder.decode_lines(lines)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events with distinct identities, typed and as JSON lines; `lines[i]` is `events[i]`.

    A line's keys are the attributes of `Event`: times are integers in milliseconds, `tags` an array of
    strings, `metadata` an object, `version` an integer below 2**63.
    """

    events: Sequence[Event]
    lines: Sequence[bytes]

    @classmethod
    def of(cls, events: Iterable[Event]) -> "EventBatch":
        """Batch any events; of one identity only the greatest version stays."""
        winners: dict[Identity, Event] = {}
        for event in events:
            other = winners.setdefault(event.identity, event)
            if event.version > other.version:
                winners[event.identity] = event
        return cls(list(winners.values()), [encode_line(event) for event in winners.values()])

    def take(self, indexes: Iterable[int]) -> "EventBatch":
        """The part of the batch at these positions."""
        chosen = list(indexes)
        return EventBatch([self.events[i] for i in chosen], [self.lines[i] for i in chosen])

    def __len__(self) -> int:
        return len(self.events)
