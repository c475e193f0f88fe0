"""How commands reach a deployment: the API at --url, `eventmill run` of this folder, or the backends themselves.

In each case they speak HTTP to the same routes. Without a running API, the application runs inside the command.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter

from eventmill.errors import ConfigurationError, EventmillError
from eventmill.runtime.asgi_transport import AsgiTransport
from eventmill.runtime.backends import DATA_FOLDER, Choice, choose_existing
from eventmill.runtime.logs import start_log
from eventmill.runtime.sending import check_url, hide_password
from eventmill.runtime.unix_sockets import RUN_SOCKET, is_answering, transport_to
from eventmill.settings import Settings, is_set, load

_RUN = "http://run"
REQUEST_SECONDS = 60.0
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
_USAGE = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


_WITHOUT_OPTION = ("sql", "name", "steps", "body")  # arguments of commands


class RequestForbidden(ConfigurationError):
    """The key may not do this."""


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

    def headers(self) -> dict[str, str]:
        """Return the headers of requests. Raise ConfigurationError for what no header can hold."""
        named = {"X-API-Key": (self.key or "").strip(), "X-Project": (self.project or "").strip()}
        if any(not value.isascii() or not value.isprintable() for value in named.values()):
            raise ConfigurationError("--key and --project have printable ASCII characters only")
        return {name: value for name, value in named.items() if value}


class Connection:
    """Requests to one deployment."""

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self.name = name

    async def get(self, path: str, kind: Any, **parameters: Any) -> Any:
        """Return the JSON response, which must be of this type.

        Raise ConfigurationError if the request is at fault, else RequestFailed.
        """
        given = {name: value for name, value in parameters.items() if value not in (None, (), [])}
        async with self._limit():
            content = await self._request("GET", path, params=given)
        return self._decode([content], kind)[0]

    async def stream(self, path: str, parameters: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """Yield the response in chunks, of any length. Raise as `get`, also in the middle."""
        async with self._open("GET", path, params=dict(parameters)) as response:
            async for chunk in response.aiter_bytes():
                yield chunk

    async def delete(self, path: str, kind: Any, **parameters: Any) -> Any:
        """Return the JSON response, which must be of this type. Raise as `get`."""
        return self._decode([await self._request("DELETE", path, params=parameters)], kind)[0]

    async def post(self, path: str, kind: Any, body: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the lines of the JSON response, at least one; each must be of this type. Raise as `get`.

        It may take long, as long as lines arrive.
        """
        content = await self._request("POST", path, json=body)
        return self._decode(content.splitlines() or [b""], kind)

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                yield
        except TimeoutError:
            raise RequestFailed(f"{self.name} does not answer within {REQUEST_SECONDS:.0f} s") from None

    def _decode(self, lines: Sequence[bytes], kind: Any) -> list[Any]:
        """Return JSON as plain values. Raise RequestFailed if one is not of this type."""
        try:
            values = [json.loads(line) for line in lines]
            for value in values:
                TypeAdapter(kind).validate_python(value)
        except (ValueError, RecursionError):  # also ValidationError
            raise RequestFailed(f"the response of {self.name} is not eventmill's, or of another version") from None
        return values

    async def _request(self, method: str, path: str, **options: Any) -> bytes:
        async with self._open(method, path, **options) as response:
            return await self._read(response)

    @asynccontextmanager
    async def _open(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        """Yield a successful response whose content is not read yet. Raise as `get`."""
        try:
            async with self._client.stream(method, path, **options) as response:
                if not response.is_success:
                    raise _explain(self.name, response.status_code, await self._read(response))
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise RequestFailed(f"{self.name} does not answer: {error or type(error).__name__}") from None

    async def _read(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MAX_RESPONSE_BYTES:
                raise RequestFailed(f"the response of {self.name} is too large: this is not eventmill")
        return bytes(content)


def _explain(name: str, status: int, content: bytes) -> EventmillError:
    """Return the error for a response: one of usage names the option, any other the deployment."""
    try:
        answer = json.loads(content)
        message, field = str(answer["message"]), str(answer.get("field") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message, field = "no explanation: this may not be eventmill", ""
    if status == HTTPStatus.BAD_REQUEST and field in _WITHOUT_OPTION:
        return ConfigurationError(message)
    if status == HTTPStatus.BAD_REQUEST and field:
        option = f"--{field.replace('_', '-')}"
        return ConfigurationError(option + message.removeprefix(field) if message.startswith(field) else message)
    text = f"{name} answered {status}: {message}"
    if status == HTTPStatus.FORBIDDEN:
        return RequestForbidden(text)
    return ConfigurationError(text) if status in _USAGE else RequestFailed(text)


async def ask(target: Target, path: str, kind: Any, parameters: Mapping[str, Any]) -> Any:
    """Connect, and return the response to one GET."""
    async with connect(target) as connection:
        return await connection.get(path, kind, **parameters)


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Connection]:
    """Connect to the deployment. Raise ConfigurationError."""
    settings, headers = load(Settings), target.headers()
    start_log(settings.log_level if is_set(Settings, "log_level") else "warning")
    async with AsyncExitStack() as stack:
        transport, base, name = await _reach(target, settings, stack)
        client = httpx.AsyncClient(
            transport=transport, base_url=base, timeout=REQUEST_SECONDS, headers=headers, follow_redirects=False
        )
        yield Connection(await stack.enter_async_context(client), name)


async def _reach(
    target: Target, settings: Settings, stack: AsyncExitStack
) -> tuple[httpx.AsyncBaseTransport | None, str, str]:
    """Return the transport to the deployment, its base URL, and its name for people."""
    if target.url is not None:
        if target.data is not None:
            raise ConfigurationError("--url (or EVENTMILL_URL) and --data name two deployments: choose one")
        check_url(target.url)
        return None, target.url, hide_password(target.url)
    folder = target.data or Path(DATA_FOLDER)
    if transport := await _find_run(folder, settings, target):
        return transport, _RUN, f"`eventmill run` in {folder}"
    try:
        choice = choose_existing(settings, target.data)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; or name an API with --url or EVENTMILL_URL") from None
    app = await stack.enter_async_context(_application(settings, choice))
    return AsgiTransport(app), "http://here", "eventmill"


async def _find_run(folder: Path, settings: Settings, target: Target) -> httpx.AsyncBaseTransport | None:
    """Return a transport to `eventmill run`, or None if none runs in this folder, or one with other backends."""
    address = folder / RUN_SOCKET
    if not is_answering(address):
        return None
    if is_set(Settings, "queue") or is_set(Settings, "store"):  # then those backends are meant
        async with httpx.AsyncClient(transport=transport_to(address), base_url=_RUN, timeout=REQUEST_SECONDS) as client:
            status = await Connection(client, f"`eventmill run` in {folder}").get("/status", dict[str, Any])
        if status.get("backends") != choose_existing(settings, target.data).places:
            return None
    return transport_to(address)


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
