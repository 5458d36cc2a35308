"""When each of many peers is looked at again. No time passes: beats are counted."""

import logging

import pytest

from att.websocket.keepalive import KeepaliveTimer


class Peer:
    """Is looked at, and says after how many beats again; an error is raised."""

    def __init__(self, heartbeat, *beats):
        self.due = 0
        self.heartbeat = heartbeat
        self.beats = [*beats]
        self.looks = []

    def check_liveness(self):
        self.looks.append(self.heartbeat.now)
        answer = self.beats.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def heartbeat():
    return KeepaliveTimer()


async def beat(heartbeat, times):
    for _ in range(times):
        await heartbeat.tick()


async def test_each_is_looked_at_when_it_asked_to_be(heartbeat):
    """Whatever the others ask for."""
    often, seldom = Peer(heartbeat, 1, 1, 3, 100), Peer(heartbeat, 5, 100)
    heartbeat.attach(often, 2)
    await beat(heartbeat, 1)
    heartbeat.attach(seldom, 1)
    await beat(heartbeat, 9)
    assert often.looks == [2, 3, 4, 7]
    assert seldom.looks == [2, 7]


async def test_who_is_detached_is_looked_at_no_more(heartbeat):
    """Of those who are due at the same beat the others are."""
    gone, stays = Peer(heartbeat, 1), Peer(heartbeat, 1, 100)
    for peer in (gone, stays):
        heartbeat.attach(peer, 3)
    heartbeat.detach(gone)
    heartbeat.detach(gone)
    await beat(heartbeat, 5)
    assert (gone.looks, stays.looks) == ([], [3, 4])


async def test_who_fails_fails_alone(heartbeat, caplog):
    """A fault in one is logged, and keeps nobody else from being looked at."""
    peers = [Peer(heartbeat, RuntimeError("a fault") if number == 3 else 100) for number in range(9)]
    for peer in peers:
        heartbeat.attach(peer, 1)
    with caplog.at_level(logging.ERROR, logger="att"):
        await beat(heartbeat, 2)
    assert [peer.looks for peer in peers] == [[1]] * 9
    assert ["a fault" in str(record.exc_info[1]) for record in caplog.records] == [True]
    assert len(heartbeat) == 8


async def test_nothing_is_left(heartbeat):
    """Whoever has come and gone leaves nothing behind."""
    peers = [Peer(heartbeat, *[1] * 10) for _ in range(10)]
    for number, peer in enumerate(peers):
        heartbeat.attach(peer, 1 + number)
    assert len(heartbeat) == 10
    await beat(heartbeat, 5)
    assert len(heartbeat) == 10
    for peer in peers:
        heartbeat.detach(peer)
    assert len(heartbeat) == 0
    assert not heartbeat._due
