"""The cache of sessions: it saves queries, and never returns an ended session."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from doubles import Clock

from att.core.pagination import Window
from att.errors import NoSuchSession
from att.sessions import cache as module
from att.sessions.cache import _SECONDS, SessionCache
from att.sessions.store import ClientInfo, PostgresSessions, Verified

LAPTOP = ClientInfo("192.0.2.7", "Laptop/1.0")
HASH = "$argon2id$of-ann"


class Counting(PostgresSessions):
    """Sessions in PostgreSQL that count reads, and can be paused after a read."""

    finds = 0

    def __init__(self, *args):
        super().__init__(*args)
        self.found, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def find(self, token):
        self.finds += 1
        session = await super().find(token)
        self.found.set()
        await self.gate.wait()
        return session


class RecordingListener:
    """Records its calls, and the size of the cache at each."""

    def __init__(self):
        self.told = []
        self.cache = None

    def session_ended(self, session_id):
        self.told.append(("session ended", session_id, len(self.cache._cached)))

    def user_ended(self, user_id):
        self.told.append(("user ended", user_id, len(self.cache._cached)))

    def user_state_unknown(self, user_id):
        self.told.append(("user state unknown", user_id, len(self.cache._cached)))


@pytest.fixture
def store(db):
    return Counting(db, timedelta(days=10))


@pytest.fixture
def listener():
    return RecordingListener()


@pytest.fixture
def clock():
    return Clock(1_000.0)


@pytest.fixture
def cache(store, listener, clock):
    """A cache that is notified of sessions that end elsewhere."""
    listener.cache = cache = SessionCache(store, listener, clock)
    cache.trust(is_notified=True)
    return cache


@pytest.fixture
def sign_in(cache, sql, ann_id):
    """Create a session, of Ann by default."""
    sql("UPDATE users SET password_hash = %s", HASH)
    return lambda user_id=ann_id: cache.create(Verified(user_id, HASH), LAPTOP)


@pytest.fixture
async def ann(sign_in):
    return await sign_in()


async def test_seen_a_moment_ago(cache, store, clock, ann):
    """A read session is returned for some seconds without a query."""
    assert await cache.find(ann.token) == ann.session
    clock.now += _SECONDS - 0.1
    assert [await cache.find(ann.token) for _ in range(3)] == [ann.session] * 3
    assert store.finds == 1
    clock.now += 0.2
    assert await cache.find(ann.token) == ann.session
    assert store.finds == 2


async def test_unknown_tokens(cache, store, ann):
    """Unknown tokens are looked up each time: a sign-in may create the session."""
    for _ in range(2):
        assert await cache.find("A" * 43) is None
    assert store.finds == 2


async def test_expiry(cache, store, clock, sql, ann):
    """A cached session expires on time."""
    sql("UPDATE sessions SET expires_at = now() + interval '2 s', last_seen_at = now()")
    assert await cache.find(ann.token) is not None
    clock.now += 2.1
    sql("UPDATE sessions SET expires_at = now() - interval '1 s'")
    assert await cache.find(ann.token) is None
    assert store.finds == 2


async def test_slid_once(cache, sql, ann):
    """Only the request that prolonged the session sees ``slid``."""
    sql("UPDATE sessions SET last_seen_at = now() - interval '1 h'")
    assert [(await cache.find(ann.token)).slid for _ in range(2)] == [True, False]


ENDINGS = {
    "end": lambda cache, session: cache.end(session.id),
    "end one": lambda cache, session: cache.end_one(session.user_id, session.id),
    "end all": lambda cache, session: cache.end_all(session.user_id),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
async def test_ended(cache, end, ann):
    """An ended session leaves the cache at once."""
    assert await cache.find(ann.token) == ann.session
    await end(cache, ann.session)
    assert await cache.find(ann.token) is None


async def test_end_all_but_one(cache, store, sign_in, ann, add_user, sql):
    """All sessions of the user are read again; those of others stay cached."""
    kept, bob_id = await sign_in(), add_user("bob").user_id
    sql("UPDATE users SET password_hash = %s", HASH)
    bob = await sign_in(bob_id)
    for each in (ann, kept, bob):
        await cache.find(each.token)
    assert await cache.end_all(ann.session.user_id, keep=kept.session.id) == [ann.session.id]
    assert [await cache.find(each.token) for each in (ann, kept, bob)] == [None, kept.session, bob.session]
    assert store.finds == 5


SESSION_EVENTS = {
    "session ended": lambda cache, session: cache.session_ended(session.id),
    "user ended": lambda cache, session: cache.user_ended(session.user_id),
    "user state unknown": lambda cache, session: cache.user_state_unknown(session.user_id),
}


@pytest.mark.parametrize("which", SESSION_EVENTS)
async def test_forwarded(cache, listener, sql, ann, which):
    """An event drops the session from the cache before it is forwarded; other sessions stay."""
    assert await cache.find(ann.token) == ann.session
    SESSION_EVENTS[which](cache, ann.session._replace(id=uuid4(), user_id=uuid4()))
    listener.told.clear()
    assert len(cache._cached) == 1
    sql("DELETE FROM sessions")
    SESSION_EVENTS[which](cache, ann.session)
    subject = ann.session.id if which == "session ended" else ann.session.user_id
    assert listener.told == [(which, subject, 0)]
    assert await cache.find(ann.token) is None


@pytest.mark.parametrize("end", [*ENDINGS.values(), *SESSION_EVENTS.values()], ids=[*ENDINGS, *SESSION_EVENTS])
async def test_ended_while_it_is_read(cache, store, sql, ann, end):
    """A session that ends while it is read is not cached."""
    store.gate.clear()
    finding = asyncio.create_task(cache.find(ann.token))
    await asyncio.wait_for(store.found.wait(), 5)
    sql("DELETE FROM sessions")
    ending = end(cache, ann.session)
    if ending is not None:
        await asyncio.gather(ending, return_exceptions=True)
    store.gate.set()
    await finding
    assert await cache.find(ann.token) is None


async def test_an_ending_that_fails(cache, store, ann, monkeypatch):
    """After a failed end, the session is read again."""
    await cache.find(ann.token)
    with pytest.raises(NoSuchSession):
        await cache.end_one(uuid4(), ann.session.id)
    assert await cache.find(ann.token) == ann.session
    assert store.finds == 2


async def test_trust(cache, store, sql, ann):
    """Without notifications of other nodes, nothing is cached or returned from the cache."""
    await cache.find(ann.token)
    cache.trust(is_notified=False)
    for _ in range(2):
        assert await cache.find(ann.token) == ann.session
    assert store.finds == 3
    cache.trust(is_notified=True)
    for _ in range(2):
        assert await cache.find(ann.token) == ann.session
    assert store.finds == 4


@pytest.mark.parametrize("is_told", [False, True])
async def test_trust_while_it_is_read(cache, store, sql, ann, is_told):
    """A session that was read while notifications were missed is not cached."""
    store.gate.clear()
    finding = asyncio.create_task(cache.find(ann.token))
    await asyncio.wait_for(store.found.wait(), 5)
    cache.trust(is_notified=is_told)
    cache.trust(is_notified=True)
    sql("DELETE FROM sessions")
    store.gate.set()
    await finding
    assert await cache.find(ann.token) is None


async def test_nothing_is_kept_at_first(store, listener, ann):
    """A new cache is not used before ``trust``."""
    listener.cache = cache = SessionCache(store, listener)
    for _ in range(2):
        assert await cache.find(ann.token) == ann.session
    assert store.finds == 2


async def test_bounded(cache, store, sign_in, monkeypatch):
    """The cache keeps a bounded number of sessions, those read last."""
    monkeypatch.setattr(module, "SIZE", 3)
    signed_in = [await sign_in() for _ in range(5)]
    for each in signed_in:
        await cache.find(each.token)
    assert (len(cache._cached), len(cache._tokens)) == (3, 3)
    for each in signed_in[2:]:
        await cache.find(each.token)
    assert store.finds == 5
    await cache.find(signed_in[0].token)
    assert store.finds == 6


async def test_full_and_read_by_many_at_once(cache, store, sign_in, monkeypatch):
    """A full cache still takes each new session of concurrent reads."""
    monkeypatch.setattr(module, "SIZE", 2)
    one, *others = [await sign_in() for _ in range(4)]
    for each in (one, others[0]):
        await cache.find(each.token)
    await asyncio.gather(*(cache.find(each.token) for each in others[1:]))
    assert {cached.session.id for cached in cache._cached.values()} == {each.session.id for each in others[1:]}


async def test_the_rest_is_passed_on(cache, ann):
    """Reads by id and lists go to the store."""
    assert await cache.check(ann.session.id) == ann.session
    assert await cache.living({ann.session.id: ann.session.user_id, uuid4(): uuid4()}) == {ann.session.id}
    assert await cache.departed([ann.session.user_id]) == []
    assert [info.id for info in (await cache.of_user(ann.session.user_id, Window())).items] == [ann.session.id]
    await cache.sweep()
