"""Sessions over HTTP: listing and ending them; and the rate limits of log-in."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from uuid import uuid4

import psycopg
import pytest
from aiohttp import ClientSession, DummyCookieJar, UnixConnector, WSMsgType, web
from aiohttp.test_utils import TestClient
from databases import dsn_of
from people import PASSWORD, Person
from waiting import eventually

from att.app import create_app
from att.config.settings import Rate
from att.http.credentials import COOKIE
from att.protocol.frames import CloseCode

SESSION = {"id", "created_at", "last_seen_at", "expires_at", "address", "user_agent", "current", "sockets"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar: each request brings its own credentials."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
def log_in(client):
    """Log a user in once more, with these headers."""

    async def go(login, **headers):
        response = await client.post("/login", json={"login": login, "password": PASSWORD}, headers=headers)
        assert response.status == 200, await response.text()
        return Person(client, login, await response.json())

    return go


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def bob(sign_up):
    return await sign_up("bob")


@pytest.fixture
def permit(postgresql):
    """Give a user a new role with this permission."""

    def go(person, permission):
        postgresql.execute(
            "INSERT INTO roles (name, name_key, permissions) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (permission, permission, [permission]),
        )
        postgresql.execute(
            "UPDATE users SET role_id = (SELECT id FROM roles WHERE name = %s) WHERE id = %s", (permission, person.id)
        )
        postgresql.commit()

    return go


async def sessions_of(person, path="/sessions"):
    """Return the listed sessions."""
    response = await person.request("GET", path)
    assert response.status == 200, await response.text()
    return (await response.json())["items"]


async def id_of(person):
    """Return the id of the session that asks."""
    return next(session["id"] for session in await sessions_of(person) if session["current"])


async def refusal(response):
    return response.status, (await response.json())["error"]


async def is_closed(socket, code=CloseCode.SESSION_ENDED):
    """Return True if the socket is closed now, with this code."""
    message = await socket.receive(timeout=5)
    return message.type is WSMsgType.CLOSE and socket.close_code == code


async def is_open(person, socket):
    """Return True if the socket still receives what is sent to a new group of the user."""
    group = uuid4().hex[:12] + "g"
    await person.make_group(group)
    await person.broadcast(group, {"a": 1})
    return await socket.receive_json(timeout=5) == {"a": 1}


# Seeing them


async def test_list(ann, bob, log_in):
    """The list has the user's sessions, newest first, with times, address, client, the current one, and sockets."""
    phone = await log_in("ann", **{"User-Agent": "Phone/2.0"})
    sockets = [await phone.listen(), await phone.listen(), await ann.listen()]
    newest, oldest = await sessions_of(ann)
    assert set(newest) == set(oldest) == SESSION
    assert (newest["user_agent"], newest["address"]) == ("Phone/2.0", "127.0.0.1")
    assert [(each["current"], each["sockets"]) for each in (newest, oldest)] == [(False, 2), (True, 1)]
    for name in ("created_at", "last_seen_at", "expires_at"):
        assert TIME.fullmatch(newest[name]), name
    assert [each["current"] for each in await sessions_of(phone)] == [True, False]
    assert [each["id"] for each in await sessions_of(ann, "/users/me/sessions")] == [newest["id"], oldest["id"]]
    assert len(await sessions_of(bob)) == 1
    for socket in sockets:
        await socket.close()


