"""A stream: the order of one group's events, and who has which place in it."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from att.realtime import group_streams
from att.realtime.event_log import LogEvent
from att.realtime.group_streams import _EMPTY_READS, GroupStream, StreamPosition
from att.realtime.registry import Dialect, Listener

ANN, TEA, SESSION = UUID(int=1), UUID(int=11), UUID(int=21)


def event(seq, body=b"{}"):
    return LogEvent(TEA, "tea", seq, "message", ANN, datetime(2026, 11, 22, tzinfo=UTC), body)


@pytest.fixture
def stream():
    """One on which ten events have been applied."""
    return GroupStream(TEA, 10)


@pytest.fixture
def ann():
    return Listener(ANN, SESSION, connection=None, dialect=Dialect.V1)


def popped(stream):
    """The seqs of all whose turn it is."""
    return [event.seq for event in iter(stream.pop, None)]


def hears(stream, listener):
    """Return True if the listener receives the next event."""
    return any(listener.connection in audience.connections for audience in stream.audiences())


def test_offers_in_order(stream):
    """The next event is queued, an old one dropped; behind a gap the log is wanted."""
    for seq in (9, 10, 11, 12, 11, 14):
        stream.offer(event(seq))
    assert stream.wants_read
    assert stream.tail == 12
    assert popped(stream) == [11, 12]
    assert (stream.seq, stream.known_head) == (12, 14)


def test_rewind(stream, ann, monkeypatch):
    """Events that are queued, behind a gap, or kept for who catches up are forgotten, with their size."""
    monkeypatch.setattr(group_streams, "_QUEUE_BYTES", 40)
    monkeypatch.setattr(group_streams, "RECENT_BYTES", 25)
    stream.catch_up(ann, 5)
    for seq in (11, 12, 13, 15):
        stream.offer(event(seq, b"{12345678}"))
    stream.pop()
    stream.rewind(10)
    assert (stream.seq, stream.known_head, stream.tail, stream.has_early) == (10, 10, 10, False)
    for seq in range(11, 16):
        stream.offer(event(seq, b"{12345678}"))
    assert stream.tail == 14
    assert [stream.pop().seq for _ in range(2)] == [event.seq for event in stream.recent(10)] == [11, 12]


@pytest.mark.parametrize("bound", ["QUEUE_EVENTS", "_QUEUE_BYTES"])
def test_queue_is_bounded(stream, monkeypatch, bound):
    """An event that does not fit is only noted, and wanted once there is room."""
    monkeypatch.setattr(group_streams, bound, {"QUEUE_EVENTS": 4, "_QUEUE_BYTES": 40}[bound])
    for seq in range(11, 21):
        stream.offer(event(seq, b"{12345678}"))
    assert stream.tail == 14
    assert not stream.wants_read
    assert popped(stream) == [11, 12, 13, 14]
    assert stream.wants_read
    assert stream.known_head == 20


def test_empty_reads(stream):
    """After some empty reads the missing events are no longer expected."""
    stream.observe(12)
    for _ in range(_EMPTY_READS):
        assert stream.wants_read
        stream.on_empty_read()
    assert not stream.wants_read
    assert stream.is_idle


def test_patience_begins_anew(stream):
    """A read that found something makes up for those that did not."""
    stream.observe(13)
    for seq in (11, 12):
        for _ in range(_EMPTY_READS - 1):
            stream.on_empty_read()
        stream.offer(event(seq))
    assert stream.wants_read


@pytest.mark.parametrize(("seq", "heard"), [(15, 20), (20, 20), (5, 5), (0, 0)])
def test_skip(stream, seq, heard):
    """The stream continues after lost events, and keeps its known head unless the log was set back."""
    stream.offer(event(11))
    stream.observe(20)
    stream.skip(seq)
    assert (stream.seq, stream.tail, stream.known_head) == (seq, seq, heard)
    assert popped(stream) == []
    stream.offer(event(seq + 1))
    assert popped(stream) == [seq + 1]


def test_places(stream, ann):
    """At the stream's seq a member receives what follows; ahead of it the listener waits."""
    stream.place(ann, StreamPosition(12, is_member=True))
    assert (hears(stream, ann), stream.known_head, ann.groups) == (False, 12, {TEA})
    for seq in (11, 12):
        stream.offer(event(seq))
        stream.pop()
        stream.promote()
        assert hears(stream, ann) == (seq == 12)


def test_place_behind(stream, ann):
    """Behind the stream a listener catches up, member or not: the log decides."""
    stream.place(ann, StreamPosition(8, is_member=False))
    assert (hears(stream, ann), stream.served_up_to(ann), ann.groups) == (False, 8, {TEA})
    assert not stream.is_idle


@pytest.mark.parametrize("seq", [10, 12])
def test_place_of_a_non_member(stream, ann, seq):
    """A non-member has no place; their seq is kept, so that no earlier joining counts."""
    stream.place(ann, StreamPosition(seq, is_member=False))
    assert (ann.groups, ann.left) == (set(), {TEA: seq})
    assert not stream.admit(ann, seq)
    assert stream.admit(ann, seq + 1)
    assert hears(stream, ann)


