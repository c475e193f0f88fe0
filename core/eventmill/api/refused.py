"""Refused events: counted, the latest kept in memory, and shown by GET /events/refused."""

import re
import time
from collections import deque
from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from eventmill.api.errors import code_of, document
from eventmill.api.gate import needs
from eventmill.api.siblings import Siblings
from eventmill.errors import EventmillError, InvalidRequest
from eventmill.hookspecs import principal_of
from eventmill.ingest.bulk import Bulk, Items
from eventmill.ingest.telemetry import MAX_PROJECTS, IngestTelemetry

KEPT = 1000  # of each project, in each process
PAYLOAD_BYTES = 1024
DEFAULT_LIMIT = 100
_KEY = re.compile(rb"em[wra]_[\w-]+")  # clients may put a key into a body


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event that was refused: when (unix milliseconds), why, and the first bytes of what was sent."""

    refused_at_ms: int
    reason: str
    field: str | None
    message: str
    payload: bytes

    def contains(self, name: str, value: str) -> bool:
        """Return whether the payload has this field with this value, also if it is cut or not valid JSON."""
        text = msgspec.json.encode(value)
        compact = self.payload.replace(b'": ', b'":')
        return b'"%b":%b' % (name.encode(), text) in compact


class RefusedEvents:
    """Counts refused events, and keeps the latest 1,000 of each project."""

    def __init__(self, telemetry: IngestTelemetry) -> None:
        self._telemetry = telemetry
        self._kept: dict[str, deque[RefusedEvent]] = {}

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
            payload = bytes(memoryview(items[rejection.index])[:PAYLOAD_BYTES])
            self._keep(project, code_of(rejection.kind), rejection.field, rejection.message, payload)

    def latest(self, project: str) -> list[RefusedEvent]:
        """Return the kept events of a project, newest first."""
        return list(reversed(self._kept.get(project, ())))

    def _keep(self, project: str, reason: str, field: str | None, message: str, payload: bytes) -> None:
        kept = self._kept.pop(project, None)
        if kept is None:
            kept = deque[RefusedEvent](maxlen=KEPT)
            if len(self._kept) >= MAX_PROJECTS:
                del self._kept[next(iter(self._kept))]  # of the project that had none for longest
        self._kept[project] = kept
        now_ms = time.time_ns() // 1_000_000
        payload = _KEY.sub("…".encode(), payload[:PAYLOAD_BYTES])
        kept.append(RefusedEvent(now_ms, reason, field, message, payload))


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
        others = await siblings.ask(request.scope, "/events/refused", f"limit={limit}", project)
        own += [RefusedResponse.model_validate(entry) for answer in others for entry in answer]
        return sorted(own, key=lambda event: -event.refused_at)[:limit]

    return router
