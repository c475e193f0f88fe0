"""GET /events/live: stored events as they appear, as server-sent events."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from eventmill.api.errors import document
from eventmill.api.questions import declare, describe, parameters_of
from eventmill.api.receipts import to_stored_line
from eventmill.errors import Overloaded, StoreUnavailable
from eventmill.event import ALL_TIME, CLOCK_SKEW_MS, Event, Identity, Position
from eventmill.hookspecs import Services, principal_of
from eventmill.interfaces import Store
from eventmill.queries.filters import EventFilter
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
WINDOW_MS = 3_600_000
PAGE_EVENTS = 500
MAX_EVENTS = 5_000  # in one poll
MAX_LISTENERS = 100
_QUEUED_POLLS = 10  # of a listener that reads slowly; it misses what comes then
_BEAT = b": still here\n\n"
_GAP = b"event: gap\ndata: {}\n\n"


@dataclass(frozen=True, slots=True)
class Poll:
    """New events, oldest first; `has_gap` if there may be more that nobody was sent."""

    events: Sequence[Event]
    has_gap: bool = False


class Live:
    """Polls the store once per second for each project that has listeners."""

    def __init__(self, services: Services, shutdown: Shutdown) -> None:
        self._services = services
        self._shutdown = shutdown
        self._listeners: dict[str, set[asyncio.Queue[Poll]]] = {}
        self._pollers: dict[str, asyncio.Task[None]] = {}

    async def listen(self, wanted: EventFilter) -> AsyncIterator[bytes]:
        """Yield the events that match, as they are stored, in the format of server-sent events."""
        with self._subscribed(wanted.project) as polls:
            yield _BEAT
            while not self._shutdown.is_asked:
                poll = await polls.get()
                gap = _GAP if poll.has_gap else b""
                matching = [event for event in poll.events if wanted.matches(event)]
                yield gap + b"".join(_encode(event) for event in matching) or _BEAT

    def check_room(self) -> None:
        """Raise Overloaded if too many clients listen, StoreUnavailable if there is no store."""
        if self._services.store is None:
            raise StoreUnavailable("this process has no store")
        if sum(map(len, self._listeners.values())) >= MAX_LISTENERS:
            raise Overloaded(f"{MAX_LISTENERS} clients listen already")

    @contextmanager
    def _subscribed(self, project: str) -> Iterator[asyncio.Queue[Poll]]:
        listeners = self._listeners.setdefault(project, set())
        polls: asyncio.Queue[Poll] = asyncio.Queue(_QUEUED_POLLS)
        listeners.add(polls)
        if len(listeners) == 1:
            self._pollers[project] = asyncio.create_task(self._poll(project, listeners), name="eventmill-live")
        try:
            yield polls
        finally:
            listeners.discard(polls)
            if not listeners:
                self._pollers.pop(project).cancel()
                del self._listeners[project]

    async def _poll(self, project: str, listeners: set[asyncio.Queue[Poll]]) -> None:
        """Send new events to all listeners each second, oldest first, also if there are none."""
        known: dict[Identity, int] | None = None
        while True:
            try:
                events = await self._newest(project, known or {}, PAGE_EVENTS if known is None else MAX_EVENTS)
            except Exception as error:
                log.warning("cannot read new events (%s): %s", type(error).__name__, error)
                poll = Poll((), has_gap=True)
            else:
                fresh = [] if known is None else [event for event in events if _is_new(event, known)]
                poll = Poll(fresh[::-1], has_gap=len(fresh) >= MAX_EVENTS)
                known = {event.identity: event.version for event in events}
            for polls in listeners:
                _send(polls, poll)
            await asyncio.sleep(POLL_SECONDS)

    async def _newest(self, project: str, known: Mapping[Identity, int], most: int) -> list[Event]:
        """Return the newest events of the last hour, page by page until one is known."""
        now_ms = time.time_ns() // 1_000_000
        span = EventFilter(project, now_ms - WINDOW_MS, now_ms + CLOCK_SKEW_MS)
        events: list[Event] = []
        while len(events) < most:
            before = events[-1].position if events else None
            page = await self._services.query(partial(_scan, span, before), None, project)
            events += page
            if not page or not all(_is_new(event, known) for event in page):
                break
        return events


async def _scan(span: EventFilter, before: Position | None, store: Store) -> list[Event]:
    return await store.scan(span, before, PAGE_EVENTS)


def _is_new(event: Event, known: Mapping[Identity, int]) -> bool:
    return known.get(event.identity) != event.version


def _send(polls: asyncio.Queue[Poll], poll: Poll) -> None:
    """Queue a poll for a listener. One that reads slowly loses the oldest."""
    if polls.full():
        polls.get_nowait()
        poll = Poll(poll.events, has_gap=True)
    polls.put_nowait(poll)


def _encode(event: Event) -> bytes:
    return b"data: " + msgspec.json.encode(to_stored_line(event)) + b"\n\n"


def create_router(live: Live) -> APIRouter:
    """Return the route GET /events/live."""
    router = APIRouter(tags=["events"])

    @router.get(
        "/events/live",
        summary="Listen to events as they are stored",
        description=describe("Send stored events of the last hour as server-sent events, at most a second later."),
        response_class=StreamingResponse,
        responses=document(400, 503) | {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
        openapi_extra=declare(),
    )
    async def listen(request: Request) -> StreamingResponse:
        wanted = parameters_of(request, ()).filter(principal_of(request.scope).project)
        live.check_room()
        span = EventFilter(wanted.project, *ALL_TIME, wanted.event_names, where=wanted.where)
        return StreamingResponse(
            live.listen(span), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return router
