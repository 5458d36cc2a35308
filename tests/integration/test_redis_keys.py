"""Sessions as Redis keys: their contents and lifetimes, announcements, and outages of Redis."""

import asyncio
import contextlib
import json
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from session_stores import in_redis
from valkey_servers import Valkey
from waiting import eventually

from att.core.pagination import Window
from att.errors import Busy, DatabaseUnavailable, NoSuchSession, RedisUnavailable
from att.redis import client
from att.sessions import redis_store
from att.sessions.redis_keys import SWEEP_KEY
from att.sessions.redis_scripts import ENDED_CHANNEL, IDS_PER_MESSAGE
from att.sessions.redis_store import ACTIVE_USERS
from att.sessions.store import ClientInfo, Verified

TTL = timedelta(days=10)
HASH = "$argon2id$of-ann"
LAPTOP = ClientInfo("192.0.2.7", "Laptop/1.0")
ADD_USER = """
    INSERT INTO users (login, login_key, password_hash, search_text, role_id)
    SELECT %s, %s, %s, '', id FROM roles WHERE name_key = 'user' RETURNING id
"""


@pytest.fixture(params=["valkey_url", "cluster_url"])
async def store(request, db):
    """The store in one server and in a cluster."""
    async with in_redis(request.getfixturevalue(request.param), db, TTL) as store:
        yield store


@pytest.fixture
def sessions(store):
    return store.sessions


@pytest.fixture
def add_user(sql):
    """Add a user; return them as verified."""
    return lambda login: Verified(sql(ADD_USER, login, login, HASH)[0][0], HASH)


@pytest.fixture
def ann(add_user):
    return add_user("ann")


@pytest.fixture
def sign_in(sessions, ann):
    """Create one more session of Ann."""
    return lambda: sessions.create(ann, LAPTOP)


class Announced:
    """Records announcements of ended sessions."""

    def __init__(self, pubsub):
        self._pubsub = pubsub
        self.messages = []

    def until(self, session_id):
        """Return the announced ids once this one is among them."""
        for _ in range(500):
            message = self._pubsub.get_message(ignore_subscribe_messages=True, timeout=0.01)
            if message:
                self.messages.append([UUID(one) for one in json.loads(message["data"])])
                if session_id in self.messages[-1]:
                    return [one for told in self.messages for one in told]
        raise TimeoutError


@pytest.fixture
def announced(store, request):
    """Announcements from now on."""
    with contextlib.closing(store.client.pubsub()) as pubsub:
        pubsub.subscribe(ENDED_CHANNEL)
        for _ in range(1_000):
            if pubsub.get_message(timeout=0.01):
                break
        yield Announced(pubsub)


# What is kept


async def test_everything_expires(store, sign_in, ann, sessions):
    """Each key begins with att:, and expires with its session or a little later."""
    one = await sign_in()
    await sessions.find(one.token)
    keys = [*store.client.scan_iter(count=1_000)]
    assert len(keys) == 5
    for key in keys:
        assert key.startswith("att:")
        left = timedelta(milliseconds=store.client.pttl(key))
        assert TTL - timedelta(minutes=1) < left <= TTL + timedelta(minutes=1), key
    brief = store.living_for(timedelta(seconds=0.3))
    await sessions.end_all(ann.user_id)
    await brief.create(ann, LAPTOP)

    async def is_empty():
        return not [*store.client.scan_iter(count=1_000)]

    assert await eventually(is_empty)


async def test_nothing_is_left_of_what_ended(store, sessions, sign_in, ann):
    """Ending one session, or all, leaves no key."""
    for number in range(3):
        made = [await sign_in() for _ in range(3)]
        if number == 0:
            await sessions.end_all(ann.user_id)
        else:
            for one in made:
                await (sessions.end(one.session.id) if number == 1 else sessions.end_one(*one.session[1::-1]))
        assert [*store.client.scan_iter(count=1_000)] == []


async def test_expired_leave_the_sets(store, sessions, sign_in, ann):
    """The next sign-in removes expired sessions from the user's sets."""
    expired = [(await sign_in()).session.id for _ in range(3)]
    store.age(timedelta(seconds=-1), TTL, *expired)
    live = (await sign_in()).session.id
    for name in ("sessions", "expiries"):
        assert store.client.zrange(f"att:{{{ann.user_id}}}:{name}", 0, -1) == [str(live)]


