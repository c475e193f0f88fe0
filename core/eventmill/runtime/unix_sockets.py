"""Unix sockets that only this user can open: between the workers of a server, and for commands of `eventmill run`."""

import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx  # imported on demand, since it takes 30 ms of the start of a server

log = logging.getLogger(__name__)

RUN_SOCKET = "run.sock"
ASK_SECONDS = 3.0
_MAX_PATH = 100  # characters; the system allows 104 or 108


class WorkerSockets:
    """The other workers, by the names of their sockets.

    Args:
        folder: where the workers have their sockets.
        own: the socket of this process, which is not asked.
    """

    def __init__(self, folder: Path, own: Path | None = None) -> None:
        self._folder = folder
        self._own = own

    async def ask(
        self, path: str, *, query: str = "", first_query: str | None = None, headers: Mapping[str, str] | None = None
    ) -> "dict[str, httpx.Response]":
        """Return the responses of all workers that answer within 3 s; the first one may be asked another query."""
        others = [self._address(name) for name in self.names()]
        queries = [query] * len(others)
        if others and first_query is not None:
            queries[0] = first_query
        asked = (_get(each, path, query, headers) for each, query in zip(others, queries, strict=True))
        answers = zip(others, await asyncio.gather(*asked), strict=True)
        return {each.name: answer for each, answer in answers if answer is not None}

    async def fetch(self, path: str, query: str, headers: Mapping[str, str]) -> tuple[list[Any], int]:
        """Return the JSON responses of the workers that answer, and the number of those that do not."""
        asked = len(self.names())
        answers = await self.ask(path, query=query, headers=headers)
        good = [answer.json() for answer in answers.values() if answer.status_code == HTTPStatus.OK]
        return good, max(0, asked - len(good))

    def names(self) -> list[str]:
        """Return the names of all workers but this one."""
        return [each.name for each in sorted(self._folder.glob("*.sock")) if each != self._own]

    def _address(self, name: str) -> Path:
        return self._folder / name


def transport_to(address: Path) -> "httpx.AsyncHTTPTransport":
    """Return a transport to a Unix socket; preparing it for TLS would take 16 ms."""
    import httpx

    return httpx.AsyncHTTPTransport(uds=str(address), verify=False)


async def _get(address: Path, path: str, query: str, headers: Mapping[str, str] | None) -> "httpx.Response | None":
    import httpx

    try:
        async with httpx.AsyncClient(
            transport=transport_to(address), base_url="http://worker", timeout=ASK_SECONDS
        ) as client:
            return await client.get(f"{path}?{query}" if query else path, headers=headers)
    except (httpx.HTTPError, OSError) as error:
        log.debug("the worker at %s does not answer: %s", address.name, error)
        return None


def own_address(folder: Path, pid: int | None = None) -> Path:
    """Return the socket of the process with this id, or of this one."""
    return folder / f"{pid or os.getpid()}.sock"


@contextmanager
def private_socket(folder: Path) -> Iterator[socket.socket | None]:
    """Listen in the data folder during the block, so that commands in its parent folder find this process."""
    address = folder / RUN_SOCKET
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("commands on this machine cannot find this process: %s: %s", folder, error.strerror or error)
        yield None
        return
    if is_answering(address):
        log.warning("commands reach another `eventmill run` of %s, not this one: use --url", folder)
        yield None
        return
    listener = bind_unix(address)
    own = address.stat().st_ino if listener else None
    try:
        yield listener
    finally:
        with suppress(OSError):
            if address.stat().st_ino == own:  # another process may have replaced it
                address.unlink()
            folder.rmdir()  # unless it holds data


def is_answering(address: Path) -> bool:
    """Return whether a process listens on this socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(_shorten(address))
    except OSError:  # nobody listens any more, or it is somebody else's
        return False
    return True


def create_worker_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for the sockets of workers; a socket needs a short path."""
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < _MAX_PATH // 2 else "/tmp"  # noqa: S108 (mode 700)
    return tempfile.TemporaryDirectory(prefix="eventmill-", dir=short)


def _shorten(address: Path) -> str:
    return min(str(address.absolute()), os.path.relpath(address), key=len)


def bind_unix(address: Path) -> socket.socket | None:
    """Listen on a Unix socket that only this user can open. Return None, with a warning, if that is not possible."""
    short = _shorten(address)
    if len(short) > _MAX_PATH:
        log.warning("neither commands nor other workers can ask this process: the path %s is too long", short)
        return None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if address.is_socket():  # of a process that was killed
            os.unlink(short)
        former = os.umask(0o077)  # of the whole process: other threads may create folders now
        try:
            listener.bind(short)
        finally:
            os.umask(former)
        os.chmod(short, 0o600)
        listener.listen()
    except OSError as error:
        listener.close()
        log.warning("neither commands nor other workers can ask this process: %s: %s", short, error.strerror or error)
        return None
    return listener