async def test_pages(ann, log_in):
    """The list comes in pages; a cursor of another list is invalid."""
    for _ in range(2):
        await log_in("ann")
    everything = await sessions_of(ann)
    seen, path = [], "/sessions?limit=2"
    while path:
        response = await ann.request("GET", path)
        page = await response.json()
        seen += page["items"]
        path = response.links["next"]["url"].path_qs if page["next"] else None
    assert [each["id"] for each in seen] == [each["id"] for each in everything]
    response = await ann.request("GET", "/sessions?after=W10")
    assert await refusal(response) == (422, "invalid input")
    assert (await ann.request("GET", "/sessions?limit=0")).status == 422


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("x" * 8_000, "x" * 512),
        ("", None),
        ("caf\u00e9 \U0001f375", "caf\u00e9 \U0001f375"),
        ("a\tb\u202ec\u0085d", "abcd"),
        ("\udcff\udcfe", None),
        ("%s'\"\\;--", "%s'\"\\;--"),
    ],
)
async def test_user_agent(client, ann, log_in, sent, kept):
    """A client may call itself anything: the stored text is printable and short."""
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    body = b'{"login": "ann", "password": "%s"}' % PASSWORD.encode()
    head = f"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    agent = f"User-Agent: {sent}\r\nConnection: close\r\n\r\n".encode("utf-8", "surrogateescape")
    writer.write(head.encode() + agent + body)
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
    writer.close()
    newest, _oldest = await sessions_of(ann)
    assert newest["user_agent"] == kept


# Ending them


async def test_end_one(ann, bob, log_in):
    """One's own session ends at once, with its sockets; an unknown, invalid or foreign id is a 404."""
    phone = await log_in("ann")
    phones, anns, bobs = await phone.listen(), await ann.listen(), await bob.listen()
    for session_id in (await id_of(bob), uuid4(), "x", "%00"):
        for path in ("/sessions", "/users/me/sessions"):
            response = await ann.request("DELETE", f"{path}/{session_id}")
            assert await refusal(response) == (404, "no such session")
    response = await ann.request("DELETE", f"/sessions/{await id_of(phone)}")
    assert (response.status, await response.read(), response.cookies) == (204, b"", {})
    assert await is_closed(phones)
    assert await refusal(await phone.request("GET", "/sessions")) == (401, "not signed in")
    assert await is_open(ann, anns)
    assert await is_open(bob, bobs)
    for socket in (anns, bobs):
        await socket.close()


async def test_end_this_one(ann):
    """The current session can be ended like any other; that is a log-out."""
    socket = await ann.listen()
    response = await ann.request("DELETE", f"/sessions/{await id_of(ann)}")
    assert response.status == 204
    assert (response.cookies[COOKIE].value, response.cookies[COOKIE]["max-age"]) == ("", "0")
    assert await is_closed(socket)
    assert (await ann.request("GET", "/sessions")).status == 401


@pytest.mark.parametrize("path", ["/sessions", "/users/me/sessions"])
async def test_end_others(ann, bob, log_in, path):
    """All sessions except the current one end, with their sockets."""
    phone, tablet = await log_in("ann"), await log_in("ann")
    phones, tablets, anns = await phone.listen(), await tablet.listen(), await ann.listen()
    response = await ann.request("DELETE", path)
    assert (response.status, await response.json()) == (200, {"deleted": 2})
    assert await is_closed(phones)
    assert await is_closed(tablets)
    assert await (await ann.request("DELETE", path)).json() == {"deleted": 0}
    assert await is_open(ann, anns)
    assert len(await sessions_of(bob)) == 1
    await anns.close()


async def test_of_another(ann, bob, permit):
    """Only sessions.write sees and ends another user's sessions."""
    path, session_id = f"/users/{ann.id}/sessions", await id_of(ann)
    permit(bob, "users.write")
    for method, target in [("GET", path), ("DELETE", path), ("DELETE", f"{path}/{session_id}")]:
        assert await refusal(await bob.request(method, target)) == (403, "not you")
    permit(bob, "sessions.write")
    socket = await ann.listen()
    [session] = await sessions_of(bob, path)
    assert (session["id"], session["current"], session["sockets"]) == (session_id, False, 1)
    assert (await bob.request("DELETE", f"{path}/{await id_of(bob)}")).status == 404
    assert (await bob.request("DELETE", f"{path}/{session_id}")).status == 204
    assert await is_closed(socket)
    assert await (await bob.request("DELETE", path)).json() == {"deleted": 0}
    assert await sessions_of(bob, path) == []
    assert len(await sessions_of(bob)) == 1


