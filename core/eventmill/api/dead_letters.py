"""The routes of dead letters: list them, show one, replay or purge them. They need an admin key."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.operator import Operator, name_of
from eventmill.consumer import letters
from eventmill.consumer.letters import DeadLetterFilter, parse_filter
from eventmill.errors import InvalidQuery
from eventmill.hookspecs import Principal, Services

log = logging.getLogger(__name__)

MAX_LETTERS = 1000
_LINES = "application/x-ndjson"


class SelectionBody(BaseModel):
    """Which dead letters: those that match everything that is given. Times are unix seconds or RFC 3339."""

    model_config = {"extra": "forbid", "strict": True}

    ids: list[str] = Field(default=[], max_length=1000, description="ids, or their first 4 characters or more")
    reason: str | None = None
    event_name: str | None = None
    since: str | None = None
    until: str | None = None
    all: bool = Field(default=False, description="really all; needed to purge without a condition")
    dry_run: bool = Field(default=False, description="count, and change nothing")

    @property
    def is_empty(self) -> bool:
        return not (self.ids or self.reason or self.event_name or self.since or self.until or self.all)


class SummaryResponse(BaseModel):
    """The number of dead letters, by reason, and when the newest died, in unix seconds; 0 if there is none."""

    total: int
    reasons: dict[str, int]
    newest_at: float


def create_router(services: Services) -> APIRouter:
    """Return the routes of dead letters."""
    router = APIRouter(tags=["operator"])
    queue = services.queue

    @router.get(
        "/dead-letters", summary="List dead letters", responses=document(400, 503), openapi_extra=needs("admin")
    )
    async def find(
        operator: Operator,
        id: Annotated[list[str] | None, Query(description="ids, or their first characters")] = None,
        reason: str | None = None,
        event_name: str | None = None,
        since: Annotated[str | None, Query(description="died at or after this time")] = None,
        until: Annotated[str | None, Query(description="died at or before this time")] = None,
        full: Annotated[bool, Query(description="with their events")] = False,
        limit: Annotated[int, Query(ge=1, le=MAX_LETTERS)] = 100,
    ) -> list[dict[str, Any]]:
        """Return dead letters, oldest first; with `full` and an id, one of them with all it holds."""
        wanted = parse_filter(id, reason, event_name, since, until)
        found = await letters.find(queue, wanted, limit)
        return [letter.content() if full else letter.summary() for letter in found]

    @router.get(
        "/dead-letters/summary",
        summary="Count the dead letters by reason",
        responses=document(503),
        openapi_extra=needs("admin"),
    )
    async def summarize(operator: Operator) -> SummaryResponse:
        found = await letters.summarize(queue)
        return SummaryResponse(total=found.total, reasons=found.reasons, newest_at=found.newest_ms / 1000)

    async def settle(operator: Principal, body: SelectionBody, *, replay: bool) -> StreamingResponse:
        wanted = parse_filter(body.ids, body.reason, body.event_name, body.since, body.until)
        progress = _settle(services, operator, body, wanted, replay=replay)
        return StreamingResponse(progress, media_type=_LINES)

    @router.post(
        "/dead-letters/replay",
        summary="Move dead letters back to the queue",
        responses=_documented(),
        openapi_extra=needs("admin"),
    )
    async def replay(operator: Operator, body: SelectionBody) -> StreamingResponse:
        """Respond with NDJSON: a line of progress for each page, the last one with `"done": true`, or an `error`."""
        return await settle(operator, body, replay=True)

    @router.post(
        "/dead-letters/purge",
        summary="Delete dead letters",
        responses=_documented(),
        openapi_extra=needs("admin"),
    )
    async def purge(operator: Operator, body: SelectionBody) -> StreamingResponse:
        """Respond as for a replay."""
        if body.is_empty and not body.dry_run:
            raise InvalidQuery("say which dead letters to delete, or send all: true", "all")
        return await settle(operator, body, replay=False)

    return router


def _documented() -> dict[int | str, dict[str, Any]]:
    """Return the responses of the routes that respond with lines."""
    return {200: {"content": {_LINES: {"schema": {"type": "string"}}}}} | document(400, 503)


async def _settle(
    services: Services, operator: Principal, body: SelectionBody, wanted: DeadLetterFilter, *, replay: bool
) -> AsyncIterator[bytes]:
    """Yield the progress as lines of JSON."""
    verb = "replay" if replay else "purge"
    fields = {"operator": name_of(operator), **body.model_dump(exclude_defaults=True)}
    count = others = 0
    try:
        async for chosen, rest in letters.settle(services.queue, wanted, replay=replay, dry_run=body.dry_run):
            count, others = count + chosen, others + rest
            yield _line(matched=count, others=others)
    except Exception as error:
        log.warning("cannot %s dead letters (%s): %s", verb, type(error).__name__, error, extra=fields)
        yield _line(matched=count, others=others, error=f"{type(error).__name__}: try again")
    else:
        log.info(
            "%s %s %d dead letters",
            "would have" if body.dry_run else "has",
            "replayed" if replay else "purged",
            count,
            extra=fields,
        )
        yield _line(matched=count, others=others, done=True)


def _line(**progress: object) -> bytes:
    return json.dumps(progress).encode() + b"\n"
