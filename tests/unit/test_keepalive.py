"""Checks of many peers by one timer. No time passes: ticks are counted."""

import logging

import pytest

from att.websocket.keepalive import KeepaliveTimer


class Peer:
    """A peer that records its checks; its interval may be an error to raise."""

    def __init__(self, keepalive, *ticks):
        self.due = 0
        self.keepalive = keepalive
        self.ticks = [*ticks]
        self.checks = []

    def check_liveness(self):
        self.checks.append(self.keepalive.now)
        answer = self.ticks.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def keepalive():
    return KeepaliveTimer()


async def tick(keepalive, times):
    for _ in range(times):
        await keepalive.tick()


async def test_each_is_checked_in_its_interval(keepalive):
    """Whatever the others' intervals are."""
    often, seldom = Peer(keepalive, 1, 1, 3, 100), Peer(keepalive, 5, 100)
    keepalive.attach(often, 2)
    await tick(keepalive, 1)
    keepalive.attach(seldom, 1)
    await tick(keepalive, 9)
    assert often.checks == [2, 3, 4, 7]
    assert seldom.checks == [2, 7]


async def test_detach(keepalive):
    """The other peers of the same tick are checked."""
    gone, stays = Peer(keepalive, 1), Peer(keepalive, 1, 100)
    for peer in (gone, stays):
        keepalive.attach(peer, 3)
    keepalive.detach(gone)
    keepalive.detach(gone)
    await tick(keepalive, 5)
    assert (gone.checks, stays.checks) == ([], [3, 4])


async def test_a_failing_check(keepalive, caplog):
    """It is logged, and the others are checked."""
    peers = [Peer(keepalive, RuntimeError("a fault") if number == 3 else 100) for number in range(9)]
    for peer in peers:
        keepalive.attach(peer, 1)
    with caplog.at_level(logging.ERROR, logger="att"):
        await tick(keepalive, 2)
    assert [peer.checks for peer in peers] == [[1]] * 9
    assert ["a fault" in str(record.exc_info[1]) for record in caplog.records] == [True]
    assert len(keepalive) == 8


async def test_nothing_is_left(keepalive):
    """Detached peers leave nothing behind."""
    peers = [Peer(keepalive, *[1] * 10) for _ in range(10)]
    for number, peer in enumerate(peers):
        keepalive.attach(peer, 1 + number)
    assert len(keepalive) == 10
    await tick(keepalive, 5)
    assert len(keepalive) == 10
    for peer in peers:
        keepalive.detach(peer)
    assert len(keepalive) == 0
    assert not keepalive._due
