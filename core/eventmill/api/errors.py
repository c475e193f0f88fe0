"""One table from errors to HTTP answers."""

import http
import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from eventmill.api.body import ClientGone
from eventmill.errors import (
    BodyTimeout,
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


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: str
    message: str
    field: str | None = None


def code_of(error: EventmillError) -> str:
    """The word for this class of error in answers."""
    return _lookup(error)[1]


def _lookup(error: EventmillError) -> tuple[int, str]:
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), (500, "internal_error"))


def answer(status: int, code: str, message: str, field: str | None = None) -> JSONResponse:
    body = {"error": code, "message": message} | ({"field": field} if field else {})
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == http.HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(body, status, headers)


async def known(request: Request, error: Exception) -> JSONResponse:
    """The answer to an error that the table has."""
    assert isinstance(error, EventmillError)  # noqa: S101 (for the type: the handler is registered for no other)
    status, code = _lookup(error)
    if status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return answer(status, code, str(error), getattr(error, "field", None))
    # A service's own words may hold addresses: they go to the log, not to clients.
    log.warning("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return answer(status, code, f"not possible now ({type(error).__name__}): try again")


async def unknown(request: Request, error: Exception) -> JSONResponse:
    """The answer to anything else."""
    return answer(500, "internal_error", "this is a fault of the service, and it was logged")


def add_handlers(app: FastAPI) -> None:
    """Answer every error as JSON, by the table."""

    app.add_exception_handler(EventmillError, known)
    app.add_exception_handler(Exception, unknown)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> None:
        return None

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        phrase = http.HTTPStatus(error.status_code).phrase
        message = f"{phrase}: {request.method} {request.url.path}"
        response = answer(error.status_code, phrase.lower().replace(" ", "_"), message)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        field = str(problem["loc"][-1])
        return answer(400, "validation_error", f"{field}: {problem['msg']}", field)
