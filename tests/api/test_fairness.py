"""Users share the connections to the database by turns, over HTTP and att.v1."""

import asyncio
import contextlib
from dataclasses import replace
from ipaddress import ip_network

import pytest
from people import PASSWORD
from waiting import eventually

from att.app import ENGINE, create_app
from att.db import engine

DEADLINE = 5.0


@pytest.fixture(autouse=True)
def _few_connections(monkeypatch):
    """Leave one of the three that tests have."""
    monkeypatch.setattr(engine, "USER_CONNECTIONS", 2)


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def ben(sign_up):
    return await sign_up("ben")


@pytest.fixture
def locked(postgresql):
    """Lock rows while the block runs, so that the statements that change them take long."""

    @contextlib.contextmanager
    def lock(query, *params):
        postgresql.execute(query + " FOR UPDATE", params)
        yield
        postgresql.rollback()

    return lock


@pytest.fixture
def is_waiting(client):
    """Whether so many statements wait for a connection."""

    def expect(count):
        async def go():
            return client.app[ENGINE].use.waiting == count

        return eventually(go)

    return expect


async def test_requests(ann, ben, locked, is_waiting):
    """Slow requests of one user keep the next ones of the same user waiting, and nobody else."""
    count = engine.POOL_SIZE + 2
    with locked("SELECT * FROM users WHERE id = %s", ann.id):
        change = {"first_name": "Ann"}
        slow = [asyncio.create_task(ann.request("PATCH", "/users/me", json=change)) for _ in range(count)]
        await is_waiting(count - engine.USER_CONNECTIONS)
        async with asyncio.timeout(DEADLINE):
            assert (await ben.request("GET", "/users/me")).status == 200
            assert (await ben.client.post("/signup", json={"login": "cat", "password": PASSWORD})).status == 201
        await is_waiting(count - engine.USER_CONNECTIONS)
    assert {response.status for response in await asyncio.gather(*slow)} == {200}


async def test_strangers(settings, aiohttp_client, locked):
    """Before it is known who asks, each client's address has its turns, also behind a proxy."""
    proxies = frozenset({ip_network("127.0.0.0/8")})
    client = await aiohttp_client(create_app(replace(settings, trust_proxy=proxies)))

    def send(path, address, login):
        form = {"login": login, "password": PASSWORD}
        return client.post(path, json=form, headers={"X-Forwarded-For": address})

    async def is_waiting():
        return client.app[ENGINE].use.waiting == 1

    with locked("SELECT * FROM roles"):
        count = engine.USER_CONNECTIONS + 1
        slow = [asyncio.create_task(send("/signup", "192.0.2.1", f"user {number}")) for number in range(count)]
        await eventually(is_waiting)
        async with asyncio.timeout(DEADLINE):
            assert (await send("/login", "192.0.2.2", "nobody")).status == 401
        await eventually(is_waiting)
    assert {response.status for response in await asyncio.gather(*slow)} == {201}


async def test_sockets(ann, ben, talk, locked, is_waiting):
    """What one user asks for over sockets keeps nobody else waiting, who asks over another."""
    tea = (await ann.make_group("tea"))["id"]
    await ann.add("tea", ben)
    assert (await ann.request("PUT", "/groups/tea/read", json={"seq": 1})).status == 200
    count = engine.USER_CONNECTIONS + 1
    sockets = [await talk(ann, {}) for _ in range(count)]
    other = await talk(ben, {})
    with locked("SELECT * FROM read_markers WHERE user_id = %s", ann.id):
        for socket in sockets:
            await socket.send(type="read", group=tea, seq=2)
        await is_waiting(1)
        await other.send(type="read", group=tea, seq=2)
        assert (await other.receive())["type"] == "read"
    assert [(await socket.receive())["type"] for socket in sockets] == ["read"] * count
