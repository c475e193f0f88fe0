"""Refused events: counted, the latest kept in memory, and shown by GET /events/refused."""

import logging
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from eventmill.api.errors import code_of, document
from eventmill.api.gate import needs
from eventmill.api.siblings import Siblings
from eventmill.errors import EventmillError, InvalidRequest
from eventmill.event import MAX_EVENT_BYTES
from eventmill.hookspecs import principal_of
from eventmill.ingest.bulk import Bulk, Items
from eventmill.ingest.telemetry import IngestTelemetry

log = logging.getLogger(__name__)

KEPT = 1000  # of each project, in each process
PAYLOAD_BYTES = 1024
MAX_BYTES = 16 * 1024 * 1024
_ENTRY_BYTES = 1500  # of an entry with an empty payload, its ids included
_MAX_ID = 256  # characters of an id or a user that is kept
DEFAULT_LIMIT = 100
_KEY = r"em[wra]_[\w-]+"  # clients may put a key into a body
_KEY_BYTES = re.compile(_KEY.encode())


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event that was refused: when (unix milliseconds), why, and the first bytes of what was sent."""

    refused_at_ms: int
    reason: str
    field: str | None
    message: str
    payload: bytes
    event_id: str | None
    user_id: str | None

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return _ENTRY_BYTES + len(self.payload) + len(self.message)

    def is_about(self, name: str, value: str) -> bool:
        """Return whether the event has this id or this user; if it is not valid JSON, whether it seems so."""
        known = self.event_id if name == "event_id" else self.user_id
        if known is not None:
            return known == value[:_MAX_ID]
        return b'"%b":%b' % (name.encode(), msgspec.json.encode(value)) in self.payload.replace(b'": ', b'":')


class RefusedEvents:
    """Counts refused events, and keeps the latest 1,000 of each project, 16 MiB in all; of a bulk the first 100."""

    def __init__(self, telemetry: IngestTelemetry) -> None:
        self._telemetry = telemetry
        self._kept: dict[str, deque[RefusedEvent]] = {}
        self._bytes = 0

    def note(self, project: str, error: EventmillError, body: bytes, events: int = 1) -> None:
        """Count a request that was refused as a whole. Keep the start of its body if its content was at fault."""
        self._telemetry.refuse(project, code_of(type(error)), events)
        if isinstance(error, InvalidRequest):
            self._keep(project, code_of(type(error)), error.field, error.message, body)

    def note_items(self, project: str, bulk: Bulk, items: Items) -> None:
        """Count the refused items of a bulk, and keep the first ones."""
        for kind, count in bulk.kinds.items():
            self._telemetry.refuse(project, code_of(kind), count)
        for rejection in bulk.rejected:
            payload = bytes(memoryview(items[rejection.index])[:MAX_EVENT_BYTES])
            self._keep(project, code_of(rejection.kind), rejection.field, rejection.message, payload)

    def latest(self, project: str) -> list[RefusedEvent]:
        """Return the kept events of a project, newest first."""
        return list(reversed(self._kept.get(project, ())))

    def forget_user(self, project: str, user_id: str) -> int:
        """Remove the kept events of a user; return how many."""
        kept = self._kept.get(project, deque())
        others = deque(event for event in kept if event.user_id != user_id)
        self._bytes -= sum(event.size for event in kept) - sum(event.size for event in others)
        if others:
            self._kept[project] = others
        else:
            self._kept.pop(project, None)
        return len(kept) - len(others)

    def _keep(self, project: str, reason: str, field: str | None, message: str, payload: bytes) -> None:
        kept = self._kept.pop(project, None) or deque[RefusedEvent]()
        self._kept[project] = kept  # last, so that the first one had no refused event for longest
        now_ms = time.time_ns() // 1_000_000
        event_id, user_id = _read_ids(payload)
        start = _KEY_BYTES.sub("…".encode(), payload[:PAYLOAD_BYTES])
        message, field = _hide_keys(message), None if field is None else _hide_keys(field)
        kept.append(RefusedEvent(now_ms, reason, field, message, start, event_id, user_id))
        self._bytes += kept[-1].size
        if len(kept) > KEPT:
            self._bytes -= kept.popleft().size
        while self._bytes > MAX_BYTES:
            oldest = next(iter(self._kept))
            self._bytes -= self._kept[oldest].popleft().size
            if not self._kept[oldest]:
                del self._kept[oldest]


def _hide_keys(text: str) -> str:
    return re.sub(_KEY, "…", text)


class _Ids(msgspec.Struct):
    """The fields by which a refused event is looked up, whatever their types."""

    event_id: Any = None
    user_id: Any = None


def _read_ids(payload: bytes) -> tuple[str | None, str | None]:
    """Return the id and the user of an event, None for what it does not say or cannot be read."""
    if len(payload) > MAX_EVENT_BYTES:
        return None, None
    try:
        ids = msgspec.json.decode(payload, type=_Ids)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    return _to_text(ids.event_id), _to_text(ids.user_id)


def _to_text(value: Any) -> str | None:
    return str(value)[:_MAX_ID] if isinstance(value, str | int | float) else None


class RefusedResponse(BaseModel):
    """A refused event, with up to 1 KiB of what was sent. The time is in unix seconds."""

    refused_at: float
    reason: str
    field: str | None
    message: str
    payload: str


def to_response(event: RefusedEvent) -> RefusedResponse:
    return RefusedResponse(
        refused_at=event.refused_at_ms / 1000,
        reason=event.reason,
        field=event.field,
        message=event.message,
        payload=event.payload.decode(errors="replace"),
    )


def create_router(refused: RefusedEvents, siblings: Siblings) -> APIRouter:
    """Return the route GET /events/refused."""
    router = APIRouter(tags=["events"])

    @router.get(
        "/events/refused",
        summary="Show the latest refused events",
        responses=document(400),
        openapi_extra=needs("read"),
    )
    async def latest(
        request: Request,
        limit: Annotated[int, Query(description="the most events to return", ge=1, le=KEPT)] = DEFAULT_LIMIT,
    ) -> list[RefusedResponse]:
        """Return refused events, newest first. The API keeps the latest 1,000 of each project until it restarts."""
        project = principal_of(request.scope).project
        own = [to_response(event) for event in refused.latest(project)[:limit]]
        others, silent = await siblings.ask(request.scope, "/events/refused", f"limit={limit}", project)
        if silent:
            log.warning("%d other workers did not say which events they refused", silent)
        own += [RefusedResponse.model_validate(entry) for answer in others for entry in answer]
        return sorted(own, key=lambda event: -event.refused_at)[:limit]

    return router
