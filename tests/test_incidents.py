"""What happens again and again is told once."""

import logging

import pytest
from parts import Clock

from att import incidents
from att.incidents import Outage, Seldom


@pytest.fixture
def clock():
    return Clock()


def test_an_outage_is_two_lines(caplog):
    """However often it is found to be away, and to be there; the next one is told anew."""
    caplog.set_level(logging.INFO, "att")
    outage = Outage("the moon")
    outage.end()
    for _ in range(2):
        for _ in range(3):
            outage.begin("clouds")
        for _ in range(3):
            outage.end()
    away, back, *again = [record.getMessage() for record in caplog.records]
    assert away == "the moon is away: clouds"
    assert back.startswith("the moon is back after ")
    assert len(again) == 2


def test_one_of_a_kind_in_a_while(clock):
    """The next one tells how many it stands for; another kind is another matter."""
    seldom = Seldom(60, clock)
    assert seldom.passes("a") == 0
    assert [seldom.passes("a") for _ in range(3)] == [None] * 3
    assert seldom.passes("b") == 0
    clock.now = 60
    assert seldom.passes("a") == 3
    assert seldom.passes("a") is None
    clock.now = 180
    assert seldom.passes("b") == 0


def test_what_is_remembered_is_bounded(clock, monkeypatch):
    """However many kinds there are."""
    monkeypatch.setattr(incidents, "KINDS", 10)
    seldom = Seldom(60, clock)
    for kind in range(100):
        seldom.passes(kind)
        seldom.passes(kind)
    assert len(seldom._told) <= 10
    assert len(seldom._untold) <= 10
