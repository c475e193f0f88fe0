"""GET /events/lookup: where an event is. Stored, waiting in the queue, refused, dead-lettered, or unknown."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.types import Scope

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.receipts import StoredEventResponse, to_stored
from eventmill.api.refused import RefusedEvents, RefusedResponse, to_response
from eventmill.api.siblings import Siblings
from eventmill.consumer import letters
from eventmill.errors import ClientDisconnected, InvalidQuery, Overloaded, QueryTooLarge
from eventmill.event import MAX_TIME_MS, Event, Identity
from eventmill.hookspecs import Services, principal_of
from eventmill.interfaces import Store
from eventmill.queries.filters import EventFilter
from eventmill.queries.metrics import parse_bounds

log = logging.getLogger(__name__)

MAX_FOUND = 100  # of each state
DEFAULT_DAYS = 7
LETTERS_SECONDS = 5.0
MAX_LETTERS = 1000  # dead letters that one lookup reads
DEPTH_SECONDS = 2.0
State = Literal["stored", "waiting", "refused", "dead_lettered", "unknown"]


class WaitingResponse(BaseModel):
    """An accepted event that is not stored yet. Times are unix seconds."""

    event_id: str
    event_name: str
    user_id: str
    timestamp: float
    accepted_at: float

    def identity(self, project: str) -> Identity:
        return Identity(project, self.event_name, round(self.timestamp * 1000), self.event_id)


class BuriedResponse(BaseModel):
    """An event in a dead letter: the id of the letter, and why it is there."""

    dead_letter: str
    reason: str
    message: str
    event_id: str
    event_name: str
    user_id: str
    timestamp: float


class LookupResponse(BaseModel):
    """Where the matching events are. `state` is the first of stored, dead_lettered, waiting and refused
    that there is an event of.

    `queue_messages` still wait: an event that is `unknown` may be in one of them if another process accepted it.
    `notes` says what could not be searched.
    """

    state: State
    stored: list[StoredEventResponse] = []  # type: ignore[valid-type]  # a type built from the table of fields
    waiting: list[WaitingResponse] = []
    refused: list[RefusedResponse] = []
    dead_lettered: list[BuriedResponse] = []
    queue_messages: int | None = None
    notes: list[str] = []


class Lookup:
    """Searches the store, the queue, the refused events and the dead letters."""

    def __init__(self, services: Services, refused: RefusedEvents, siblings: Siblings) -> None:
        self._services = services
        self._refused = refused
        self._siblings = siblings
        self._reading = asyncio.Lock()  # of dead letters, which reading leases

    async def find(self, request: Request, wanted: EventFilter, name: str, value: str) -> LookupResponse:
        """Return where the events are whose field has this value."""
        notes: list[str] = []
        waiting, refused = await self._find_in_memory(request.scope, wanted.project, name, value)
        stored = await self._find_stored(request, wanted, waiting, notes)
        is_found = wanted.event_id is not None and bool(stored)
        buried = [] if is_found else await self._find_buried(wanted.project, name, value, notes)
        settled = {event.event_id for event in stored} | {entry.event_id for entry in buried}
        waiting = [entry for entry in waiting if entry.event_id not in settled]
        return LookupResponse(
            state=_state_of(stored, buried, waiting, refused),
            stored=[to_stored(event) for event in stored],
            waiting=waiting,
            refused=refused,
            dead_lettered=buried,
            queue_messages=await self._count_messages(),
            notes=notes,
        )

    async def _find_stored(
        self, request: Request, wanted: EventFilter, waiting: Sequence[WaitingResponse], notes: list[str]
    ) -> list[Event]:
        """Return the stored events that match, and those of the accepted ones that are stored, whatever their time."""
        identities = [entry.identity(wanted.project) for entry in waiting]

        async def search(store: Store) -> list[Event]:
            found = [event for event in await store.scan(wanted, None, MAX_FOUND) if wanted.matches(event)]
            return found + (await store.find(identities) if identities else [])

        if self._services.store is None:
            notes.append("this process has no store: ask one that has")
            return []
        try:
            found = await self._services.query(search, request.receive, wanted.project)
        except QueryTooLarge:
            notes.append("the search in the store took too long: set `from` and `to`")
        except (ClientDisconnected, Overloaded):
            raise
        except Exception as error:
            log.warning("cannot search the store (%s): %s", type(error).__name__, error)
            notes.append("the store is unavailable and could not be searched")
        else:
            return list({event.identity: event for event in found}.values())
        return []

    async def _find_in_memory(
        self, scope: Scope, project: str, name: str, value: str
    ) -> tuple[list[WaitingResponse], list[RefusedResponse]]:
        """Return the accepted and the refused events that the processes of this server remember."""
        recent = self._services.publisher.recent
        accepted = await asyncio.to_thread(recent.find, project, name, value, MAX_FOUND)
        waiting = [
            WaitingResponse(
                event_id=event.event_id,
                event_name=event.event_name,
                user_id=event.user_id,
                timestamp=event.timestamp_ms / 1000,
                accepted_at=accepted_at_ms / 1000,
            )
            for event, accepted_at_ms in accepted
        ]
        refused = [to_response(event) for event in self._refused.latest(project) if event.contains(name, value)]
        query = urlencode({name: value})
        for answer in await self._siblings.ask(scope, "/events/remembered", query, project):
            waiting += [WaitingResponse.model_validate(entry) for entry in answer["waiting"]]
            refused += [RefusedResponse.model_validate(entry) for entry in answer["refused"]]
        return waiting[:MAX_FOUND], refused[:MAX_FOUND]

    async def remembered(self, scope: Scope, project: str, name: str, value: str) -> dict[str, Any]:
        """Return what this process remembers, for another worker."""
        waiting, refused = await self._find_in_memory(scope, project, name, value)
        return {
            "waiting": [entry.model_dump() for entry in waiting],
            "refused": [entry.model_dump() for entry in refused],
        }

    async def _find_buried(self, project: str, name: str, value: str, notes: list[str]) -> list[BuriedResponse]:
        try:
            async with asyncio.timeout(LETTERS_SECONDS), self._reading:
                read = await letters.sample(self._services.queue, MAX_LETTERS)
        except Exception as error:
            log.warning("cannot search the dead letters (%s): %s", type(error).__name__, error)
            notes.append("the dead letters could not be searched")
            return []
        if len(read) >= MAX_LETTERS:
            notes.append(f"only {MAX_LETTERS} dead letters were searched")
        found = [
            _to_buried(letter, event)
            for letter in read
            for event in letter.events
            if event.project == project and getattr(event, name) == value
        ]
        return found[:MAX_FOUND]

    async def _count_messages(self) -> int | None:
        try:
            async with asyncio.timeout(DEPTH_SECONDS):
                depth = await self._services.queue.depth()
        except Exception:
            return None
        return None if depth.ready is None else depth.ready + (depth.in_flight or 0)


def _to_buried(letter: letters.DeadLetter, event: Event) -> BuriedResponse:
    return BuriedResponse(
        dead_letter=letter.id,
        reason=letter.record.reason,
        message=letter.record.message,
        event_id=event.event_id,
        event_name=event.event_name,
        user_id=event.user_id,
        timestamp=event.timestamp_ms / 1000,
    )


def _state_of(stored: list[Any], buried: list[Any], waiting: list[Any], refused: list[Any]) -> State:
    if stored:
        return "stored"
    if buried:
        return "dead_lettered"
    if waiting:
        return "waiting"
    return "refused" if refused else "unknown"


def create_router(services: Services, refused: RefusedEvents, siblings: Siblings) -> APIRouter:
    """Return the route GET /events/lookup."""
    router = APIRouter(tags=["events"])
    lookup = Lookup(services, refused, siblings)

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
        project = principal_of(request.scope).project
        days_ago = f"{time.time() - DEFAULT_DAYS * 86_400:.0f}"
        start_ms, end_ms = parse_bounds(start or days_ago, end or f"{MAX_TIME_MS // 1000}")
        wanted = EventFilter(project, start_ms, end_ms, event_id=event_id, user_id=user_id)
        answer = await lookup.find(request, wanted, name, value)
        if start is None and not answer.stored:
            answer.notes.append(
                f"the store was searched for events of the last {DEFAULT_DAYS} days: set `from` for older"
            )
        return answer

    @router.get("/events/remembered", include_in_schema=False, openapi_extra=needs("admin"))
    async def remembered(request: Request, event_id: str | None = None, user_id: str | None = None) -> dict[str, Any]:
        """Answer another worker."""
        name, value = _one_of(event_id, user_id)
        return await lookup.remembered(request.scope, principal_of(request.scope).project, name, value)

    return router


def _one_of(event_id: str | None, user_id: str | None) -> tuple[str, str]:
    """Return name and value of the field to search. Raise InvalidQuery."""
    if event_id and not user_id:
        return "event_id", event_id
    if user_id and not event_id:
        return "user_id", user_id
    raise InvalidQuery("send either event_id or user_id", "event_id")
