"""Search: where the events of an id or of a user are. `lookup` has the route and its responses."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from pydantic import BaseModel
from starlette.types import Scope

from eventmill.api.dead_letters import BuriedResponse, DeadLetterDesk
from eventmill.api.receipts import StoredEventResponse, to_stored
from eventmill.api.refused import RefusedEvents, RefusedResponse, to_response
from eventmill.api.siblings import Siblings
from eventmill.errors import ClientDisconnected, Overloaded, QueryTooLarge
from eventmill.event import Event, Identity
from eventmill.hookspecs import Services
from eventmill.interfaces import Store
from eventmill.queries.filters import EventFilter
from eventmill.times import describe

log = logging.getLogger(__name__)

MAX_FOUND = 100  # of each state
LETTERS_SECONDS = 5.0
DEPTH_SECONDS = 2.0
SETTLED_SECONDS = 60.0  # counts of queues may lag, and the index of dead letters


class WaitingResponse(BaseModel):
    """An accepted event that is not stored yet. Times are unix seconds."""

    event_id: str
    event_name: str
    user_id: str
    timestamp: float
    accepted_at: float

    def identity(self, project: str) -> Identity:
        return Identity(project, self.event_name, round(self.timestamp * 1000), self.event_id)


class LookupResponse(BaseModel):
    """Where the matching events are.

    `state` is the first of stored, dead_lettered, waiting and refused that there is an event of, else unknown.
    `is_complete` is false if a part could not be searched; `notes` says which. `queue_messages` still wait: an event
    that is unknown may be in one of them if another server accepted it.
    """

    state: str
    is_complete: bool
    stored: list[StoredEventResponse]  # type: ignore[valid-type]  # a type built from the table of fields
    waiting: list[WaitingResponse]
    refused: list[RefusedResponse]
    dead_lettered: list[BuriedResponse]
    queue_messages: int | None
    notes: list[str]


class Search:
    """Searches the store, the queue, the refused events and the dead letters."""

    def __init__(self, services: Services, refused: RefusedEvents, desk: DeadLetterDesk, siblings: Siblings) -> None:
        self._services = services
        self._refused = refused
        self._desk = desk
        self._siblings = siblings
        self._searching = asyncio.Lock()  # of recent frames, which takes CPU

    async def find(self, request: Request, wanted: EventFilter, name: str, value: str) -> LookupResponse:
        """Return where the events are whose field has this value."""
        missing: list[str] = []  # what could not be searched
        waiting, refused = await self._find_in_memory(request.scope, wanted.project, name, value, missing)
        messages = await self._count_messages()  # before the store: what is not in the queue now is stored or dead
        stored = await self._find_stored(request, wanted, waiting, missing)
        is_found = wanted.event_id is not None and bool(stored)
        buried = [] if is_found else await self._find_buried(wanted.project, name, value, missing)
        settled = {event.event_id for event in stored} | {entry.event_id for entry in buried}
        waiting = [entry for entry in waiting if entry.event_id not in settled]
        notes = missing.copy()
        if messages == 0 and not missing:
            gone = [entry for entry in waiting if entry.accepted_at < time.time() - SETTLED_SECONDS]
            notes += [_explain_gone(entry) for entry in gone]
            waiting = [entry for entry in waiting if entry not in gone]
        return LookupResponse(
            state=_state_of(stored, buried, waiting, refused),
            is_complete=not missing,
            stored=[to_stored(event) for event in stored],
            waiting=waiting,
            refused=refused,
            dead_lettered=buried,
            queue_messages=messages,
            notes=notes,
        )

    async def remembered(self, scope: Scope, project: str, name: str, value: str) -> dict[str, Any]:
        """Return what this process remembers, for another worker."""
        waiting, refused = await self._find_in_memory(scope, project, name, value, [])
        return {
            "waiting": [entry.model_dump() for entry in waiting],
            "refused": [entry.model_dump() for entry in refused],
        }

    async def _find_in_memory(
        self, scope: Scope, project: str, name: str, value: str, missing: list[str]
    ) -> tuple[list[WaitingResponse], list[RefusedResponse]]:
        """Return the accepted and the refused events that the processes of this server remember."""
        recent = self._services.publisher.recent
        async with self._searching:
            accepted = await asyncio.to_thread(recent.find, project, name, value, MAX_FOUND)
        waiting = [_to_waiting(event, accepted_at_ms) for event, accepted_at_ms in accepted]
        refused = [to_response(event) for event in self._refused.latest(project) if event.is_about(name, value)]
        answers, silent = await self._siblings.ask(scope, "/events/remembered", urlencode({name: value}), project)
        for answer in answers:
            waiting += [WaitingResponse.model_validate(entry) for entry in answer["waiting"]]
            refused += [RefusedResponse.model_validate(entry) for entry in answer["refused"]]
        if silent:
            missing.append(f"{silent} other workers of this server did not answer")
        return waiting[:MAX_FOUND], refused[:MAX_FOUND]

    async def _find_stored(
        self, request: Request, wanted: EventFilter, waiting: Sequence[WaitingResponse], missing: list[str]
    ) -> list[Event]:
        """Return the stored events that match, and those of the accepted ones that are stored, whatever their time."""
        identities = [entry.identity(wanted.project) for entry in waiting]

        async def search(store: Store) -> list[Event]:
            found = [event for event in await store.scan(wanted, None, MAX_FOUND) if wanted.matches(event)]
            return found + (await store.find(identities) if identities else [])

        if self._services.store is None:
            missing.append("this process has no store: ask one that has")
            return []
        try:
            found = await self._services.query(search, request.receive, wanted.project)
        except QueryTooLarge:
            missing.append("the search in the store took too long: set from and to")
        except (ClientDisconnected, Overloaded):
            raise
        except Exception as error:
            log.warning("cannot search the store (%s): %s", type(error).__name__, error)
            missing.append("the store is unavailable and could not be searched")
        else:
            return list({event.identity: event for event in found}.values())
        return []

    async def _find_buried(self, project: str, name: str, value: str, missing: list[str]) -> list[BuriedResponse]:
        try:
            async with asyncio.timeout(LETTERS_SECONDS):
                index = await self._desk.index()
        except Exception as error:
            log.warning("cannot search the dead letters (%s): %s", type(error).__name__, error)
            missing.append("the dead letters could not be searched")
            return []
        if index.missed:
            missing.append(f"{index.missed} dead letters could not be searched")
        found = [entry for of_project, entry in index.events if of_project == project and getattr(entry, name) == value]
        return found[:MAX_FOUND]

    async def _count_messages(self) -> int | None:
        try:
            async with asyncio.timeout(DEPTH_SECONDS):
                depth = await self._services.queue.depth()
        except Exception:
            return None
        return None if depth.ready is None else depth.ready + (depth.in_flight or 0)


def _to_waiting(event: Event, accepted_at_ms: int) -> WaitingResponse:
    return WaitingResponse(
        event_id=event.event_id,
        event_name=event.event_name,
        user_id=event.user_id,
        timestamp=event.timestamp_ms / 1000,
        accepted_at=accepted_at_ms / 1000,
    )


def _explain_gone(entry: WaitingResponse) -> str:
    at = describe(round(entry.accepted_at * 1000))
    return f"{entry.event_id} was accepted at {at}, and is neither in the queue nor stored: it was purged or erased"


def _state_of(stored: list[Any], buried: list[Any], waiting: list[Any], refused: list[Any]) -> str:
    states = {"stored": stored, "dead_lettered": buried, "waiting": waiting, "refused": refused}
    return next((state for state, found in states.items() if found), "unknown")
