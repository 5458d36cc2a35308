"""A node: what it hears on the bus reaches those whom it concerns."""

from uuid import UUID

import pytest

from att.node import Node
from att.realtime.bus import Joining, Ring

ANN, BOB, TEA, PIE, SESSION = (UUID(int=number) for number in range(1, 6))


class Part:
    """Keeps how it is called, by which name, in a list that is shared by all parts."""

    def __init__(self, calls):
        self._calls = calls

    def __getattr__(self, name):
        return lambda *args, **options: self._calls.append((name, *args, *options.items()))


@pytest.fixture
def calls():
    return []


@pytest.fixture
def node(calls):
    return Node(Part(calls), Part(calls), Part(calls))


def test_heard(node, calls):
    """Sessions have ended before anything is delivered, and who joins does so before the group moves on."""
    ring = Ring({TEA: 7, PIE: 8}, [Joining(TEA, 5, ANN), Joining(TEA, 6, BOB)], [SESSION], sweep=True)
    node.heard(ring)
    assert calls == [
        ("session_ended", SESSION),
        ("joined", TEA, 5, ANN),
        ("joined", TEA, 6, BOB),
        ("ring", TEA, 7),
        ("ring", PIE, 8),
        ("sweep_soon",),
    ]


def test_heard_nothing_of_a_sweep(node, calls):
    node.heard(Ring({}, [], [], sweep=False))
    assert calls == []


def test_connected(node, calls):
    """What was rung before may have been missed, and is looked up; sessions are kept only while rings are heard."""
    node.connected()
    node.disconnected()
    assert calls == [("trust", ("is_told", True)), ("sweep_soon",), ("trust", ("is_told", False))]
