"""Sessions in PostgreSQL, and what a browser's cookie does with them."""

import asyncio
import hashlib
import re
from datetime import timedelta
from uuid import uuid4

import pytest
from aiohttp import ClientResponse, DummyCookieJar
from aiohttp.test_utils import TestClient

from att.app import create_app
from att.db.engine import Engine
from att.errors import NoSuchUser, ShuttingDown
from att.sessions import SLIDE_PARTS, PostgresSessions
from att.settings import Settings
from att.web import COOKIE

TTL = timedelta(days=10)
SLACK = TTL / SLIDE_PARTS
MINUTE = timedelta(minutes=1)

ADD_USER = "INSERT INTO users (login, login_key, password_hash) VALUES ('ann', 'ann', '') RETURNING id"
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
def ann_id(sql):
    return sql(ADD_USER)[0][0]


@pytest.fixture
def age(sql):
    """Leave all sessions just this much to live."""
    return lambda left: sql("UPDATE sessions SET expires_at = now() + %s", left)


# Tokens


async def test_token_form(sessions, ann_id):
    """A token is 256 bits in base64url, and never the same twice."""
    tokens = [(await sessions.create(ann_id)).token for _ in range(3)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)
    assert len(set(tokens)) == 3


async def test_only_hash_is_stored(sessions, sql, ann_id):
    """The database holds the SHA-256 of a token, and the token in no form."""
    token = (await sessions.create(ann_id)).token
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


async def test_create(sessions, sql, ann_id):
    """A session is its user's, and lives for the TTL."""
    sign_in = await sessions.create(ann_id)
    assert sql("SELECT id, user_id, expires_at FROM sessions") == [sign_in.session[:3]]
    assert sql("SELECT expires_at - created_at FROM sessions") == [(TTL,)]
    assert sign_in.session.user_id == ann_id
    assert sign_in.expires_at == sign_in.session.expires_at


async def test_create_for_unknown_user(sessions, sql):
    """Nobody has no session."""
    with pytest.raises(NoSuchUser):
        await sessions.create(uuid4())
    assert sql(ROWS) == []


async def test_find_check_end(sessions, ann_id):
    """A session is found by token and by id until it is ended; others are left alone, and ending twice is harmless."""
    one, other = await sessions.create(ann_id), await sessions.create(ann_id)
    assert await sessions.find(one.token) == one.session
    assert await sessions.check(one.session.id) == one.session
    for _ in range(2):
        await sessions.end(one.session.id)
        assert await sessions.find(one.token) is None
        assert await sessions.check(one.session.id) is None
    assert await sessions.find(other.token) == other.session


async def test_unknown(sessions, ann_id):
    """What was never given out is not found: neither token nor id, nor an id as a token."""
    session_id = (await sessions.create(ann_id)).session.id
    assert await sessions.find("A" * 43) is None
    assert await sessions.find(str(session_id)) is None
    assert await sessions.check(uuid4()) is None


async def test_ends_with_user(sessions, sql, ann_id):
    """With the user go their sessions."""
    sign_in = await sessions.create(ann_id)
    sql("DELETE FROM users")
    assert await sessions.find(sign_in.token) is None
    assert await sessions.check(sign_in.session.id) is None


# Expiry


async def test_expired(db, sql, ann_id, age):
    """A session that has expired is not found, and not brought back by looking for it."""
    sessions = PostgresSessions(db, timedelta(seconds=1))
    sign_in = await sessions.create(ann_id)
    age(timedelta(seconds=-1))
    before = sql(ROWS)
    assert await sessions.find(sign_in.token) is None
    assert await sessions.check(sign_in.session.id) is None
    assert sql(ROWS) == before


@pytest.mark.parametrize("left", [timedelta(seconds=30), TTL - SLACK - MINUTE])
async def test_slides(sessions, sql, ann_id, age, left):
    """A stale session is moved to the full TTL when it is found, and told so once."""
    sign_in = await sessions.create(ann_id)
    age(left)
    found = await sessions.find(sign_in.token)
    assert found is not None
    assert found.slid
    assert sql("SELECT id, user_id, expires_at FROM sessions WHERE expires_at > now() + %s", TTL - MINUTE) == [
        found[:3]
    ]
    assert await sessions.find(sign_in.token) == found._replace(slid=False)


async def test_fresh_is_not_written(sessions, sql, ann_id, age):
    """A fresh session is only read, and a look by id never moves anything."""
    sign_in = await sessions.create(ann_id)
    age(TTL - SLACK + MINUTE)
    before = sql(ROWS)
    found = await sessions.find(sign_in.token)
    assert found is not None
    assert not found.slid
    assert sql(ROWS) == before
    age(MINUTE)
    before = sql(ROWS)
    assert not (await sessions.check(sign_in.session.id)).slid
    assert sql(ROWS) == before


async def test_slides_for_all_who_look(sessions, ann_id, age):
    """Everyone who looks for a stale session at the same time finds it."""
    sign_in = await sessions.create(ann_id)
    age(MINUTE)
    found = await asyncio.gather(*(sessions.find(sign_in.token) for _ in range(20)))
    assert {session and session.id for session in found} == {sign_in.session.id}
    assert any(session.slid for session in found)


# Over HTTP


@pytest.fixture
async def client(aiohttp_client, settings) -> TestClient:
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


async def test_stale_by_bearer(client, ann, age, sql):
    """Who comes by bearer token gets no cookie, even when they bring one; the session has slid all the same."""
    for headers in (ann.headers, ann.headers | with_cookie(ann)):
        age(MINUTE)
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
