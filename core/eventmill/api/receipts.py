"""GET /events: is an event stored? And the wait of POST /events?wait=stored."""

import asyncio
import json
import logging
import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from eventmill.api.errors import ErrorAnswer
from eventmill.api.questions import QueryLine
from eventmill.errors import InvalidQuery, StoreUnavailable
from eventmill.event import Event, Identity
from eventmill.interfaces import Store
from eventmill.shutdown import Shutdown
from eventmill.times import parse_time

log = logging.getLogger(__name__)

WAIT_SECONDS = 10.0
POLL_SECONDS = 0.2
_MAX_POLLED = 500  # events asked for in one question


class Receipts:
    """Waits for events to be stored; all waiters of this process share one question per poll."""

    def __init__(self, store: Store | None, shutdown: Shutdown) -> None:
        self._store = store
        self._shutdown = shutdown
        self._waiters: dict[Identity, dict[asyncio.Future[bool], int]] = {}  # and the version that is waited for
        self._poller: asyncio.Task[None] | None = None

    async def wait(self, event: Event, seconds: float = WAIT_SECONDS) -> bool:
        """Whether the event, or a newer version of it, was stored within that time."""
        if self._store is None:
            return False
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        identity = event.identity
        self._waiters.setdefault(identity, {})[verdict] = event.version
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(self._store), name="eventmill-receipts")
        try:
            async with self._shutdown.limit(seconds, last_seconds=0):
                return await verdict
        except TimeoutError:
            return False
        finally:
            if identity in self._waiters:
                self._waiters[identity].pop(verdict, None)
                if not self._waiters[identity]:
                    del self._waiters[identity]

    def _settle(self, event: Event) -> None:
        for verdict, version in self._waiters.get(event.identity, {}).items():
            if event.version >= version and not verdict.done():
                verdict.set_result(True)

    async def _poll(self, store: Store) -> None:
        """Ask for everything that is waited for, the longest-waiting first, until nobody waits."""
        while self._waiters:
            started = time.monotonic()
            wanted = list(self._waiters)[:_MAX_POLLED]
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    found = await store.find(wanted)
                for event in found:
                    self._settle(event)
            except Exception as error:
                log.warning("cannot look for receipts (%s): %s", type(error).__name__, error)
            for identity in wanted:
                if identity in self._waiters:  # next time behind those that were not asked for now
                    self._waiters[identity] = self._waiters.pop(identity)
            await asyncio.sleep(max(0.0, started + POLL_SECONDS - time.monotonic()))


class StoredEvent(BaseModel):
    """An event as it is stored; times in unix seconds."""

    event_name: str
    timestamp: float
    event_id: str
    channel: str
    user_id: str
    campaign_id: str
    tags: list[str]
    metadata: dict[str, Any]
    received_at: float


def create_router(store: Store | None, project: str, line: QueryLine) -> APIRouter:
    """The route, over this store; without one it answers 503."""
    router = APIRouter(tags=["events"])

    @router.get("/events", summary="Is an event stored?", responses=_RESPONSES)
    async def events(
        request: Request,
        event_name: str | None = Query(None, description="the event's name"),
        timestamp: str | None = Query(None, description="its time: unix seconds or RFC 3339"),
        event_id: str | None = Query(None, description="its id, as it was answered when it was posted"),
    ) -> list[StoredEvent]:
        """The event, or an empty list."""
        for name, value in (("event_name", event_name), ("timestamp", timestamp), ("event_id", event_id)):
            if not value:
                raise InvalidQuery(f"{name} is required", name)
        try:
            timestamp_ms = parse_time(timestamp or "") // 1000
        except ValueError as error:
            raise InvalidQuery(f"timestamp {error}", "timestamp") from None
        if store is None:
            raise StoreUnavailable("this process has no store")
        identity = Identity(project, event_name or "", timestamp_ms, event_id or "")
        found = await line.ask(request.receive, partial(store.find, [identity]))
        return [_answer(event) for event in found]

    return router


_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "a parameter is missing or wrong"},
    503: {"model": ErrorAnswer, "description": "the store is away, or too many questions are pending: try again"},
}


def _answer(event: Event) -> StoredEvent:
    return StoredEvent(
        event_name=event.event_name,
        timestamp=event.timestamp_ms / 1000,
        event_id=event.event_id,
        channel=event.channel,
        user_id=event.user_id,
        campaign_id=event.campaign_id,
        tags=list(event.tags),
        metadata=json.loads(bytes(event.metadata)),
        received_at=event.received_at_ms / 1000,
    )
