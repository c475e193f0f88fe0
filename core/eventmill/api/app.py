"""create_app: the FastAPI application over live services."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import eventmill
from eventmill.api import docs, health, ingest, metrics, receipts
from eventmill.api.body import ClientGone, Reader
from eventmill.api.errors import add_handlers, known, unknown
from eventmill.api.questions import QueryLine
from eventmill.budget import Budget
from eventmill.errors import EventmillError, PluginError
from eventmill.event import DEFAULT_PROJECT
from eventmill.hookspecs import HttpApp, Services
from eventmill.shutdown import Shutdown


class App(FastAPI):
    """FastAPI with a short way to the busy routes: its middleware costs more than what they do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._busy: dict[tuple[str, str], ASGIApp] = {}

    def add_busy(self, path: str, endpoint: ASGIApp) -> None:
        """Answer POST at this path; under a prefix, and to other methods, FastAPI's own way leads there."""
        self.router.routes.append(Route(path, endpoint, methods=["POST"]))
        self._busy["POST", path] = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._busy.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None or self.user_middleware:  # which nobody may pass by
            await super().__call__(scope, receive, send)
            return
        try:
            await endpoint(scope, receive, send)
        except ClientGone:
            pass
        except EventmillError as error:
            await (await known(Request(scope), error))(scope, receive, send)
        except Exception as error:
            await (await unknown(Request(scope), error))(scope, receive, send)
            raise


def create_app(
    services: Services,
    shutdown: Shutdown,
    budget: Budget,
    http_apps: Sequence[HttpApp] = (),
    retention_days: int | None = None,
    project: str = DEFAULT_PROJECT,
    line: QueryLine | None = None,
) -> FastAPI:
    """Put the routes together. Whoever calls it opens and closes the services."""
    app = App(
        title="eventmill",
        version=eventmill.__version__,
        description="Post events; ask how many there were, and of how many users.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    add_handlers(app)
    reader = Reader(budget, shutdown)
    waiters = receipts.Receipts(services.store, shutdown)
    one = ingest.PostEvent(services.publisher, reader, waiters, project, retention_days)
    many = ingest.PostBulk(services.publisher, reader, project, retention_days)
    app.add_busy("/events", one)
    app.add_busy("/events/bulk", many)
    line = line or QueryLine(shutdown)
    app.include_router(receipts.create_router(services.store, project, line))
    app.include_router(metrics.create_router(services.store, project, line))
    app.include_router(health.create_router(services, shutdown, project))
    docs.add_docs(app)
    for http_app in http_apps:
        try:
            app.mount(http_app.path, http_app.create(services))
        except Exception as error:
            plugin = http_app.create.__module__
            raise PluginError(
                f"the page {http_app.path} of {plugin} cannot start: {error!r}: repair or uninstall it"
            ) from error
    return app
