"""Whose request it is: the address of the connection, or the one that a proxy which we trust has seen.

Ours, since aiohttp-remotes 1.4 believes the header whoever opens the connection, and refuses one that comes in two
lines or names a port.
"""

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

IPAddress = IPv4Address | IPv6Address
Proxy = IPv4Network | IPv6Network | Literal["unix"]  # "unix" is one that comes by our unix socket

_WITH_PORT = re.compile(r"\[([^]]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


def client_address(peer: str | None, forwarded: Iterable[str], trusted: Collection[Proxy]) -> str | None:
    """The client's IP address, None when all that is known is our unix socket.

    ``peer`` is the other end of the connection, None for a unix socket; ``forwarded`` are the lines of
    X-Forwarded-For. A proxy appends to it whom it was called by, so that only what trusted ones appended is read,
    from the right; what the client wrote itself stands left of that.
    """
    address = parse_address(peer or "")
    hops = [hop for line in forwarded for hop in line.split(",") if hop.strip()]
    while hops and is_trusted(address, trusted):
        caller = parse_address(hops.pop().strip())
        if caller is None:
            break
        address = caller
    return None if address is None else str(address)


def parse_address(text: str) -> IPAddress | None:
    """The address that is written here, with or without a port; None when there is none.

    Of one way to write it: IPv4 in IPv6 is IPv4, and the zone of a link is left out.
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
    """Whether what comes from there, None for a unix socket, comes from one of these."""
    if address is None:
        return "unix" in trusted
    return any(address in network for network in trusted if network != "unix")
