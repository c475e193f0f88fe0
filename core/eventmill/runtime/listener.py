"""The listening socket: binds it, names it, and opens its connections in turn."""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from eventmill.errors import ConfigurationError
from eventmill.networks import client_of
from eventmill.runtime.connections import Connections
from eventmill.settings import Settings, split_address

log = logging.getLogger(__name__)

_BACKLOG = 2048
_HANDSHAKE_SECONDS = 10.0
_RETRY_SECONDS = 1.0


def bind(address: str) -> socket.socket:
    """Listen on HOST:PORT. Raise ConfigurationError."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {address} ({error.strerror or error}): choose another address with --listen"
        ) from None


def url_of(listener: socket.socket, settings: Settings) -> str:
    """Return the address as a URL that works on this machine."""
    host, port = listener.getsockname()[:2]
    if listener.family == socket.AF_INET6:
        host = f"[{host}]"
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"  # noqa: S104 (only for printing)


def reach_of(listener: socket.socket) -> str:
    """Return a remark on who can reach the address, empty for a single address."""
    is_any = ipaddress.ip_address(listener.getsockname()[0]).is_unspecified
    return ", on all addresses of this machine" if is_any else ""


def load_certificate(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS certificate of the server, None without one. Raise ConfigurationError if it cannot be used."""
    if settings.tls_certificate is None and settings.tls_key is None:
        return None
    if settings.tls_certificate is None or settings.tls_key is None:
        raise ConfigurationError("EVENTMILL_TLS_CERTIFICATE and EVENTMILL_TLS_KEY: set both, or none")
    certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        certificate.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:  # also ssl.SSLError
        raise ConfigurationError(
            f"cannot use EVENTMILL_TLS_CERTIFICATE {settings.tls_certificate} with EVENTMILL_TLS_KEY: {error}"
        ) from None
    return certificate


@dataclass(frozen=True, eq=False)
class _Opening:
    """A connection that waits for its turn to be opened, or for its TLS handshake; a time limit ends that."""

    address: str

    def close_if_late(self) -> None:
        pass


class Acceptor:
    """Accepts connections, and opens them when it is the turn of their address.

    Args:
        create_protocol: called for each connection.
        tls: the certificate, None without TLS.
        opening: limits the connections that are not open yet, and has their turns.
    """

    def __init__(
        self, create_protocol: Callable[[], asyncio.BaseProtocol], tls: ssl.SSLContext | None, opening: Connections
    ) -> None:
        self._create_protocol = create_protocol
        self._tls = tls
        self._opening = opening
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def run(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError as error:  # usually too many open files
                log.warning("cannot accept connections: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            opening = _Opening(client_of(address[0]))
            if self._opening.add(opening):
                self._opening.requests.add(opening.address, partial(self._start, client, opening))
            else:
                self._opening.remove(opening)
                client.close()

    def close(self) -> None:
        """Close the connections that are not open yet."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

    def _start(self, client: socket.socket, opening: _Opening) -> None:
        if self._is_closed:
            client.close()
            return
        task = asyncio.create_task(self._open(client, opening))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, client: socket.socket, opening: _Opening) -> None:
        loop = asyncio.get_running_loop()
        seconds = None if self._tls is None else _HANDSHAKE_SECONDS
        try:
            await loop.connect_accepted_socket(
                self._create_protocol, client, ssl=self._tls, ssl_handshake_timeout=seconds
            )
        except (OSError, TimeoutError) as error:  # the client gave up, or does not speak TLS
            log.debug("cannot open a connection of %s: %s", opening.address, error)
        finally:
            self._opening.remove(opening)
