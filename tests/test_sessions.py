"""Sessions in PostgreSQL, and what a browser's cookie does with them."""

import asyncio
import contextlib
import hashlib
import json
import re
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from aiohttp import ClientResponse, DummyCookieJar
from aiohttp.test_utils import TestClient
from conftest import CHEAPEST, PASSWORD, dsn_of, eventually
from sqlalchemy import func, update

from att.accounts import Accounts
from att.app import create_app
from att.db.engine import Engine, prepare
from att.db.schema import sessions as table
from att.db.schema import users
from att.errors import AuthFailed, NoSuchSession, ShuttingDown
from att.identity import COOKIE
from att.paging import Window
from att.passwords import Passwords
from att.realtime.hub import Hub
from att.realtime.registry import Registry
from att.sessions import SESSIONS_OF_USER, SLIDE_EVERY, SWEEP, Client, PostgresSessions, Verified
from att.settings import Settings

TTL = timedelta(days=10)
MINUTE = timedelta(minutes=1)

HASH = "$argon2id$of-ann"
LAPTOP = Client("192.0.2.7", "Laptop/1.0")
ADD_USER = """
    INSERT INTO users (login, login_key, password_hash, search_text, role_id)
    SELECT %s, %s, %s, '', id FROM roles WHERE name_key = 'user' RETURNING id
"""
ROWS = "SELECT id, user_id, expires_at, xmin::text FROM sessions ORDER BY created_at, id"

MALFORMED = {
    "empty": "",
    "too short": "A" * 42,
    "too long": "A" * 44,
    "padded": "A" * 43 + "=",
    "line feed behind": "A" * 43 + "\n",
    "base64 that is not for URLs": "A" * 42 + "+",
    "NUL": "A" * 42 + "\0",
    "accent": "A" * 42 + "é",
    "digits of another script": "٣" * 43,
    "full-width letters": "\uff21" * 43,
    "lone surrogate": "A" * 42 + "\udc80",
}


@pytest.fixture
def sessions(db):
    return PostgresSessions(db, TTL)


@pytest.fixture
def sql(postgresql):
    """Run SQL beside the application; its rows, if it has any."""

    def run(query, *params):
        cursor = postgresql.execute(query, params)
        rows = cursor.fetchall() if cursor.description else None
        postgresql.commit()
        return rows

    return run


@pytest.fixture
def add_user(sql):
    """Somebody new, who has just shown who they are."""

    def go(login):
        return Verified(sql(ADD_USER, login, login, HASH)[0][0], HASH)

    return go


@pytest.fixture
def ann_verified(add_user):
    return add_user("ann")


@pytest.fixture
def sign_in(sessions, ann_verified):
    """One more session of Ann's."""
    return lambda: sessions.create(ann_verified, LAPTOP)


@pytest.fixture
def age(sql):
    """Leave all sessions just this much to live, as if they had been last used that much earlier."""
    return lambda left, ttl=TTL: sql(
        "UPDATE sessions SET expires_at = now() + %s, last_seen_at = now() + %s", left, left - ttl
    )


# Tokens


async def test_token_form(sign_in):
    """A token is 256 bits in base64url, and never the same twice."""
    tokens = [(await sign_in()).token for _ in range(3)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)
    assert len(set(tokens)) == 3


async def test_only_hash_is_stored(sign_in, sql):
    """The database holds the SHA-256 of a token, and the token in no form."""
    token = (await sign_in()).token
    ((stored, everything),) = sql("SELECT token_hash, sessions::text FROM sessions")
    assert bytes(stored) == hashlib.sha256(token.encode()).digest()
    assert token not in everything
    assert token.encode().hex() not in everything


async def test_malformed_tokens(db_url):
    """What cannot be a token is nobody's, and is not looked up: it is told without a database."""
    db = await Engine.connect(db_url)
    await db.close()
    sessions = PostgresSessions(db, TTL)
    assert {name: await sessions.find(token) for name, token in MALFORMED.items()} == dict.fromkeys(MALFORMED)
    with pytest.raises(ShuttingDown):
        await sessions.find("A" * 43)


# The verbs


async def test_create(sessions, sql, sign_in, ann_verified):
    """A session is its user's, lives for the TTL, and bears what it was begun with."""
    created = await sign_in()
    assert sql("SELECT id, user_id, expires_at FROM sessions") == [created.session[:3]]
    assert sql("SELECT expires_at - created_at, last_seen_at - created_at FROM sessions") == [(TTL, timedelta(0))]
    assert sql("SELECT address, user_agent FROM sessions") == [LAPTOP]
    assert created.session.user_id == ann_verified.user_id
    assert created.expires_at == created.session.expires_at
    await sessions.create(ann_verified, Client(None, None))
    assert sql("SELECT count(*) FROM sessions WHERE address IS NULL AND user_agent IS NULL") == [(1,)]


