"""The HTTP protocol of the server: uvicorn's, with limits, and with errors that name their cause."""

import random
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from eventmill.networks import client_of, find_client
from eventmill.runtime.connections import PIECE_BYTES, Connections
from eventmill.runtime.refusals import Refusal, Refused, encode_refusal, refusal_of

HEAD_BYTES = 64 * 1024
HEAD_LINES = 256
URL_BYTES = 8 * 1024
HEAD_SECONDS = 10.0
MAX_PIPELINED = 16
UNREAD_SECONDS = 20.0  # a client must read some of its response in this time
# A client that is still sending would lose the response if the connection closed at once. The time is random, since a
# thousand clients whose connections close in the same moment would all return in the same moment.
_LINGER_SECONDS = (1.0, 2.0)


class Connection(HttpToolsProtocol):
    """One connection of a client. A client that sends much at once waits for its turns."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], connections: Connections
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._connections = connections
        self.address = ""
        self._refusal: Refusal | None = None
        self._is_authorized = False  # whether the last request was; without a key it may be, too
        self._head_bytes = 0  # received since the last progress: the end of a head, or a part of a body
        self._head_since: float | None = None
        self._earlier: list[RequestResponseCycle] = []  # requests that may still run, without the last one
        self._data = b""  # what the parser has now
        self._head: list[bytes] = []  # what was received since the head of a request began, and a little before it
        self._idle_since = 0.0  # when the last response was complete
        self._unread_bytes = 0  # of responses, which the client has not taken yet
        self._unread_since = 0.0

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        # The base class would ask the system for the addresses through two more socket objects.
        self.connections.add(self)
        self.transport, self.flow = transport, FlowControl(transport)
        # A client that is gone already has no address.
        self.server = (transport.get_extra_info("sockname") or ("", 0))[:2]
        self.client = (transport.get_extra_info("peername") or ("", 0))[:2]
        self.address = client_of(self.client[0])
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self.headers = []
        self._head_since = self.loop.time()
        if not self._connections.add(self):
            self._refuse(Refusal(503, "overloaded", "too many connections: try again"))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        for cycle in self._earlier:  # the base class tells the last one only; the others would write to the transport
            cycle.disconnected = True
        super().connection_lost(exc)
        if self.pipeline:
            self._forget_requests()

    def _forget_requests(self) -> None:
        """Forget requests that never run: each refers to this connection, which refers to the last one."""
        self.pipeline.clear()
        self._earlier.clear()
        self.cycle = None  # type: ignore[assignment]  # as before the first request

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
        if self._head_since is None:
            if self._is_idle and self.loop.time() - self._idle_since > self.timeout_keep_alive:
                self.transport.close()
            return
        if self.loop.time() - self._head_since < HEAD_SECONDS:
            return
        if self._head_bytes:
            self._refuse(Refusal(408, "request_timeout", f"the request did not arrive within {HEAD_SECONDS:.0f} s"))
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._parse(data)
        if len(data) == PIECE_BYTES:  # there is more to read
            self.transport.pause_reading()
            self._connections.reading.add(self.address, self._read_on)
        if self._head_since is None and self._is_idle:  # line feeds, or the rest of a body that is not read
            self._head_since = self.loop.time()

    def _read_on(self) -> None:
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        if self._refusal or self.parser is None:
            return
        self._head_bytes += len(data)
        try:
            if self._head:
                self._head.append(data)
            self._data = data
            self.parser.feed_data(data)
            self._data = b""
            if self._head_bytes > HEAD_BYTES:
                raise _large_head(f"is larger than {HEAD_BYTES} bytes")
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(refusal_of(error))
        except Refused as error:
            self._refuse(error.refusal)

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse a request that asks for another protocol once more without that header, since its body follows."""
        version = self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        head += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the base class does
        self._parse(b"".join((*head, b"\r\n", rest)))

    def _refuse(self, refusal: Refusal) -> None:
        """Respond with the error, after the requests before it, and close the connection."""
        self._refusal = refusal
        self.headers, self.scope = [], None  # type: ignore[assignment]  # what was read of the request
        self._data, self._head = b"", []
        cycle = self.cycle
        if not self._is_idle and not cycle.more_body:
            return  # it is sent after the last response
        if self.pipeline:  # the error is in the body of a request that waits behind others
            self.pipeline.popleft()
            self.cycle = self._earlier[-1]
            if not self._is_idle:
                return
        elif not self._is_idle:  # the error is in its body
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        self._send_refusal(refusal)

    def _send_refusal(self, refusal: Refusal) -> None:
        self._connections.refusals[refusal.status] += 1
        self.transport.write(encode_refusal(refusal))
        self.loop.call_later(random.uniform(*_LINGER_SECONDS), self.transport.close)

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = [self._data]

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > URL_BYTES:
            raise Refused(414, "uri_too_long", f"the URL is longer than {URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        # As the base class does, without a second call for each line.
        if len(self.headers) == HEAD_LINES:
            raise _large_head(f"has more than {HEAD_LINES} lines")
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_bytes, self._head_since = 0, None
        head = self._head[0] if len(self._head) == 1 else b"".join(self._head)
        self._head = []
        if b" RTSP/" in head or b" ICE/" in head:
            self._refuse_foreign(head)
        if (version := self.parser.get_http_version()) not in ("1.1", "1.0"):
            raise Refused(505, "http_version_not_supported", f"HTTP/{version} is not supported: use HTTP/1.1")
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refused(405, "method_not_allowed", "Method Not Allowed: CONNECT")
            return  # _parse parses it again
        if self.cycle is not None:
            self._note_earlier(self.cycle)
        super().on_headers_complete()
        self.headers = []  # the application has its own list, which trailers must not change

    def _refuse_foreign(self, head: bytes) -> None:
        """Refuse other protocols, which the parser takes for HTTP. There may be other data around the head."""
        if re.search(rb"%b +%b +(RTSP|ICE)/" % (self.parser.get_method(), re.escape(self.url)), head):
            raise Refused(505, "http_version_not_supported", "the protocol must be HTTP/1.1")

    def _note_earlier(self, cycle: RequestResponseCycle) -> None:
        """Remember the request before this one while it runs."""
        if cycle.response_complete:
            self._earlier.clear()
            return
        if len(self.pipeline) == MAX_PIPELINED:
            self._keep_oldest()
            raise Refused(503, "overloaded", f"more than {MAX_PIPELINED} requests wait on this connection")
        self._earlier = [earlier for earlier in (*self._earlier, cycle) if not earlier.response_complete]

    def _keep_oldest(self) -> None:
        """Forget all requests but the oldest one that runs, or is the next to run."""
        self.cycle = self._earlier[0]
        self._earlier.clear()
        oldest = [waiting for waiting in self.pipeline if waiting[0] is self.cycle]
        self.pipeline.clear()
        self.pipeline.extend(oldest)

    # The next three do what the base class does, without its questions about websockets and its timer per response.

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._head_bytes, self._head_since = 0, None
        if self.parser.should_upgrade() or self.cycle.response_complete:
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._is_authorized = self.cycle.scope["state"].get("principal") is not None
        self.flow.resume_reading()
        if self.pipeline:
            self._take_turn(self.pipeline[-1][0], self._start_next)
        elif self._refusal:
            self._send_refusal(self._refusal)
        else:
            self._idle_since = self.loop.time()

    def _start_next(self) -> None:
        if self.pipeline:
            self._start(*self.pipeline.pop())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start to answer a request: at once after one that was authorized, and otherwise in turn."""
        if self._is_authorized:
            super()._start_asgi_task(cycle, app)
        else:
            self._take_turn(cycle, partial(self._start, cycle, app))

    def _take_turn(self, cycle: RequestResponseCycle, start: Callable[[], None]) -> None:
        self._connections.requests.add(find_client(cycle.scope, self._connections.proxies), start)

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.transport.is_closing():
            self._forget_requests()
        else:
            super()._start_asgi_task(cycle, app)


def _large_head(reason: str) -> Refused:
    return Refused(431, "request_header_fields_too_large", f"the head {reason}")
