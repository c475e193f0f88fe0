"""The HTTP protocol of the server: uvicorn's, with limits, and with errors that name their cause."""

import json
import re
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from eventmill.runtime.connections import Connections

HEAD_BYTES = 64 * 1024
HEAD_LINES = 256
HEAD_SECONDS = 10.0
MAX_PIPELINED = 16
UNREAD_SECONDS = 20.0  # a client must read some of its response in this time
_LINGER_SECONDS = 1.0  # a client that is still sending would lose the response if the connection closed at once
_PIECE_BYTES = 16 * 1024  # a limit is noticed after at most this many more bytes
_FOREIGN = re.compile(rb"^[A-Z_-]+ \S+ (RTSP|ICE)/", re.MULTILINE)  # the parser takes these for HTTP


class Refused(Exception):
    """A request that the application does not see."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Transport:
    """Passes everything on, but writes nothing to a closed connection, for which uvloop raises RuntimeError."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.is_closing = inner.is_closing  # the usual call: the way through __getattr__ is slow

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._inner.write(data)


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,
        *,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._refusal: Refused | None = None
        self._in_body = False
        self._head_bytes = 0  # received since the last progress: the end of a head, or a part of a body
        self._head_since: float | None = None
        self._unread_bytes = 0  # of responses, which the client has not taken yet
        self._unread_since = 0.0

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Transport(transport))  # type: ignore[arg-type]  # it behaves like one
        self._head_since = self.loop.time()
        if not self._connections.add(self):
            self._refuse(Refused(503, "overloaded", "too many connections: try again"))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        super().connection_lost(exc)

    def close_if_late(self) -> None:
        """Close the connection if the client does not read its response, or if the head of a request is late."""
        unread_bytes = self.transport.get_write_buffer_size()
        if not unread_bytes or unread_bytes != self._unread_bytes:
            self._unread_bytes, self._unread_since = unread_bytes, self.loop.time()
        elif self.loop.time() - self._unread_since > UNREAD_SECONDS:
            self.transport.abort()
            return
        if not self._is_idle:
            self._head_since = None  # the time for the next request starts after this response
        elif self._head_since is None and self._head_bytes:
            self._head_since = self.loop.time()
        if self._head_since is None or self.loop.time() - self._head_since < HEAD_SECONDS:
            return
        if self._head_bytes:
            self._refuse(Refused(408, "request_timeout", f"the request did not arrive within {HEAD_SECONDS:.0f} s"))
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        for start in range(0, len(data), _PIECE_BYTES):  # nearly always once
            if self._refusal is not None or self.parser is None:
                return
            self._parse(data if len(data) <= _PIECE_BYTES else data[start : start + _PIECE_BYTES])
        if self._head_since is None and self._is_idle:  # line feeds, or the rest of a body that is not read
            self._head_since = self.loop.time()

    def _parse(self, data: bytes) -> None:
        self._head_bytes += len(data)
        try:
            if not self._in_body and (b" RTSP/" in data or b" ICE/" in data) and _FOREIGN.search(data):
                raise Refused(505, "http_version_not_supported", "the protocol must be HTTP/1.1")
            self.parser.feed_data(data)
            if self._head_bytes > HEAD_BYTES:
                raise Refused(431, "request_header_fields_too_large", f"the head is larger than {HEAD_BYTES} bytes")
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            if not isinstance(cause, Refused):
                cause = Refused(400, "bad_request", f"this is not valid HTTP/1.1: {cause}")
            self._refuse(cause)
        except Refused as refusal:
            self._refuse(refusal)

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse a request that asks for another protocol once more without that header, since its body follows."""
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        head += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"".join((*head, b"\r\n", rest)))

    def _refuse(self, refusal: Refused) -> None:
        """Respond with the error, after the requests before it, and close the connection."""
        self._refusal = refusal
        cycle = self.cycle
        if not self._is_idle and not cycle.more_body:
            cycle.keep_alive = False  # its response closes the connection
            return
        if not self._is_idle:  # the error is in its body
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
        self.transport.write(_response(refusal))
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    # Callbacks of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer
        if len(self.headers) == HEAD_LINES:
            raise Refused(431, "request_header_fields_too_large", f"the head has more than {HEAD_LINES} lines")
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))  # as the base class does; a call of it for each line would cost much

    def on_headers_complete(self) -> None:
        self._in_body, self._head_bytes, self._head_since = True, 0, None
        if (version := self.parser.get_http_version()) not in ("1.1", "1.0"):
            raise Refused(505, "http_version_not_supported", f"HTTP/{version} is not supported: use HTTP/1.1")
        if self.parser.get_method() == b"CONNECT":
            raise Refused(405, "method_not_allowed", "Method Not Allowed: CONNECT")
        if self.parser.should_upgrade():
            return  # data_received parses it again
        if len(self.pipeline) == MAX_PIPELINED:
            raise Refused(503, "overloaded", f"more than {MAX_PIPELINED} requests wait on this connection")
        super().on_headers_complete()

    # The next two do what the base class does, without its questions about websockets.

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._in_body, self._head_bytes, self._head_since = False, 0, None
        if self.parser.should_upgrade() or self.cycle.response_complete:
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()


def _response(refusal: Refused) -> bytes:
    body = json.dumps({"error": refusal.code, "message": str(refusal)}).encode()
    return STATUS_LINE[
        refusal.status
    ] + b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
