"""The limits of connections: in all, for one address, and for trusted proxies."""

from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from eventmill.networks import client_of, find_client
from eventmill.runtime.connections import Connections


@dataclass(eq=False)
class Peer:
    address: str

    def close_if_late(self) -> None: ...


def admitted(connections: Connections, *peers: str) -> int:
    return sum(connections.add(Peer(client_of(peer))) for peer in peers)


def test_one_address_may_have_half_and_all_of_them_the_limit() -> None:
    connections = Connections(10)
    assert admitted(connections, *["192.0.2.1"] * 8) == 5
    connections = Connections(10)
    assert admitted(connections, *(f"192.0.2.{number}" for number in range(20))) == 10
    assert connections.refused == 10


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    assert admitted(Connections(10), *(f"2001:db8::{number}" for number in range(10))) == 5
    assert admitted(Connections(10), *(f"2001:db8:0:{number}::1" for number in range(10))) == 10


@pytest.mark.parametrize("proxy", ["192.0.2.1", "2001:db8::5"])
def test_a_trusted_proxy_may_have_all(proxy: str) -> None:
    assert admitted(Connections(10, [ip_network(proxy)]), *[proxy] * 10) == 10
    assert admitted(Connections(10, [ip_network(proxy)]), *["198.51.100.1"] * 10) == 5


def test_a_client_that_is_gone_already_has_no_address_and_is_counted() -> None:
    connections = Connections(4, [ip_network("192.0.2.1")])
    assert admitted(connections, *[""] * 4) == 2


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", b"203.0.113.9", "203.0.113.9"),
        ("192.0.2.1", b"203.0.113.9, 192.0.2.1", "203.0.113.9"),
        ("192.0.2.1", b"", "192.0.2.1"),
        ("192.0.2.1", b"nonsense", "192.0.2.1"),
        ("198.51.100.1", b"203.0.113.9", "198.51.100.1"),
        ("2001:db8::1", b"203.0.113.9", "2001:db8::/64"),
    ],
)
def test_only_a_trusted_proxy_names_the_client(peer: str, forwarded: bytes, client: str) -> None:
    scope = {"client": (peer, 1), "headers": [(b"x-forwarded-for", forwarded)] if forwarded else []}
    assert find_client(scope, [ip_network("192.0.2.1")]) == client