async def test_create_for_nobody(sessions, sql, ann_verified, add_user):
    """No session is begun by who is unknown, disabled, or was told by a password that is not theirs any more."""
    off, without = add_user("off"), add_user("without")
    sql("UPDATE users SET active = false WHERE login = 'off'")
    sql("UPDATE users SET password_hash = NULL WHERE login = 'without'")
    for verified in (Verified(uuid4(), HASH), ann_verified._replace(password_hash="another"), off, without):
        with pytest.raises(AuthFailed):
            await sessions.create(verified, LAPTOP)
    assert sql(ROWS) == []


CHANGES = {
    "disabled": "UPDATE users SET active = false",
    "other password": "UPDATE users SET password_hash = 'another'",
    "deleted": "DELETE FROM users",
}


@pytest.fixture
def waiting(postgresql, sql):
    """Whether somebody waits for a row that is locked."""

    async def probe():
        with psycopg.connect(dsn_of(postgresql)) as other:
            return other.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchone()

    return probe


async def test_create_during_a_change(sessions, sql, postgresql, sign_in, waiting):
    """A log-in that meets a disabling, a new password or a deletion waits for its outcome, and goes by it."""
    for change in CHANGES.values():
        for outcome in (postgresql.rollback, postgresql.commit):
            sql("UPDATE users SET active = true, password_hash = %s", HASH)
            sql("DELETE FROM sessions")
            postgresql.execute(change)
            signing_in = asyncio.create_task(sign_in())
            await eventually(waiting)
            assert not signing_in.done()
            outcome()
            if outcome == postgresql.rollback:
                await signing_in
            else:
                with pytest.raises(AuthFailed):
                    await signing_in
            assert len(sql(ROWS)) == (outcome == postgresql.rollback), change


async def test_log_in_during_a_change(sessions, sql, db, sign_in, waiting):
    """When a user is changed, and then their sessions are ended, none that was begun meanwhile is left."""
    earlier = (await sign_in()).session
    async with db.transaction() as transaction:
        await transaction.execute(prepare(update(users).values(password_hash="another")))
        signing_in = asyncio.create_task(sign_in())
        await eventually(waiting)
        ended = await sessions.end_all(earlier.user_id, transaction=transaction)
        assert ended == [earlier.id]
        assert len(sql(ROWS)) == 1  # not yet
    with pytest.raises(AuthFailed):
        await signing_in
    assert sql(ROWS) == []


async def test_log_in_while_hashes_are_renewed(db, sessions):
    """Of many who log in at once by a hash that is to be renewed, each gets a session."""
    cheap, dearer = Passwords(CHEAPEST), Passwords(CHEAPEST._replace(time_cost=2))
    audience = Hub(Registry())
    await Accounts(db, cheap, sessions, audience).sign_up("ann", PASSWORD, "")

    async def log_in():
        verified = await Accounts(db, dearer, sessions, audience).authenticate("ann", PASSWORD)
        return await sessions.create(verified, LAPTOP)

    signed_in = await asyncio.gather(*(log_in() for _ in range(5)))
    assert len({each.session.id for each in signed_in}) == 5
    cheap.close()
    dearer.close()


async def test_find_check_end(sessions, sign_in):
    """A session is found by token and by id until it is ended; others are left alone, and ending twice is harmless."""
    one, other = await sign_in(), await sign_in()
    assert await sessions.find(one.token) == one.session
    assert await sessions.check(one.session.id) == one.session
    for _ in range(2):
        await sessions.end(one.session.id)
        assert await sessions.find(one.token) is None
        assert await sessions.check(one.session.id) is None
    assert await sessions.find(other.token) == other.session


async def test_unknown(sessions, sign_in):
    """What was never given out is not found: neither token nor id, nor an id as a token."""
    session_id = (await sign_in()).session.id
    assert await sessions.find("A" * 43) is None
    assert await sessions.find(str(session_id)) is None
    assert await sessions.check(uuid4()) is None


async def test_living(sessions, sql, sign_in):
    """Of those that are asked for, whoever's they are, the ones that have neither ended nor expired."""
    live, ended, expired, _ = [(await sign_in()).session.id for _ in range(4)]
    await sessions.end(ended)
    sql("UPDATE sessions SET expires_at = now() - interval '1 s' WHERE id = %s", expired)
    assert await sessions.living([live, ended, expired, uuid4(), live]) == {live}
    assert await sessions.living([]) == set()


