"""The broker on PostgreSQL: gathering, and announcements of triggers. test_brokers.py has the rest."""

import asyncio
import json
import time
from uuid import uuid4

import pytest
from brokers import PIE, TEA, RecordingHandler
from doubles import Clock

from att.errors import DatabaseUnavailable
from att.groups.read_markers import MarkerPosition
from att.realtime.brokers import base, postgres as module
from att.realtime.brokers.base import Announcement, MemberJoined, RoundTrip, is_proven
from att.realtime.brokers.postgres import PostgresBroker
from att.realtime.ephemerals import Ephemeral
from att.realtime.neighbours import Neighbours
from att.sessions import redis_store

SWEEP = Announcement({}, joined=[], sessions=[], sweep=True)


class Slow:
    """An engine that can pause or fail a statement, but for the first, by which a node tells that it listens."""

    def __init__(self, db):
        self.db = db
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.payloads = []

    async def fetch_one(self, statement, *, payload):
        if "groups" not in json.loads(payload):
            return await self.db.fetch_one(statement, payload=payload)
        self.payloads.append(json.loads(payload))
        self.begun.set()
        await self.gate.wait()
        return await self.db.fetch_one(statement, payload=payload)


@pytest.fixture
def slow(db):
    return Slow(db)


@pytest.fixture
def handler():
    return RecordingHandler()


@pytest.fixture
async def broker(db, db_url, handler):
    broker = PostgresBroker(db, db_url)
    async with broker.running(handler):
        await handler.until(lambda: handler.changes)
        yield broker


async def test_announcements_gather(slow, db_url, handler):
    """Announcements during a call are sent by the next one, with each group's highest seq."""
    broker = PostgresBroker(slow, db_url)
    async with broker.running(handler):
        await handler.until(lambda: handler.changes)
        broker.announce_head(TEA, 1)
        await asyncio.wait_for(slow.begun.wait(), 5)
        for seq in (2, 9, 5):
            broker.announce_head(TEA, seq)
        broker.announce_head(PIE, 3)
        broker.announce_sweep()
        slow.gate.set()
        await handler.until(lambda: handler.groups.keys() == {TEA, PIE})
    assert [(payload["groups"], payload["sweep"]) for payload in slow.payloads] == [
        ({str(TEA): 1}, False),
        ({str(TEA): 9, str(PIE): 3}, True),
    ]


async def test_many_groups(broker, handler):
    """They go in several, none of which is too long for PostgreSQL, whatever their seq."""
    groups = {uuid4(): 2**63 - 1 - number for number in range(2 * module._HEADS + 1)}
    for group_id, seq in groups.items():
        broker.announce_head(group_id, seq)
    await handler.until(lambda: handler.groups == groups)
    assert [len(announcement.groups) for announcement in handler.announcements] == [module._HEADS, module._HEADS, 1]


async def test_many_endings(db, broker, handler):
    """So do sessions that end together."""
    session_ids = [uuid4() for _ in range(2 * redis_store._IDS_PER_PAYLOAD + 1)]
    await redis_store.announce_ended_sessions(db, session_ids)
    await handler.until(
        lambda: [each for announcement in handler.announcements for each in announcement.sessions] == session_ids
    )
    assert [len(announcement.sessions) for announcement in handler.announcements] == [
        redis_store._IDS_PER_PAYLOAD,
        redis_store._IDS_PER_PAYLOAD,
        1,
    ]


async def test_an_announcement_that_fails(slow, db_url, handler, monkeypatch):
    """It is sent again, together with newer ones."""
    fetch_one, errors = slow.fetch_one, [DatabaseUnavailable()]

    async def fail_once(statement, *, payload):
        if errors:
            raise errors.pop()
        return await fetch_one(statement, payload=payload)

    monkeypatch.setattr(slow, "fetch_one", fail_once)
    slow.gate.set()
    broker = PostgresBroker(slow, db_url)
    async with broker.running(handler):
        await handler.until(lambda: handler.changes)
        broker.announce_head(TEA, 4)
        broker.announce_sweep()
        await handler.until(lambda: handler.announcements)
    assert handler.announcements == [Announcement({TEA: 4}, [], [], sweep=True)]


async def test_announcements_of_triggers(broker, handler, sql, add_user, add_group):
    """Joinings, leavings, broadcasts by SQL and deleted sessions are each received as such."""
    ann, bob = add_user("ann").user_id, add_user("bob").user_id
    tea = add_group("tea", ann)
    sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", tea, bob)
    sql("DELETE FROM members WHERE user_id = %s", bob)
    sql("SELECT att_broadcast(%s, '{}')", tea)
    session = "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES ('x', %s, now() + '1 h') RETURNING id"
    ((session_id,),) = sql(session, ann)
    sql("DELETE FROM sessions")
    sql("UPDATE users SET active = false WHERE id = %s", bob)
    sql("UPDATE users SET active = true, first_name = 'Ann'")
    sql("DELETE FROM members")
    sql("DELETE FROM users WHERE id = %s", bob)
    await handler.until(lambda: len(handler.announcements) == 8)
    assert handler.announcements == [
        Announcement({tea: 1}, [MemberJoined(tea, 1, ann)], [], sweep=False),
        Announcement({tea: 2}, [MemberJoined(tea, 2, bob)], [], sweep=False),
        Announcement({tea: 3}, [], [], sweep=False),
        Announcement({tea: 4}, [], [], sweep=False),
        Announcement({}, [], [session_id], sweep=False),
        Announcement({}, [], [], sweep=False, users=(bob,)),
        Announcement({tea: 5}, [], [], sweep=False),
        Announcement({}, [], [], sweep=False, users=(bob,)),
    ]


