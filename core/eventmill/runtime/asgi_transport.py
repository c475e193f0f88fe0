"""AsgiTransport: requests of httpx to an application in this process, whose responses arrive while they are written.

httpx has a transport of its own for this, which holds the whole response in memory first.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

_QUEUED_MESSAGES = 4


class AsgiTransport(httpx.AsyncBaseTransport):
    """Calls the application for each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response as soon as it starts."""
        body = await request.aread()
        exchange = _Exchange(self._app, _scope(request), body)
        start = await exchange.start()
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request, and the body of its response."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any], body: bytes) -> None:
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(_QUEUED_MESSAGES)
        self._requests = [{"type": "http.request", "body": body, "more_body": False}]
        self._left = asyncio.Event()
        self._running = asyncio.create_task(self._run(app, scope), name="eventmill-request")

    async def start(self) -> Message:
        """Return the start of the response. Raise httpx.ReadError if the application fails."""
        message = await self._messages.get()
        if message is None:
            raise httpx.ReadError("the application failed")
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._messages.get()) is not None:
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return
        raise httpx.ReadError("the application failed")

    async def aclose(self) -> None:
        """Tell the application that its client has left."""
        self._left.set()
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._messages.put)
        except Exception:
            await self._messages.put(None)  # the application has logged it

    async def _receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}


def _scope(request: httpx.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 1),
        "state": {},
    }
