"""Receipts: POST /events?wait=stored waits for the store, and GET /events looks up the event of a receipt."""

import asyncio
import logging
import time
from typing import Any

from fastapi import Request
from pydantic import BaseModel, Field, create_model

from eventmill.errors import InvalidQuery
from eventmill.event import EVENT_FIELDS, Event, Identity, to_sent_form, to_sent_line
from eventmill.fields import EventField
from eventmill.hookspecs import Services, principal_of
from eventmill.interfaces import Store
from eventmill.shutdown import Shutdown
from eventmill.times import parse_time

log = logging.getLogger(__name__)

WAIT_SECONDS = 10.0
POLL_SECONDS = 0.2
_MAX_POLLED = 500  # events in one lookup


class Receipts:
    """Waits until events are stored. All waiters of the process share one lookup per poll."""

    def __init__(self, store: Store | None, shutdown: Shutdown) -> None:
        self._store = store
        self._shutdown = shutdown
        self._waiters: dict[Identity, dict[asyncio.Future[bool], int]] = {}  # with the version that each waits for
        self._poller: asyncio.Task[None] | None = None

    async def wait(self, event: Event, seconds: float = WAIT_SECONDS) -> bool:
        """Return whether the event, or a newer version of it, is stored within that time."""
        if self._store is None:
            return False
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        identity = event.identity
        self._waiters.setdefault(identity, {})[verdict] = event.version
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(self._store), name="eventmill-receipts")
        try:
            with self._shutdown.limit(seconds, last_seconds=0):
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
        """Look up the awaited events, longest-waiting first, until there are no waiters."""
        while self._waiters:
            started = time.monotonic()
            wanted = list(self._waiters)[:_MAX_POLLED]
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    found = await store.find(wanted)
                for event in found:
                    self._settle(event)
            except Exception as error:
                log.warning("cannot look up stored events (%s): %s", type(error).__name__, error)
            for identity in wanted:
                if identity in self._waiters:  # move it behind those that were not looked up yet
                    self._waiters[identity] = self._waiters.pop(identity)
            await asyncio.sleep(max(0.0, started + POLL_SECONDS - time.monotonic()))


def _response_type(field: EventField) -> Any:
    """Return the type of a field in a response, which holds JSON values."""
    if field.sent_as == "timestamp":
        return float
    if isinstance(field.default, str):
        return str
    return list[str] if isinstance(field.default, tuple) else dict[str, Any]


_DEFINITIONS: dict[str, Any] = {
    field.sent_as: (_response_type(field), Field(description=field.meaning))
    for field in EVENT_FIELDS
    if field.sent is not None
}
_DEFINITIONS["received_at"] = (float, Field(description="when the API accepted it"))
STORED_FIELDS = tuple(_DEFINITIONS)
StoredEventResponse: type[BaseModel] = create_model(
    "StoredEventResponse", __doc__="An event in the store. Times are unix seconds.", **_DEFINITIONS
)


async def find_event(services: Services, request: Request) -> list[dict[str, Any]]:
    """Return the event that `event_name`, `timestamp` and `event_id` identify, or an empty list if it is not stored."""
    given = dict(request.query_params)
    for name in ("event_name", "timestamp", "event_id"):
        if not given.get(name):
            raise InvalidQuery(f"{name} is required", name)
    try:
        timestamp_ms = parse_time(given["timestamp"]) // 1000
    except ValueError as error:
        raise InvalidQuery(f"timestamp {error}", "timestamp") from None
    project = principal_of(request.scope).project
    identity = Identity(project, given["event_name"], timestamp_ms, given["event_id"])
    found = await services.query(lambda store: store.find([identity]), request.receive, project)
    return [to_stored(event) for event in found]


def to_stored_line(event: Event) -> dict[str, Any]:
    """Return a stored event as `to_stored` does, for msgspec, which writes the metadata byte for byte."""
    return to_sent_line(event) | {"received_at": event.received_at_ms / 1000}


def to_stored(event: Event) -> dict[str, Any]:
    """Return a stored event as responses show it, a StoredEventResponse."""
    return to_sent_form(event) | {"received_at": event.received_at_ms / 1000}
