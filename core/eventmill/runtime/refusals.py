"""Responses to requests that are refused before the application sees them."""

import json
import logging
import secrets
from typing import NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """The response to a request that the application does not see."""

    status: int
    code: str
    message: str


class Refused(Exception):
    """Carries a refusal out of the parser. No frame may keep it, because its traceback would keep all frames alive."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(status, code, message)


def refusal_of(error: httptools.HttpParserError) -> Refusal:
    """Return the refusal that a callback raised, or one that names the error of the parser."""
    cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
    if isinstance(cause, Refused):
        return cause.refusal
    reason = f": {error}" if cause is error else ""  # the message of any other cause is for developers
    return Refusal(400, "bad_request", f"this is not valid HTTP/1.1{reason}")


_HEADERS = b"content-type: application/json\r\nx-content-type-options: nosniff\r\nconnection: close\r\n"


def encode_refusal(refusal: Refusal) -> bytes:
    """Return the response, which announces that the connection closes."""
    request_id = secrets.token_hex(8)
    log.debug("refused a request: %s", refusal.message, extra={"status": refusal.status, "request_id": request_id})
    body = json.dumps({"error": refusal.code, "message": refusal.message, "request_id": request_id}).encode()
    headers = b"%bx-request-id: %b\r\ncontent-length: %d\r\n" % (_HEADERS, request_id.encode(), len(body))
    return STATUS_LINE[refusal.status] + headers + b"\r\n" + body