async def test_of_one_who_may_more(ann, bob, permit):
    """The sessions of a user who may do what one may not are not for one to end."""
    path, session_id = f"/users/{ann.id}/sessions", await id_of(ann)
    permit(bob, "sessions.write")
    for permission in ("*", "users.read"):
        permit(ann, permission)
        for target in (path, f"{path}/{session_id}"):
            assert await refusal(await bob.request("DELETE", target)) == (403, "not permitted")
    assert len(await sessions_of(ann)) == 1
    permit(ann, "sessions.write")
    assert (await bob.request("DELETE", path)).status == 200
    assert (await ann.request("GET", "/sessions")).status == 401


@pytest.mark.parametrize("is_one", [True, False])
async def test_end_that_may_have_failed(ann, log_in, postgresql, is_one):
    """If the connection is lost meanwhile, the user's sockets must reconnect, and valid sessions can."""
    phone = await log_in("ann")
    sockets = [await ann.listen(), await phone.listen()]
    path = f"/sessions/{await id_of(phone)}" if is_one else "/sessions"
    postgresql.execute("SELECT 1 FROM sessions FOR UPDATE")
    ending = asyncio.create_task(ann.request("DELETE", path))

    async def cut():
        with psycopg.connect(dsn_of(postgresql)) as other:
            return other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchone()

    await eventually(cut)
    assert await refusal(await ending) == (503, "database unavailable")
    assert [await is_closed(socket, CloseCode.RESYNC) for socket in sockets] == [True, True]
    postgresql.rollback()
    assert len(await sessions_of(ann)) == 2


async def test_expired_are_removed(settings, aiohttp_client, postgresql, client, ann):
    """A server that starts removes expired sessions."""
    await id_of(ann)
    postgresql.execute("UPDATE sessions SET expires_at = now() - interval '1 s'")
    postgresql.commit()
    await aiohttp_client(create_app(settings))

    async def is_gone():
        row = postgresql.execute("SELECT count(*) FROM sessions").fetchone()
        postgresql.commit()
        return row == (0,)

    assert await eventually(is_gone)


# Guessing

RATES = {
    "login_failures": Rate(3, timedelta(hours=1)),
    "address_failures": Rate(6, timedelta(hours=1)),
    "signups": Rate(4, timedelta(hours=1)),
}


@pytest.fixture
def limited(settings, aiohttp_client):
    """A client of an application with low rate limits."""

    async def make(**changes):
        app = create_app(replace(settings, **{**RATES, **changes}))
        return await aiohttp_client(app, cookie_jar=DummyCookieJar())

    return make


async def try_log_in(client, login="ann", password="wrong horse", **headers):
    """Return the status of a log-in."""
    response = await client.post("/login", json={"login": login, "password": password}, headers=headers)
    await response.read()
    return response.status


async def try_sign_up(client, login, **headers):
    """Return the status of a sign-up."""
    response = await client.post("/signup", json={"login": login, "password": PASSWORD}, headers=headers)
    await response.read()
    return response.status


async def test_guessing_a_login(limited):
    """After 3 failures the right password is refused, too, also for an unknown login; other logins work."""
    client = await limited(address_failures=Rate(9, timedelta(hours=1)))
    assert [await try_sign_up(client, login) for login in ("ann", "bob")] == [201, 201]
    for login in ("ann", "nobody"):
        assert [await try_log_in(client, login) for _ in range(3)] == [401] * 3
        response = await client.post("/login", json={"login": login.upper(), "password": PASSWORD})
        assert response.content_type == "application/problem+json"
        assert await refusal(response) == (429, "too many attempts")
        assert 3590 <= int(response.headers["Retry-After"]) <= 3600
        assert "Set-Cookie" not in response.headers
        if login == "ann":
            assert await try_log_in(client, "bob", PASSWORD) == 200


async def test_guessing_from_an_address(limited):
    """After 6 failures from one address all log-ins from it are refused."""
    client = await limited()
    assert await try_sign_up(client, "ann") == 201
    assert [await try_log_in(client, f"user {number}") for number in range(7)] == [401] * 6 + [429]
    assert await try_log_in(client, "ann", PASSWORD) == 429


