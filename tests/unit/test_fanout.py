"""Frames of events, replay, and counts of deliveries."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from metric_samples import total

from att.protocol.frames import text_frame
from att.realtime import fanout
from att.realtime.event_log import LogEvent
from att.realtime.fanout import NOBODY, Counts, Delivered, encode, replay, send_gap
from att.realtime.group_streams import StreamPosition
from att.realtime.registry import Dialect, Listener

ANN, BEN = UUID(int=1), UUID(int=2)
TEA, PIE = UUID(int=11), UUID(int=12)
SESSION = UUID(int=21)
BODY = b'{ "a" : 1 }'


class Recording:
    """A ``Connection`` in memory, which keeps what it is given."""

    def __init__(self):
        self.frames = []

    def replay(self, frame):
        self.frames.append(frame)


@pytest.fixture(params=[Dialect.V1, Dialect.PLAIN])
def ann(request):
    return Listener(ANN, SESSION, Recording(), request.param)


def event(seq, kind="message", user_id=BEN, group_id=TEA):
    body = BODY if kind == "message" else b""
    return LogEvent(group_id, "tea", seq, kind, user_id, datetime(2026, 11, 22, tzinfo=UTC), body)


def received(listener):
    """Return the seqs of a listener's frames; for a plain one, the number of messages."""
    if listener.dialect is Dialect.V1:
        return [json.loads(frame[2 if frame[1] < 126 else 4 :])["seq"] for frame in listener.connection.frames]
    assert set(listener.connection.frames) <= {text_frame(BODY)}
    return len(listener.connection.frames)


def test_encode_plain():
    """A plain listener gets messages alone, byte for byte."""
    assert encode(event(1), Dialect.PLAIN) == text_frame(BODY)
    assert encode(event(1, "joined"), Dialect.PLAIN) is encode(event(1, "left"), Dialect.PLAIN) is None
    assert encode(event(1).redacted(), Dialect.PLAIN) is None


@pytest.mark.parametrize("kind", ["message", "joined", "left"])
def test_encode_v1(kind):
    """In att.v1 every event has a frame."""
    frame = encode(event(7, kind), Dialect.V1)
    assert (b'"type":"%b"' % kind.encode()) in frame
    assert b'"seq":7' in frame


LIFE = [
    event(1),
    event(2, "joined", ANN),
    event(3),
    event(4, "left", BEN),
    event(5, "left", ANN),
    event(6),
    event(7, "joined", BEN),
    event(8, "joined", ANN),
    event(9),
]


@pytest.mark.parametrize(
    ("place", "seqs", "messages"),
    [
        (StreamPosition(0, is_member=False), [2, 3, 4, 5, 8, 9], 2),
        (StreamPosition(2, is_member=True), [3, 4, 5, 8, 9], 2),
        (StreamPosition(5, is_member=False), [8, 9], 1),
        (StreamPosition(8, is_member=True), [9], 1),
    ],
)
def test_replay(ann, place, seqs, messages):
    """One is given what one was a member for, with one's own joining and leaving."""
    assert replay(ann, place, LIFE[place.seq :]) == StreamPosition(9, is_member=True)
    assert received(ann) == (seqs if ann.dialect is Dialect.V1 else messages)


@pytest.mark.parametrize(("until", "is_member"), [(1, False), (4, True), (5, False), (7, False)])
def test_replay_returns_the_position(ann, until, is_member):
    """The position after a page is its last seq, and whether the user is a member there."""
    assert replay(ann, StreamPosition(0, is_member=False), LIFE[:until]) == StreamPosition(until, is_member)


def test_replay_of_nothing(ann):
    """An empty page changes nothing."""
    assert replay(ann, StreamPosition(3, is_member=True), []) == StreamPosition(3, is_member=True)
    assert ann.connection.frames == []


def test_gap(ann):
    """A gap has a frame in att.v1 alone."""
    send_gap(ann, TEA, "tea", 3, 5)
    if ann.dialect is Dialect.PLAIN:
        assert ann.connection.frames == []
    else:
        [frame] = ann.connection.frames
        assert json.loads(frame[2:]) == {"type": "gap", "group": str(TEA), "name": "tea", "from": 3, "to": 5}


def test_counts():
    """Deliveries of messages are stored and summed; joined and left events are not."""
    counts = Counts()
    counts.add(event(1), Delivered(2, 1))
    counts.add(event(2, "joined"), Delivered(3, 0))
    counts.add(event(3), Delivered(4, 2))
    counts.skip(event(3))
    assert counts.of(event(1)) == Delivered(2, 1)
    assert counts.of(event(2)) is None
    assert (total(counts.delivered), total(counts.dropped)) == (6, 3)


def test_counts_are_bounded(monkeypatch):
    """The oldest are forgotten."""
    monkeypatch.setattr(fanout, "COUNTS", 3)
    counts = Counts()
    for seq in range(1, 6):
        counts.add(event(seq), Delivered(seq, 0))
    assert [counts.of(event(seq)) for seq in (2, 3, 5)] == [None, Delivered(3, 0), Delivered(5, 0)]


def test_expect():
    """A callback is called once, unless it was dropped."""
    counts, heard = Counts(), []
    counts.expect(event(1), heard.append)
    counts.expect(event(2), heard.append)
    counts.forget(event(2))
    for seq in (1, 2, 1):
        counts.add(event(seq), Delivered(seq, 0))
    assert heard == [Delivered(1, 0)]
    assert not counts._waiting


def test_drop_group():
    """Callbacks of a group without listeners are called; those of other groups stay."""
    counts, heard = Counts(), []
    counts.expect(event(1), heard.append)
    counts.expect(event(2), heard.append)
    counts.expect(event(1, group_id=PIE), heard.append)
    counts.drop_group(TEA)
    assert heard == [NOBODY, NOBODY]
    assert len(counts._waiting) == 1


def test_skip():
    """An event without listeners counts as delivered to none, unless it was delivered before."""
    counts = Counts()
    counts.skip(event(1))
    counts.add(event(2), Delivered(2, 0))
    counts.skip(event(2))
    assert (counts.of(event(1)), counts.of(event(2))) == (NOBODY, Delivered(2, 0))
