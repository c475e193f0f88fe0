"""/docs and /openapi.json: Swagger UI from an installed package, and the schema of the ingest routes."""

from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from eventmill.api.errors import ErrorResponse, document
from eventmill.api.gate import SECURITY_SCHEMES, needs
from eventmill.api.ingest import BulkResponse
from eventmill.event import EVENT_FIELDS
from eventmill.ingest.bulk import MAX_BULK_EVENTS, MAX_KEY_LENGTH
from eventmill.ingest.validation import SentEvent

FILES = "/docs/files"
_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_CACHED = {"Cache-Control": "public, max-age=86400"}
_EXAMPLE = {field.sent_as: field.example for field in EVENT_FIELDS if field.example}
_STATUSES = (400, 408, 413, 415, 503)
_WAIT = {
    "name": "wait",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": ["stored"]},
    "description": "respond when the event is in the store (200), or after ten seconds (202)",
}


def create_router(app: FastAPI) -> APIRouter:
    """Return the documentation pages, and complete the schema of the app."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs", response_class=HTMLResponse, openapi_extra=needs("open"))
    @router.get("/docs/index.html", response_class=HTMLResponse, openapi_extra=needs("open"))
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="eventmill",
            swagger_js_url=f"{root}{FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{FILES}/swagger-ui.css",
            swagger_favicon_url=f"{root}{FILES}/favicon-32x32.png",
        )

    for name in _MEDIA_TYPES:
        router.add_api_route(f"{FILES}/{name}", _endpoint(name), methods=["GET", "HEAD"], openapi_extra=needs("open"))
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return router


def _endpoint(name: str) -> Callable[[], Awaitable[Response]]:
    async def serve() -> Response:
        return Response(_read(name), media_type=_MEDIA_TYPES[name], headers=_CACHED)

    return serve


@cache
def _read(name: str) -> bytes:
    """Return a file of Swagger UI. All responses share it: reading it from the disk each time would cost much more."""
    return (files("fastapi_swagger") / "resources" / name).read_bytes()


def _schema(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, components = msgspec.json.schema_components(
            [SentEvent, BulkResponse], ref_template="#/components/schemas/{name}"
        )
        schema["components"]["schemas"] |= components | {"ErrorResponse": ErrorResponse.model_json_schema()}
        schema["components"]["securitySchemes"] = SECURITY_SCHEMES
        for operation in (operation for methods in schema["paths"].values() for operation in methods.values()):
            operation["responses"].pop("422", None)  # FastAPI's own; invalid parameters get 400
        paths = {path: methods | schema["paths"].pop(path, {}) for path, methods in _ingest_paths().items()}
        schema["paths"] = paths | schema["paths"]
        app.openapi_schema = schema
    return app.openapi_schema


def _ingest_paths() -> dict[str, Any]:
    event = {"$ref": "#/components/schemas/SentEvent"}
    events = {"type": "array", "items": event, "minItems": 1, "maxItems": MAX_BULK_EVENTS}
    key = {
        "type": "string",
        "maxLength": MAX_KEY_LENGTH,
        "description": "a write key, from clients that cannot set headers",
    }
    bulk = {
        "type": "object",
        "properties": {"events": events, "api_key": key},
        "required": ["events"],
        "additionalProperties": False,
    }
    accepted = {
        "type": "object",
        "properties": {"event_id": {"type": "string"}, "status": {"enum": ["accepted", "stored"]}},
        "required": ["event_id", "status"],
    }
    one = _operation("Post one event", {"application/json": _media(event, _EXAMPLE)}, accepted)
    one["parameters"].append(_WAIT)
    one["responses"]["200"] = one["responses"]["202"] | {"description": "with wait=stored: the event is in the store"}
    lines = {"schema": {"type": "string", "description": "one event per line"}}
    return {
        "/events": {"post": one},
        "/events/bulk": {
            "post": _operation(
                "Post many events; invalid ones do not affect the others",
                {
                    "application/json": _media({"oneOf": [bulk, events]}, {"events": [_EXAMPLE]}),
                    "application/x-ndjson": lines,
                },
                {"$ref": "#/components/schemas/BulkResponse"},
            )
        },
    }


def _media(schema: dict[str, Any], example: object) -> dict[str, Any]:
    return {"schema": schema, "example": example}


def _operation(summary: str, content: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    errors = {str(status): part["description"] for status, part in document(*_STATUSES).items()}
    responses: dict[str, Any] = {
        "202": {"description": "the event is in the queue", "content": {"application/json": {"schema": response}}}
    }
    responses |= {status: {"description": text, "content": error} for status, text in errors.items()}
    body = {"required": True, "content": content, "description": "may be compressed: Content-Encoding gzip or zstd"}
    return {
        "summary": summary,
        "tags": ["events"],
        **needs("write"),
        "parameters": [],
        "requestBody": body,
        "responses": responses,
    }
