"""Nodes that share a Redis, over HTTP: sessions on all nodes, and outages of Redis."""

import sys
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp import DummyCookieJar
from doubles import away
from people import PASSWORD, Person
from valkey_servers import Valkey
from waiting import eventually

from att.accounts import service as module
from att.app import SESSION_CACHE, create_app, open_backends
from att.config.settings import Rate
from att.errors import CannotStart, RedisUnavailable
from att.http.context import READINESS
from att.realtime.brokers.redis import RedisBroker

ANN = {"login": "ann", "password": PASSWORD}


@pytest.fixture
def valkey():
    """A Valkey of this test, with persistence."""
    server = Valkey(appendonly="yes", appendfsync="always")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start(settings, valkey, aiohttp_client):
    """Start a node."""

    async def go(**changes):
        app = create_app(replace(settings, **{"redis_url": valkey.url} | changes))
        return await aiohttp_client(app, cookie_jar=DummyCookieJar())

    return go


@pytest.fixture
async def nodes(start):
    """Two nodes."""
    nodes = [await start(), await start()]
    for node in nodes:
        await eventually(lambda node=node: _is_told(node))
    return nodes


async def _is_told(node):
    return node.app[SESSION_CACHE]._is_notified


@pytest.fixture
async def client(nodes):
    """The node for sign-ups."""
    return nodes[0]


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


async def problem(response):
    """Return status, code and Retry-After of an error."""
    body = await response.json()
    assert body["status"] == response.status
    return response.status, body["error"], response.headers.get("Retry-After")


def at(node, person):
    """Return the same person, with the same token, at another node."""
    return Person(node, person.login, {"user_id": str(person.id), "token": person.token})


async def hangs_up(socket):
    """Return the close code of the socket."""
    return (await socket.receive(timeout=5)).data


AWAY = (503, "redis unavailable", "1")


# Two nodes


async def test_signed_in_everywhere(nodes, ann):
    """A token works on each node; its end on one node counts on all at once, also in caches."""
    there = at(nodes[1], ann)
    assert (await there.request("GET", "/users/me")).status == 200
    socket = await there.listen()
    assert (await ann.request("POST", "/logout")).status == 204
    assert await hangs_up(socket) == 4500
    assert (await there.request("GET", "/users/me")).status == 401


async def test_password_changed(nodes, ann):
    """A new password ends all sessions except the one that changed it, on every node."""
    response = await nodes[1].post("/login", json=ANN)
    phone = Person(nodes[1], "ann", await response.json())
    sockets = [await phone.listen(), await at(nodes[1], ann).listen()]
    change = {"password": "battery staple", "current_password": PASSWORD}
    assert (await ann.request("PATCH", "/users/me", json=change)).status == 200
    assert await hangs_up(sockets[0]) == 4500
    assert (await phone.request("GET", "/users/me")).status == 401
    assert (await at(nodes[1], ann).request("GET", "/users/me")).status == 200
    assert not sockets[1].closed
    await sockets[1].close()


@pytest.mark.parametrize("change", ["DELETE FROM users WHERE login = 'ann'", "UPDATE users SET active = false"])
async def test_gone_by_sql(nodes, ann, sql, change, monkeypatch):
    """A user deleted or disabled by SQL is signed out on every node, and their sockets are closed."""
    monkeypatch.setattr("att.sessions.cache.SessionCache.living", _all_of_them)  # which would end them, too
    sockets = [await at(node, ann).listen() for node in nodes]
    sql(change)
    assert [await hangs_up(socket) for socket in sockets] == [4500, 4500]
    for node in nodes:

        async def is_out(node=node):
            return (await at(node, ann).request("GET", "/users/me")).status == 401

        assert await eventually(is_out)
    sql("UPDATE users SET active = true")
    assert (await ann.request("GET", "/users/me")).status == 401


async def _all_of_them(_self, owners):
    return {*owners}


async def test_announced_twice(nodes, ann, monkeypatch):
    """The database also announces an ended session, for a node without Redis."""
    monkeypatch.setattr("att.sessions.cache.SessionCache.living", _all_of_them)
    phones = [Person(nodes[1], "ann", await (await nodes[1].post("/login", json=ANN)).json()) for _ in range(3)]
    sockets = [await person.listen() for person in (*phones, at(nodes[1], ann))]
    session_id = (await (await phones[1].request("GET", "/sessions")).json())["items"][1]["id"]
    monkeypatch.setattr(RedisBroker, "published", lambda *_: None)
    assert (await at(nodes[0], phones[0]).request("POST", "/logout")).status == 204
    assert await hangs_up(sockets[0]) == 4500
    assert (await ann.request("DELETE", f"/users/me/sessions/{session_id}")).status == 204
    assert await hangs_up(sockets[1]) == 4500
    change = {"password": "battery staple", "current_password": PASSWORD}
    assert (await ann.request("PATCH", "/users/me", json=change)).status == 200
    assert await hangs_up(sockets[2]) == 4500
    assert not sockets[3].closed
    await sockets[3].close()


async def test_gone_by_sql_while_nobody_listens(nodes, ann, sql, postgresql, monkeypatch):
    """The check of open sockets finds users whose announcement was missed."""
    monkeypatch.setattr("att.sessions.revocation.SessionRevoker.check_users", lambda *_: None)
    socket = await at(nodes[1], ann).listen()
    sql("UPDATE users SET active = false")
    assert (await socket.receive(timeout=10)).data == 4500
    assert (await ann.request("GET", "/users/me")).status == 401


