"""Quotas: buckets of tokens, and the errors."""

from uuid import uuid4

import pytest
from hypothesis import given, strategies as st
from metric_samples import counts

from att.core.quotas import Quota, Quotas, TokenBuckets

ANN, BOB = uuid4(), uuid4()


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_burst(clock):
    """A full bucket gives all its tokens at once, then one at each interval, however often it is asked meanwhile."""
    buckets = TokenBuckets(5, 10, clock)
    assert [buckets.take(ANN) for _ in range(5)] == [0] * 5
    assert [buckets.take(ANN) for _ in range(3)] == pytest.approx([2] * 3)
    clock.now += 1.5
    assert buckets.take(ANN) == pytest.approx(0.5)
    clock.now += 0.5
    assert buckets.take(ANN) == 0
    assert buckets.take(ANN) == pytest.approx(2)
    clock.now += 1_000
    assert [buckets.take(ANN) > 0 for _ in range(6)] == [False] * 5 + [True]


def test_each_user_has_a_bucket(clock):
    """One user's use does not concern another."""
    buckets = TokenBuckets(1, 1, clock)
    assert (buckets.take(ANN), buckets.take(BOB)) == (0, 0)
    assert buckets.take(ANN) > 0


def test_buckets_are_dropped(clock):
    """Full buckets are dropped while others are used, and buckets in use are kept."""
    buckets = TokenBuckets(2, 10, clock)
    for _ in range(100):
        buckets.take(uuid4())
    clock.now += 6
    buckets.take(ANN)
    for _ in range(100):
        buckets.take(uuid4())
    assert len(buckets) <= 110
    assert buckets.take(ANN) == 0
    assert buckets.take(ANN) > 0


@given(st.integers(1, 50), st.lists(st.floats(0, 3), max_size=200))
def test_never_more_than_allowed(size, pauses):
    """Within any time, no more tokens are taken than the bucket holds and than come back in that time."""
    clock, taken = Clock(), []
    buckets = TokenBuckets(size, 10, clock)
    for pause in pauses:
        clock.now += pause
        if not buckets.take(ANN):
            taken.append(clock.now)
    for index, start in enumerate(taken):
        for number, end in enumerate(taken[index:], 1):
            assert number <= size + (end - start) * size / 10 + 0.01


def test_errors():
    """Errors say what the limit is, name the quota, and are counted by it; a wait is at least a second."""
    quotas = Quotas({Quota.MEMBERS: 7})
    error = quotas.exceeded(Quota.MEMBERS)
    assert (error.quota, error.detail) == ("members", "A group can have at most 7 members.")
    assert [quotas.exhausted(Quota.REQUESTS, wait).retry_after for wait in (0.01, 1, 1.01)] == [1, 1, 2]
    counted = counts(quotas.refusals)
    assert (counted["members",], counted["requests",], counted["sockets",]) == (1, 3, 0)
    assert quotas.limit(Quota.SOCKETS) is None


def test_series():
    """The counter has a series for each quota that refuses, from the beginning."""
    assert set(counts(Quotas().refusals)) == {(quota,) for quota in Quota if quota != Quota.SESSIONS}
