"""The routes of dead letters: list them, show one, replay or purge them. They need an admin key."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.operators import Operator, name_of
from eventmill.consumer import letters
from eventmill.consumer.letters import DeadLetterFilter, parse_filter
from eventmill.errors import InvalidQuery
from eventmill.hookspecs import Principal
from eventmill.interfaces import Queue

log = logging.getLogger(__name__)

MAX_LETTERS = 1000
INDEX_SECONDS = 5.0
MAX_FULL = 100  # letters with all their events, up to 1,000 each
_LINES = "application/x-ndjson"


class LetterResponse(BaseModel):
    """A dead letter. `body` is the start of a body that holds no events; `attempts` is null if it is unknown."""

    id: str
    died_at: str
    reason: str
    code: str
    attempts: int | None
    events: int
    event_names: list[str]
    message: str
    body: str


class FullLetterResponse(BaseModel):
    """A dead letter with its events, or with its whole body if it holds none."""

    id: str
    died_at: str
    reason: str
    code: str
    attempts: int | None
    events: list[dict[str, Any]]
    event_names: list[str]
    message: str
    body: str
    origin: str
    enqueued_at: str


class LettersResponse(BaseModel):
    """The oldest matching dead letters, and how many match, by reason; `newest_at` is in unix seconds.

    `missed` letters could not be read, because other processes hold their leases.
    """

    letters: list[LetterResponse] | list[FullLetterResponse]
    total: int
    reasons: dict[str, int]
    newest_at: float
    missed: int


class ProgressResponse(BaseModel):
    """A line of the response to a replay or a purge. The last one has `done`, or an `error`.

    `missed` letters were not read, because other processes hold their leases: `done` is false then.
    """

    matched: int
    others: int
    missed: int = 0
    done: bool = False
    error: str | None = None


class SelectionBody(BaseModel):
    """Which dead letters: those that match everything that is given. Times are texts: unix seconds or RFC 3339."""

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


class BuriedResponse(BaseModel):
    """An event in a dead letter: the id of the letter, and why it is there. The time is in unix seconds."""

    dead_letter: str
    reason: str
    message: str
    event_id: str
    event_name: str
    user_id: str
    timestamp: float


@dataclass(frozen=True, slots=True)
class Index:
    """The events in up to 1,000 dead letters, with their projects, and how many letters were not read."""

    events: list[tuple[str, BuriedResponse]] = field(default_factory=list)
    missed: int = 0


class DeadLetterDesk:
    """Reads the dead letters for one request at a time, since reading leases them."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._reading = asyncio.Lock()
        self._index = Index()
        self._indexed_at = -INDEX_SECONDS

    async def index(self) -> Index:
        """Return the events in the dead letters; what it says is up to 5 s old."""
        async with self._reading:
            if time.monotonic() - self._indexed_at > INDEX_SECONDS:
                found = await letters.sample(self._queue, MAX_LETTERS)
                self._index = Index(await asyncio.to_thread(_list_events, found.letters), found.missed)
                self._indexed_at = time.monotonic()
            return self._index

    async def find(self, wanted: DeadLetterFilter, limit: int, *, is_full: bool = False) -> LettersResponse:
        """Read all dead letters, and return the oldest that match."""
        async with self._reading:
            found = await letters.find(self._queue, wanted, min(limit, MAX_FULL) if is_full else limit)
        return LettersResponse(
            letters=await asyncio.to_thread(_describe, found.letters, is_full=is_full),
            total=found.reasons.total(),
            reasons=dict(found.reasons.most_common()),
            newest_at=found.newest_ms / 1000,
            missed=found.missed,
        )

    async def forget_user(self, project: str, user_id: str) -> letters.Forgotten:
        """Remove the user's events from all dead letters."""
        async with self._reading:
            self._indexed_at = -INDEX_SECONDS
            return await letters.forget_user(self._queue, project, user_id)

    async def settle(
        self, operator: Principal, body: SelectionBody, wanted: DeadLetterFilter, *, replay: bool
    ) -> AsyncIterator[bytes]:
        """Yield the progress as lines of JSON."""
        verb, fields = "replay" if replay else "purge", {"operator": name_of(operator)}
        fields |= body.model_dump(exclude_defaults=True)
        settled, outcome = letters.Settled(), "interrupted"
        self._indexed_at = -INDEX_SECONDS
        settling = letters.settle(self._queue, wanted, replay=replay, dry_run=body.dry_run)
        try:
            async with self._reading, contextlib.aclosing(settling):
                async for settled in settling:
                    yield _line(settled)
            outcome = "done" if not settled.missed else "some were missed"
            yield _line(settled, done=not settled.missed)
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
            yield _line(settled, error=f"{type(error).__name__}: try again")
        finally:  # also if the client has left
            log.info("%s of dead letters: %d (%s)", verb, settled.matched, outcome, extra=fields)


