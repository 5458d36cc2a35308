"""What is counted: sums that add up, and no more kinds than there are."""

from hypothesis import given
from hypothesis import strategies as st

from att.core.metrics import Histogram, Requests


def test_a_value_counts_where_it_belongs():
    """At a bound it belongs below it, as Prometheus's `le` has it; above all bounds it is kept as well."""
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 5):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum, histogram.count) == ([2, 2, 1, 1], 13.5, 6)


@given(st.lists(st.floats(0, 20)), st.lists(st.floats(0, 20)))
def test_two_histograms_are_one(first, second):
    """Together they are what one would be that had seen all; neither is changed."""
    both, one, other = Histogram(), Histogram(), Histogram()
    for value in first:
        one.observe(value)
    for value in second:
        other.observe(value)
    for value in first + second:
        both.observe(value)
    before = list(one.counts)
    merged = one + other
    assert merged.counts == both.counts
    assert abs(merged.sum - both.sum) < 1e-6
    assert one.counts == before


def test_requests_are_kept_apart_by_what_was_asked():
    """By route, method and status."""
    requests = Requests()
    requests.observe("/a", "GET", 200, 0.1)
    requests.observe("/a", "GET", 200, 0.2)
    requests.observe("/a", "GET", 404, 0.1)
    requests.observe("/a", "POST", 200, 0.1)
    assert {tuple(asked): times.count for asked, times in requests.times.items()} == {
        ("/a", "GET", 200): 2,
        ("/a", "GET", 404): 1,
        ("/a", "POST", 200): 1,
    }


def test_closes_are_kept_by_code():
    requests = Requests()
    for code in (1000, 4000, 1000):
        requests.closed(code)
    assert requests.closes == {1000: 2, 4000: 1}
