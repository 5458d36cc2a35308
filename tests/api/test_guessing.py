"""Guessing passwords over HTTP: it is slowed, and locks out nobody but who guesses."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Network

import pytest
from aiohttp import DummyCookieJar
from people import PASSWORD, Person

from att.app import create_app
from att.config.settings import Rate
from att.http.credentials import COOKIE, DEVICE_COOKIE

LOGIN_FAILURES, ADDRESS_FAILURES = Rate(2, timedelta(minutes=5)), Rate(6, timedelta(minutes=5))
HOME, AWAY, STRANGER = "192.0.2.1", "198.51.100.9", "203.0.113.5"


@pytest.fixture(params=["memory", "redis"])
def settings(settings, request):
    """Settings with low limits, of a server behind a proxy; counts and sessions are in each of the two places."""
    redis_url = request.getfixturevalue("valkey_url") if request.param == "redis" else None
    limits = {"login_failures": LOGIN_FAILURES, "address_failures": ADDRESS_FAILURES}
    return replace(settings, redis_url=redis_url, trust_proxy=frozenset({IPv4Network("127.0.0.1")}), **limits)


@pytest.fixture
async def client(settings, aiohttp_client):
    """A client without a cookie jar: each request brings its own cookies."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
def log_in(client):
    """Log in; return the status and the cookies."""

    async def go(address, login="ann", password=PASSWORD, device=None):
        headers = {"X-Forwarded-For": address} | ({} if device is None else {"Cookie": f"{DEVICE_COOKIE}={device}"})
        async with client.post("/login", json={"login": login, "password": password}, headers=headers) as response:
            return response.status, {name: cookie.value for name, cookie in response.cookies.items()}

    return go


@pytest.fixture
async def ann(client):
    """A user who has signed up at home, and the cookie of that device."""
    account, headers = {"login": "ann", "password": PASSWORD}, {"X-Forwarded-For": HOME}
    response = await client.post("/signup", json=account, headers=headers)
    person = Person(client, "ann", await response.json())
    cookie = response.cookies[DEVICE_COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    person.device = cookie.value
    return person


async def guess(log_in, address, times, login="ann", device=None):
    """Guess; return the statuses."""
    return [(await log_in(address, login, "wrong horse", device))[0] for _ in range(times)]


async def test_a_stranger_locks_out_nobody(ann, log_in):
    """Whatever a stranger tries at an address of theirs, the user gets in at any other."""
    assert await guess(log_in, STRANGER, 12) == [401, 401] + 10 * [429]
    assert (await log_in(STRANGER))[0] == 429
    for address in (HOME, AWAY):
        assert (await log_in(address))[0] == 200
    assert (await log_in(STRANGER, "nobody"))[0] == 429  # refused attempts have counted
    assert (await log_in(AWAY, "nobody"))[0] == 401


async def test_a_known_device_gets_in(ann, log_in):
    """A device on which the user has signed in gets in from everywhere, with a count of its own."""
    await guess(log_in, STRANGER, 6)
    status, cookies = await log_in(STRANGER, device=ann.device)
    assert (status, cookies.keys()) == (200, {COOKIE, DEVICE_COOKIE})
    assert cookies[DEVICE_COOKIE] != ann.device
    assert (await log_in(STRANGER, device=f"x.{ann.device}.{cookies[DEVICE_COOKIE]}"))[0] == 200
    assert (await log_in(STRANGER, "bob", device=ann.device))[0] == 429
    assert await guess(log_in, AWAY, 3, device=ann.device) == [401, 401, 429]
    assert (await log_in(AWAY, device=ann.device))[0] == 429
    assert (await log_in(AWAY, device=cookies[DEVICE_COOKIE]))[0] == 200


async def test_guesses_from_many_addresses(ann, client, log_in):
    """In the end a login is refused at new addresses, but not where its user has a session or a device."""
    for number in range(20):
        assert await guess(log_in, f"198.51.100.{number + 20}", 2) == [401, 401]
    assert (await log_in(AWAY))[0] == 429
    assert (await log_in(HOME))[0] == 200
    assert (await log_in(AWAY, device=ann.device))[0] == 200
    assert await guess(log_in, HOME, 3) == [401, 401, 429]
    assert (await log_in(AWAY, "nobody"))[0] == 401
    for number in range(20):
        await guess(log_in, f"198.51.100.{number + 60}", 2, "nobody")
    assert (await log_in(AWAY, "nobody"))[0] == 429


async def test_servers_know_each_others_devices(ann, client, settings, aiohttp_client):
    """The key is in the database: a cookie of one server is good at another, and after a restart."""
    other = await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())
    for password, device, status in [("x", "", 401), ("x", "", 401), (PASSWORD, "", 429), (PASSWORD, ann.device, 200)]:
        headers = {"Cookie": f"{DEVICE_COOKIE}={device}", "X-Forwarded-For": AWAY}
        response = await other.post("/login", json={"login": "ann", "password": password}, headers=headers)
        assert response.status == status


@pytest.mark.parametrize("name", [DEVICE_COOKIE, f"__Host-{DEVICE_COOKIE}"])
async def test_a_device_among_other_cookies(ann, client, log_in, name):
    """The cookie is read by both names, and from any of several lines."""
    await guess(log_in, AWAY, 3)
    assert (await log_in(AWAY))[0] == 429
    headers = [("Cookie", "first=1"), ("Cookie", f"{name}={ann.device}"), ("X-Forwarded-For", AWAY)]
    response = await client.post("/login", json={"login": "ann", "password": PASSWORD}, headers=headers)
    assert response.status == 200


async def test_a_login_that_is_an_id(ann, log_in):
    """Log-ins with a user's id as login do not keep the user from changing the password."""
    await guess(log_in, HOME, 6, str(ann.id))
    change = {"password": "another horse", "current_password": PASSWORD}
    headers = {"X-Forwarded-For": HOME}
    assert (await ann.request("PATCH", "/users/me", json=change, headers=headers)).status == 200


async def test_a_thief_of_a_session(ann, client, log_in):
    """Guesses at the current password are slowed for their session, whatever the thief signs in as."""
    thief = {"login": str(ann.id), "password": PASSWORD}
    assert (await client.post("/signup", json=thief, headers={"X-Forwarded-For": STRANGER})).status == 201

    async def change(current_password):
        body = {"password": "another horse", "current_password": current_password}
        return (await ann.request("PATCH", "/users/me", json=body, headers={"X-Forwarded-For": STRANGER})).status

    assert [await change("x"), await change("x")] == [403, 403]
    assert (await log_in(STRANGER, str(ann.id)))[0] == 200
    assert await change(PASSWORD) == 429