def create_router(desk: DeadLetterDesk) -> APIRouter:
    """Return the routes of dead letters."""
    router = APIRouter(tags=["operator"])

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
        full: Annotated[bool, Query(description=f"with their events, at most {MAX_FULL} letters")] = False,
        limit: Annotated[int, Query(ge=1, le=MAX_LETTERS)] = 100,
    ) -> LettersResponse:
        """Return dead letters, oldest first; with `full` and an id, one of them with all it holds."""
        return await desk.find(parse_filter(id, reason, event_name, since, until), limit, is_full=full)

    @router.post(
        "/dead-letters/replay",
        summary="Move dead letters back to the queue",
        responses=_documented(),
        openapi_extra=needs("admin"),
    )
    async def replay(operator: Operator, body: SelectionBody) -> StreamingResponse:
        """Respond with NDJSON: a line of progress for each page, the last one with `"done": true`, or an `error`."""
        return StreamingResponse(desk.settle(operator, body, _parse(body), replay=True), media_type=_LINES)

    @router.post(
        "/dead-letters/purge", summary="Delete dead letters", responses=_documented(), openapi_extra=needs("admin")
    )
    async def purge(operator: Operator, body: SelectionBody) -> StreamingResponse:
        """Respond as for a replay."""
        if body.is_empty and not body.dry_run:
            raise InvalidQuery("say which dead letters to delete, or send all: true", "all")
        return StreamingResponse(desk.settle(operator, body, _parse(body), replay=False), media_type=_LINES)

    return router


def _parse(body: SelectionBody) -> DeadLetterFilter:
    return parse_filter(body.ids, body.reason, body.event_name, body.since, body.until)


def _documented() -> dict[int | str, dict[str, Any]]:
    """Return the responses of the routes that respond with lines."""
    return {200: {"content": {_LINES: {"schema": {"type": "string"}}}}} | document(400, 503)


def _describe(found: list[letters.DeadLetter], *, is_full: bool) -> list[LetterResponse] | list[FullLetterResponse]:
    if is_full:
        return [FullLetterResponse(**letter.content()) for letter in found]
    return [LetterResponse(**letter.summary()) for letter in found]


def _list_events(found: list[letters.DeadLetter]) -> list[tuple[str, BuriedResponse]]:
    return [
        (
            event.project,
            BuriedResponse(
                dead_letter=letter.id,
                reason=letter.record.reason,
                message=letter.record.message,
                event_id=event.event_id,
                event_name=event.event_name,
                user_id=event.user_id,
                timestamp=event.timestamp_ms / 1000,
            ),
        )
        for letter in found
        for event in letter.events
    ]


def _line(settled: letters.Settled, *, done: bool = False, error: str | None = None) -> bytes:
    progress = ProgressResponse(
        matched=settled.matched, others=settled.others, missed=settled.missed, done=done, error=error
    )
    return progress.model_dump_json(exclude_defaults=True).encode() + b"\n"