async def test_pointers_slide(store, sessions, sign_in):
    """The pointers are prolonged with the session, and outlive it a little."""
    one = await sign_in()
    store.age(timedelta(minutes=1), TTL)
    for key in store.client.scan_iter("att:*", count=1_000):
        store.client.pexpire(key, 60_000)
    assert (await sessions.find(one.token)).slid
    record = store.client.pttl(f"att:{{{one.session.user_id}}}:session:{one.session.id}")
    others = [store.client.pttl(key) for key in store.client.scan_iter("att:*", count=1_000) if ":session:" not in key]
    others.append(store.client.pttl(f"att:session:{one.session.id}"))
    assert len(others) == 4
    assert min(others) >= record - 100 > TTL // timedelta(milliseconds=1) - 60_000


async def test_what_points_at_nothing(store, sessions, sign_in):
    """A pointer to a missing session is harmless."""
    one = await sign_in()
    store.client.delete(f"att:{{{one.session.user_id}}}:session:{one.session.id}")
    assert await sessions.find(one.token) is None
    assert await sessions.check(one.session.id) is None
    assert await sessions.living({one.session.id: one.session.user_id}) == set()
    assert (await sessions.of_user(one.session.user_id, Window())).items == []
    assert await sessions.end_all(one.session.user_id) == []
    await sessions.end(one.session.id)
    with pytest.raises(NoSuchSession):
        await sessions.end_one(one.session.user_id, one.session.id)


async def test_most_sessions(store, sessions, sign_in, ann, announced, monkeypatch):
    """Above the limit of one user, a new session ends, and announces, the oldest one, also without a quota."""
    monkeypatch.setattr(redis_store, "MAX_SESSIONS", 3)
    made = [await sign_in() for _ in range(3)]
    store.age(timedelta(days=1), TTL, made[1].session.id)
    made.append(await sign_in())
    assert [await sessions.find(one.token) is not None for one in made] == [False, True, True, True]
    assert announced.until(made[0].session.id) == [made[0].session.id]
    assert made[0].session.id.hex not in store.everything().replace("-", "")  # nor a pointer to it


# What is announced


async def test_announced(store, sessions, sign_in, add_user, announced, sql):
    """Each ended session is announced once; kept and expired ones are not."""
    one, two, three, four, kept, expired, last = [await sign_in() for _ in range(7)]
    user_id = one.session.user_id
    store.age(timedelta(seconds=-1), TTL, expired.session.id)
    for _ in range(2):
        await sessions.end(one.session.id)
    await sessions.end_one(user_id, two.session.id)
    with pytest.raises(NoSuchSession):
        await sessions.end_one(user_id, two.session.id)
    await sessions.end_one(user_id, last.session.id)
    await sessions.end_all(user_id, keep=kept.session.id)
    sql("DELETE FROM users")
    for departed in await sessions.departed([user_id]):
        await sessions.end_all(departed)
    told = announced.until(kept.session.id)
    assert told[:3] == [each.session.id for each in (one, two, last)]
    assert {*told[3:-1]} == {three.session.id, four.session.id}
    assert len(told) == 6


async def test_announced_in_parts(store, sessions, ann, announced):
    """Many ids are announced in messages of bounded size, each id once."""
    ids = [(await sessions.create(ann, LAPTOP)).session.id for _ in range(IDS_PER_MESSAGE + 3)]
    ended = await sessions.end_all(ann.user_id)
    assert sorted(ended) == sorted(ids)
    assert sorted(announced.until(ended[-1])) == sorted(ids)
    assert [len(message) for message in announced.messages] == [IDS_PER_MESSAGE, 3]


# The sweep


async def test_sweep_in_parts(store, sessions, add_user, sql, monkeypatch):
    """A sweep checks any number of users in batches."""
    monkeypatch.setattr(client, "SCAN_COUNT", 10)
    asked = []
    monkeypatch.setattr(store._db, "fetch_all", _noting(asked, store._db.fetch_all))
    for number in range(60):
        await sessions.create(add_user(str(number)), LAPTOP)
    sql("DELETE FROM users WHERE mod(login::int, 3) = 0")
    await sessions.sweep()
    assert len(store.rows()) == 40
    assert len(asked) > 3
    assert max(asked) < 60


