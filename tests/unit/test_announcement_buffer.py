"""What waits to be rung: what is told of each group, and that it stays small."""

from uuid import UUID

import pytest
from brokers import PIE, TEA, message

from att.realtime.brokers import buffer as module
from att.realtime.brokers.buffer import AnnouncementBuffer


@pytest.fixture
def outgoing():
    return AnnouncementBuffer()


def told(outgoing, limit=100):
    """What is told now: the head of each group and the seqs of its messages."""
    taken = outgoing.take(limit)
    return {group_id: (rung.head, [event.seq for event in rung.events]) for group_id, rung in taken.items()}


def test_messages_gather(outgoing):
    """Those of a group go together, in order; once."""
    assert not outgoing
    for event in (message(1), message(5, PIE), message(2)):
        outgoing.add(event)
    assert outgoing
    assert told(outgoing) == {TEA: (2, [1, 2]), PIE: (5, [5])}
    assert not outgoing
    assert told(outgoing) == {}


def test_heads(outgoing):
    """The highest counts, whatever comes when."""
    for seq in (3, 9, 4):
        outgoing.add_head(TEA, seq)
    outgoing.add(message(5))
    assert told(outgoing) == {TEA: (9, [5])}


def test_a_few_at_a_time(outgoing):
    """Those that came first go first."""
    for number in range(5):
        outgoing.add(message(1, UUID(int=number)))
    assert [[group_id.int for group_id in told(outgoing, 2)] for _ in range(3)] == [[0, 1], [2, 3], [4]]


def test_a_sweep(outgoing):
    outgoing.is_sweep = True
    assert outgoing
    assert told(outgoing) == {}


def test_long_messages(outgoing, monkeypatch):
    """What does not fit is told by the head alone; the next time there is room again."""
    monkeypatch.setattr(module, "GROUP_BYTES", 10)
    for seq, size in enumerate([4, 6, 1], 1):
        outgoing.add(message(seq, body=b"x" * size))
    outgoing.add(message(1, PIE, body=b"x" * 11))
    assert told(outgoing) == {TEA: (3, [1, 2]), PIE: (1, [])}
    outgoing.add(message(4))
    assert told(outgoing) == {TEA: (4, [4])}


def test_many_messages(outgoing, monkeypatch):
    monkeypatch.setattr(module, "EVENTS", 2)
    for seq in range(1, 5):
        outgoing.add(message(seq))
    assert told(outgoing) == {TEA: (4, [1, 2])}


def test_bytes_of_all_groups(outgoing, monkeypatch):
    """They are bounded, and counted right when some of them have gone."""
    monkeypatch.setattr(module, "BYTES", 20)
    for number in range(5):
        outgoing.add(message(1, UUID(int=number), b"x" * 10))
    assert [events for _, events in told(outgoing, 1).values()] == [[1]]
    outgoing.add(message(1, UUID(int=9), b"x" * 10))
    assert [events for _, events in told(outgoing).values()] == [[1], [], [], [], [1]]


def test_very_many_groups(outgoing, monkeypatch):
    """They are forgotten, and all are to look for themselves."""
    monkeypatch.setattr(module, "GROUPS", 3)
    monkeypatch.setattr(module, "BYTES", 40)
    for number in range(3):
        outgoing.add(message(1, UUID(int=number), b"x" * 10))
    assert not outgoing.is_sweep
    outgoing.add(message(1, UUID(int=3), b"x" * 40))
    assert outgoing.is_sweep
    assert told(outgoing) == {UUID(int=3): (1, [1])}


def test_what_could_not_be_told(outgoing):
    """Its head is told with what has come meanwhile; the messages are to be looked up."""
    outgoing.add(message(7))
    outgoing.add(message(2, PIE))
    taken = outgoing.take(2)
    outgoing.add(message(3, PIE))
    outgoing.put_back(taken)
    assert told(outgoing) == {PIE: (3, [3]), TEA: (7, [])}
