"""The log's tail: from when on it is read so that no event is missed, though events are not committed in order."""

from datetime import UTC, datetime, timedelta

import pytest

from att.realtime.log_tail import SNAPSHOTS, LogTail, Snapshot

EPOCH = "an epoch"


def at(second):
    return datetime(2026, 11, 29, tzinfo=UTC) + timedelta(seconds=second)


@pytest.fixture
def tail():
    return LogTail()


@pytest.fixture
def note(tail):
    return lambda second, xmin, following, epoch=EPOCH: tail.note(epoch, Snapshot(at(second), xmin, following))


def test_the_first_read(tail, note):
    """It has no time to begin from, and may miss events."""
    assert tail.since(EPOCH) is None
    assert not note(1, 7, 7)
    assert tail.since(EPOCH) == at(1)


def test_reads_while_no_transaction_runs(tail, note):
    """Each begins where the last began."""
    note(1, 7, 7)
    assert note(2, 9, 9)
    assert tail.since(EPOCH) == at(2)


def test_reads_during_a_transaction(tail, note):
    """They begin where the last one began that was made before the transaction, as long as it runs."""
    note(1, 7, 7)
    for second, following in ((2, 9), (3, 11), (4, 11)):
        assert note(second, 7, following)
        assert tail.since(EPOCH) == at(1)
    assert note(5, 10, 12)
    assert tail.since(EPOCH) == at(2)
    assert note(6, 12, 12)
    assert tail.since(EPOCH) == at(6)


def test_a_transaction_that_was_there_first(tail, note):
    """Until it ends nothing is known of its events."""
    note(1, 5, 7)
    assert tail.since(EPOCH) is None
    assert not note(2, 5, 9)
    assert not note(3, 8, 9)
    assert tail.since(EPOCH) == at(1)
    assert note(4, 9, 9)


def test_a_long_transaction(tail, note):
    """Too many reads are not remembered: they may have missed events until it ends."""
    note(0, 7, 7)
    assert [note(second, 7, 9) for second in range(1, SNAPSHOTS + 2)] == [True] * SNAPSHOTS + [False]
    assert tail.since(EPOCH) is None
    note(SNAPSHOTS + 2, 9, 9)
    assert note(SNAPSHOTS + 3, 9, 9)


def test_another_epoch(tail, note):
    """Nothing is known of its events, whatever their transactions."""
    note(1, 7, 7)
    assert tail.since("the next") is None
    assert not note(2, 8, 8, "the next")
    assert tail.since("the next") == at(2)
    assert tail.since(EPOCH) is None


def test_a_clock_that_is_set_back(note):
    """Events since then may have earlier times."""
    note(5, 7, 7)
    assert not note(3, 8, 8)
    assert note(4, 9, 9)
