"""POST /events and POST /events/bulk: bare ASGI endpoints, since they are the busy ones."""

import asyncio
import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from starlette.types import Receive, Scope, Send

from eventmill import rawjson
from eventmill.api.body import Reader, header
from eventmill.api.errors import code_of
from eventmill.api.receipts import Receipts
from eventmill.errors import InvalidRequest, PayloadTooLarge
from eventmill.event import MIN_TIME_MS, encode_line
from eventmill.publisher import Publisher
from eventmill.validation import malformed, parse_event

MAX_BULK_EVENTS = 10_000
_YIELD_EVERY = 500
_DAY_MS = 86_400_000
_NDJSON_TYPES = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")
_LINE = re.compile(rb"[^\s][^\n]*")
# An item costs memory even when it is no event: so many commas cannot belong to 10 000 ordinary events.
_MANY_COMMAS = 300_000
_SHAPES = (
    'the body must be {"events": […]}, an array, or NDJSON with Content-Type: application/x-ndjson;'
    " a single event goes to /events"
)


class BulkBody(msgspec.Struct, forbid_unknown_fields=True):
    """The object form of a bulk."""

    events: list[msgspec.Raw]


class ItemError(msgspec.Struct):
    """Why one item of a bulk was refused."""

    index: int
    code: str
    field: str | None
    message: str


class BulkAnswer(msgspec.Struct, omit_defaults=True):
    """The verdict on a bulk; `error` and `message` are there when no event was good."""

    accepted: int
    rejected: int
    event_ids: list[str | None]
    errors: list[ItemError]
    error: str = ""
    message: str = ""


_encode = msgspec.json.Encoder().encode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(BulkBody).decode


@dataclass(frozen=True, slots=True)
class PostEvent:
    """POST /events: one event, 202 once the queue has it; with ?wait=stored 200 once the store has it, too."""

    publisher: Publisher
    reader: Reader
    receipts: Receipts
    project: str
    retention_days: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        waits = _waits(scope["query_string"])
        with self.reader.budget.hold() as hold:
            body = await self.reader.read(scope, receive, hold)
            now_ms = _now_ms()
            event = parse_event(body, self.project, now_ms, _oldest_ms(now_ms, self.retention_days))
            line = encode_line(event)
            hold.grow(len(line))
            await self.publisher.publish([line])
        if waits and await self.receipts.wait(event):
            await _respond(send, 200, _encode({"event_id": event.event_id, "status": "stored"}))
        else:
            await _respond(send, 202, _encode({"event_id": event.event_id, "status": "accepted"}))


def _waits(query: bytes) -> bool:
    """Whether the caller waits for the store. Raises InvalidRequest for any other query."""
    if query in (b"", b"wait=stored"):
        return bool(query)
    raise InvalidRequest("the only parameter is wait=stored", "wait")


@dataclass(frozen=True, slots=True)
class PostBulk:
    """POST /events/bulk: many events, a verdict for each, 202 once the queue has all the good ones."""

    publisher: Publisher
    reader: Reader
    project: str
    retention_days: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.reader.budget.hold() as hold:
            body = await self.reader.read(scope, receive, hold)
            items = await _split(body, header(scope, b"content-type"))
            answer, lines = await _check(items, self.project, self.retention_days)
            if lines:
                hold.grow(sum(map(len, lines)))
                await self.publisher.publish(lines)
        await _respond(send, 202 if lines else 400, _encode(answer))


async def _check(
    items: Sequence[bytes | msgspec.Raw], project: str, retention_days: int | None
) -> tuple[BulkAnswer, list[bytes]]:
    """The verdict on each item, and the lines of the good ones."""
    now_ms = _now_ms()
    oldest_ms = _oldest_ms(now_ms, retention_days)
    answer = BulkAnswer(0, 0, [], [])
    lines: list[bytes] = []
    for index, item in enumerate(items):
        if index % _YIELD_EVERY == _YIELD_EVERY - 1:
            await asyncio.sleep(0)
        try:
            event = parse_event(item, project, now_ms, oldest_ms)
        except InvalidRequest as error:
            answer.errors.append(ItemError(index, code_of(error), error.field, error.message))
            answer.event_ids.append(None)
        else:
            lines.append(encode_line(event))
            answer.event_ids.append(event.event_id)
    answer.accepted, answer.rejected = len(lines), len(answer.errors)
    if not lines:
        answer.error = "validation_error"
        answer.message = f"none of the {len(items)} events is good; the first: {answer.errors[0].message}"
    return answer, lines


async def _split(body: bytes, content_type: bytes) -> Sequence[bytes | msgspec.Raw]:
    """The items of a bulk: one per line, or the elements of the array. Raises InvalidRequest, PayloadTooLarge."""
    if not body or body.isspace():
        raise InvalidRequest("no event was sent: the body is empty")
    if content_type.partition(b";")[0].strip() in _NDJSON_TYPES:
        items: Sequence[bytes | msgspec.Raw] = _limited(line[0] for line in _LINE.finditer(body))
    else:
        try:
            items = _split_quickly(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            items = await asyncio.to_thread(_split_carefully, body, error)
    if not items:
        raise InvalidRequest("the body holds no event")
    if len(items) > MAX_BULK_EVENTS:
        raise PayloadTooLarge(f"the body holds more than {MAX_BULK_EVENTS} events: send several")
    return items


def _limited(items: Iterator[bytes]) -> list[bytes]:
    """The items, or the first few too many."""
    return [item for item, _ in zip(items, range(MAX_BULK_EVENTS + 1), strict=False)]


def _split_quickly(body: bytes) -> Sequence[msgspec.Raw]:
    # Of two members named events msgspec would silently take the last.
    if body.count(b",") > _MANY_COMMAS or body.count(b'"events"') > 1:
        raise OverflowError
    return _decode_array(body) if body.lstrip()[:1] == b"[" else _decode_object(body).events


def _split_carefully(body: bytes, error: Exception) -> list[bytes]:
    """Split a body that cannot be decoded as a whole, so that the items around the bad one are kept."""
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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _oldest_ms(now_ms: int, retention_days: int | None) -> int:
    """What is older would be dropped at once, so it is refused."""
    return MIN_TIME_MS if retention_days is None else max(MIN_TIME_MS, now_ms - retention_days * _DAY_MS)


async def _respond(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
