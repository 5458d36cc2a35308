"""Limits on log lines about what happens again and again."""

import logging

import pytest
from doubles import Clock

from att.core import log_limits
from att.core.log_limits import OncePerInterval, OutageLog, RateLimited


@pytest.fixture
def clock():
    return Clock()


def test_an_outage_is_two_lines(caplog):
    """However often the service fails and answers; the next outage has its own two lines."""
    caplog.set_level(logging.INFO, "att")
    outage = OutageLog("the moon")
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


def test_once_per_interval(clock):
    """The next allowed line counts the suppressed ones; each kind has its own count."""
    once = OncePerInterval(60, clock)
    assert once.passes("a") == 0
    assert [once.passes("a") for _ in range(3)] == [None] * 3
    assert once.passes("b") == 0
    clock.now = 60
    assert once.passes("a") == 3
    assert once.passes("a") is None
    clock.now = 180
    assert once.passes("b") == 0


def test_rate_limited(clock):
    """The first line of the next second counts the suppressed ones."""
    limited = RateLimited(2, clock)
    assert [limited.passes() for _ in range(5)] == [0, 0, None, None, None]
    clock.now = 0.9
    assert limited.passes() is None
    clock.now = 1
    assert [limited.passes() for _ in range(3)] == [4, 0, None]
    clock.now = 60
    assert [limited.passes() for _ in range(2)] == [1, 0]


def test_memory_is_bounded(clock, monkeypatch):
    """It does not grow with the number of kinds."""
    monkeypatch.setattr(log_limits, "_KINDS", 10)
    once = OncePerInterval(60, clock)
    for kind in range(100):
        once.passes(kind)
        once.passes(kind)
    assert len(once._allowed_at) <= 10
    assert len(once._suppressed) <= 10