async def test_ends_with_user(sessions, sql, sign_in):
    """With the user go their sessions."""
    one = await sign_in()
    sql("DELETE FROM users")
    assert await sessions.find(one.token) is None
    assert await sessions.check(one.session.id) is None


async def test_end_one(sessions, sign_in, add_user):
    """A session is ended by its user's id and its own, and by no other's."""
    one, other = await sign_in(), await sign_in()
    bob = add_user("bob")
    for user_id, session_id in [(bob.user_id, one.session.id), (one.session.user_id, uuid4())]:
        with pytest.raises(NoSuchSession):
            await sessions.end_one(user_id, session_id)
    await sessions.end_one(one.session.user_id, one.session.id)
    with pytest.raises(NoSuchSession):
        await sessions.end_one(one.session.user_id, one.session.id)
    assert [await sessions.find(each.token) for each in (one, other)] == [None, other.session]


async def test_end_all(sessions, db, sql, sign_in, add_user):
    """All of a user's end but the one to keep; nobody else's; in a transaction when that is committed, or not."""
    user_id = (await sign_in()).session.user_id
    one, *others = [row[0] for row in [*sql(ROWS), *[(await sign_in()).session for _ in range(2)]]]
    bobs = (await sessions.create(add_user("bob"), LAPTOP)).session.id
    with contextlib.suppress(ZeroDivisionError):
        async with db.transaction() as transaction:
            assert len(await sessions.end_all(user_id, transaction=transaction)) == 3
            raise ZeroDivisionError
    assert len(sql(ROWS)) == 4
    assert sorted(await sessions.end_all(user_id, keep=one)) == sorted(others)
    assert await sessions.end_all(user_id, keep=one) == []
    assert await sessions.end_all(user_id, keep=bobs) == [one]
    assert await sessions.end_all(uuid4()) == []
    assert [row[0] for row in sql(ROWS)] == [bobs]


async def test_of_user(sessions, sql, sign_in, add_user, ann_verified):
    """The live sessions of one user, newest first, page by page."""
    ids = [(await sign_in()).session.id for _ in range(4)]
    sql("UPDATE sessions SET expires_at = now() - interval '1 s' WHERE id = %s", ids[0])
    sql("UPDATE sessions SET created_at = (SELECT max(created_at) FROM sessions) WHERE id = ANY(%s)", ids[2:])
    await sessions.create(add_user("bob"), LAPTOP)
    expected = [row[0] for row in sql("SELECT id FROM sessions ORDER BY created_at DESC, id DESC") if row[0] in ids[1:]]
    whole = await sessions.of_user(ann_verified.user_id, Window())
    assert [info.id for info in whole.items] == expected
    assert whole.next is None
    details = sql(
        "SELECT created_at, last_seen_at, expires_at, address, user_agent FROM sessions WHERE id = %s", expected[0]
    )
    assert [tuple(whole.items[0])[1:]] == details
    seen, after = [], None
    for _ in expected:
        page = await sessions.of_user(ann_verified.user_id, Window(1, after))
        seen += [info.id for info in page.items]
        after = SESSIONS_OF_USER.order.parse(page.next) if page.next else None
    assert (seen, after) == (expected, None)


# Expiry


async def test_sweep(sessions, db, sql, ann_verified):
    """Expired sessions are removed, however many; live ones, and one that is being prolonged now, stay."""
    sql(
        "INSERT INTO sessions (token_hash, user_id, expires_at)"
        " SELECT sha256(n::text::bytea), %s, now() + interval '1 h' * CASE WHEN n > 2500 THEN 1 ELSE -1 END"
        " FROM generate_series(1, 2503) n",
        ann_verified.user_id,
    )
    sql("ANALYZE sessions")
    ((plan,),) = sql("EXPLAIN (FORMAT JSON) " + SWEEP.sql.replace("%(batch)s", "1000"))
    assert "ix_sessions_expires_at" in json.dumps(plan)
    ((locked,),) = sql("SELECT id FROM sessions WHERE expires_at < now() LIMIT 1")
    async with db.transaction() as transaction:
        touch = update(table).where(table.c.id == locked).values(expires_at=func.now() + timedelta(hours=1))
        await transaction.execute(prepare(touch))
        await sessions.sweep()
    assert sql("SELECT count(*), count(*) FILTER (WHERE id = %s) FROM sessions", locked) == [(4, 1)]


async def test_expired(sessions, sql, sign_in, age):
    """A session that has expired is not found, and not brought back by looking for it."""
    one = await sign_in()
    age(timedelta(seconds=-1))
    before = sql(ROWS)
    assert await sessions.find(one.token) is None
    assert await sessions.check(one.session.id) is None
    assert sql(ROWS) == before


