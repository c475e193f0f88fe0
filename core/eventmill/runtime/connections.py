"""The open connections of a server, and their limits."""

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from eventmill.networks import Network
from eventmill.turns import Turns

log = logging.getLogger(__name__)

_LOG_SECONDS = 10.0
_MAX_FILES = 65_536
PIECE_BYTES = 16 * 1024


class Peer(Protocol):
    """A connection of a client."""

    @property
    def address(self) -> str:
        """Its address, or the network of an IPv6 address, as `networks.client_of` returns it."""

    def close_if_late(self) -> None: ...


class Connections:
    """Counts the connections. One address may have half of them, unless it is a trusted proxy.

    Attributes:
        proxies: the trusted proxies.
        buffer: what a connection reads before it has to wait for its turn. All share it, since each parses at once.
        reading: the turns of the connections that have more to read.
        requests: the turns of requests that do not follow an authorized one on their connection.
        refused: the connections beyond a limit.
        refusals: the requests that were refused before the application saw them, by status.
    """

    def __init__(self, limit: int, proxies: Sequence[Network] = ()) -> None:
        self.limit = limit
        self.limit_per_address = max(1, limit // 2)
        self.refused = 0
        self.refusals: Counter[int] = Counter()
        self.buffer = memoryview(bytearray(PIECE_BYTES))
        self.reading = Turns()
        self.requests = Turns(rests=True)
        self.proxies = tuple(proxies)
        self._open: set[Peer] = set()
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, peer: Peer) -> bool:
        """Count a connection; return whether it is within the limits."""
        self._open.add(peer)
        self._by_address[peer.address] += 1
        is_within = len(self._open) <= self.limit and (
            self._by_address[peer.address] <= self.limit_per_address or self._is_proxy(peer.address)
        )
        self.refused += not is_within
        return is_within

    def _is_proxy(self, address: str) -> bool:
        if not address:
            return False
        client = ipaddress.ip_network(address)
        return any(client.version == proxy.version and client.overlaps(proxy) for proxy in self.proxies)

    def remove(self, peer: Peer) -> None:
        if peer in self._open:
            self._open.remove(peer)
            self._by_address[peer.address] -= 1
            if not self._by_address[peer.address]:
                del self._by_address[peer.address]

    async def watch(self) -> None:
        """Close connections whose request is late, and log refused connections, until cancelled."""
        logged, logged_at = 0, -_LOG_SECONDS
        while True:
            await asyncio.sleep(1)
            for peer in list(self._open):
                peer.close_if_late()
            if self.refused > logged and time.monotonic() - logged_at >= _LOG_SECONDS:
                log.warning(
                    "connections refused: %d. The limit is %d, and %d for one address (EVENTMILL_MAX_CONNECTIONS)",
                    *(self.refused - logged, self.limit, self.limit_per_address),
                    extra={"count": self.refused - logged},
                )
                logged, logged_at = self.refused, time.monotonic()


def raise_file_limit() -> int | None:
    """Raise the limit of open files as far as allowed; return it, or None where the system has none."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
