"""Addresses of clients, which no client can forge."""

from ipaddress import ip_network

import pytest
from hypothesis import given, strategies as st

from att.core.client_address import client_address, is_trusted, parse_address

PROXIES = frozenset({ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"), "unix"})
MINE, THEIRS = "192.0.2.1", "198.51.100.9"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        # No proxy of ours: the header is not read.
        (MINE, [], MINE),
        (MINE, [THEIRS], MINE),
        ("2001:db8::1", [THEIRS], "2001:db8::1"),
        # One of ours: what it was called by.
        ("10.0.0.1", [MINE], MINE),
        ("2001:db8:1::5", ["2001:db8::1"], "2001:db8::1"),
        (None, [MINE], MINE),
        ("::ffff:10.0.0.1", [MINE], MINE),
        # Several: the first from the right that is not ours.
        ("10.0.0.1", [f"{MINE}, 10.9.9.9"], MINE),
        ("10.0.0.1", [MINE, "10.9.9.9"], MINE),
        # What the client wrote itself stands left of what is true.
        ("10.0.0.1", [f"{THEIRS}, {MINE}"], MINE),
        ("10.0.0.1", [f"{THEIRS}, 10.1.1.1, {MINE}, 10.9.9.9"], MINE),
        ("10.0.0.1", [THEIRS, MINE], MINE),
        ("10.0.0.1", [f"junk, 10.1.1.1, {MINE}"], MINE),
        ("10.0.0.1", [f", ,, {MINE}"], MINE),
        # Nothing but ours: the one farthest away.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        (None, [], None),
        # What is no address ends the walk.
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", [f"{THEIRS}, unknown, 10.3.3.3"], "10.3.3.3"),
        (None, [f"{THEIRS}, _hidden"], None),
        # However it is written.
        ("10.0.0.1", [f"{MINE}:4711"], MINE),
        ("10.0.0.1", ["[2001:DB8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:192.0.2.1"], MINE),
        ("fe80::1%eth0", [], "fe80::1"),
        ("10.0.0.1", ["fe80::1%<b>"], "fe80::1"),
    ],
)
def test_client_address(peer, forwarded, address):
    """Only entries that trusted proxies appended count."""
    assert client_address(peer, forwarded, PROXIES) == address


@pytest.mark.parametrize(("peer", "address"), [(None, None), (MINE, MINE), ("10.0.0.1", "10.0.0.1")])
def test_no_proxy_by_default(peer, address):
    """Without trusted proxies only the connection counts, also on the unix socket."""
    assert client_address(peer, [THEIRS], frozenset()) == address


@given(st.lists(st.text(), max_size=5), st.sampled_from([MINE, "10.0.0.1"]))
def test_cannot_be_forged(lines, peer):
    """Whatever a client writes, its own address is used, behind a proxy and without one."""
    forwarded = [*lines, MINE] if peer != MINE else lines
    assert client_address(peer, forwarded, PROXIES) == MINE


@pytest.mark.parametrize(
    "text",
    [
        *("", "unix", "1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.4:", "1.2.3.4/8", "1" * 10_000, "\0"),
        *("[1.2.3.4", "[::1]x", "::1]", "[]", "[[::1]]", "\u0661.1.1.1", "1.2.3.4:\u0661"),
    ],
)
def test_no_address(text):
    """An invalid address is None, not an error."""
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("10.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("2001:db8:1::5", True),
        ("2001:db8:2::5", False),
        (MINE, False),
        (None, True),
    ],
)
def test_is_trusted(peer, expected):
    """A proxy is known by its address; one without address uses the unix socket."""
    address = None if peer is None else parse_address(peer)
    assert is_trusted(address, PROXIES) is expected
    assert is_trusted(address, frozenset()) is False
