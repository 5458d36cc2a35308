"""A track: the order of one group's events, and who has which place in it."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from att.realtime import group_streams
from att.realtime.event_log import LogEvent
from att.realtime.group_streams import _PATIENCE, GroupStream, StreamPosition
from att.realtime.registry import Dialect, Listener

ANN, TEA, SESSION = UUID(int=1), UUID(int=11), UUID(int=21)


def event(seq, body=b"{}"):
    return LogEvent(TEA, "tea", seq, "message", ANN, datetime(2026, 11, 22, tzinfo=UTC), body)


@pytest.fixture
def track():
    """One on which ten events have been applied."""
    return GroupStream(TEA, 10)


@pytest.fixture
def ann():
    return Listener(ANN, SESSION, connection=None, dialect=Dialect.V1)


def popped(track):
    """The seqs of all whose turn it is."""
    return [event.seq for event in iter(track.pop, None)]


def hears(track, listener):
    """Whether it hears the next event."""
    return listener.connection in track.audience(listener.dialect)


def test_offers_in_order(track):
    """What comes next in line has its turn; what was seen is dropped; behind a gap all is wanted from the log."""
    for seq in (9, 10, 11, 12, 11, 14):
        track.offer(event(seq))
    assert track.wants_read
    assert track.tail == 12
    assert popped(track) == [11, 12]
    assert (track.seq, track.heard) == (12, 14)


@pytest.mark.parametrize("bound", ["QUEUE_EVENTS", "_QUEUE_BYTES"])
def test_queue_is_bounded(track, monkeypatch, bound):
    """What does not fit in the queue is not kept, but known of; it is wanted once there is room."""
    monkeypatch.setattr(group_streams, bound, {"QUEUE_EVENTS": 4, "_QUEUE_BYTES": 40}[bound])
    for seq in range(11, 21):
        track.offer(event(seq, b"{12345678}"))
    assert track.tail == 14
    assert not track.wants_read
    assert popped(track) == [11, 12, 13, 14]
    assert track.wants_read
    assert track.heard == 20


def test_read_in_vain(track):
    """What the log does not have, however often it is read, is not waited for for ever."""
    track.hear(12)
    for _ in range(_PATIENCE):
        assert track.wants_read
        track.read_in_vain()
    assert not track.wants_read
    assert track.is_idle


def test_patience_begins_anew(track):
    """A read that found something makes up for those that did not."""
    track.hear(13)
    for seq in (11, 12):
        for _ in range(_PATIENCE - 1):
            track.read_in_vain()
        track.offer(event(seq))
    assert track.wants_read


@pytest.mark.parametrize(("seq", "heard"), [(15, 20), (20, 20), (5, 5), (0, 0)])
def test_skip(track, seq, heard):
    """It goes on after what is lost, and knows what it has heard of, unless the log was set back."""
    track.offer(event(11))
    track.hear(20)
    track.skip(seq)
    assert (track.seq, track.tail, track.heard) == (seq, seq, heard)
    assert popped(track) == []
    track.offer(event(seq + 1))
    assert popped(track) == [seq + 1]


def test_places(track, ann):
    """At the seq of the track a member hears what follows; ahead of it they wait until it is reached."""
    track.place(ann, StreamPosition(12, is_member=True))
    assert (hears(track, ann), track.heard, ann.groups) == (False, 12, {TEA})
    for seq in (11, 12):
        track.offer(event(seq))
        track.pop()
        track.promote()
        assert hears(track, ann) == (seq == 12)


def test_place_behind(track, ann):
    """Behind the track one catches up, member or not: that is for the log to tell."""
    track.place(ann, StreamPosition(8, is_member=False))
    assert (hears(track, ann), track.caught_up(ann), ann.groups) == (False, 8, {TEA})
    assert not track.is_idle


@pytest.mark.parametrize("seq", [10, 12])
def test_place_of_somebody_else(track, ann, seq):
    """Who is no member has no place, and it is remembered by which seq: no earlier joining counts."""
    track.place(ann, StreamPosition(seq, is_member=False))
    assert (ann.groups, ann.left) == (set(), {TEA: seq})
    assert not track.admit(ann, seq)
    assert track.admit(ann, seq + 1)
    assert hears(track, ann)


def test_admit_and_dismiss(track, ann):
    """From joining to leaving it hears; joining again in between changes nothing."""
    assert track.admit(ann, 10)
    assert not track.admit(ann, 10)
    track.dismiss(ann)
    assert (hears(track, ann), ann.left, ann.groups) == (False, {TEA: 10}, set())
    assert track.is_idle


@pytest.mark.parametrize("place", [StreamPosition(12, is_member=True), StreamPosition(8, is_member=True)])
def test_dismiss_leaves_places(track, ann, place):
    """Who waits has heard of that leaving, and who catches up will: they keep their places."""
    track.place(ann, place)
    track.dismiss(ann)
    track.dismiss(ann)
    assert (ann.groups, ann.left) == ({TEA}, {})


def test_serve(track, ann):
    """Served up to the track it hears what follows; short of it, it goes on catching up."""
    track.catch_up(ann, 2)
    track.serve(ann, StreamPosition(7, is_member=True))
    assert (track.caught_up(ann), hears(track, ann)) == (7, False)
    track.serve(ann, StreamPosition(10, is_member=True))
    assert (track.caught_up(ann), hears(track, ann)) == (None, True)


def test_recent(track, ann, monkeypatch):
    """While somebody catches up the last events are kept, and given only if none is missing before them."""
    monkeypatch.setattr(group_streams, "RECENT", 3)
    assert track.recent(9) == []
    track.catch_up(ann, 2)
    for seq in range(11, 16):
        track.offer(event(seq))
        track.pop()
    assert [event.seq for event in track.recent(13)] == [14, 15]
    assert [event.seq for event in track.recent(12)] == [13, 14, 15]
    assert track.recent(11) == track.recent(15) == []
    track.remove(ann)
    assert track.recent(13) == []


@pytest.mark.parametrize("seq", [8, 10, 12])
def test_remove(track, ann, seq):
    """Removed, it has no place, wherever it was; a track in which nobody has one, and that expects nothing, is idle."""
    track.place(ann, StreamPosition(seq, is_member=True))
    assert track.everyone() == [ann]
    assert not track.is_idle
    track.remove(ann)
    assert (track.everyone(), ann.groups) == ([], set())
    assert track.is_idle == (seq <= 10)


# Before their turn


def test_what_comes_early(track):
    """It waits until the gap before it closes, and then has its turn."""
    for seq in (13, 12, 15, 13):
        track.offer(event(seq))
    assert (track.has_early, track.has_next, track.wants_read) == (True, False, True)
    track.offer(event(11))
    assert popped(track) == [11, 12, 13]
    assert (track.has_early, track.wants_read) == (True, True)
    track.offer(event(14))
    assert popped(track) == [14, 15]
    assert (track.has_early, track.wants_read) == (False, False)


@pytest.mark.parametrize("bound", ["EARLY", "EARLY_BYTES"])
def test_what_comes_early_is_bounded(track, monkeypatch, bound):
    """What is not kept is wanted from the log."""
    monkeypatch.setattr(group_streams, bound, {"EARLY": 2, "EARLY_BYTES": 25}[bound])
    for seq in (12, 13, 14):
        track.offer(event(seq, b"{12345678}"))
    track.offer(event(11))
    assert popped(track) == [11, 12, 13]
    assert track.wants_read


def test_what_comes_early_into_a_full_queue(track, monkeypatch):
    """It is read when there is room."""
    monkeypatch.setattr(group_streams, "QUEUE_EVENTS", 2)
    for seq in (13, 14, 12, 11):
        track.offer(event(seq))
    assert popped(track) == [11, 12]
    assert track.wants_read


def test_the_log_counts_for_more(track):
    """What came early may be of a log that is no more: it is let go when the log is read, or set back."""
    track.offer(event(12))
    track.forget_early()
    track.offer(event(11))
    assert popped(track) == [11]
    track.offer(event(13))
    track.skip(5)
    assert not track.has_early
