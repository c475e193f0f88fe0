"""The table from errors to HTTP responses."""

import http
import logging
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

from eventmill.errors import (
    BodyTimeout,
    ClientDisconnected,
    EventmillError,
    Forbidden,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    StoreMisconfigured,
    Unauthenticated,
    Unavailable,
    UnsupportedEncoding,
)

log = logging.getLogger(__name__)

_STATUS: dict[type[EventmillError], tuple[int, str]] = {
    InvalidRequest: (400, "validation_error"),
    PayloadTooLarge: (413, "payload_too_large"),
    UnsupportedEncoding: (415, "unsupported_encoding"),
    BodyTimeout: (408, "request_timeout"),
    Unauthenticated: (401, "unauthenticated"),
    Forbidden: (403, "forbidden"),
    RateLimited: (429, "rate_limited"),
    Overloaded: (503, "overloaded"),
    Unavailable: (503, "unavailable"),
    StoreMisconfigured: (503, "unavailable"),
}
RETRY_AFTER_SECONDS = 1
_REQUEST_ID = r"[\w.:-]{1,64}"
_MEANINGS = {
    400: "the request breaks a rule; `field` names the field or parameter",
    401: "the key is missing, unknown, revoked or expired",
    403: "the key, the origin or the host is not allowed",
    404: "there is nothing at this path",
    408: "the body arrives too slowly",
    413: "the body is too large",
    414: "the query string is too long",
    415: "the Content-Encoding is not supported: use gzip or zstd, or none",
    429: "the client exceeds its rate limit: retry after Retry-After",
    503: "temporarily unavailable: retry after Retry-After; retrying is harmless",
}
GATE_STATUSES = (401, 403, 414, 429)


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: str
    message: str
    field: str | None = None
    request_id: str


def document(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route for OpenAPI: these and those of the gate.

    They refer to the schema of ErrorResponse, which `openapi` adds: FastAPI would build a model for each of them.
    """
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    return {
        status: {"description": _MEANINGS[status], "content": content} for status in sorted((*statuses, *GATE_STATUSES))
    }


def code_of(kind: type[EventmillError]) -> str:
    """Return the code of this class of error in responses."""
    return _lookup(kind)[1]


def _lookup(kind: type[EventmillError]) -> tuple[int, str]:
    return next((_STATUS[base] for base in kind.__mro__ if base in _STATUS), (500, "internal_error"))


def request_id_of(scope: Scope) -> str:
    """Return the id of a request: the client's X-Request-ID if it is short and simple, or a random one."""
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        state["request_id"] = sent if re.fullmatch(_REQUEST_ID, sent) else secrets.token_hex(8)
    return str(state["request_id"])


def respond(
    scope: Scope,
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    field: str | None = None,
) -> JSONResponse:
    """Return a response that describes an error, with the id of the request; the log has it too."""
    request_id = request_id_of(scope)
    scope["state"]["status"] = status
    body = {"error": code, "message": message} | ({"field": field} if field else {}) | {"request_id": request_id}
    if log.isEnabledFor(logging.DEBUG):
        fields = {"status": status, "request_id": request_id}
        log.debug("%s %s: %s", scope["method"], scope["path"], message, extra=fields)
    return JSONResponse(body, status, {**(headers or {}), "X-Request-ID": request_id})


def _headers(status: int, error: EventmillError) -> dict[str, str]:
    """Return the headers that tell a client when to try again, or how to authenticate."""
    if isinstance(error, RateLimited):
        seconds = str(max(1, math.ceil(error.retry_seconds)))
        rate = str(max(1, int(error.per_second)))
        limits = {"RateLimit-Limit": rate, "RateLimit-Remaining": "0", "RateLimit-Reset": seconds}
        return {"Retry-After": seconds} | limits
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == http.HTTPStatus.SERVICE_UNAVAILABLE else {}


async def respond_to_error(request: Request, error: Exception) -> JSONResponse:
    """Return the response to an error of the table."""
    assert isinstance(error, EventmillError)  # noqa: S101 (for the type: the handler is registered for no other)
    status, code = _lookup(type(error))
    if status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
        field = getattr(error, "field", None)
        return respond(request.scope, status, code, str(error), _headers(status, error), field=field)
    # The message of a service may contain addresses: it goes to the log, not to clients.
    _log(logging.WARNING, request, status, error)
    message = f"temporarily unavailable ({type(error).__name__}): try again"
    return respond(request.scope, status, code, message, _headers(status, error))


async def respond_to_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Return the response to any other error."""
    _log(logging.ERROR, request, 500, error)  # the server logs the traceback
    return respond(request.scope, 500, "internal_error", "internal error; the log of the service has the details")


def _log(level: int, request: Request, status: int, error: Exception) -> None:
    fields = {"status": status, "request_id": request_id_of(request.scope)}
    log.log(level, "%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error, extra=fields)


def add_handlers(app: FastAPI) -> None:
    """Answer every error with JSON."""

    app.add_exception_handler(EventmillError, respond_to_error)
    app.add_exception_handler(Exception, respond_to_unexpected)

    @app.exception_handler(ClientDisconnected)
    async def disconnected(request: Request, error: ClientDisconnected) -> None:
        return None

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        phrase = http.HTTPStatus(error.status_code).phrase
        message = f"{phrase}: {request.method} {request.url.path}"
        return respond(request.scope, error.status_code, phrase.lower().replace(" ", "_"), message, error.headers)

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        field = _field_of(problem["loc"])
        if problem["type"] == "json_invalid":
            message = f"the body is not JSON: {problem['ctx']['error']}"
            return respond(request.scope, 400, "validation_error", message, field="body")
        if problem["type"] == "model_attributes_type" and "json" not in request.headers.get("Content-Type", ""):
            message = "send the body with the header Content-Type: application/json"
            return respond(request.scope, 400, "validation_error", message, field="body")
        if problem["type"] in ("missing", "string_too_short"):
            return respond(request.scope, 400, "validation_error", f"{field} is required", field=field)
        return respond(request.scope, 400, "validation_error", f"{field}: {problem['msg']}", field=field)


_TYPES = {"str", "int", "float", "bool", "list[str]"}  # of alternatives, which pydantic adds to the location


def _field_of(location: Sequence[str | int]) -> str:
    """Return the field of a problem, such as `steps[1].where[0]`."""
    field = ""
    for part in location[1:]:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part not in _TYPES:
            field += f".{part}" if field else part
    return field or str(location[0])
