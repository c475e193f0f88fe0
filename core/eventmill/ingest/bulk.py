"""Bulks: split a body into events, and validate each one alone."""

import asyncio
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from eventmill.errors import InvalidRequest, PayloadTooLarge
from eventmill.event import encode_line
from eventmill.ingest import rawjson
from eventmill.ingest.validation import malformed, parse_event

MAX_BULK_EVENTS = 10_000
_YIELD_EVERY = 500
_NDJSON_TYPES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")
_LINE = re.compile(rb"[^\s][^\n]*")
# Every item costs memory, even if it is not an event: 10,000 ordinary events do not have this many commas.
_MANY_COMMAS = 300_000
_SHAPES = (
    'the body must be {"events": […]}, an array, or NDJSON with Content-Type: application/x-ndjson;'
    " a single event goes to /events"
)


class _BulkBody(msgspec.Struct, forbid_unknown_fields=True):
    """The object form of a bulk."""

    events: list[msgspec.Raw]


_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(_BulkBody).decode


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one item is rejected. It holds values only: an exception would keep the item's frame and body alive."""

    index: int
    kind: type[InvalidRequest]
    field: str | None
    message: str


@dataclass(slots=True)
class Bulk:
    """The result of validating a bulk.

    Attributes:
        lines: the lines of the valid events.
        event_ids: the id of each item, None if it is rejected.
        rejected: the rejected items.
    """

    lines: list[bytes] = field(default_factory=list)
    event_ids: list[str | None] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


async def parse_bulk(body: bytes, content_type: bytes, project: str, now_ms: int, oldest_ms: int) -> Bulk:
    """Validate each event of the body. Raise InvalidRequest or PayloadTooLarge for the body as a whole."""
    bulk = Bulk()
    for index, item in enumerate(await _split(body, content_type)):
        if index % _YIELD_EVERY == _YIELD_EVERY - 1:
            await asyncio.sleep(0)
        try:
            event = parse_event(item, project, now_ms, oldest_ms)
        except InvalidRequest as error:
            bulk.rejected.append(Rejection(index, type(error), error.field, error.message))
            bulk.event_ids.append(None)
        else:
            bulk.lines.append(encode_line(event))
            bulk.event_ids.append(event.event_id)
    return bulk


async def _split(body: bytes, content_type: bytes) -> Sequence[bytes | msgspec.Raw]:
    """Return the items of a bulk: its lines, or the elements of its array. Raise InvalidRequest, PayloadTooLarge."""
    if not body or body.isspace():
        raise InvalidRequest("the body is empty: send at least one event")
    if content_type.partition(b";")[0].strip() in _NDJSON_TYPES:
        items: Sequence[bytes | msgspec.Raw] = _limited(line[0] for line in _LINE.finditer(body))
    else:
        try:
            items = _split_fast(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            items = await asyncio.to_thread(_split_tolerantly, body, error)
    if not items:
        raise InvalidRequest("the body contains no event")
    if len(items) > MAX_BULK_EVENTS:
        raise PayloadTooLarge(f"the body contains more than {MAX_BULK_EVENTS} events: split it")
    return items


def _limited(items: Iterator[bytes]) -> list[bytes]:
    """Return the items, at most one more than the limit."""
    return [item for item, _ in zip(items, range(MAX_BULK_EVENTS + 1), strict=False)]


def _split_fast(body: bytes) -> Sequence[msgspec.Raw]:
    # Of two members named "events", msgspec would silently use the last.
    if body.count(b",") > _MANY_COMMAS or body.count(b'"events"') > 1:
        raise OverflowError
    return _decode_array(body) if body.lstrip()[:1] == b"[" else _decode_object(body).events


def _split_tolerantly(body: bytes, error: Exception) -> list[bytes]:
    """Split a body that cannot be decoded as a whole, so that only the malformed items are rejected."""
    try:
        if body.lstrip()[:1] == b"{":
            parts = list(itertools.islice(rawjson.members(body), 2))
            if [part.key for part in parts] != [b'"events"']:
                raise InvalidRequest(_SHAPES)
            body = parts[0].value
        return _limited(part.value for part in rawjson.elements(body))
    except ValueError:
        if isinstance(error, msgspec.ValidationError):
            raise InvalidRequest(_SHAPES) from None
        hint = "; one event per line needs Content-Type: application/x-ndjson" if b"}\n{" in body[:65536] else ""
        raise InvalidRequest(f"the body {malformed(body, error)}{hint}") from None
