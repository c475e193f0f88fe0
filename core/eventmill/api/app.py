"""create_app: the FastAPI application over live services."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import eventmill
from eventmill.api import (
    dead_letters,
    discovery,
    events,
    health,
    ingest,
    journeys,
    live,
    lookup,
    metrics,
    openapi,
    operator,
    receipts,
    refused,
    sql,
    users,
)
from eventmill.api.access import Access
from eventmill.api.errors import add_handlers, respond_to_error, respond_to_unexpected
from eventmill.api.gate import Gate, find_routes
from eventmill.api.operator import About
from eventmill.api.refused import RefusedEvents
from eventmill.api.search import Search
from eventmill.api.siblings import Siblings, Workers
from eventmill.api.telemetry import RequestTelemetry
from eventmill.consumer.pause import Pause
from eventmill.errors import ClientDisconnected, EventmillError, PluginError
from eventmill.hookspecs import HttpApp, RouteScope, Services
from eventmill.ingest.body import Reader
from eventmill.ingest.budget import Budget
from eventmill.shutdown import Shutdown


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """An ASGI application as an endpoint of Starlette, which takes functions for handlers of requests."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class App(FastAPI):
    """FastAPI with a fast path for the ingest routes, whose work costs less than FastAPI's middleware."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._fast: dict[str, ASGIApp] = {}
        self.scopes: dict[str, RouteScope] = {"/openapi.json": "open"}

    def add_fast(self, path: str, endpoint: ASGIApp) -> None:
        """Answer POST at this path for keys that may write. Below a prefix, FastAPI routes the request."""
        self.router.routes.append(Route(path, endpoint, methods=["POST"]))
        self.scopes[path] = "write"
        self._fast[path] = endpoint

    def add_mounted(self, path: str, endpoint: ASGIApp, scope: RouteScope) -> None:
        """Let an application answer all requests below this path; at `/`, only those of the start page."""
        if path == "/":
            self.router.routes.append(Route(path, _Endpoint(endpoint), methods=["GET"]))
        else:
            self.mount(path, endpoint)
        self.scopes[path] = scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._fast.get(scope["path"]) if scope.get("method") == "POST" else None
        if endpoint is None or self.user_middleware:  # every request must pass the middleware
            await super().__call__(scope, receive, send)
            return
        try:
            await endpoint(scope, receive, send)
        except ClientDisconnected:
            pass
        except EventmillError as error:
            await (await respond_to_error(Request(scope), error))(scope, receive, send)
        except Exception as error:
            await (await respond_to_unexpected(Request(scope), error))(scope, receive, send)
            raise


def create_app(
    services: Services,
    shutdown: Shutdown,
    budget: Budget,
    access: Access,
    http_apps: Sequence[HttpApp] = (),
    retention_days: int | None = None,
    workers: Workers | None = None,
    about: About | None = None,
    pause: Pause | None = None,
) -> Gate:
    """Return the API over open services, behind its gate. The caller closes the services.

    Args:
        workers: reaches the other workers of this server, if there are any.
        about: what the settings say, for GET /status and GET /check.
        pause: that of the consumer in this process, which then follows an order at once.
    """
    app = App(
        title="eventmill",
        version=eventmill.__version__,
        description="Post events, and query counts of events and of unique users.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    add_handlers(app)
    reader = Reader(budget, shutdown, access.proxies)
    waiting = receipts.Receipts(services.store, shutdown)
    readiness = health.Health(services.queue, services.store, shutdown, budget)
    desk = dead_letters.DeadLetterDesk(services.queue)
    refusals, siblings = RefusedEvents(services.publisher.telemetry), Siblings(workers)
    app.add_fast("/events", ingest.PostEvent(services.publisher, reader, waiting, refusals, access, retention_days))
    app.add_fast("/events/bulk", ingest.PostBulk(services.publisher, reader, refusals, access, retention_days))
    routers = (
        refused.create_router(refusals, siblings),
        lookup.create_router(Search(services, refusals, desk, siblings)),
        live.create_router(live.Live(services, shutdown)),
        events.create_router(services),
        metrics.create_router(services),
        discovery.create_router(services),
        journeys.create_router(services),
        sql.create_router(services),
        users.create_router(services, desk, refusals, siblings),
        health.create_router(readiness),
        operator.create_router(services, readiness, desk, about or About(), pause),
        dead_letters.create_router(desk),
        openapi.create_router(app),
    )
    for router in routers:
        app.include_router(router)
    for http_app in http_apps:
        try:
            app.add_mounted(http_app.path, http_app.create(services), http_app.scope)
        except Exception as error:
            plugin = http_app.create.__module__
            raise PluginError(
                f"the page {http_app.path} of the plugin {plugin} cannot start: {error!r}. Repair or uninstall it"
            ) from error
    included = (route for router in routers for route in router.routes)
    return Gate(
        app,
        find_routes([*app.routes, *included], app.scopes),
        access,
        keys_in_body=frozenset({"/events/bulk"}),
        noting=frozenset({"/events", "/events/bulk"}),
        telemetry=RequestTelemetry(services.registry),
    )
