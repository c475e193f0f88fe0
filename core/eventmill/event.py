"""Event and EventBatch: what travels from the API to the store. `Event` is the table of event fields."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec
from msgspec import Meta

from eventmill.fields import (
    MAX_NAME_CHARACTERS,
    EventField,
    assigned,
    json_object,
    optional_text,
    text,
    text_list,
    timestamp,
)

MAX_EVENT_BYTES = 32 * 1024
MAX_METADATA_DEPTH = 32
CLOCK_SKEW_MS = 5 * 60 * 1000
MIN_TIME_MS = 946_684_800_000  # 2000-01-01
MAX_TIME_MS = 4_102_444_800_000  # 2100-01-01
ALL_TIME = (MIN_TIME_MS, MAX_TIME_MS + 1)  # start and end of a filter that matches every event
DEFAULT_PROJECT = "default"

HASH_VERSION = 1  # of the content hash; tests/data/event_ids.json holds its golden vectors
VERSION_HASH_BITS = 21  # together with 42 bits of milliseconds (until 2109) a version fits a signed 64-bit integer

TimeMs = Annotated[int, Meta(ge=MIN_TIME_MS, le=MAX_TIME_MS)]


class Identity(NamedTuple):
    """Two events with the same identity are one event; a store keeps the one with the greatest version."""

    project: str
    event_name: str
    timestamp_ms: int
    event_id: str


class Position(NamedTuple):
    """A position in the order of `Store.scan`: newest first, then by name, then by id."""

    timestamp_ms: int
    event_name: str
    event_id: str


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """One accepted event, and the table of its fields. Times are unix milliseconds.

    A new optional field is one entry here, with a default, and its test. `event_id` is the sender's idempotency key or
    the hash of the content. `metadata` holds the bytes that were sent; only line breaks between tokens become spaces.
    `version` is (received_at_ms, content hash): of two events with one identity the greater version wins.
    """

    project: Annotated[str, assigned("the project (tenant) that the event belongs to")]
    event_name: Annotated[str, text("what happened", MAX_NAME_CHARACTERS, example="product_view")]
    timestamp_ms: Annotated[TimeMs, timestamp("when it happened")]
    event_id: Annotated[
        str, optional_text("an idempotency key; default: a hash of the event", 128, least=1, varied=True)
    ]
    channel: Annotated[str, text("where it happened", 64, example="web")]
    user_id: Annotated[str, text("who did it", 256, varied=True, example="user_123")]
    campaign_id: Annotated[str, optional_text("the campaign that led to it", 256, example="cmp_987")] = ""
    tags: Annotated[tuple[str, ...], text_list("labels", ["test"])] = ()
    metadata: Annotated[msgspec.Raw, json_object("further properties, kept verbatim", {"test": True})] = msgspec.Raw(
        b"{}"
    )
    received_at_ms: Annotated[TimeMs, assigned("when the API accepted it", "Int64")]
    version: Annotated[int, Meta(ge=0), assigned("orders events of one identity", "UInt64")]

    @property
    def identity(self) -> Identity:
        return Identity(self.project, self.event_name, self.timestamp_ms, self.event_id)

    @property
    def position(self) -> Position:
        return Position(self.timestamp_ms, self.event_name, self.event_id)


def _read_table() -> tuple[EventField, ...]:
    hints = get_type_hints(Event, include_extras=True)
    defaults = {field.name: field.default for field in msgspec.structs.fields(Event)}
    entries = []
    for name, hint in hints.items():
        [entry] = [item for item in hint.__metadata__ if isinstance(item, EventField)]
        entries.append(entry.named(name, "" if defaults[name] is msgspec.NODEFAULT else defaults[name]))
    return tuple(entries)


EVENT_FIELDS = _read_table()
_HASHED = ("project", "event_name", "timestamp_ms", "event_id", "channel", "user_id", "campaign_id", "tags", "metadata")
# Fields that came after hash version 1: they change the hash of an event only if it has them.
ADDED_FIELDS = tuple(field for field in EVENT_FIELDS if field.sent is not None and field.name not in _HASHED)


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
    **added: Any,
) -> Event:
    """Build an event from valid fields; without an `event_id` the id is the hash of the content.

    Line breaks in `metadata`, which are white space in JSON, become spaces, so that an event fits on one line.

    The hash (`HASH_VERSION` 1) is 128 bits of BLAKE2b over a JSON array followed by the bytes of the metadata. The
    array holds project, name, time in microseconds, id, channel, user, campaign and tags. If the event has fields of
    `ADDED_FIELDS` that differ from their defaults, the array ends with an object of these. So two events that differ
    in any field stay two, and a field that is added to the table changes no id of an event that lacks it.
    """
    texts = event_id, channel, user_id, campaign_id
    return build_event(project, event_name, timestamp_us, *texts, tags, metadata, received_at_ms, added)


def build_event(
    project: str,
    event_name: str,
    timestamp_us: int,
    event_id: str,
    channel: str,
    user_id: str,
    campaign_id: str,
    tags: tuple[str, ...],
    metadata: msgspec.Raw | bytes,
    received_at_ms: int,
    added: dict[str, Any],
) -> Event:
    """Do the work of `create_event`; positional arguments make it faster for the API."""
    metadata = bytes(metadata).replace(b"\n", b" ").replace(b"\r", b" ")
    fields: tuple[object, ...] = (project, event_name, timestamp_us, event_id, channel, user_id, campaign_id, tags)
    if added:
        added = {name: _on_one_line(value) for name, value in added.items()}
        if present := _present(added):
            fields = (*fields, present)
    content = blake2b(_encode(fields) + metadata, digest_size=16).digest()
    event = Event(
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
    return msgspec.structs.replace(event, **added) if added else event


def _on_one_line(value: Any) -> Any:
    """Return the value of a field, a JSON object without line breaks."""
    if isinstance(value, msgspec.Raw):
        return msgspec.Raw(bytes(value).replace(b"\n", b" ").replace(b"\r", b" "))
    return value


def _present(added: dict[str, Any]) -> dict[str, Any]:
    """Return the added fields that differ from their defaults, in an order that does not depend on the table."""
    fields = sorted(ADDED_FIELDS, key=lambda field: field.name)
    return {field.name: added[field.name] for field in fields if added.get(field.name, field.default) != field.default}


FORGOTTEN = {
    field.name: field.default for field in EVENT_FIELDS if field.sent is not None and field.name not in Identity._fields
}


def forget(event: Event) -> Event:
    """Return what a store may keep of an erased event: identity and version. The other fields become empty.

    No accepted event has an empty `user_id`.
    """
    return msgspec.structs.replace(event, **FORGOTTEN)


def to_sent_form(event: Event) -> dict[str, Any]:
    """Return the fields that a client sends, as plain values for JSON; the time is in seconds."""
    form = {field.sent_as: _plain(getattr(event, field.name)) for field in EVENT_FIELDS if field.sent is not None}
    return form | {"timestamp": event.timestamp_ms / 1000}


def to_sent_line(event: Event) -> dict[str, Any]:
    """Return the fields that a client sends, for msgspec, which writes the metadata byte for byte."""
    form = {field.sent_as: getattr(event, field.name) for field in EVENT_FIELDS if field.sent is not None}
    return form | {"timestamp": event.timestamp_ms / 1000}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return json.loads(bytes(value))
    return list(value) if isinstance(value, tuple) else value


def encode_line(event: Event) -> bytes:
    """Return the event as one JSON object on one line; its keys are the attributes of `Event`."""
    return _encode(event)


def decode_line(line: bytes) -> Event:
    """Return the event of a line. Raise msgspec.DecodeError, RecursionError or UnicodeDecodeError if it holds none."""
    return _decoder.decode(line)


def decode_lines(lines: bytes) -> list[Event]:
    """Return the events of consecutive lines. Raise as `decode_line` does."""
    return _decoder.decode_lines(lines)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events with distinct identities, typed and as JSON lines: `lines[i]` is `events[i]`.

    The keys of a line are the attributes of `Event`: times are integers in milliseconds, `tags` is an array of strings,
    `metadata` is an object, and `version` is an integer below 2**63.
    """

    events: Sequence[Event]
    lines: Sequence[bytes]

    @classmethod
    def of(cls, events: Iterable[Event]) -> "EventBatch":
        """Return a batch of these events, with only the greatest version of each identity."""
        winners: dict[Identity, Event] = {}
        for event in events:
            other = winners.setdefault(event.identity, event)
            if event.version > other.version:
                winners[event.identity] = event
        return cls(list(winners.values()), [encode_line(event) for event in winners.values()])

    def take(self, indexes: Iterable[int]) -> "EventBatch":
        """Return the part of the batch at these indexes."""
        chosen = list(indexes)
        return EventBatch([self.events[i] for i in chosen], [self.lines[i] for i in chosen])

    def __len__(self) -> int:
        return len(self.events)
