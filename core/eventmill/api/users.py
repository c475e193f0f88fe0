"""DELETE /users: erase a user's events from the store, the dead letters and the memory of this server."""

import logging
import time
import unicodedata
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from eventmill.api.dead_letters import DeadLetterDesk
from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.operators import name_of
from eventmill.api.refused import RefusedEvents
from eventmill.api.siblings import Siblings
from eventmill.errors import InvalidQuery, StoreUnavailable
from eventmill.event import CLOCK_SKEW_MS
from eventmill.hookspecs import Services, principal_of

log = logging.getLogger(__name__)

UserId = Annotated[str, Query(description="the user", min_length=1, max_length=256)]


class ErasureResponse(BaseModel):
    """What was erased: about how many stored events, and events in dead letters.

    Erase again while `is_complete` is false: `missed` dead letters are held by other processes, or a worker did not
    answer. `unreadable` dead letters hold no events that can be read: purge them if they may be about the user.
    """

    events: int
    dead_lettered: int
    unreadable: int
    missed: int
    is_complete: bool


def create_router(services: Services, desk: DeadLetterDesk, refused: RefusedEvents, siblings: Siblings) -> APIRouter:
    """Return the route DELETE /users, and the one by which workers tell each other."""
    router = APIRouter(tags=["operator"])

    @router.delete(
        "/users", summary="Erase the events of a user", responses=document(400, 503), openapi_extra=needs("admin")
    )
    async def erase(request: Request, user_id: UserId) -> ErasureResponse:
        """Erase all events of the user up to now, also those that still wait in the queue.

        It cannot be undone. Events of the next five minutes are erased, too, since clocks of clients may be ahead.
        """
        if [name for name, _ in request.query_params.multi_items()] != ["user_id"]:
            raise InvalidQuery("name one user_id, and nothing else: an erasure takes all events of the user", "user_id")
        if any(unicodedata.category(character) == "Cc" for character in user_id):
            raise InvalidQuery("user_id has a control character, which no event has", "user_id")
        principal = principal_of(request.scope)
        if services.store is None:
            raise StoreUnavailable("this process has no store")
        until_ms = time.time_ns() // 1_000_000 + CLOCK_SKEW_MS
        events = await services.store.erase(principal.project, user_id, until_ms)
        outcome = await desk.forget_user(principal.project, user_id)
        forget(principal.project, user_id, until_ms)
        query = urlencode({"user_id": user_id, "until_ms": until_ms})
        _, silent = await siblings.ask(request.scope, "/users/forgotten", query, principal.project)
        fields = {"operator": name_of(principal), "project": principal.project}
        log.info("erased %d events of a user", events + outcome.events, extra=fields)
        return ErasureResponse(
            events=events,
            dead_lettered=outcome.events,
            unreadable=outcome.unreadable,
            missed=outcome.missed,
            is_complete=not outcome.missed and not silent,
        )

    @router.get("/users/forgotten", include_in_schema=False, openapi_extra=needs("admin"))
    async def forgotten(request: Request, user_id: UserId, until_ms: int) -> int:
        """Forget a user for another worker."""
        return forget(principal_of(request.scope).project, user_id, until_ms)

    def forget(project: str, user_id: str, until_ms: int) -> int:
        services.publisher.recent.forget_user(project, user_id, until_ms)
        return refused.forget_user(project, user_id)

    return router
