"""Presence on two servers: one is killed, stops, or loses its database."""

import asyncio
import contextlib
import os
import signal

import psycopg
import pytest
from servers import Server, enter, fetch
from waiting import eventually

SOON = 5  # seconds for what takes two
AFTER_DEATH = 10  # seconds until a server that was killed is known to be gone
MARKER = "INSERT INTO nodes (id, name, seen_at) VALUES (gen_random_uuid(), 'marker', now() + interval '1 day')"


@pytest.fixture
async def servers(data_dir):
    """Two servers on one database, the second to be killed."""
    first, second = Server(data_dir), Server(data_dir)
    for server in (first, second):
        await server.start("--quota-requests", "unlimited")  # presence is asked for until it changes
    yield first, second
    second.process.kill()
    await asyncio.to_thread(second.process.communicate)
    if first.process.returncode is None:
        await first.end(signal.SIGTERM)


async def shown(client, signed_in):
    """Return the number of sockets of each user in a group's presence."""
    async with client.get("/groups/tea/presence", headers=signed_in) as response:
        assert response.status in (200, 503), await response.text()
        items = (await response.json()).get("items", ())
        return {item["login"]: item["sockets"] for item in items}


async def test_a_killed_server(servers):
    """Each server shows the sockets of both; those of a server killed by kill -9 are gone within ten seconds."""
    first, second = servers
    async with first.client() as here, second.client() as there:
        _, ann = await enter(here, "/signup", "ann")
        ben_id, ben = await enter(there, "/signup", "ben")
        async with here.post("/groups", json={"name": "tea"}, headers=ann) as response:
            assert response.status == 201
        async with here.put(f"/groups/tea/members/{ben_id}", headers=ann) as response:
            assert response.status == 201
        async with (
            here.ws_connect("/listen/me", headers=ann),
            here.ws_connect("/listen/me", headers=ben),
            there.ws_connect("/listen/me", headers=ben),
        ):
            for client in (here, there):
                await eventually(lambda client=client: equals({"ann": 1, "ben": 2}, client, ann), SOON)
            os.kill(second.process.pid, signal.SIGKILL)
            await eventually(lambda: equals({"ann": 1, "ben": 1}, here, ann), AFTER_DEATH)


async def test_a_stopped_server(servers):
    """A server that stops removes its sockets from presence before it ends."""
    first, second = servers
    async with first.client() as here, second.client() as there:
        _, ann = await enter(here, "/signup", "ann")
        async with here.post("/groups", json={"name": "tea"}, headers=ann) as response:
            assert response.status == 201
        async with there.ws_connect("/listen/me", headers=ann) as socket:
            await eventually(lambda: equals({"ann": 1}, here, ann), SOON)
            ending = asyncio.create_task(second.end(signal.SIGTERM))
            await socket.receive(timeout=30)
            assert (await ending)[0] == 0
            assert await shown(here, ann) == {}


async def test_a_crash_of_the_database(servers):
    """A crash empties the unlogged tables; both servers write them again."""
    first, second = servers
    async with first.client() as here, second.client() as there:
        _, ann = await enter(here, "/signup", "ann")
        async with here.post("/groups", json={"name": "tea"}, headers=ann) as response:
            assert response.status == 201
        async with here.ws_connect("/listen/me", headers=ann), there.ws_connect("/listen/me", headers=ann):
            await eventually(lambda: equals({"ann": 2}, here, ann), SOON)
            async with await psycopg.AsyncConnection.connect(first.dsn, autocommit=True) as other:
                await other.execute(MARKER)
                [pid] = await fetch(other, "SELECT pid FROM pg_stat_activity WHERE application_name = 'att' LIMIT 1")
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: equals({"ann": 2}, here, ann), 30)
            async with await eventually(lambda: connect(first.dsn), 30) as other:
                await eventually(lambda: fetch(other, "SELECT 1 FROM nodes WHERE name <> 'marker'"))
                assert await fetch(other, "SELECT count(*) FROM nodes WHERE name = 'marker'") == (0,)
            await eventually(lambda: equals({"ann": 2}, here, ann), SOON)


async def connect(dsn):
    """Return a connection, or None while the database recovers."""
    with contextlib.suppress(psycopg.OperationalError):
        return await psycopg.AsyncConnection.connect(dsn, autocommit=True)


async def equals(expected, client, signed_in):
    return await shown(client, signed_in) == expected
