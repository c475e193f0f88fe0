"""The operator's routes: GET /status, GET /check, POST /pause and POST /resume. They need an admin key."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter
from pydantic import BaseModel, Field

import eventmill
from eventmill.api.checks import Finding, check_backends, check_process, check_settings
from eventmill.api.dead_letters import DeadLetterDesk
from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.health import BackendState, Health
from eventmill.api.operators import Operator, name_of
from eventmill.api.status import Watch
from eventmill.consumer.pause import LOOK_UP_SECONDS, Order, Pause, give_order, read_order
from eventmill.errors import InvalidRequest, StoreUnavailable
from eventmill.hookspecs import Principal, Services
from eventmill.interfaces import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class About:
    """What the settings of a process say: its backends and where their data is, and warnings."""

    backends: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class CountersResponse(BaseModel):
    """Counters of the process that answers, since its start."""

    seconds: float
    events_accepted: int
    events_unconfirmed: int


class StatusResponse(BaseModel):
    """The state of a deployment; null for a figure that is unknown now. Times are unix seconds.

    The backlog is in messages of up to 1,000 events. `paused` is whether an operator has paused the consumers, and
    `paused_by` the name and the id of the key. `since_start` counts what the answering process did.
    """

    version: str
    backends: dict[str, str]
    queue: BackendState
    store: BackendState | None
    ready: int | None
    in_flight: int | None
    dead: int | None
    oldest_age_seconds: float | None
    drained_per_second: float | None
    drained_in_seconds: float | None
    newest_event_at: float | None
    paused: bool | None
    paused_at: float | None
    paused_by: str | None
    paused_because: str | None
    since_start: CountersResponse


class PauseResponse(BaseModel):
    """Whether the consumers are paused, since when, the key that ordered it, and why."""

    paused: bool
    since: float | None
    by: str
    reason: str


class PauseBody(BaseModel):
    """Why the consumers are paused, for other operators."""

    model_config = {"extra": "forbid", "strict": True}

    reason: str = Field(default="", max_length=200)


async def _read_status(
    watch: Watch, health: Health, store: Store | None, about: About, since_start: CountersResponse
) -> StatusResponse:
    """Return the state of a deployment, without the figures of a service that is unavailable."""
    status, readiness, order = await asyncio.gather(watch.status(), health.readiness(), _try_order(store))
    figures = dataclasses.asdict(status)
    newest_ms = figures.pop("newest_event_ms")
    return StatusResponse(
        version=eventmill.__version__,
        backends=dict(about.backends),
        queue=readiness.queue,
        store=readiness.store,
        **figures,
        newest_event_at=None if newest_ms is None else newest_ms / 1000,
        paused=None if order is None else order.is_pause,
        paused_at=order.since_ms / 1000 if order and order.is_pause else None,
        paused_by=order.by if order and order.is_pause else None,
        paused_because=order.reason if order and order.is_pause else None,
        since_start=since_start,
    )


async def _try_order(store: Store | None) -> Order | None:
    if store is None:
        return None
    try:
        async with asyncio.timeout(LOOK_UP_SECONDS):
            return await read_order(store)
    except Exception:
        return None


def create_router(
    services: Services, health: Health, desk: DeadLetterDesk, about: About, own: Pause | None
) -> APIRouter:
    """Return the operator's routes; `own` pauses the consumer of this process, if it has one."""
    router = APIRouter(tags=["operator"])
    watch, started = Watch(services.queue, services.store, services.project), time.monotonic()

    @router.get(
        "/status",
        summary="Show the backlog, its age, the dead letters and the state of the parts",
        responses=document(),
        openapi_extra=needs("admin"),
    )
    async def status(operator: Operator) -> StatusResponse:
        counted = services.publisher.telemetry
        since_start = CountersResponse(
            seconds=round(time.monotonic() - started, 1),
            events_accepted=counted.confirmed,
            events_unconfirmed=counted.unconfirmed,
        )
        return await _read_status(watch, health, services.store, about, since_start)

    @router.get(
        "/check",
        summary="Show what is wrong, and the commands that end it",
        responses=document(),
        openapi_extra=needs("admin"),
    )
    async def check(operator: Operator) -> list[Finding]:
        own = [*check_settings(about.warnings), *check_process()]
        return own + await check_backends(services.queue, services.store, desk)

    @router.post(
        "/pause",
        summary="Let all consumers receive nothing, also after a restart",
        responses=document(400, 503),
        openapi_extra=needs("admin"),
    )
    async def pause(operator: Operator, body: PauseBody | None = None) -> PauseResponse:
        """Pause the consumers within 11 s. Events are accepted and wait in the queue."""
        return await _order(services.store, own, operator, is_pause=True, reason=body.reason if body else "")

    @router.post(
        "/resume", summary="Let the consumers receive again", responses=document(400, 503), openapi_extra=needs("admin")
    )
    async def resume(operator: Operator) -> PauseResponse:
        """Resume the consumers within 11 s."""
        return await _order(services.store, own, operator, is_pause=False)

    return router


async def _order(
    store: Store | None, own: Pause | None, operator: Principal, *, is_pause: bool, reason: str = ""
) -> PauseResponse:
    if store is None:
        raise InvalidRequest("this process has no store, which holds the order: ask one that has")
    try:
        async with asyncio.timeout(LOOK_UP_SECONDS):
            order = await give_order(store, is_pause=is_pause, by=name_of(operator), reason=reason)
    except TimeoutError:
        raise StoreUnavailable(f"no answer within {LOOK_UP_SECONDS:g} s") from None
    if own is not None:
        own.obey(order)
    log.info("ordered to %s", "pause" if is_pause else "resume", extra={"operator": order.by, "reason": reason})
    return PauseResponse(paused=order.is_pause, since=order.since_ms / 1000, by=order.by, reason=order.reason)
