"""GET /events/lookup: where an event is. Stored, waiting in the queue, refused, dead-lettered, or unknown."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.search import LookupResponse, Search
from eventmill.errors import InvalidQuery
from eventmill.event import MAX_TIME_MS
from eventmill.hookspecs import principal_of
from eventmill.queries.filters import EventFilter
from eventmill.queries.spans import parse_span

DEFAULT_DAYS = 7


def create_router(search: Search) -> APIRouter:
    """Return the route GET /events/lookup, and the one by which workers ask each other."""
    router = APIRouter(tags=["events"])

    @router.get(
        "/events/lookup",
        summary="Find out where an event is",
        responses=document(400, 503),
        openapi_extra=needs("read"),
    )
    async def find(
        request: Request,
        event_id: Annotated[str | None, Query(description="the id of the event", min_length=1)] = None,
        user_id: Annotated[str | None, Query(description="or the user of the events", min_length=1)] = None,
        start: Annotated[
            str | None, Query(alias="from", description="search stored events from this time; default: 7 days ago")
        ] = None,
        end: Annotated[str | None, Query(alias="to", description="until this time; default: all later ones")] = None,
    ) -> LookupResponse:
        """Return whether events are stored, waiting in the queue, refused, dead-lettered, or unknown."""
        name, value = _one_of(event_id, user_id)
        principal = principal_of(request.scope)
        span = parse_span(start or f"-{DEFAULT_DAYS}d", end or f"{MAX_TIME_MS // 1000}")
        wanted = EventFilter(principal.project, span.start_ms, span.end_ms, event_id=event_id, user_id=user_id)
        answer = await search.find(request, wanted, name, value)
        if answer.state == "unknown":
            if start is None and answer.is_complete:
                answer.notes.append(f"only the last {DEFAULT_DAYS} days of the store were searched: set from for more")
            if principal.is_for_all:
                answer.notes.append(f"only the project {principal.project} was searched: X-Project names another")
        return answer

    @router.get("/events/remembered", include_in_schema=False, openapi_extra=needs("admin"))
    async def remembered(request: Request, event_id: str | None = None, user_id: str | None = None) -> dict[str, Any]:
        """Answer another worker."""
        name, value = _one_of(event_id, user_id)
        return await search.remembered(request.scope, principal_of(request.scope).project, name, value)

    return router


def _one_of(event_id: str | None, user_id: str | None) -> tuple[str, str]:
    """Return name and value of the field to search. Raise InvalidQuery."""
    if event_id and not user_id:
        return "event_id", event_id
    if user_id and not event_id:
        return "user_id", user_id
    raise InvalidQuery("send either event_id or user_id", "event_id")
