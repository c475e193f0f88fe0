"""GET /events: raw events, newest first, as pages or as a stream; and all events of one user."""

import csv
import io
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Send

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.operators import Operator
from eventmill.api.questions import declare, describe, parameters_of
from eventmill.api.receipts import STORED_FIELDS, StoredEventResponse, find_event, to_stored_line
from eventmill.consumer.pause import PROJECT as INTERNAL
from eventmill.errors import EventmillError, InvalidQuery
from eventmill.event import ALL_TIME, Event, Position, encode_line, to_sent_line
from eventmill.hookspecs import Services, principal_of
from eventmill.interfaces import Store
from eventmill.queries.cursors import read_cursor, write_cursor
from eventmill.queries.filters import EventFilter
from eventmill.queries.lookup import PAGE_EVENTS
from eventmill.queries.parameters import Parameters

log = logging.getLogger(__name__)

PARAMETERS = ("limit", "cursor", "format")
MAX_PAGE, DEFAULT_PAGE = 1_000, 100
MAX_STREAM = 999_999_999
FORMATS = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8", "lines": "application/x-ndjson"}
_DESCRIPTION = describe("Return events, newest first. With `timestamp` and `event_id`, look one up.")


class EventsResponse(BaseModel):
    """A page of events, newest first. `next` is the cursor of the next page, null at the end."""

    events: list[StoredEventResponse]  # type: ignore[valid-type]  # a type built from the table of fields
    next: str | None


class ProjectsResponse(BaseModel):
    """Names of projects."""

    projects: list[str]


_CONTENT = {media.partition(";")[0]: {"schema": {"type": "string"}} for media in FORMATS.values()}


def create_router(services: Services) -> APIRouter:
    """Return the routes of raw events."""
    router = APIRouter(tags=["events"])

    @router.get(
        "/events",
        summary="List stored events, or look one up",
        description=_DESCRIPTION,
        response_model=EventsResponse | list[StoredEventResponse],  # type: ignore[valid-type]
        responses=document(400, 503) | {200: {"content": _CONTENT}},
        openapi_extra=declare(*PARAMETERS, "timestamp"),
    )
    async def events(request: Request) -> Any:
        if "timestamp" in request.query_params:
            return await find_event(services, request)
        parameters = parameters_of(request, PARAMETERS)
        return await _answer(services, request, parameters, parameters.filter(principal_of(request.scope).project))

    @router.get(
        "/users/{user_id:path}/events",
        summary="List all events of a user",
        response_model=EventsResponse,
        responses=document(400, 404, 503) | {200: {"content": _CONTENT}},
        openapi_extra=declare(*PARAMETERS),
    )
    async def of_user(request: Request, user_id: str) -> Any:
        """Return the user's events of all times, or those that match, in the same forms as GET /events."""
        parameters = parameters_of(request, PARAMETERS)
        project = principal_of(request.scope).project
        is_bounded = parameters.one("from") or parameters.one("to")
        start_ms, end_ms = (parameters.span.start_ms, parameters.span.end_ms) if is_bounded else ALL_TIME
        names, where = parameters.event_names(), parameters.where()
        wanted = EventFilter(project, start_ms, end_ms, names, user_id=user_id, where=where)
        return await _answer(services, request, parameters, wanted)

    @router.get("/projects", summary="List the projects", responses=document(503), openapi_extra=needs("admin"))
    async def projects(operator: Operator, request: Request) -> ProjectsResponse:
        """Return the projects that have events, and the default one."""
        found = await services.query(lambda store: store.projects(), request.receive)
        return ProjectsResponse(projects=sorted({*found, services.project} - {INTERNAL}))

    return router


class _EventStream(StreamingResponse):
    """A response that ends without its last chunk if the store fails midway, so that the client notices."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except EventmillError as error:
            log.warning("a response with events ends before the last event: %s", error)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads matching events of the store, page by page, each within the limits for queries."""

    services: Services
    wanted: EventFilter

    async def read(self, before: Position | None, limit: int, request: Request | None = None) -> list[Event]:
        """Return up to `limit` events after the position; fewer only at the end."""
        events: list[Event] = []
        while len(events) < limit:
            size, after = min(PAGE_EVENTS, limit - len(events)), events[-1].position if events else before
            receive = request.receive if request else None
            page = await self.services.query(partial(self._scan, after, size), receive, self.wanted.project)
            if not page:
                break
            events += page
        return events

    async def _scan(self, after: Position | None, size: int, store: Store) -> list[Event]:
        return await store.scan(self.wanted, after, size)


async def _answer(services: Services, request: Request, parameters: Parameters, wanted: EventFilter) -> Response:
    reader, before = _Reader(services, wanted), read_cursor(parameters.one("cursor"))
    form = parameters.one("format") or "json"
    if form == "json":
        limit = parameters.number("limit", DEFAULT_PAGE, MAX_PAGE)
        events = await reader.read(before, limit, request)
        following = write_cursor(events[-1]) if len(events) == limit else None
        content = msgspec.json.encode({"events": [to_stored_line(event) for event in events], "next": following})
        return Response(content, media_type="application/json")
    if form not in FORMATS:
        raise InvalidQuery(f"format must be json, ndjson or csv, not {form[:64]!r}", "format")
    limit = parameters.number("limit", MAX_STREAM, MAX_STREAM)
    first = await reader.read(before, min(PAGE_EVENTS, limit), request)  # so that an error still has its status
    encode = _ENCODE[form]
    headers = {"Content-Disposition": f'attachment; filename="events.{form}"'}
    return _EventStream(_stream(reader, first, limit, encode), media_type=FORMATS[form], headers=headers)


async def _stream(reader: _Reader, page: Sequence[Event], limit: int, encode: Any) -> AsyncIterator[bytes]:
    """Yield the events page by page, so that memory does not grow with their number."""
    yield encode([], is_first=True)
    while page:
        yield encode(page)
        limit -= len(page)
        if limit <= 0:
            return
        page = await reader.read(page[-1].position, min(PAGE_EVENTS, limit))


def _to_ndjson(events: Sequence[Event], *, is_first: bool = False) -> bytes:
    """Return lines that can be posted to /events/bulk."""
    return b"".join(msgspec.json.encode(to_sent_line(event)) + b"\n" for event in events)


def _to_csv(events: Sequence[Event], *, is_first: bool = False) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    if is_first:
        writer.writerow(STORED_FIELDS)
    for event in events:
        stored = to_stored_line(event)
        writer.writerow([_to_cell(stored[name]) for name in STORED_FIELDS])
    return text.getvalue().encode()


def _to_cell(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    return msgspec.json.encode(value).decode() if isinstance(value, tuple) else value


def _to_lines(events: Sequence[Event], *, is_first: bool = False) -> bytes:
    """Return lines with all fields, which `eventmill copy` reads."""
    return b"".join(encode_line(event) + b"\n" for event in events)


_ENCODE = {"csv": _to_csv, "lines": _to_lines, "ndjson": _to_ndjson}
