"""Addresses of clients, and networks of proxies."""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_CLIENT_BITS = 64  # one IPv6 client has a whole network of this prefix


def parse_address(text: str) -> Address | None:
    """Return the address in a text, which may have brackets, a port or a zone; None if there is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_in(address: Address | None, networks: Iterable[Network]) -> bool:
    return address is not None and any(address in network for network in networks)


def name_client(address: Address | None) -> str:
    """Return what identifies a client: its IPv4 address, or the network of its IPv6 address."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, _CLIENT_BITS), strict=False))
    return str(address or "")


@lru_cache(maxsize=4096)
def client_of(peer: str) -> str:
    """Return what identifies the client with this address, an empty text if it is none."""
    return name_client(parse_address(peer))


def find_client(scope: Mapping[str, Any], proxies: Sequence[Network]) -> str:
    """Return what identifies the client of a request, also behind trusted proxies.

    It has the last address that no trusted proxy has.
    """
    peer: str = scope["client"][0] if scope.get("client") else ""
    if not proxies or not is_in(address := parse_address(peer), proxies):
        return client_of(peer)
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    for hop in reversed(forwarded.decode("latin-1").split(",")):
        if (parsed := parse_address(hop)) is None:
            break
        address = parsed
        if not is_in(parsed, proxies):
            break
    return name_client(address)
