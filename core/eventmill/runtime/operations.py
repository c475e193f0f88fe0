"""The operations address: metrics for Prometheus, liveness and readiness, of one process or of all workers."""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from eventmill.api.health import Health
from eventmill.errors import ConfigurationError
from eventmill.runtime.listener import bind
from eventmill.runtime.quiet_server import QuietServer, configure_friendly
from eventmill.runtime.security import is_loopback
from eventmill.runtime.telemetry import Backlog, Total
from eventmill.runtime.unix_sockets import WorkerSockets
from eventmill.settings import OFF, Settings

log = logging.getLogger(__name__)

SERVE_ADDRESS, CONSUME_ADDRESS = "127.0.0.1:9464", "127.0.0.1:9465"
WITHOUT_BACKLOG = "backlog=no"  # the query of all workers but one, so that an SQS queue is asked once
_INDEX = "the metrics are at /metrics, liveness at /health/live, readiness at /health/ready\n"


def bind_operations(settings: Settings, default: str) -> socket.socket | None:
    """Listen on the operations address. Without one, or if it is taken, return None: events matter more."""
    address = settings.ops_listen or default
    if address == OFF:
        return None
    try:
        listener = bind(address)
    except ConfigurationError as error:
        log.warning("running without metrics: %s", str(error).replace("--listen", "EVENTMILL_OPS_LISTEN"))
        return None
    host, port = listener.getsockname()[:2]
    if not is_loopback(listener):
        log.warning("%s is not a loopback address: the metrics need no key, so let only Prometheus reach it", address)
    log.info("metrics at http://%s:%d/metrics", f"[{host}]" if ":" in host else host, port)
    return listener


def create_operations(registry: CollectorRegistry, backlog: Backlog, health: Health) -> Starlette:
    """Return the operations pages of one process."""

    async def metrics(request: Request) -> Response:
        of_backlog = [] if request.url.query == WITHOUT_BACKLOG else [*await backlog.collect()]
        return _expose(request, [*registry.collect(), *of_backlog])

    async def ready(request: Request) -> Response:
        readiness = await health.readiness()
        return JSONResponse(readiness.model_dump(), 503 if readiness.status == "unavailable" else 200)

    return Starlette(routes=[Route("/metrics", metrics), Route("/health/ready", ready), *_routes()])


def create_summary(workers: WorkerSockets) -> Starlette:
    """Return the operations pages of all workers together."""
    from prometheus_client.parser import text_string_to_metric_families  # only here, for a fast start

    total, scraping = Total(), asyncio.Lock()

    async def metrics(request: Request) -> Response:
        async with scraping:
            answers = await workers.ask("/ops/metrics", first_query="", query=WITHOUT_BACKLOG)
            parsed = {
                name: list(text_string_to_metric_families(answer.text))
                for name, answer in answers.items()
                if answer.is_success
            }
            return _expose(request, total.update(parsed, workers.names()))

    async def ready(request: Request) -> Response:
        answers = await workers.ask("/ops/health/ready")
        best = min(answers.values(), key=lambda answer: answer.status_code, default=None)
        if best is None:
            return JSONResponse({"status": "unavailable"}, 503)
        return JSONResponse(best.json(), best.status_code)

    return Starlette(routes=[Route("/metrics", metrics), Route("/health/ready", ready), *_routes()])


def serve_in_thread(app: Starlette, listener: socket.socket) -> None:
    """Serve the pages in a thread that ends with the process, for a supervisor that has no event loop."""
    server = QuietServer(configure_friendly(app))
    run = server.serve(sockets=[listener])
    threading.Thread(target=asyncio.run, args=(run,), name="eventmill-operations", daemon=True).start()


def _routes() -> Sequence[Route]:
    async def live(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def index(request: Request) -> Response:
        return PlainTextResponse(_INDEX)

    return [Route("/health", live), Route("/health/live", live), Route("/", index)]


@dataclass(frozen=True, slots=True)
class _Collected:
    """Metrics that were collected elsewhere, as a collector."""

    metrics: Sequence[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def _expose(request: Request, metrics: Sequence[Metric]) -> Response:
    """Return the metrics in the format that the client asks for."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(_Collected(metrics)), media_type=media_type)