async def test_a_burst_of_guesses(limited):
    """Only 3 of the guesses that are sent at once are checked, however many there are."""
    client = await limited()
    assert await try_sign_up(client, "ann") == 201
    statuses = await asyncio.gather(*(try_log_in(client) for _ in range(20)))
    assert sorted(statuses) == [401] * 3 + [429] * 17
    assert await try_log_in(client, "ann", PASSWORD) == 429


async def test_it_opens_again(limited):
    """When the window is over, the right password works."""
    client = await limited(
        login_failures=Rate(1, timedelta(seconds=1)), address_failures=Rate(10**6, timedelta(days=1))
    )
    assert await try_sign_up(client, "ann") == 201
    await try_log_in(client)

    async def log_in():
        return await try_log_in(client, "ann", PASSWORD) == 200

    assert await eventually(log_in)


async def test_sign_ups_from_an_address(limited):
    """Accounts per hour and address are limited; invalid sign-ups do not count."""
    client = await limited()
    assert [await try_sign_up(client, "") for _ in range(5)] == [422] * 5
    assert [await try_sign_up(client, login) for login in ("a", "b", "a", "c", "d")] == [201, 201, 409, 201, 429]
    assert await try_log_in(client, "a", PASSWORD) == 200


async def test_forged_address(limited):
    """Without a trusted proxy no header changes the address."""
    client = await limited()
    forged = [{"X-Forwarded-For": f"192.0.2.{n}", "Forwarded": f"for=192.0.2.{n}"} for n in range(5)]
    assert [await try_sign_up(client, f"user {n}", **headers) for n, headers in enumerate(forged)] == [201] * 4 + [429]


async def test_behind_a_proxy(limited):
    """Behind a proxy each client has the address that the proxy has seen, whatever its own headers say."""
    client = await limited(trust_proxy=frozenset({ip_network("127.0.0.0/8")}))

    async def sign_up(n, address):
        return await try_sign_up(client, f"user {n}", **{"X-Forwarded-For": f"198.51.100.{n}, junk, {address}"})

    assert [await sign_up(n, "192.0.2.1") for n in range(5)] == [201] * 4 + [429]
    assert await sign_up(5, "192.0.2.2") == 201
    response = await client.post(
        "/login", json={"login": "user 5", "password": PASSWORD}, headers={"X-Forwarded-For": "::1:9"}
    )
    person = Person(client, "user 5", await response.json())
    assert [each["address"] for each in await sessions_of(person)] == ["::1:9", "192.0.2.2"]


@pytest.mark.parametrize(("trusted", "address"), [(["unix"], "192.0.2.1"), ([], None)])
async def test_unix_socket(settings, tmp_path, trusted, address):
    """On the unix socket a client has no address, unless a trusted proxy reports one."""
    runner = web.AppRunner(create_app(replace(settings, trust_proxy=frozenset(trusted))))
    await runner.setup()
    try:
        path = str(tmp_path / "att.sock")
        await web.UnixSite(runner, path).start()
        async with ClientSession("http://att", connector=UnixConnector(path)) as session:
            body = {"login": "ann", "password": PASSWORD}
            async with session.post("/signup", json=body, headers={"X-Forwarded-For": "192.0.2.1"}) as response:
                assert response.status == 201
            async with session.get("/sessions") as response:
                assert [each["address"] for each in (await response.json())["items"]] == [address]
    finally:
        await runner.cleanup()


async def test_a_signed_in_user_guesses_no_faster(limited):
    """The limits hold for the account's password, whatever its login becomes, and for trying logins."""
    client = await limited(signups=Rate(6, timedelta(hours=1)))
    ann, _ = [
        Person(client, login, await (await client.post("/signup", json={"login": login, "password": PASSWORD})).json())
        for login in ("ann", "bob")
    ]

    async def change(**body):
        return (await ann.request("PATCH", "/users/me", json=body)).status

    statuses = []
    for number in range(4):
        statuses += [await change(password="secret1", current_password="wrong horse") for _ in range(2)]
        assert await change(login=f"ann {number}") == 200
    assert statuses == [403] * RATES["login_failures"].amount + [429] * (8 - RATES["login_failures"].amount)
    assert [await change(login="bob") for _ in range(6)] == [409] * 4 + [429] * 2
