"""POST /events and POST /events/bulk: plain ASGI endpoints, because they handle most requests."""

import time
from dataclasses import dataclass

import msgspec
from starlette.types import Receive, Scope, Send

from eventmill.api.access import Access
from eventmill.api.errors import code_of, request_id_of
from eventmill.api.receipts import Receipts
from eventmill.api.refused import RefusedEvents
from eventmill.errors import EventmillError, InvalidRequest, Unauthenticated
from eventmill.event import MIN_TIME_MS, encode_line
from eventmill.hookspecs import NO_KEY, Principal
from eventmill.ingest.body import Reader, header
from eventmill.ingest.bulk import Bulk, Items, parse_bulk, split_bulk
from eventmill.ingest.publisher import Publisher
from eventmill.ingest.validation import parse_event
from eventmill.turns import Line

_DAY_MS = 86_400_000


class ItemError(msgspec.Struct):
    """Why one item of a bulk is rejected."""

    index: int
    code: str
    field: str | None
    message: str


class BulkResponse(msgspec.Struct, omit_defaults=True):
    """The verdict on each item of a bulk.

    `errors` explains the first 100 rejected items; `error`, `message` and `request_id` are present if every item is
    rejected.
    """

    accepted: int
    rejected: int
    event_ids: list[str | None]
    errors: list[ItemError]
    error: str = ""
    message: str = ""
    request_id: str = ""


_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class PostEvent:
    """POST /events: respond 202 when the event is in the queue, or with ?wait=stored 200 when it is in the store."""

    publisher: Publisher
    reader: Reader
    receipts: Receipts
    refused: RefusedEvents
    access: Access
    retention_days: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        body = b""
        try:
            waits = _waits(scope["query_string"])
            with self.reader.budget.hold() as hold:
                body = await self.reader.read(scope, receive, hold)
                if header(scope, b"content-encoding"):
                    async with self.reader.line(scope, receive) as waiting_line:
                        body = await self.reader.decompress(scope, body, hold, waiting_line)
                now_ms = _now_ms()
                event = parse_event(body, principal.project, now_ms, _oldest_ms(now_ms, self.retention_days))
                line = encode_line(event)
                hold.grow(len(line))
                if self.access.limits.has_limits:
                    self.access.take_events(scope, principal, 1)
                await self.publisher.publish([line], principal.project)
        except EventmillError as error:
            self.refused.note(principal.project, error, body)
            raise
        if waits and await self.receipts.wait(event):
            await _respond(scope, send, 200, _encode({"event_id": event.event_id, "status": "stored"}))
        else:
            await _respond(scope, send, 202, _encode({"event_id": event.event_id, "status": "accepted"}))


def _waits(query: bytes) -> bool:
    """Return whether the caller waits for the store. Raise InvalidRequest for any other query string."""
    if query in (b"", b"wait=stored"):
        return bool(query)
    raise InvalidRequest("the only parameter is wait=stored", "wait")


@dataclass(frozen=True, slots=True)
class PostBulk:
    """POST /events/bulk: respond with a verdict for each event, 202 when all valid events are in the queue."""

    publisher: Publisher
    reader: Reader
    refused: RefusedEvents
    access: Access
    retention_days: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal | None = scope["state"]["principal"]
        body, bulk = b"", Bulk()
        try:
            with self.reader.budget.hold() as hold:
                body = await self.reader.read(scope, receive, hold)
                now_ms = _now_ms()
                async with self.reader.line(scope, receive) as line:
                    body = await self.reader.decompress(scope, body, hold, line)
                    items, key = await self._split(scope, body, line)
                    if principal is None:
                        principal = self.access.principal_of_body(key, scope)
                    oldest_ms = _oldest_ms(now_ms, self.retention_days)
                    bulk = await parse_bulk(items, principal.project, now_ms, oldest_ms, line)
                self.refused.note_items(principal.project, bulk, items)
                if bulk.lines:
                    hold.grow(sum(map(len, bulk.lines)))
                    self.access.take_events(scope, principal, len(bulk.lines))
                    await self.publisher.publish(bulk.lines, principal.project)
        except EventmillError as error:
            if principal is not None:  # otherwise nobody knows whose events these are
                self.refused.note(principal.project, error, body, len(bulk.lines) or 1)
            raise
        errors = [ItemError(item.index, code_of(item.kind), item.field, item.message) for item in bulk.rejected]
        rejected = len(bulk.event_ids) - len(bulk.lines)
        response = BulkResponse(len(bulk.lines), rejected, bulk.event_ids, errors)
        if not bulk.lines:
            response.error = "validation_error"
            response.request_id = request_id_of(scope)
            response.message = f"all {rejected} events are rejected; the first: {errors[0].message}"
        await _respond(scope, send, 202 if bulk.lines else 400, _encode(response))

    async def _split(self, scope: Scope, body: bytes, line: Line) -> tuple[Items, str]:
        try:
            return await split_bulk(body, header(scope, b"content-type"), line)
        except InvalidRequest:
            if scope["state"]["principal"] is None:
                raise Unauthenticated(NO_KEY) from None
            raise


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _oldest_ms(now_ms: int, retention_days: int | None) -> int:
    """Return the oldest time that is accepted. The retention would delete older events immediately."""
    return MIN_TIME_MS if retention_days is None else max(MIN_TIME_MS, now_ms - retention_days * _DAY_MS)


async def _respond(scope: Scope, send: Send, status: int, body: bytes) -> None:
    scope["state"]["status"] = status
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if (request_id := scope["state"].get("request_id")) is not None:  # it has an error
        headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