async def test_very_many_users_that_end(broker, handler, sql):
    """Disabled and deleted users are announced, in as many payloads as needed."""
    add = (
        "INSERT INTO users (login, login_key, search_text, role_id)"
        " SELECT n::text, n::text, '', (SELECT id FROM roles WHERE name = 'User') FROM generate_series(1, 1001) AS n"
        " RETURNING id"
    )
    everybody = [user_id for (user_id,) in sql(add)]
    for change in ("UPDATE users SET active = false", "DELETE FROM users"):
        handler.announcements.clear()
        sql(change)
        await handler.until(
            lambda: sum(len(announcement.users) for announcement in handler.announcements) == len(everybody)
        )
        assert sorted(user_id for announcement in handler.announcements for user_id in announcement.users) == sorted(
            everybody
        )


async def test_very_many_joinings(broker, handler, sql, add_user):
    """They are announced as a sweep."""
    ann = add_user("ann").user_id
    sql("INSERT INTO groups (name, name_key) SELECT n::text, n::text FROM generate_series(1, 1001) AS n")
    sql("INSERT INTO members (group_id, user_id, role) SELECT id, %s, 'member' FROM groups", ann)
    await handler.until(lambda: handler.announcements)
    assert handler.announcements == [Announcement({}, [], [], sweep=True)]


# The end


async def test_the_end_does_not_wait_for_ever(slow, db_url, handler, monkeypatch):
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.01)
    broker = PostgresBroker(slow, db_url)
    async with asyncio.timeout(5), broker.running(handler):
        broker.announce_head(TEA, 1)
    assert handler.changes[-1] == "disconnected"


# Echoes


@pytest.fixture
def clock():
    return Clock(10.0)


async def test_a_deaf_connection(db, db_url, handler, sql, monkeypatch):
    """It is noticed though it answers, as behind a pooler: this node's own payloads do not come back."""
    monkeypatch.setattr(module, "ECHO_INTERVAL", 0.01)
    monkeypatch.setattr(base, "ECHO_TIMEOUT", 0.5)
    broker = PostgresBroker(db, db_url)
    async with asyncio.timeout(10), broker.running(handler):
        while not is_proven(broker):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
        sql("CREATE OR REPLACE FUNCTION att_notify(payload text) RETURNS void LANGUAGE sql AS 'SELECT'")
        while is_proven(broker):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
    assert handler.changes == ["connected", "disconnected"]


@pytest.fixture
def round_trip(clock):
    return RoundTrip(clock)


def test_a_round_trip(round_trip, clock):
    """It stays the last one's until the next one has finished."""
    assert round_trip.seconds == 0
    mark = round_trip.start()
    clock.now += 0.5
    round_trip.finish(mark)
    clock.now += 9
    assert round_trip.seconds == 0.5


def test_a_round_trip_that_is_awaited(round_trip, clock):
    """An outstanding one counts with its age; one that was sent later shows that it is lost."""
    round_trip.start()
    clock.now += 3
    assert round_trip.seconds == 3
    mark = round_trip.start()
    clock.now += 1
    assert round_trip.seconds == 4
    round_trip.finish(mark)
    assert round_trip.seconds == 1


def test_a_round_trip_of_what_was_before(round_trip, clock):
    """One that comes late says nothing of the one that is awaited."""
    first = round_trip.start()
    clock.now += 1
    round_trip.finish(first)
    clock.now += 1
    round_trip.start()
    clock.now += 1
    round_trip.finish(first)
    clock.now += 2
    assert round_trip.seconds == 3


@pytest.mark.parametrize("mark", [float("nan"), float("inf"), -float("inf"), 11.0])
def test_a_round_trip_that_nobody_sent(round_trip, mark):
    """An impossible mark is refused: anyone can send it."""
    with pytest.raises(ValueError, match=r"."):
        round_trip.finish(mark)
    assert round_trip.seconds == 0


async def test_alone(db, db_url, handler):
    """A node that is alone announces nothing but a sweep, until another one listens, which sweeps then."""
    neighbours, second = Neighbours(), RecordingHandler()
    first = PostgresBroker(db, db_url, neighbours)
    async with first.running(handler):
        await handler.until(lambda: handler.changes)
        neighbours.counted(0, time.monotonic())
        first.announce_head(TEA, 1)
        first.announce_marker(MarkerPosition(uuid4(), TEA, "tea", 1))
        first.announce_ephemeral(Ephemeral(b"", TEA, uuid4(), 1, 1, b"{}"))
        first.announce_sweep()
        await handler.until(lambda: handler.announcements)
        assert handler.announcements == [SWEEP]
        async with PostgresBroker(db, db_url).running(second):
            await second.until(lambda: second.announcements)
            assert second.announcements[0] == SWEEP
            first.announce_head(TEA, 2)
            await second.until(lambda: second.groups == {TEA: 2})
