"""Names that look alike."""

import pytest
from hypothesis import given, strategies as st

from att.core.names import fold
from att.core.skeletons import MOST, skeletons


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("root", "r\u043e\u043et"),  # with Cyrillic o
        ("root", "RO\u041eT"),
        ("root", "\uff52\uff4f\uff4f\uff54"),
        ("root", "ro\u00adot\u200b"),
        ("root", "r00t"),
        ("paypal", "PayPaI"),  # with a capital I
        ("ALI", "\u0430li"),
        ("admin", "\u0410D\u041cIN"),  # capitals, two of them Cyrillic
        ("Bob", "\u0412ob"),
        ("\u0412\u043e\u0432\u0430", "\u0432o\u0432a"),  # Cyrillic, and half of it Latin
        ("modern", "modem"),
        ("room 1", "room l"),
        ("tea  time", "Tea\u00a0time"),
        ("\u2764", "\u2764\ufe0f"),
        ("O\u2019Brien", "O'Brien"),
        ("\u2460", "1"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u05d5\u05d5", "\u05f0"),  # one from a line of the list with marks of direction
    ],
)
def test_alike(one, other):
    """Names that look alike in some case have a skeleton in common."""
    assert skeletons(one) & skeletons(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ann", "anna"),
        ("ali", "all"),
        ("e", "\u00e9"),
        ("user1", "user2"),
        ("ab", "ba"),
        ("a b", "ab"),
        ("\U0001f469", "\U0001f468"),
    ],
)
def test_different(one, other):
    """Names that look different have none in common."""
    assert not skeletons(one) & skeletons(other)


@given(st.text(min_size=1, max_size=64))
def test_every_name(name):
    """Each name has one to three skeletons, which fit an index; names that are equal share one."""
    found = skeletons(name)
    assert 1 <= len(found) <= 3
    assert max(map(len, found)) <= MOST
    assert found & skeletons(fold(name))
