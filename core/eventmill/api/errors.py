"""The table from errors to HTTP responses."""

import http
import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from eventmill.errors import (
    BodyTimeout,
    ClientDisconnected,
    EventmillError,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    StoreMisconfigured,
    Unavailable,
    UnsupportedEncoding,
)

log = logging.getLogger(__name__)

_STATUS: dict[type[EventmillError], tuple[int, str]] = {
    InvalidRequest: (400, "validation_error"),
    PayloadTooLarge: (413, "payload_too_large"),
    UnsupportedEncoding: (415, "unsupported_encoding"),
    BodyTimeout: (408, "request_timeout"),
    Overloaded: (503, "overloaded"),
    Unavailable: (503, "unavailable"),
    StoreMisconfigured: (503, "unavailable"),
}
RETRY_AFTER_SECONDS = 1


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: str
    message: str
    field: str | None = None


def code_of(kind: type[EventmillError]) -> str:
    """Return the code of this class of error in responses."""
    return _lookup(kind)[1]


def _lookup(kind: type[EventmillError]) -> tuple[int, str]:
    return next((_STATUS[base] for base in kind.__mro__ if base in _STATUS), (500, "internal_error"))


def _respond(status: int, code: str, message: str, field: str | None = None) -> JSONResponse:
    body = {"error": code, "message": message} | ({"field": field} if field else {})
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == http.HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(body, status, headers)


async def respond_to_error(request: Request, error: Exception) -> JSONResponse:
    """Return the response to an error of the table."""
    assert isinstance(error, EventmillError)  # noqa: S101 (for the type: the handler is registered for no other)
    status, code = _lookup(type(error))
    if status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return _respond(status, code, str(error), getattr(error, "field", None))
    # The message of a service may contain addresses: it goes to the log, not to clients.
    log.warning("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return _respond(status, code, f"temporarily unavailable ({type(error).__name__}): try again")


async def respond_to_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Return the response to any other error."""
    return _respond(500, "internal_error", "internal error; the log of the service has the details")


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
        response = _respond(error.status_code, phrase.lower().replace(" ", "_"), message)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        field = str(problem["loc"][-1])
        return _respond(400, "validation_error", f"{field}: {problem['msg']}", field)
