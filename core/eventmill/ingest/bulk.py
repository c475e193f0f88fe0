"""Bulks: split a body into events, and validate each one alone."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from eventmill.errors import InvalidRequest, PayloadTooLarge
from eventmill.event import encode_line
from eventmill.ingest import rawjson, windows
from eventmill.ingest.validation import malformed, parse_event
from eventmill.turns import Line

MAX_BULK_EVENTS = 10_000
MAX_KEY_LENGTH = 128
MAX_REPORTED = 100  # of the rejected events, in the response
_NDJSON_TYPES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")
_MAX_LINES = 10 * MAX_BULK_EVENTS  # also blank ones
_SHAPES = (
    'the body must be {"events": […]}, an array, or NDJSON with Content-Type: application/x-ndjson;'
    " a single event goes to /events"
)


class _BulkBody(msgspec.Struct, forbid_unknown_fields=True):
    """The object form of a bulk; `api_key` is for clients that cannot set headers."""

    events: list[msgspec.Raw]
    api_key: Annotated[str, msgspec.Meta(max_length=MAX_KEY_LENGTH)] = ""


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
        rejected: the first rejected items, as many as are reported.
        kinds: the number of rejected items by class of error.
    """

    lines: list[bytes] = field(default_factory=list)
    event_ids: list[str | None] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    kinds: Counter[type[InvalidRequest]] = field(default_factory=Counter)


Items = Sequence[bytes | msgspec.Raw]


async def parse_bulk(items: Items, project: str, now_ms: int, oldest_ms: int, line: Line) -> Bulk:
    """Validate each item alone. Other requests are served meanwhile."""
    bulk = Bulk()
    turn_ends = await line.turn()
    for index, item in enumerate(items):
        if time.monotonic() > turn_ends:
            turn_ends = await line.turn()
        try:
            event = parse_event(item, project, now_ms, oldest_ms)
        except InvalidRequest as error:
            bulk.kinds[type(error)] += 1
            if len(bulk.rejected) < MAX_REPORTED:
                bulk.rejected.append(Rejection(index, type(error), error.field, error.message))
            bulk.event_ids.append(None)
        else:
            bulk.lines.append(encode_line(event))
            bulk.event_ids.append(event.event_id)
    return bulk


async def split_bulk(body: bytes, content_type: bytes, line: Line) -> tuple[Items, str]:
    """Return the items of a bulk, which are its lines or the elements of its array, and the key in it, if any.

    Raise InvalidRequest or PayloadTooLarge for the body as a whole.
    """
    if not body or body.isspace():
        raise InvalidRequest("the body is empty: send at least one event")
    if content_type.partition(b";")[0].strip() in _NDJSON_TYPES:
        items, key = await _split_lines(body, line), ""
    else:
        items, key = await _split_json(body, line)
    if not items:
        raise InvalidRequest("the body contains no event")
    if len(items) > MAX_BULK_EVENTS:
        raise PayloadTooLarge(f"the body contains more than {MAX_BULK_EVENTS} events: split it")
    return items, key


async def _split_lines(body: bytes, line: Line) -> Items:
    """Return the lines that are not blank, at most one more than the limit. Other requests are served meanwhile."""
    items: list[bytes] = []
    start, turn_ends = 0, await line.turn()
    for count in range(_MAX_LINES):
        if count % 64 == 0 and time.monotonic() > turn_ends:
            turn_ends = await line.turn()
        end = body.find(b"\n", start)
        if item := body[start : None if end < 0 else end].strip():
            items.append(item)
        if end < 0 or len(items) > MAX_BULK_EVENTS:
            return items
        start = end + 1
    raise PayloadTooLarge(f"the body has more than {_MAX_LINES} lines: leave out empty ones")


async def _split_json(body: bytes, line: Line) -> tuple[Items, str]:
    is_shape, reason = False, "is not a complete JSON array of events, or it is too complex"
    if len(body) > windows.WINDOW_BYTES:
        if split := await windows.split(body, MAX_BULK_EVENTS, line):
            return split
    else:
        try:
            return _split_fast(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            is_shape, reason = isinstance(error, msgspec.ValidationError), malformed(body, error)
    return await asyncio.to_thread(_split_tolerantly, body, reason, is_shape=is_shape)


def _limited(items: Iterator[bytes]) -> Items:
    """Return the items, at most one more than the limit."""
    return [item for item, _ in zip(items, range(MAX_BULK_EVENTS + 1), strict=False)]


def _split_fast(body: bytes) -> tuple[Items, str]:
    # Of two members named "events", msgspec would silently use the last.
    if body.count(b'"events"') > 1:
        raise OverflowError
    if body.lstrip()[:1] == b"[":
        return _decode_array(body), ""
    bulk = _decode_object(body)
    return bulk.events, bulk.api_key


def _split_tolerantly(body: bytes, reason: str, *, is_shape: bool) -> tuple[Items, str]:
    """Split a body that cannot be decoded as a whole, so that only the malformed items are rejected."""
    key = b""
    try:
        if body.lstrip()[:1] == b"{":
            parts = list(itertools.islice(rawjson.members(body), 3))
            values = {part.key: part.value for part in parts}
            if (
                len(values) < len(parts)
                or b'"events"' not in values
                or not values.keys() <= {b'"events"', b'"api_key"'}
            ):
                raise InvalidRequest(_SHAPES)
            body, key = values[b'"events"'], values.get(b'"api_key"', b"")
        return _limited(part.value for part in rawjson.elements(body)), _key_of(key)
    except ValueError:
        if is_shape:
            raise InvalidRequest(_SHAPES) from None
        hint = "; one event per line needs Content-Type: application/x-ndjson" if b"}\n{" in body[:65536] else ""
        raise InvalidRequest(f"the body {reason}{hint}") from None


def _key_of(text: bytes) -> str:
    """Return the key in the JSON text of a member, or an empty text if there is none. Raise InvalidRequest."""
    if text and (text[:1] != b'"' or len(text) > MAX_KEY_LENGTH + 2):
        raise InvalidRequest(f"api_key must be a text of at most {MAX_KEY_LENGTH} characters", "api_key")
    return text[1:-1].decode("latin-1")
