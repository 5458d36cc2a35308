"""Session revocation: every announced user is checked when possible, within a bound."""

import asyncio
from uuid import UUID

import pytest
from waiting import eventually

from att.errors import DatabaseUnavailable, RedisUnavailable
from att.sessions import revocation as module
from att.sessions.revocation import SessionRevoker

ANN, BOB, EVE = (UUID(int=number) for number in range(1, 4))


class Sessions:
    """A store that knows deleted users, can fail, and can be paused."""

    def __init__(self):
        self.gone = {ANN, BOB}
        self.errors, self.end_errors = [], []
        self.asked, self.ended = [], []
        self.gate = asyncio.Event()
        self.gate.set()

    async def departed(self, user_ids):
        self.asked.append([*user_ids])
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return [user_id for user_id in user_ids if user_id in self.gone]

    async def end_all(self, user_id):
        if self.end_errors:
            raise self.end_errors.pop(0)
        self.ended.append(user_id)


class Sockets:
    """Records the users whose sockets are closed."""

    def __init__(self):
        self.closed = []
        self.is_told = asyncio.Event()

    def user_ended(self, user_id):
        self.closed.append(user_id)
        self.is_told.set()

    async def until(self, *user_ids):
        async with asyncio.timeout(5):
            while not {*user_ids} <= {*self.closed}:
                self.is_told.clear()
                await self.is_told.wait()


@pytest.fixture
def sessions():
    return Sessions()


@pytest.fixture
def sockets():
    return Sockets()


@pytest.fixture
async def revoker(sessions, sockets):
    revoker = SessionRevoker(sessions, sockets)
    async with revoker.running():
        yield revoker


async def test_departed(revoker, sessions, sockets):
    """Sockets of deleted users are closed; those of other announced users are not."""
    revoker.check_users([EVE, ANN])
    await sockets.until(ANN)
    revoker.check_users(())
    revoker.check_users([BOB])
    await sockets.until(BOB)
    assert sockets.closed == [ANN, BOB]
    assert await eventually(lambda: _are_ended(sessions, [ANN, BOB]))


async def _are_ended(sessions, user_ids):
    return sessions.ended == user_ids


async def test_tried_again(revoker, sessions, sockets, monkeypatch):
    """A failed check is repeated."""
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    sessions.errors = [DatabaseUnavailable(), DatabaseUnavailable()]
    revoker.check_users([ANN, BOB])
    await sockets.until(ANN, BOB)
    assert sessions.asked == [[ANN, BOB]] * 3


async def test_sessions_that_cannot_be_ended(revoker, sessions, sockets, monkeypatch):
    """Sockets are closed at once; sessions end as soon as the store is reachable."""
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    sessions.end_errors = [RedisUnavailable(), RedisUnavailable()]
    revoker.check_users([ANN, EVE, BOB])
    await sockets.until(ANN, BOB)
    assert sessions.asked == [[ANN, EVE, BOB]]
    assert await eventually(lambda: _are_ended(sessions, [ANN, BOB]))
    assert sessions.asked == [[ANN, EVE, BOB]] + [[ANN, BOB]] * 2


async def test_announced_again_meanwhile(revoker, sessions, sockets):
    """A user announced during their check is checked again."""
    sessions.gone, sessions.gate = {ANN}, asyncio.Event()
    revoker.check_users([BOB])
    await asyncio.sleep(0)
    revoker.check_users([BOB])
    sessions.gate.set()
    revoker.check_users([ANN])
    await sockets.until(ANN)
    assert sessions.asked == [[BOB], [BOB, ANN]]


async def test_bounded(sessions, sockets, monkeypatch):
    """The number of waiting users is bounded, and they are checked in batches."""
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    monkeypatch.setattr(module, "_BATCH", 2)
    everybody = [UUID(int=number) for number in range(9)]
    sessions.gone = {*everybody}
    revoker = SessionRevoker(sessions, sockets)
    revoker.check_users(everybody)
    async with revoker.running():
        await sockets.until(*everybody[:5])
        revoker.check_users(everybody[5:])
        await sockets.until(*everybody)
    assert max(len(asked) for asked in sessions.asked) == 2
    assert sockets.closed == everybody
