"""The session stores, and the session cookie of browsers."""

import asyncio
import contextlib
import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from aiohttp import ClientResponse, DummyCookieJar
from aiohttp.test_utils import TestClient
from databases import dsn_of
from hashing_costs import CHEAPEST
from people import PASSWORD
from session_stores import InPostgres, InRedis, in_redis
from sqlalchemy import func, update
from waiting import eventually

from att.accounts.passwords import Passwords
from att.accounts.service import Accounts
from att.app import create_app
from att.config.settings import Settings
from att.core.pagination import Window
from att.db.engine import Engine, Transaction, prepare
from att.db.schema import sessions as table, users
from att.errors import AuthFailed, NoSuchSession, ShuttingDown
from att.http.credentials import COOKIE
from att.realtime.hub import Hub
from att.realtime.registry import Registry
from att.sessions.store import (
    _SWEEP,
    CHECK,
    FIND_MANY,
    SESSIONS_OF_USER,
    SLIDE_EVERY,
    SLIDE_MANY,
    ClientInfo,
    PostgresSessions,
    Verified,
)

TTL = timedelta(days=10)
MINUTE = timedelta(minutes=1)

HASH = "$argon2id$of-ann"
LAPTOP = ClientInfo("192.0.2.7", "Laptop/1.0")
ADD_USER = """
    INSERT INTO users (login, login_key, password_hash, search_text, role_id)
    SELECT %s, %s, %s, '', id FROM roles WHERE name_key = 'user' RETURNING id
"""

MALFORMED = {
    "empty": "",
    "too short": "A" * 42,
    "too long": "A" * 44,
    "padded": "A" * 43 + "=",
    "line log_reader behind": "A" * 43 + "\n",
    "base64 that is not for URLs": "A" * 42 + "+",
    "NUL": "A" * 42 + "\0",
    "accent": "A" * 42 + "é",
    "digits of another script": "٣" * 43,
    "full-width letters": "\uff21" * 43,
    "lone surrogate": "A" * 42 + "\udc80",
}


@pytest.fixture
def sql(postgresql):
    """Run SQL beside the application; return its rows, if any."""

    def run(query, *params):
        cursor = postgresql.execute(query, params)
        rows = cursor.fetchall() if cursor.description else None
        postgresql.commit()
        return rows

    return run


@pytest.fixture(params=["postgres", "redis", "cluster"])
async def store(request, db, sql):
    """Each of the stores, empty."""
    if request.param == "postgres":
        yield InPostgres(db, sql, TTL)
        return
    url = request.getfixturevalue("valkey_url" if request.param == "redis" else "cluster_url")
    async with in_redis(url, db, TTL) as store:
        assert store.is_cluster == (request.param == "cluster")
        yield store


@pytest.fixture
def sessions(store):
    return store.sessions


@pytest.fixture
def add_user(sql):
    """Add a user; return them as verified."""

    def go(login):
        return Verified(sql(ADD_USER, login, login, HASH)[0][0], HASH)

    return go


@pytest.fixture
def ann_verified(add_user):
    return add_user("ann")


@pytest.fixture
def sign_in(sessions, ann_verified):
    """Create one more session of Ann."""
    return lambda: sessions.create(ann_verified, LAPTOP)


@pytest.fixture
def age(store):
    """Make these or all sessions expire after this time, as if their last use was earlier."""
    return lambda left, *session_ids, ttl=TTL: store.age(left, ttl, *session_ids)


# The limit of sessions of one user


async def test_oldest_goes(store, ann_verified, sign_in, add_user, sql):
    """Above the limit a sign-in ends the oldest sessions of the user, also if they were used last, and no others."""
    bobs = await store.sessions.create(add_user("bob"), LAPTOP)
    many = [await sign_in() for _ in range(4)]
    limited = store.living_for(TTL, 3)
    made = [*many, await limited.create(ann_verified, LAPTOP)]
    assert [await limited.find(one.token) is not None for one in made] == [False, False, True, True, True]
    made.append(await limited.create(ann_verified, LAPTOP))
    assert [await limited.find(one.token) is not None for one in made[2:]] == [False, True, True, True]
    assert await limited.find(bobs.token)
    sql("UPDATE roles SET permissions = '{quotas.exempt}' WHERE name = 'User'")
    made.append(await limited.create(ann_verified, LAPTOP))
    assert [await limited.find(one.token) is not None for one in made[3:]] == [True] * 4