def _noting(asked, fetch_all):
    async def go(statement, **params):
        assert statement is ACTIVE_USERS
        asked.append(len(params["user_ids"]))
        return await fetch_all(statement, **params)

    return go


async def test_sweep_by_turns(store, sessions, ann, sql):
    """One node sweeps, and no other within the next minute."""
    for _ in range(2):
        await sessions.create(ann, LAPTOP)
        sql("UPDATE users SET active = false")
        await asyncio.gather(*(sessions.sweep() for _ in range(5)))
        assert store.rows() == []
        assert 0 < store.client.pttl(SWEEP_KEY) <= 60_000
        sql("UPDATE users SET active = true")
        await sessions.create(ann, LAPTOP)
        sql("UPDATE users SET active = false")
        await sessions.sweep()
        assert len(store.rows()) == 1
        sql("UPDATE users SET active = true")
        store.client.delete(SWEEP_KEY)
        await sessions.end_all(ann.user_id)


async def test_sweep_without_the_database(store, sessions, ann, monkeypatch):
    """Without the database no user counts as deleted."""
    one = await sessions.create(ann, LAPTOP)

    async def fail(*_, **__):
        raise DatabaseUnavailable

    monkeypatch.setattr(store._db, "fetch_all", fail)
    with pytest.raises(DatabaseUnavailable):
        await sessions.sweep()
    with pytest.raises(DatabaseUnavailable):
        await sessions.living({one.session.id: one.session.user_id})
    assert await sessions.find(one.token) == one.session


# Without Redis


@pytest.fixture
async def own(db):
    """A Valkey of this test, with persistence, and a store in it."""
    server = Valkey(appendonly="yes", appendfsync="always")
    server.start()
    async with in_redis(server.url, db, TTL) as store:
        yield server, store
    server.stop()


async def test_away_and_back(own, ann, db):
    """Each method raises while Redis is away; then everything that was saved is there again."""
    server, store = own
    sessions = store.sessions
    one = await sessions.create(ann, LAPTOP)
    server.kill()
    user_id, session_id = one.session.user_id, one.session.id
    for verb in [
        lambda: sessions.create(ann, LAPTOP),
        lambda: sessions.find(one.token),
        lambda: sessions.check(session_id),
        lambda: sessions.end(session_id),
        lambda: sessions.end_one(user_id, session_id),
        lambda: sessions.end_all(user_id),
        lambda: sessions.of_user(user_id, Window()),
        sessions.sweep,
    ]:
        with pytest.raises(RedisUnavailable):
            await verb()
    assert await sessions.find("no token") is None
    assert await sessions.living({session_id: user_id, uuid4(): uuid4()}) == {session_id}
    server.start()
    assert await sessions.find(one.token) == one.session
    await sessions.end(session_id)
    server.kill()
    server.start()

    async def is_gone():
        with contextlib.suppress(RedisUnavailable):  # until it is seen that the connection was lost
            return await sessions.find(one.token) is None

    assert await eventually(is_gone)


async def test_no_connection_is_held_for_redis(own, ann, db, sql):
    """Log-ins during a hang of Redis hold no connections to the database."""
    server, store = own
    server.ask("CLIENT", "PAUSE", "60000", "ALL")
    logging_in = [asyncio.create_task(store.sessions.create(ann, LAPTOP)) for _ in range(30)]
    await asyncio.sleep(0.05)
    assert sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") == [(0,)]
    assert len(await db.fetch_all(ACTIVE_USERS, user_ids=[ann.user_id])) == 1
    server.kill()
    outcomes = await asyncio.gather(*logging_in, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {RedisUnavailable, Busy}


async def test_change_that_cannot_end_sessions(own, ann, db, sql):
    """A change that cannot end sessions is rolled back, and they stay."""
    server, store = own
    one = await store.sessions.create(ann, LAPTOP)
    with pytest.raises(RedisUnavailable):
        async with db.transaction() as transaction:
            await transaction.fetch_all(ACTIVE_USERS, user_ids=[uuid4()])
            server.kill()
            await store.sessions.end_all(ann.user_id, transaction=transaction)
    server.start()
    assert await store.sessions.find(one.token) == one.session