async def test_guesses_count_everywhere(start):
    """Wrong passwords on one node count on the other."""
    nodes = [await start(login_failures=Rate(3, timedelta(minutes=5))) for _ in range(2)]
    statuses = [
        (await nodes[number % 2].post("/login", json=ANN | {"password": "wrong one"})).status for number in range(5)
    ]
    assert statuses == [401, 401, 401, 429, 429]


# Redis away


async def test_away_and_back(nodes, ann, valkey, sql, caplog):
    """Without Redis sign-in fails with a clear error; open sockets stay and receive; then everything works again."""
    await ann.make_group("tea")
    socket = await at(nodes[1], ann).listen()
    group_id = sql("SELECT id FROM groups")[0][0]
    valkey.kill()
    for method, path, json in [("POST", "/login", ANN), ("POST", "/signup", {"login": "bob", "password": PASSWORD})]:
        response = await nodes[0].request(method, path, json=json)
        assert await problem(response) == AWAY
        assert (await response.json())["detail"] == RedisUnavailable().detail
    report = await nodes[0].app[READINESS].report()
    why = f"Redis at 127.0.0.1:{valkey.port}: connection refused"
    assert report.checks["redis"]["error"] == why
    away = "the broker (redis) is away: Redis at 127.0.0.1:"
    assert any(line.startswith(away) for line in caplog.messages)
    assert any(line.endswith(f"is answered 503 redis unavailable ({why})") for line in caplog.messages)

    async def is_not_cached():
        return (await ann.request("GET", "/users/me")).status == 503

    assert await eventually(is_not_cached)
    assert await problem(await ann.request("GET", "/users/me")) == AWAY
    assert sql("SELECT count(*) FROM users WHERE login = 'bob'") == [(0,)]
    sql("SELECT att_broadcast(%s, '{\"n\": 1}')", group_id)
    assert await socket.receive_json(timeout=10) == {"n": 1}
    valkey.start()

    async def is_back():
        return (await ann.request("GET", "/users/me")).status == 200

    assert await eventually(is_back, 15)
    assert (await nodes[1].post("/login", json=ANN)).status == 200
    assert await ann.broadcast("tea", {"n": 2}) <= 1
    assert await socket.receive_json(timeout=10) == {"n": 2}
    await socket.close()


@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "found"])
@pytest.mark.parametrize("change", ["DELETE FROM users WHERE login = 'ann'", "UPDATE users SET active = false"])
async def test_gone_by_sql_while_it_is_away(nodes, ann, valkey, sql, change, is_announced, monkeypatch):
    """Sockets of deleted and disabled users are closed at once; their sessions end when Redis is back."""
    if is_announced:
        monkeypatch.setattr("att.sessions.cache.SessionCache.living", _all_of_them)
    else:
        monkeypatch.setattr("att.sessions.revocation.SessionRevoker.check_users", lambda *_: None)
    sockets = [await at(node, ann).listen() for node in nodes]
    valkey.kill()
    sql(change)
    assert [(await socket.receive(timeout=10)).data for socket in sockets] == [4500, 4500]
    valkey.start()

    async def is_out():
        return (await ann.request("GET", "/users/me")).status == 401

    if is_announced:
        assert await eventually(is_out, 15)


async def test_changes_while_it_is_away(nodes, ann, valkey, sql, monkeypatch):
    """A change that must end sessions fails as a whole, and succeeds when Redis is back."""
    monkeypatch.setattr(
        ann.client.app[SESSION_CACHE], "find", _always(await ann.client.app[SESSION_CACHE].find(ann.token))
    )
    valkey.kill()
    before = sql("SELECT password_hash FROM users WHERE login = 'ann'")
    changes = [
        ("PATCH", {"active": False}),
        ("DELETE", None),
    ]
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Admin') WHERE login = 'ann'")
    for method, json in changes:
        assert await problem(await ann.request(method, "/users/me", json=json)) == AWAY
    assert sql("SELECT password_hash FROM users WHERE login = 'ann' AND active") == before
    valkey.start()

    async def is_done():
        return (await ann.request("PATCH", "/users/me", json={"active": False})).status == 200

    assert await eventually(is_done, 15)


def _always(session):
    async def find(_token):
        return session

    return find


async def test_account_that_could_not_be_signed_in(nodes, valkey, sql, monkeypatch):
    """If Redis fails right after the account is created, the error says that the account exists."""
    sign_up = module.Accounts.sign_up

    async def and_then(self, *args):
        verified = await sign_up(self, *args)
        valkey.kill()
        return verified

    monkeypatch.setattr(module.Accounts, "sign_up", and_then)
    response = await nodes[0].post("/signup", json=ANN)
    assert await problem(response) == AWAY
    assert (await response.json())["detail"].startswith("The account was created")
    valkey.start()

    async def is_signed_in():
        return (await nodes[0].post("/login", json=ANN)).status == 200

    assert await eventually(is_signed_in, 15)


async def test_database_away(nodes, ann, postgresql):
    """While PostgreSQL is away no user counts as deleted, and sockets stay open."""
    socket = await at(nodes[1], ann).listen()
    with away(postgresql):
        assert (await problem(await nodes[0].post("/login", json=ANN)))[:2] == (503, "database unavailable")
    nodes[1].app[SESSION_CACHE].trust(is_notified=False)

    async def is_back():
        return (await ann.request("GET", "/users/me")).status == 200

    assert await eventually(is_back, 15)
    assert not socket.closed
    await socket.close()


async def test_library_missing(settings, monkeypatch):
    """A missing library is one line that says what to install."""
    monkeypatch.setitem(sys.modules, "att.sessions.redis_store", None)  # as if its import had failed
    with pytest.raises(CannotStart, match=r"run pip install 'att-server\[redis\]'$"):
        async with open_backends(replace(settings, redis_url="redis://127.0.0.1")):
            pytest.fail("starts without")