async def test_limit_of_sessions_at_once(store, ann_verified):
    """The limit holds when a user signs in many times at once, and the last to do so is signed in."""
    nodes = [store.living_for(TTL, 2) for _ in range(2)]
    made = await asyncio.gather(*(nodes[number % 2].create(ann_verified, LAPTOP) for number in range(10)))
    alive = [one for one in made if await nodes[0].find(one.token)]
    assert len(alive) == len((await nodes[0].of_user(ann_verified.user_id, Window())).items) == 2
    last = await nodes[1].create(ann_verified, LAPTOP)
    assert await nodes[0].find(last.token)


# Tokens


async def test_token_form(sign_in):
    """A token is 256 bits in base64url, and never the same twice."""
    tokens = [(await sign_in()).token for _ in range(3)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)
    assert len(set(tokens)) == 3


async def test_only_hash_is_stored(sign_in, store):
    """Only the SHA-256 of a token is stored."""
    token = (await sign_in()).token
    everything = store.everything()
    assert hashlib.sha256(token.encode()).hexdigest() in everything
    assert token not in everything
    assert token.encode().hex() not in everything


# The verbs


async def test_create(store, sign_in, ann_verified):
    """A session belongs to its user, lives for the TTL, and stores its client."""
    one = await sign_in()
    ((session_id, user_id, created_at, seen_at, expires_at, address, agent),) = store.rows()
    assert (session_id, user_id, expires_at) == one.session[:3]
    assert (expires_at - created_at, seen_at - created_at) == (TTL, timedelta(0))
    assert (address, agent) == LAPTOP
    assert one.session.user_id == ann_verified.user_id
    assert one.expires_at == one.session.expires_at
    assert not one.session.slid
    assert abs(created_at - datetime.now(UTC)) < timedelta(hours=1)  # a unit that is mistaken would be years


@pytest.mark.parametrize("client", [ClientInfo(None, None), ClientInfo("::1", 'a "quoted" \\ näme { } % 日本 \u2028')])
async def test_create_with_details(sessions, store, ann_verified, client):
    """Details are stored unchanged, also empty and unusual ones."""
    await sessions.create(ann_verified, client)
    assert [row[-2:] for row in store.rows()] == [client]
    page = await sessions.of_user(ann_verified.user_id, Window())
    assert [(info.address, info.user_agent) for info in page.items] == [client]


async def test_create_for_nobody(sessions, store, sql, ann_verified, add_user):
    """An unknown or disabled user, or an outdated password, gets no session."""
    off, without = add_user("off"), add_user("without")
    sql("UPDATE users SET active = false WHERE login = 'off'")
    sql("UPDATE users SET password_hash = NULL WHERE login = 'without'")
    for verified in (Verified(uuid4(), HASH), ann_verified._replace(password_hash="another"), off, without):
        with pytest.raises(AuthFailed):
            await sessions.create(verified, LAPTOP)
    assert store.rows() == []


CHANGES = {
    "disabled": "UPDATE users SET active = false",
    "other password": "UPDATE users SET password_hash = 'another'",
    "deleted": "DELETE FROM users",
}


@pytest.fixture
def waiting(postgresql, sql):
    """Return True if a backend waits for a locked row."""

    async def probe():
        with psycopg.connect(dsn_of(postgresql)) as other:
            return other.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchone()

    return probe


