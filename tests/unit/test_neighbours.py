"""When a node is known to be alone."""

import pytest
from doubles import Clock

from att.realtime.neighbours import REMEMBERED, TABLE_BELIEVED, Neighbours


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def neighbours(clock):
    found = Neighbours(clock)
    found.discoveries = 0

    def on_found():
        found.discoveries += 1

    found.on_found = on_found
    found.listening()
    return found


def test_alone(neighbours, clock):
    """Others are possible until the table had none, and again when that was too long ago."""
    assert neighbours.are_possible
    neighbours.counted(0, clock())
    assert not neighbours.are_possible
    clock.now += TABLE_BELIEVED
    assert neighbours.are_possible
    assert not neighbours.discoveries
    neighbours.heard()  # it may have come while nothing was announced
    assert neighbours.discoveries == 1


def test_the_table_has_others(neighbours, clock):
    """What was not announced is made up for once."""
    neighbours.counted(0, clock())
    neighbours.counted(1, clock())
    assert neighbours.are_possible
    neighbours.counted(2, clock())
    assert neighbours.discoveries == 1


def test_another_is_heard_of(neighbours, clock):
    """Then the table is not believed for a while: it may not have it any more, or its answer may be old."""
    asked_at = clock()
    neighbours.counted(0, asked_at)
    neighbours.heard()
    assert (neighbours.are_possible, neighbours.discoveries) == (True, 1)
    neighbours.counted(0, asked_at)
    assert neighbours.are_possible
    clock.now += REMEMBERED
    neighbours.counted(0, clock())
    assert not neighbours.are_possible


def test_what_was_asked_before_it_listened(neighbours, clock):
    """Another may have begun to listen, and said so, before this node listened again."""
    asked_at = clock()
    neighbours.counted(0, asked_at)
    clock.now += 1
    neighbours.listening()
    neighbours.counted(0, asked_at)
    assert (neighbours.are_possible, neighbours.discoveries) == (True, 1)
    neighbours.counted(0, clock())
    assert not neighbours.are_possible
