"""create_app: the FastAPI application over live services."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.routing import Route

import eventmill
from eventmill.api import docs, health, ingest, metrics, receipts
from eventmill.api.body import Reader
from eventmill.api.errors import add_handlers
from eventmill.errors import PluginError
from eventmill.event import DEFAULT_PROJECT
from eventmill.hookspecs import HttpApp, Services


def create_app(
    services: Services,
    state: health.Health,
    reader: Reader,
    http_apps: Sequence[HttpApp] = (),
    retention_days: int | None = None,
    project: str = DEFAULT_PROJECT,
) -> FastAPI:
    """Put the routes together. Whoever calls it opens and closes the services."""
    app = FastAPI(
        title="eventmill",
        version=eventmill.__version__,
        description="Post events; ask how many there were, and of how many users.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    add_handlers(app)
    app.state.receipts = receipts.Receipts(services.store)
    one = ingest.PostEvent(services.publisher, reader, app.state.receipts, project, retention_days)
    many = ingest.PostBulk(services.publisher, reader, project, retention_days)
    app.router.routes.append(Route("/events", one, methods=["POST"]))
    app.router.routes.append(Route("/events/bulk", many, methods=["POST"]))
    app.include_router(receipts.create_router(services.store, project))
    app.include_router(metrics.create_router(services.store, project))
    app.include_router(health.create_router(state, services, project))
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
