"""Addresses of clients, and networks of proxies."""

import ipaddress
from collections.abc import Iterable

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
