"""GET /health, /health/live, /health/ready: for people, load balancers and orchestrators."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response
from pydantic import BaseModel

from eventmill.errors import Unavailable
from eventmill.hookspecs import Services
from eventmill.interfaces import Queue, Store
from eventmill.shutdown import Shutdown
from eventmill.status import Watch

log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
FRESH_SECONDS = 1.0


class Alive(BaseModel):
    status: str = "ok"


class Part(BaseModel):
    """The state of one service: `ok`, or `down` with the class of its trouble."""

    status: str
    trouble: str | None = None
    warnings: list[str] = []


class Readiness(BaseModel):
    """`ok`, `degraded` (the store is away, events are taken), or `unavailable` (no events are taken)."""

    status: str
    queue: Part
    store: Part | None = None


class SinceStart(BaseModel):
    """What this process counted since it started, and nothing before."""

    seconds: float
    events_accepted: int
    events_unconfirmed: int


class Details(BaseModel):
    """The backlog in messages of up to 1,000 events; null where the queue or the store cannot tell."""

    ready: int | None
    in_flight: int | None
    dead: int | None
    oldest_age_seconds: float | None
    drained_per_second: float | None
    drained_in_seconds: float | None
    newest_event_at: float | None
    since_start: SinceStart


class Health:
    """Knows whether the queue and the store answer, and whether this process shuts down."""

    def __init__(self, queue: Queue, store: Store | None, shutdown: Shutdown) -> None:
        self._shutdown = shutdown
        self._queue = queue
        self._store = store
        self._lock = asyncio.Lock()
        self._checked_at = -1e9
        self._queue_part = self._store_part = Part(status="ok")

    async def readiness(self) -> Readiness:
        async with self._lock:
            if time.monotonic() - self._checked_at > FRESH_SECONDS:
                store_check = self._store.check if self._store else _nothing
                self._queue_part, self._store_part = await asyncio.gather(
                    _check(self._queue.check), _check(store_check)
                )
                self._checked_at = time.monotonic()
        usable = self._queue_part.status == "ok" and not self._shutdown.is_asked
        status = "unavailable" if not usable else "ok" if self._store_part.status == "ok" else "degraded"
        return Readiness(status=status, queue=self._queue_part, store=self._store_part if self._store else None)


async def _nothing() -> list[str]:
    return []


async def _check(check: Callable[[], Awaitable[list[str]]]) -> Part:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return Part(status="ok", warnings=await check())
    except Exception as error:
        # The words of a service may hold addresses: here only the class, the words go to the log.
        trouble = "Timeout" if isinstance(error, TimeoutError) else type(error).__name__
        level = logging.WARNING if isinstance(error, Unavailable | TimeoutError) else logging.ERROR
        log.log(level, "check failed: %s: %s", trouble, error)
        return Part(status="down", trouble=trouble)


def create_router(services: Services, shutdown: Shutdown, project: str) -> APIRouter:
    """The routes; `/health` and `/health/live` are fine whatever else is broken."""
    router = APIRouter(tags=["health"])
    health = Health(services.queue, services.store, shutdown)
    watch, started = Watch(services.queue, services.store, project), time.monotonic()

    @router.get("/health/details", summary="How much waits, and for how long?")
    async def details() -> Details:
        status = dataclasses.asdict(await watch.look())
        newest_ms = status.pop("newest_event_ms")
        counts = SinceStart(
            seconds=round(time.monotonic() - started, 1),
            events_accepted=services.publisher.confirmed,
            events_unconfirmed=services.publisher.unconfirmed,
        )
        return Details(**status, newest_event_at=newest_ms and newest_ms / 1000, since_start=counts)

    @router.head("/health", include_in_schema=False)
    @router.head("/health/live", include_in_schema=False)
    @router.get("/health", summary="Is the process alive?")
    @router.get("/health/live", summary="Is the process alive?", operation_id="live")
    async def live() -> Alive:
        return Alive()

    @router.head("/health/ready", include_in_schema=False)
    @router.get(
        "/health/ready",
        summary="Can events be taken?",
        responses={503: {"model": Readiness, "description": "the queue is unusable, or the process is leaving"}},
    )
    async def ready(response: Response) -> Readiness:
        readiness = await health.readiness()
        if readiness.status == "unavailable":
            response.status_code = 503
            response.headers["Retry-After"] = "1"
        return readiness

    return router
