"""GET /health, /health/live and /health/ready, for load balancers, orchestrators and people."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response
from pydantic import BaseModel

from eventmill.api.gate import needs
from eventmill.errors import Unavailable
from eventmill.ingest.budget import Budget
from eventmill.interfaces import Queue, Store
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
CACHE_SECONDS = 1.0
_FULL = "bodies above 64 KiB may be refused: the memory for pending requests is nearly used up (EVENTMILL_MEMORY_BYTES)"
_UNAVAILABLE = "the queue is unavailable, or the process is shutting down"


class LiveResponse(BaseModel):
    """The process is alive."""

    status: str = "ok"


class BackendState(BaseModel):
    """The state of the queue or the store: `ok`, or `down` with the class of the error."""

    status: str
    trouble: str | None = None
    warnings: list[str] = []


class ReadinessResponse(BaseModel):
    """`ok`, `degraded` (the store is unavailable, events are accepted), or `unavailable` (no events are accepted)."""

    status: str
    warnings: list[str] = []
    queue: BackendState
    store: BackendState | None = None


class Health:
    """Checks whether the queue and the store work, and whether this process has memory and is not shutting down."""

    def __init__(self, queue: Queue, store: Store | None, shutdown: Shutdown, budget: Budget | None = None) -> None:
        self._shutdown = shutdown
        self._budget = budget
        self._queue = queue
        self._store = store
        self._lock = asyncio.Lock()
        self._checked_at = -1e9
        self._queue_part = self._store_part = BackendState(status="ok")

    async def readiness(self) -> ReadinessResponse:
        async with self._lock:
            if time.monotonic() - self._checked_at > CACHE_SECONDS:
                store_check = self._store.check if self._store else _no_check
                self._queue_part, self._store_part = await asyncio.gather(
                    _check(self._queue.check), _check(store_check)
                )
                self._checked_at = time.monotonic()
        usable = self._queue_part.status == "ok" and not self._shutdown.is_asked
        status = "unavailable" if not usable else "ok" if self._store_part.status == "ok" else "degraded"
        return ReadinessResponse(
            status=status,
            warnings=[_FULL] if self._budget is not None and self._budget.is_nearly_full else [],
            queue=self._queue_part,
            store=self._store_part if self._store else None,
        )


async def _no_check() -> list[str]:
    return []


async def _check(check: Callable[[], Awaitable[list[str]]]) -> BackendState:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return BackendState(status="ok", warnings=await check())
    except Exception as error:
        # The message of a service may contain addresses: it goes to the log, the response names only the class.
        trouble = "Timeout" if isinstance(error, TimeoutError) else type(error).__name__
        level = logging.WARNING if isinstance(error, Unavailable | TimeoutError) else logging.ERROR
        log.log(level, "check failed: %s: %s", trouble, error)
        return BackendState(status="down", trouble=trouble)


def create_router(health: Health) -> APIRouter:
    """Return the health routes. `/health` and `/health/live` depend on no backend."""
    router = APIRouter(tags=["health"])

    @router.head("/health", include_in_schema=False, openapi_extra=needs("open"))
    @router.head("/health/live", include_in_schema=False, openapi_extra=needs("open"))
    @router.get("/health", summary="Check whether the process is alive", openapi_extra=needs("open"))
    @router.get(
        "/health/live", summary="Check whether the process is alive", operation_id="live", openapi_extra=needs("open")
    )
    async def live() -> LiveResponse:
        return LiveResponse()

    @router.head("/health/ready", include_in_schema=False, openapi_extra=needs("open"))
    @router.get(
        "/health/ready",
        summary="Check whether events are accepted",
        responses={503: {"model": ReadinessResponse, "description": _UNAVAILABLE}},
        openapi_extra=needs("open"),
    )
    async def ready(response: Response) -> ReadinessResponse:
        readiness = await health.readiness()
        if readiness.status == "unavailable":
            response.status_code = 503
            response.headers["Retry-After"] = "1"
        return readiness

    return router