@pytest.mark.parametrize("is_committed", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_create_during_a_change(*, store, postgresql, sign_in, waiting, change, is_committed):
    """A log-in during a disabling, a new password or a deletion waits for its outcome, and respects it."""
    postgresql.execute(change)
    signing_in = asyncio.create_task(sign_in())
    await eventually(waiting)
    assert not signing_in.done()
    if is_committed:
        postgresql.commit()
        with pytest.raises(AuthFailed):
            await signing_in
    else:
        postgresql.rollback()
        await signing_in
    assert len(store.rows()) == (not is_committed)


async def test_log_in_during_a_change(sessions, store, db, sign_in, waiting):
    """When a change of a user ends their sessions, no session created meanwhile survives."""
    earlier = (await sign_in()).session
    async with db.transaction() as transaction:
        await transaction.execute(prepare(update(users).values(password_hash="another")))
        signing_in = asyncio.create_task(sign_in())
        await eventually(waiting)
        ended = await sessions.end_all(earlier.user_id, transaction=transaction)
        assert ended == [earlier.id]
    with pytest.raises(AuthFailed):
        await signing_in
    assert store.rows() == []


async def test_change_during_a_log_in(sessions, store, db, sql, ann_verified, waiting, monkeypatch):
    """A change during a log-in waits for the session, and then ends it."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    commit = Transaction.commit

    async def slow(transaction):
        begun.set()
        await go_on.wait()
        await commit(transaction)

    async def change():
        async with db.transaction() as transaction:
            await transaction.execute(prepare(update(users).values(password_hash="another")))
            return await sessions.end_all(ann_verified.user_id, transaction=transaction)

    if isinstance(store, InRedis):  # else one statement does it all
        monkeypatch.setattr(Transaction, "commit", slow)
    signing_in = asyncio.create_task(sessions.create(ann_verified, LAPTOP))
    if isinstance(store, InRedis):
        await begun.wait()
        changing = asyncio.create_task(change())
        await eventually(waiting)
        go_on.set()
    else:
        changing = asyncio.create_task(change())
    outcomes = await asyncio.gather(signing_in, changing, return_exceptions=True)
    assert isinstance(outcomes[0], AuthFailed) or outcomes[1] == [outcomes[0].session.id]
    assert store.rows() == []


async def test_many_log_ins_and_changes(sessions, store, db, sql, ann_verified):
    """Under concurrent log-ins and changes of the password, no session outlives its password."""

    async def change(number):
        async with db.transaction() as transaction:
            await transaction.execute(prepare(update(users).values(password_hash=str(number))))
            await sessions.end_all(ann_verified.user_id, transaction=transaction)

    async def log_in(number):
        with contextlib.suppress(AuthFailed):
            await sessions.create(ann_verified._replace(password_hash=str(number)), LAPTOP)

    for number in range(10):
        await change(number)
        await asyncio.gather(*(log_in(number) for _ in range(4)), change(f"{number}x"), *(log_in(number) for _ in "ab"))
        assert store.rows() == []


async def test_log_in_while_hashes_are_renewed(db, sessions):
    """All of many concurrent log-ins with an outdated hash get a session."""
    cheap, dearer = Passwords(CHEAPEST), Passwords(CHEAPEST._replace(time_cost=2))
    listener = Hub(Registry())
    await Accounts(db, cheap, sessions, listener).sign_up("ann", PASSWORD, "")

    async def log_in():
        verified = await Accounts(db, dearer, sessions, listener).authenticate("ann", PASSWORD)
        return await sessions.create(verified, LAPTOP)

    signed_in = await asyncio.gather(*(log_in() for _ in range(5)))
    assert len({each.session.id for each in signed_in}) == 5
    cheap.close()
    dearer.close()


async def test_find_check_end(sessions, sign_in):
    """A session is found by token and id until it ends; others stay, and a repeated end is harmless."""
    one, other = await sign_in(), await sign_in()
    assert await sessions.find(one.token) == one.session
    assert await sessions.check(one.session.id) == one.session
    for _ in range(2):
        await sessions.end(one.session.id)
        assert await sessions.find(one.token) is None
        assert await sessions.check(one.session.id) is None
    assert await sessions.find(other.token) == other.session


async def test_unknown(sessions, sign_in):
    """Unknown tokens and ids are not found, nor is an id used as a token."""
    session_id = (await sign_in()).session.id
    assert await sessions.find("A" * 43) is None
    assert await sessions.find(str(session_id)) is None
    assert await sessions.check(uuid4()) is None
    await sessions.end(uuid4())


async def test_malformed_tokens(sessions, sign_in):
    """Malformed tokens are not found."""
    await sign_in()
    assert {name: await sessions.find(token) for name, token in MALFORMED.items()} == dict.fromkeys(MALFORMED)


def owners(*sessions):
    return {session.id: session.user_id for session in sessions}


async def test_living(sessions, sign_in, add_user, age):
    """The given sessions that have neither ended nor expired are returned, of any user."""
    live, ended, expired, _ = [(await sign_in()).session for _ in range(4)]
    bobs = (await sessions.create(add_user("bob"), LAPTOP)).session
    await sessions.end(ended.id)
    age(timedelta(seconds=-1), expired.id)
    asked = owners(live, ended, expired, bobs) | {uuid4(): live.user_id}
    assert await sessions.living(asked) == {live.id, bobs.id}
    assert await sessions.living({}) == set()


@pytest.mark.parametrize("change", ["DELETE FROM users", "UPDATE users SET active = false"])
async def test_departed(sessions, store, sql, sign_in, add_user, change):
    """Users deleted or disabled by SQL are returned, unless the database has ended their sessions."""
    one, bob = await sign_in(), add_user("bob")
    bobs = await sessions.create(bob, LAPTOP)
    sql(f"{change} WHERE login = 'ann'")
    for user_id in await sessions.departed([one.session.user_id, bob.user_id]):
        await sessions.end_all(user_id)
    assert await sessions.find(one.token) is None
    assert await sessions.check(one.session.id) is None
    assert await sessions.find(bobs.token) == bobs.session
    assert [row[0] for row in store.rows()] == [bobs.session.id]
    assert await sessions.departed([]) == []


@pytest.mark.parametrize("change", ["DELETE FROM users", "UPDATE users SET active = false"])
async def test_departed_are_not_living(sessions, sql, sign_in, add_user, change):
    """A user deleted or disabled by SQL has no live session, announced or not."""
    one, bobs = await sign_in(), await sessions.create(add_user("bob"), LAPTOP)
    sql(f"{change} WHERE login = 'ann'")
    assert await sessions.living(owners(one.session, bobs.session)) == {bobs.session.id}
    assert await sessions.find(one.token) is None


async def test_sweep_ends_departed(sessions, store, sql, add_user):
    """A sweep ends the sessions of deleted and disabled users, and keeps those of active ones."""
    users_ = [add_user(f"user {number}") for number in range(30)]
    made = [await sessions.create(user, LAPTOP) for user in users_]
    sql("DELETE FROM users WHERE right(login, 1) = '1'")
    sql("UPDATE users SET active = false WHERE right(login, 1) = '2'")
    await sessions.sweep()
    rest = {row[0] for row in sql("SELECT id FROM users WHERE active")}
    assert len(rest) == 24
    assert {row[1] for row in store.rows()} == rest
    assert [await sessions.find(one.token) is not None for one in made] == [one.session.user_id in rest for one in made]


async def test_end_one(sessions, sign_in, add_user):
    """A session ends by its own id and its user's id, and by no others."""
    one, other = await sign_in(), await sign_in()
    bob = add_user("bob")
    for user_id, session_id in [(bob.user_id, one.session.id), (one.session.user_id, uuid4())]:
        with pytest.raises(NoSuchSession):
            await sessions.end_one(user_id, session_id)
    await sessions.end_one(one.session.user_id, one.session.id)
    with pytest.raises(NoSuchSession):
        await sessions.end_one(one.session.user_id, one.session.id)
    assert [await sessions.find(each.token) for each in (one, other)] == [None, other.session]


async def test_end_all(sessions, store, sign_in, add_user):
    """All sessions of the user end except the kept one; those of others stay."""
    made = [await sign_in() for _ in range(4)]
    user_id, (one, *others) = made[0].session.user_id, [each.session.id for each in made]
    bobs = (await sessions.create(add_user("bob"), LAPTOP)).session.id
    assert sorted(await sessions.end_all(user_id, keep=one)) == sorted(others)
    assert [await sessions.find(each.token) is not None for each in made] == [True, False, False, False]
    assert await sessions.end_all(user_id, keep=one) == []
    assert await sessions.end_all(user_id, keep=bobs) == [one]
    assert await sessions.end_all(uuid4()) == []
    assert [row[0] for row in store.rows()] == [bobs]


async def test_end_all_in_a_transaction(sessions, store, db, sign_in):
    """In a transaction they have ended at its commit."""
    ids = [(await sign_in()).session.id for _ in range(3)]
    async with db.transaction() as transaction:
        ended = await sessions.end_all(store.rows()[0][1], keep=ids[0], transaction=transaction)
    assert sorted(ended) == sorted(ids[1:])
    assert [row[0] for row in store.rows()] == ids[:1]


async def test_of_user(sessions, store, sign_in, add_user, ann_verified, age):
    """The live sessions of a user are listed newest first, page by page, also those of the same moment."""
    ids = [(await sign_in()).session.id for _ in range(6)]
    store.begin_at_once(ids[2:5])
    age(timedelta(seconds=-1), ids[0])
    await sessions.create(add_user("bob"), LAPTOP)
    expected = sorted(
        (row for row in store.rows() if row[0] in ids[1:]), key=lambda row: (row[2], row[0]), reverse=True
    )
    whole = await sessions.of_user(ann_verified.user_id, Window())
    assert [tuple(info) for info in whole.items] == [(row[0], *row[2:]) for row in expected]
    assert whole.next is None
    for limit in (1, 2, 3):
        seen, after = [], None
        for _ in ids:
            page = await sessions.of_user(ann_verified.user_id, Window(limit, after))
            seen += [info.id for info in page.items]
            assert len(page.items) <= limit
            if not page.next:
                break
            after = SESSIONS_OF_USER.order.parse(page.next)
        assert seen == [row[0] for row in expected]
    assert (await sessions.of_user(uuid4(), Window())).items == []


async def test_of_user_whose_cursor_has_ended(sessions, sign_in, ann_verified):
    """A page follows the previous one, even if the session of the cursor has ended."""
    newest = [(await sign_in()).session.id for _ in range(4)][::-1]
    page = await sessions.of_user(ann_verified.user_id, Window(2))
    await sessions.end(newest[1])
    rest = await sessions.of_user(ann_verified.user_id, Window(2, SESSIONS_OF_USER.order.parse(page.next)))
    assert [info.id for info in rest.items] == newest[2:]


# Expiry


async def test_expired(sessions, sign_in, age, ann_verified):
    """An expired session is not found, and a read does not restore it."""
    one = await sign_in()
    age(timedelta(seconds=-1))
    for _ in range(2):
        assert await sessions.find(one.token) is None
        assert await sessions.check(one.session.id) is None
        assert (await sessions.of_user(ann_verified.user_id, Window())).items == []
    with pytest.raises(NoSuchSession):
        await expect_nothing(sessions, one)


async def expect_nothing(sessions, one):
    """Assert that a sweep leaves nothing of an expired session."""
    await sessions.sweep()
    await sessions.end_one(one.session.user_id, one.session.id)


async def test_expires_by_itself(store, ann_verified):
    """A session expires without any call."""
    sessions = store.living_for(timedelta(seconds=0.2))
    one = await sessions.create(ann_verified, LAPTOP)

    async def is_gone():
        return (await sessions.of_user(ann_verified.user_id, Window())).items == []

    assert await eventually(is_gone)
    assert await sessions.check(one.session.id) is None
    assert await sessions.find(one.token) is None


@pytest.mark.parametrize("left", [timedelta(seconds=30), TTL - SLIDE_EVERY - MINUTE])
async def test_slides(sessions, store, sign_in, age, left):
    """A read of a stale session prolongs it to the full TTL, stores the time, and says so once."""
    one = await sign_in()
    age(left)
    found = await sessions.find(one.token)
    assert found is not None
    assert found.slid
    ((session_id, user_id, created_at, seen_at, expires_at, *details),) = store.rows()
    assert (session_id, user_id, expires_at) == found[:3]
    assert expires_at - seen_at == TTL
    assert seen_at >= created_at
    assert tuple(details) == LAPTOP
    assert await sessions.find(one.token) == found._replace(slid=False)


async def test_slides_by_its_lifetime(store, ann_verified, age):
    """A session that lives for less than 20 minutes is prolonged at most 20 times in its lifetime."""
    ttl = timedelta(minutes=2)
    sessions = store.living_for(ttl)
    one = await sessions.create(ann_verified, LAPTOP)
    age(ttl * 0.96, ttl=ttl)
    assert not (await sessions.find(one.token)).slid
    age(ttl * 0.94, ttl=ttl)
    assert (await sessions.find(one.token)).slid


async def test_fresh_is_not_written(sessions, store, sign_in, age):
    """A session used less than a minute ago is only read, and a read by id never prolongs."""
    one = await sign_in()
    age(TTL - SLIDE_EVERY / 2)
    before = store.rows()
    found = await sessions.find(one.token)
    assert found is not None
    assert not found.slid
    assert store.rows() == before
    age(MINUTE)
    before = store.rows()
    assert not (await sessions.check(one.session.id)).slid
    assert store.rows() == before


async def test_slides_for_all_who_look(sessions, sign_in, age):
    """All concurrent reads of a stale session find it."""
    one = await sign_in()
    age(MINUTE)
    found = await asyncio.gather(*(sessions.find(one.token) for _ in range(20)))
    assert {session and session.id for session in found} == {one.session.id}
    assert any(session.slid for session in found)


# In PostgreSQL alone


async def test_a_crowd(db, db_url, sql, ann_verified, monkeypatch):
    """Who asks at the same moment gets their own session. One that a transaction has locked delays nobody else."""
    sessions = PostgresSessions(db, TTL)
    fresh, stale, locked, ended = [await sessions.create(ann_verified, LAPTOP) for _ in range(4)]
    stale_ids = [each.session.id for each in (stale, locked, ended)]
    sql("UPDATE sessions SET last_seen_at = now() - interval '1 hour' WHERE id = ANY (%s)", stale_ids)
    executed = []
    fetch_all = db.fetch_all

    async def counted(statement, **params):
        executed.append(statement)
        return await fetch_all(statement, **params)

    monkeypatch.setattr(db, "fetch_all", counted)
    with psycopg.connect(db_url) as other:
        other.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", [locked.session.id])
        sql("DELETE FROM sessions WHERE id = %s", ended.session.id)
        tokens = [each.token for each in (fresh, stale, locked, ended)]
        asked = [asyncio.create_task(sessions.find(token)) for token in [*tokens, "A" * 43]]
        async with asyncio.timeout(10):
            found = await asyncio.gather(asked[0], asked[1], *asked[3:])
        assert [each and (each.id, each.slid) for each in found] == [
            (fresh.session.id, False),
            (stale.session.id, True),
            None,
            None,
        ]
        assert not asked[2].done()
    assert (await asked[2]).slid
    assert executed == [FIND_MANY, SLIDE_MANY]
    checked = await asyncio.gather(*(sessions.check(each.session.id) for each in (fresh, stale, locked, ended)))
    assert [each and each.id for each in checked] == [*(each.session.id for each in (fresh, stale, locked)), None]
    assert executed == [FIND_MANY, SLIDE_MANY, CHECK]


async def test_malformed_tokens_cost_nothing(db_url):
    """A malformed token costs no query."""
    db = await Engine.connect(db_url)
    await db.close()
    sessions = PostgresSessions(db, TTL)
    assert {await sessions.find(token) for token in MALFORMED.values()} == {None}
    with pytest.raises(ShuttingDown):
        await sessions.find("A" * 43)


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_end_all_rolled_back(sessions, store, db, sign_in):
    """In a transaction they end at the commit, not before, and not after a rollback."""
    user_id = (await sign_in()).session.user_id
    with contextlib.suppress(ZeroDivisionError):
        async with db.transaction() as transaction:
            assert len(await sessions.end_all(user_id, transaction=transaction)) == 1
            assert len(store.rows()) == 1
            raise ZeroDivisionError
    assert len(store.rows()) == 1


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_sweep(sessions, db, sql, ann_verified):
    """All expired sessions are removed; live ones, and one that is being prolonged, stay."""
    sql(
        "INSERT INTO sessions (token_hash, user_id, expires_at)"
        " SELECT sha256(n::text::bytea), %s, now() + interval '1 h' * CASE WHEN n > 2500 THEN 1 ELSE -1 END"
        " FROM generate_series(1, 2503) n",
        ann_verified.user_id,
    )
    sql("ANALYZE sessions")
    ((plan,),) = sql("EXPLAIN (FORMAT JSON) " + _SWEEP.sql.replace("%(batch)s", "1000"))
    assert "ix_sessions_expires_at" in json.dumps(plan)
    ((locked,),) = sql("SELECT id FROM sessions WHERE expires_at < now() LIMIT 1")
    async with db.transaction() as transaction:
        touch = update(table).where(table.c.id == locked).values(expires_at=func.now() + timedelta(hours=1))
        await transaction.execute(prepare(touch))
        await sessions.sweep()
    assert sql("SELECT count(*), count(*) FILTER (WHERE id = %s) FROM sessions", locked) == [(4, 1)]


# Over HTTP


@pytest.fixture
async def client(settings, store, aiohttp_client) -> TestClient:
    """A client without a cookie jar."""
    settings = replace(settings, redis_url=store.url)
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


def with_cookie(person) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={person.token}", "Sec-Fetch-Site": "same-origin"}


def new_cookies(response: ClientResponse) -> list[str]:
    return response.headers.getall("Set-Cookie", [])


async def test_stale_by_cookie(client, ann, age, settings: Settings):
    """A stale session by cookie gets the cookie again; the next request does not."""
    age(MINUTE)
    path = f"/users/{ann.id}/groups"
    response = await client.get(path, headers=with_cookie(ann))
    assert response.status == 200
    assert len(new_cookies(response)) == 1
    cookie = response.cookies[COOKIE]
    assert (cookie.value, cookie["max-age"]) == (ann.token, str(int(settings.session_ttl.total_seconds())))
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert not new_cookies(await client.get(path, headers=with_cookie(ann)))


@pytest.mark.parametrize("cookie", [False, True])
async def test_stale_by_bearer(*, client, ann, age, store, cookie):
    """A bearer token gets no cookie, even if the request has one; the session is prolonged."""
    age(MINUTE)
    headers = ann.headers | (with_cookie(ann) if cookie else {})
    response = await client.get(f"/users/{ann.id}/groups", headers=headers)
    assert response.status == 200
    assert not new_cookies(response)
    assert [row[4] - row[3] for row in store.rows()] == [timedelta(days=30)]


async def test_stale_by_cookie_refused(client, ann, age):
    """An error response also prolongs the session and renews the cookie."""
    age(MINUTE)
    response = await client.get("/groups/nowhere", headers=with_cookie(ann))
    assert response.status == 404
    assert len(new_cookies(response)) == 1


async def test_stale_by_cookie_listening(client, ann, age):
    """Opening a socket also prolongs the session and renews the cookie."""
    age(MINUTE)
    socket = await client.ws_connect(
        f"/listen/{ann.id}", headers=with_cookie(ann) | {"Origin": str(client.make_url(""))}
    )
    cookies = new_cookies(socket._response)
    await socket.close()
    assert len(cookies) == 1


async def test_stale_logout(client, ann, age, store):
    """Log-out deletes the cookie of a stale session and does not set it again."""
    age(MINUTE)
    response = await client.post("/logout", headers=with_cookie(ann))
    assert response.status == 204
    assert len(new_cookies(response)) == 1
    assert response.cookies[COOKIE].value == ""
    assert response.cookies[COOKIE]["max-age"] == "0"
    assert response.cookies[COOKIE]["path"] == "/"
    assert store.rows() == []


async def test_expired_over_http(client, ann, age):
    """An expired session is refused, by cookie and by token."""
    age(timedelta(seconds=-1))
    for headers in (ann.headers, with_cookie(ann)):
        response = await client.get(f"/users/{ann.id}/groups", headers=headers)
        assert response.status == 401
        assert (await response.json())["error"] == "not signed in"
        assert not new_cookies(response)
