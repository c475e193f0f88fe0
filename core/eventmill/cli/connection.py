"""How commands reach a deployment: the API at --url, `eventmill run` of this folder, or the backends themselves.

In each case they speak HTTP to the same routes. Without a running API, the application runs inside the command.
"""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from eventmill.errors import ConfigurationError, EventmillError
from eventmill.runtime.backends import DATA_FOLDER, Choice, choose_existing
from eventmill.runtime.logs import start_log
from eventmill.runtime.sending import check_url, hide_password
from eventmill.runtime.unix_sockets import RUN_SOCKET
from eventmill.settings import Settings, is_set, load

REQUEST_SECONDS = 60.0
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
_USAGE = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


class RequestFailed(EventmillError):
    """The deployment did not do what was asked."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which deployment, and as whom.

    Attributes:
        url, key: an API, and a key for it.
        data: the data folder of `eventmill run`.
        project: the project to ask for; the default is that of the key.
    """

    url: str | None = None
    key: str | None = None
    data: Path | None = None
    project: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        named = {"X-API-Key": self.key, "X-Project": self.project}
        return {name: value for name, value in named.items() if value}


class Connection:
    """Requests to one deployment."""

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self.name = name

    async def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON response. Raise ConfigurationError if the request is at fault, else RequestFailed."""
        given = {name.rstrip("_"): value for name, value in parameters.items() if value not in (None, (), [])}
        return _decode(await self._request("GET", path, params=given))

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON response, or the list of its lines if it has several. Raise as `get`."""
        return _decode(await self._request("POST", path, json=body))

    async def _request(self, method: str, path: str, **options: Any) -> bytes:
        content = bytearray()
        try:
            async with self._client.stream(method, path, **options) as response:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_RESPONSE_BYTES:
                        raise RequestFailed(f"the response of {self.name} is too large: this is not eventmill")
        except (httpx.TransportError, httpx.InvalidURL, UnicodeError) as error:
            raise RequestFailed(f"{self.name} does not answer: {error or type(error).__name__}") from None
        if response.is_success:
            return bytes(content)
        raise _explain(self.name, response.status_code, bytes(content))


def _explain(name: str, status: int, content: bytes) -> EventmillError:
    """Return the error for a response: one of usage names the option, any other the deployment."""
    try:
        answer = json.loads(content)
        message, field = str(answer["message"]), str(answer.get("field") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message, field = "no explanation: this may not be eventmill", ""
    if status == HTTPStatus.BAD_REQUEST and field:
        option = f"--{field.replace('_', '-')}"
        return ConfigurationError(option + message.removeprefix(field) if message.startswith(field) else message)
    text = f"{name} answered {status}: {message}"
    return ConfigurationError(text) if status in _USAGE else RequestFailed(text)


def _decode(content: bytes) -> Any:
    try:
        lines = [json.loads(line) for line in content.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        raise RequestFailed("the response is not JSON: this is not eventmill") from None
    return lines[0] if len(lines) == 1 else lines


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Connection]:
    """Connect to the deployment. Raise ConfigurationError."""
    settings = load(Settings)
    start_log(settings.log_level)
    async with AsyncExitStack() as stack:
        transport, base, name = await _reach(target, settings, stack)
        client = httpx.AsyncClient(
            transport=transport, base_url=base, timeout=REQUEST_SECONDS, headers=target.headers, follow_redirects=False
        )
        yield Connection(await stack.enter_async_context(client), name)


async def _reach(
    target: Target, settings: Settings, stack: AsyncExitStack
) -> tuple[httpx.AsyncBaseTransport | None, str, str]:
    """Return the transport to the deployment, its base URL, and its name for people."""
    if target.url is not None:
        check_url(target.url)
        return None, target.url, hide_password(target.url)
    folder = target.data or Path(DATA_FOLDER)
    is_named = is_set(Settings, "queue") or is_set(Settings, "store")  # then those backends are meant
    if not is_named and (transport := await _find_run(folder)):
        return transport, "http://run", f"`eventmill run` in {folder}"
    try:
        choice = choose_existing(settings, target.data)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; or name an API with --url or EVENTMILL_URL") from None
    app = await stack.enter_async_context(_application(settings, choice))
    return httpx.ASGITransport(app, raise_app_exceptions=False), "http://here", "eventmill"


async def _find_run(folder: Path) -> httpx.AsyncBaseTransport | None:
    """Return a transport to `eventmill run`, or None if none runs in this folder."""
    address = folder / RUN_SOCKET
    if not address.exists():
        return None
    transport = httpx.AsyncHTTPTransport(uds=str(address))
    try:
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(address))) as client:
            await client.get("http://run/health")
    except httpx.TransportError:  # it was killed
        return None
    return transport


@asynccontextmanager
async def _application(settings: Settings, choice: Choice) -> AsyncIterator[Any]:
    """Open the backends, and return the API over them. A store that cannot be opened is left out."""
    from eventmill.runtime.server import create_unkeyed_api  # only here, since it takes time to import

    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(choice.queue.open())
        store = None
        if choice.store is not None:
            try:
                store = await stack.enter_async_context(choice.store.open())
            except ConfigurationError as error:  # for example, another process uses the chDB folder
                sys.stderr.write(f"eventmill: without the store: {error}\n")
        yield await stack.enter_async_context(create_unkeyed_api(settings, choice, queue, store))