@pytest.mark.parametrize("left", [timedelta(seconds=30), TTL - SLIDE_EVERY - MINUTE])
async def test_slides(sessions, sql, sign_in, age, left):
    """A stale session is moved to the full TTL when it is found, with when it was seen, and told so once."""
    one = await sign_in()
    age(left)
    found = await sessions.find(one.token)
    assert found is not None
    assert found.slid
    assert sql("SELECT id, user_id, expires_at FROM sessions WHERE expires_at - last_seen_at = %s", TTL) == [found[:3]]
    assert sql("SELECT 1 FROM sessions WHERE last_seen_at >= created_at") == [(1,)]
    assert await sessions.find(one.token) == found._replace(slid=False)


async def test_slides_by_its_lifetime(db, sql, ann_verified, age):
    """One that lives for less than 20 minutes is written to 20 times in its lifetime."""
    ttl = timedelta(minutes=2)
    sessions = PostgresSessions(db, ttl)
    one = await sessions.create(ann_verified, LAPTOP)
    age(ttl * 0.96, ttl)
    assert not (await sessions.find(one.token)).slid
    age(ttl * 0.94, ttl)
    assert (await sessions.find(one.token)).slid


async def test_fresh_is_not_written(sessions, sql, sign_in, age):
    """A session that was seen less than a minute ago is only read, and a look by id never moves anything."""
    one = await sign_in()
    age(TTL - SLIDE_EVERY / 2)
    before = sql(ROWS)
    found = await sessions.find(one.token)
    assert found is not None
    assert not found.slid
    assert sql(ROWS) == before
    age(MINUTE)
    before = sql(ROWS)
    assert not (await sessions.check(one.session.id)).slid
    assert sql(ROWS) == before


async def test_slides_for_all_who_look(sessions, sign_in, age):
    """Everyone who looks for a stale session at the same time finds it."""
    one = await sign_in()
    age(MINUTE)
    found = await asyncio.gather(*(sessions.find(one.token) for _ in range(20)))
    assert {session and session.id for session in found} == {one.session.id}
    assert any(session.slid for session in found)


# Over HTTP


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client that keeps no cookies: each request brings its own."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


def with_cookie(person) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={person.token}", "Sec-Fetch-Site": "same-origin"}


def new_cookies(response: ClientResponse) -> list[str]:
    return response.headers.getall("Set-Cookie", [])


async def test_stale_by_cookie(client, ann, age, settings: Settings):
    """Who comes with a stale session by cookie gets the cookie anew; the next request is fresh, and does not."""
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
async def test_stale_by_bearer(*, client, ann, age, sql, cookie):
    """Who comes by bearer token gets no cookie, even when they bring one; the session has slid all the same."""
    age(MINUTE)
    headers = ann.headers | (with_cookie(ann) if cookie else {})
    response = await client.get(f"/users/{ann.id}/groups", headers=headers)
    assert response.status == 200
    assert not new_cookies(response)
    assert sql("SELECT count(*) FROM sessions WHERE expires_at > now() + %s", TTL) == [(1,)]


async def test_stale_by_cookie_refused(client, ann, age):
    """A refusal slides the session too, and so renews the cookie too."""
    age(MINUTE)
    response = await client.get("/groups/nowhere", headers=with_cookie(ann))
    assert response.status == 404
    assert len(new_cookies(response)) == 1


async def test_stale_by_cookie_listening(client, ann, age):
    """Opening a socket slides the session too, and so renews the cookie too."""
    age(MINUTE)
    socket = await client.ws_connect(
        f"/listen/{ann.id}", headers=with_cookie(ann) | {"Origin": str(client.make_url(""))}
    )
    cookies = new_cookies(socket._response)
    await socket.close()
    assert len(cookies) == 1


async def test_stale_logout(client, ann, age, sql):
    """Log-out deletes the cookie of a stale session as of any other, and does not set it again."""
    age(MINUTE)
    response = await client.post("/logout", headers=with_cookie(ann))
    assert response.status == 204
    assert len(new_cookies(response)) == 1
    assert response.cookies[COOKIE].value == ""
    assert response.cookies[COOKIE]["max-age"] == "0"
    assert response.cookies[COOKIE]["path"] == "/"
    assert sql(ROWS) == []


async def test_expired_over_http(client, ann, age):
    """An expired session is no session, by cookie and by token."""
    age(timedelta(seconds=-1))
    for headers in (ann.headers, with_cookie(ann)):
        response = await client.get(f"/users/{ann.id}/groups", headers=headers)
        assert response.status == 401
        assert (await response.json())["error"] == "not signed in"
        assert not new_cookies(response)