def test_admit_and_dismiss(stream, ann):
    """A listener receives events from joining to leaving; another joining in between changes nothing."""
    assert stream.admit(ann, 10)
    assert not stream.admit(ann, 10)
    stream.dismiss(ann)
    assert (hears(stream, ann), ann.left, ann.groups) == (False, {TEA: 10}, set())
    assert stream.is_idle


@pytest.mark.parametrize("place", [StreamPosition(12, is_member=True), StreamPosition(8, is_member=True)])
def test_dismiss_leaves_places(stream, ann, place):
    """A waiting listener knows of that leaving, and one that catches up will: they keep their places."""
    stream.place(ann, place)
    stream.dismiss(ann)
    stream.dismiss(ann)
    assert (ann.groups, ann.left) == ({TEA}, {})


def test_serve(stream, ann):
    """Served up to the stream's seq a listener receives what follows; below it, it goes on catching up."""
    stream.catch_up(ann, 2)
    stream.serve(ann, StreamPosition(7, is_member=True))
    assert (stream.served_up_to(ann), hears(stream, ann)) == (7, False)
    stream.serve(ann, StreamPosition(10, is_member=True))
    assert (stream.served_up_to(ann), hears(stream, ann)) == (None, True)


def test_recent(stream, ann, monkeypatch):
    """During catching up the last events are kept, and returned only without a gap."""
    monkeypatch.setattr(group_streams, "RECENT", 3)
    assert stream.recent(9) == []
    stream.catch_up(ann, 2)
    for seq in range(11, 16):
        stream.offer(event(seq))
        stream.pop()
    assert [event.seq for event in stream.recent(13)] == [14, 15]
    assert [event.seq for event in stream.recent(12)] == [13, 14, 15]
    assert stream.recent(11) == stream.recent(15) == []
    stream.remove(ann)
    assert stream.recent(13) == []


def redaction(seq, of):
    return event(seq, f'{{"by": null, "of": {of}}}'.encode())._replace(kind="redacted", user_id=None)


def test_a_redacted_body_is_forgotten(stream, ann):
    """As soon as the redaction is here, the body is neither among what waits nor among what is kept, nor counted."""
    secret = b'{"secret": 1}'
    stream.catch_up(ann, 2)
    for seq in (11, 12, 13):
        stream.offer(event(seq, secret))
    stream.pop()
    stream.offer(event(15, secret))
    stream.offer(redaction(14, 11))
    stream.offer(redaction(16, 12))
    stream.offer(redaction(17, 4))
    kept, waiting = stream.recent(10), [*stream._queue]
    assert [each.body for each in (*kept, *waiting) if each.kind == "message"] == [b"null", b"null", secret, secret]
    assert (stream._recent_bytes, stream._bytes) == tuple(
        sum(len(each.body) for each in part) for part in (kept, waiting)
    )
    read_before = [event(seq, secret) for seq in (3, 4, 5)]
    assert [each.body for each in stream.without_redacted(read_before)] == [secret, b"null", secret]


@pytest.mark.parametrize("seq", [8, 10, 12])
def test_remove(stream, ann, seq):
    """A removed listener has no place anywhere; a stream without listeners that expects no event is idle."""
    stream.place(ann, StreamPosition(seq, is_member=True))
    assert stream.everyone() == [ann]
    assert not stream.is_idle
    stream.remove(ann)
    assert (stream.everyone(), ann.groups) == ([], set())
    assert stream.is_idle == (seq <= 10)


# Before their turn


def test_early_events(stream):
    """An event behind a gap waits until the gap closes."""
    for seq in (13, 12, 15, 13):
        stream.offer(event(seq))
    assert (stream.has_early, stream.has_next, stream.wants_read) == (True, False, True)
    stream.offer(event(11))
    assert popped(stream) == [11, 12, 13]
    assert (stream.has_early, stream.wants_read) == (True, True)
    stream.offer(event(14))
    assert popped(stream) == [14, 15]
    assert (stream.has_early, stream.wants_read) == (False, False)


@pytest.mark.parametrize("bound", ["EARLY", "EARLY_BYTES"])
def test_early_events_are_bounded(stream, monkeypatch, bound):
    """Further ones are read from the log."""
    monkeypatch.setattr(group_streams, bound, {"EARLY": 2, "EARLY_BYTES": 25}[bound])
    for seq in (12, 13, 14):
        stream.offer(event(seq, b"{12345678}"))
    stream.offer(event(11))
    assert popped(stream) == [11, 12, 13]
    assert stream.wants_read


def test_early_events_and_a_full_queue(stream, monkeypatch):
    """They are read when there is room."""
    monkeypatch.setattr(group_streams, "QUEUE_EVENTS", 2)
    for seq in (13, 14, 12, 11):
        stream.offer(event(seq))
    assert popped(stream) == [11, 12]
    assert stream.wants_read


def test_the_log_counts_for_more(stream):
    """Early events may come from a log that was set back: they are dropped at a read or skip."""
    stream.offer(event(12))
    stream.forget_early()
    stream.offer(event(11))
    assert popped(stream) == [11]
    stream.offer(event(13))
    stream.skip(5)
    assert not stream.has_early
