"""Find a client's address: the connection's, or the one that a trusted proxy reports.

aiohttp-remotes 1.4 would believe the header of any client, and rejects one in two lines or with a port.
"""

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

IPAddress = IPv4Address | IPv6Address
Proxy = IPv4Network | IPv6Network | Literal["unix"]  # "unix" is a proxy on the unix socket

NETWORK_BITS = 64  # of an IPv6 address: the network of one customer, or a part of it
SITE_BITS = 48  # the most that one customer gets; of some providers it has many customers
_WITH_PORT = re.compile(r"\[([^]]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


def client_address(peer: str | None, forwarded: Iterable[str], trusted: Collection[Proxy]) -> str | None:
    """Return the client's IP address, None if only the unix socket is known.

    ``peer`` is the other end of the connection, None for a unix socket; ``forwarded`` are the lines of
    X-Forwarded-For. Each proxy appends its peer's address, so only the entries of trusted proxies are read, from the
    right. Entries further left may be the client's own.
    """
    address = parse_address(peer or "")
    hops = [hop for line in forwarded for hop in line.split(",") if hop.strip()]
    while hops and is_trusted(address, trusted):
        client = parse_address(hops.pop().strip())
        if client is None:
            break
        address = client
    return None if address is None else str(address)


def parse_address(text: str) -> IPAddress | None:
    """Parse an address with or without a port; return None when it is invalid.

    Equal addresses become equal: IPv4 in IPv6 becomes IPv4, and a zone is left out.
    """
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address(match[1] or match[2] if match else text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def is_trusted(address: IPAddress | None, trusted: Collection[Proxy]) -> bool:
    """Return True if the address, None for a unix socket, is that of a trusted proxy."""
    if address is None:
        return "unix" in trusted
    return any(address in network for network in trusted if network != "unix")


@lru_cache(1_000)  # the proxy's, or those of a client that has many connections
def network_of(address: str | None) -> str:
    """Return the key of an address: an IPv4 address, a /64 of IPv6, or one key for all clients of a unix socket."""
    return _prefix_of(address, NETWORK_BITS)


def site_of(address: str | None) -> str:
    """Return the key of all networks that may be one customer's: as ``network_of``, but a /48 of IPv6."""
    return _prefix_of(address, SITE_BITS)


def _prefix_of(address: str | None, bits: int) -> str:
    parsed = parse_address(address or "")
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), bits), strict=False))
    return str(parsed)
