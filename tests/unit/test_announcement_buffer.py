"""The buffer of pending announcements: its content for each group, and its bounds."""

from uuid import UUID

import pytest
from brokers import EPOCH, PIE, TEA, message

from att.groups.read_markers import MarkerPosition
from att.realtime.brokers import buffer as module
from att.realtime.brokers.buffer import AnnouncementBuffer, PendingMarkers


@pytest.fixture
def outgoing():
    return AnnouncementBuffer()


def pending(outgoing, limit=100):
    """Return what is pending: the head of each group and the seqs of its messages."""
    taken = outgoing.take(limit)
    return {group_id: (rung.head, [event.seq for event in rung.events]) for group_id, rung in taken.items()}


def test_messages_gather(outgoing):
    """Messages of a group are sent together, in order, once."""
    assert not outgoing
    for event in (message(1), message(5, PIE), message(2)):
        outgoing.add(event, EPOCH)
    assert outgoing
    assert pending(outgoing) == {TEA: (2, [1, 2]), PIE: (5, [5])}
    assert not outgoing
    assert pending(outgoing) == {}


def test_heads(outgoing):
    """The highest counts, whatever comes when."""
    for seq in (3, 9, 4):
        outgoing.add_head(TEA, seq)
    outgoing.add(message(5), EPOCH)
    assert pending(outgoing) == {TEA: (9, [5])}


def test_messages_of_another_epoch(outgoing, monkeypatch):
    """They replace those of the one before, whose size counts no more."""
    monkeypatch.setattr(module, "GROUP_BYTES", 10)
    monkeypatch.setattr(module, "BYTES", 14)
    outgoing.add(message(5, body=b"x" * 10), "the one before")
    outgoing.add(message(3, body=b"x" * 10), EPOCH)
    outgoing.add(message(1, PIE, body=b"x" * 4), EPOCH)
    assert pending(outgoing) == {TEA: (5, [3]), PIE: (1, [1])}


def test_a_few_at_a_time(outgoing):
    """Groups are taken in their order."""
    for number in range(5):
        outgoing.add(message(1, UUID(int=number)), EPOCH)
    assert [[group_id.int for group_id in pending(outgoing, 2)] for _ in range(3)] == [[0, 1], [2, 3], [4]]


def test_a_sweep(outgoing):
    outgoing.is_sweep = True
    assert outgoing
    assert pending(outgoing) == {}


def test_long_messages(outgoing, monkeypatch):
    """A message that does not fit is replaced by the head; the next one may fit again."""
    monkeypatch.setattr(module, "GROUP_BYTES", 10)
    for seq, size in enumerate([4, 6, 1], 1):
        outgoing.add(message(seq, body=b"x" * size), EPOCH)
    outgoing.add(message(1, PIE, body=b"x" * 11), EPOCH)
    assert pending(outgoing) == {TEA: (3, [1, 2]), PIE: (1, [])}
    outgoing.add(message(4), EPOCH)
    assert pending(outgoing) == {TEA: (4, [4])}


def test_many_messages(outgoing, monkeypatch):
    monkeypatch.setattr(module, "EVENTS", 2)
    for seq in range(1, 5):
        outgoing.add(message(seq), EPOCH)
    assert pending(outgoing) == {TEA: (4, [1, 2])}


def test_bytes_of_all_groups(outgoing, monkeypatch):
    """They are bounded, and counted right when some of them have gone."""
    monkeypatch.setattr(module, "BYTES", 20)
    for number in range(5):
        outgoing.add(message(1, UUID(int=number), b"x" * 10), EPOCH)
    assert [events for _, events in pending(outgoing, 1).values()] == [[1]]
    outgoing.add(message(1, UUID(int=9), b"x" * 10), EPOCH)
    assert [events for _, events in pending(outgoing).values()] == [[1], [], [], [], [1]]


def test_very_many_groups(outgoing, monkeypatch):
    """Too many groups are replaced by a sweep."""
    monkeypatch.setattr(module, "GROUPS", 3)
    monkeypatch.setattr(module, "BYTES", 40)
    for number in range(3):
        outgoing.add(message(1, UUID(int=number), b"x" * 10), EPOCH)
    assert not outgoing.is_sweep
    outgoing.add(message(1, UUID(int=3), b"x" * 40), EPOCH)
    assert outgoing.is_sweep
    assert pending(outgoing) == {UUID(int=3): (1, [1])}


def test_put_back(outgoing):
    """The head is announced with later messages; nodes read the unsent messages from the log."""
    outgoing.add(message(7), EPOCH)
    outgoing.add(message(2, PIE), EPOCH)
    taken = outgoing.take(2)
    outgoing.add(message(3, PIE), EPOCH)
    outgoing.put_back(taken)
    assert pending(outgoing) == {PIE: (3, [3]), TEA: (7, [])}


def test_markers(monkeypatch):
    """The highest of each user and group waits, so many in all; what is too much is left to a sweep."""
    monkeypatch.setattr(module, "MARKERS", 2)
    monkeypatch.setattr(module, "MARKERS_AT_ONCE", 1)
    waiting, ann = PendingMarkers(), UUID(int=9)
    tea, pie = MarkerPosition(ann, TEA, "tea", 5), MarkerPosition(ann, PIE, "pie", 1)
    for position in (tea, tea._replace(seq=4), pie, pie._replace(seq=2)):
        waiting.add(position)
    assert not waiting.is_full
    waiting.add(tea._replace(user_id=UUID(int=8)))
    assert waiting.is_full
    assert [waiting.take(), waiting.take(), waiting.take()] == [[tea], [pie._replace(seq=2)], []]
