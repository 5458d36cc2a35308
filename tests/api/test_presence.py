"""Presence over HTTP: who sees whom, and how soon, on one server and on two of which one is killed."""

import asyncio
import contextlib
import os
import signal

import psycopg
import pytest
from people import PASSWORD
from servers import Server, enter, fetch
from waiting import eventually

SOON = 5  # seconds for what takes two
AFTER_DEATH = 10  # seconds until a server that was killed is known to be gone
MARKER = "INSERT INTO nodes (id, name, seen_at) VALUES (gen_random_uuid(), 'marker', now() + interval '1 day')"


async def presence(person, path):
    """Return the response for a path."""
    response = await person.request("GET", path)
    assert response.status == 200, await response.text()
    return await response.json()


async def sockets(person):
    """Return the number of a user's sockets, as the user sees it."""
    return (await presence(person, "/users/me/presence"))["sockets"]


async def test_coming_and_going(sign_up):
    """Presence follows soon after sockets open and close, for the group and for the user."""
    ann, ben = await sign_up("ann"), await sign_up("ben")
    await ann.make_group("tea")
    await ann.add("tea", ben)
    assert await presence(ben, "/groups/tea/presence") == {"items": [], "next": None}
    assert await presence(ben, "/users/me/presence") == {"user_id": str(ben.id), "since": None, "sockets": 0}
    first, second = await ben.listen(), await ben.listen(protocols=["att.v1"])
    await eventually(lambda: has(ben, 2), SOON)
    own = await presence(ben, f"/users/{ben.id}/presence")
    page = await presence(ann, "/groups/tea/presence")
    assert page == {"items": [{**own, "login": "ben"}], "next": None}
    assert own["since"].endswith("Z")
    await second.close()
    await eventually(lambda: has(ben, 1), SOON)
    await ann.remove("tea", ben)
    assert await presence(ann, "/groups/tea/presence") == {"items": [], "next": None}
    assert await sockets(ben) == 1
    await ben.request("DELETE", "/sessions")
    await first.close()
    await eventually(lambda: has(ben, 0), SOON)


async def has(person, count):
    return await sockets(person) == count


async def test_a_logout_counts(sign_up):
    """Sockets that the server closes are removed at once, whether or not the client has noticed."""
    ann = await sign_up("ann")
    token = (await (await ann.client.post("/login", json={"login": "ann", "password": PASSWORD})).json())["token"]
    async with ann.client.ws_connect("/listen/me", headers={"Authorization": f"Bearer {token}"}):
        await eventually(lambda: has(ann, 1), SOON)
        await ann.request("DELETE", "/sessions")
        await eventually(lambda: has(ann, 0), SOON)


async def test_pages(sign_up):
    """A page has at most ``limit`` users; ``next`` and the Link lead to the next."""
    people = [await sign_up(name) for name in ("ann", "ben", "cat")]
    await people[0].make_group("tea")
    for guest in people[1:]:
        await people[0].add("tea", guest)
    for person in people:
        await person.listen()
        await eventually(lambda who=person: has(who, 1), SOON)
    shown, path = [], "/groups/tea/presence?limit=2"
    while path:
        response = await people[1].request("GET", path)
        shown.append([item["user_id"] for item in (await response.json())["items"]])
        path = response.links["next"]["url"].path_qs if "next" in response.links else None
    everybody = sorted(str(person.id) for person in people)
    assert shown == [everybody[:2], everybody[2:]]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "after=x", "more=1"])
async def test_bad_queries(sign_up, query):
    """An invalid query is refused."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    assert (await ann.request("GET", f"/groups/tea/presence?{query}")).status == 422


@pytest.fixture
async def servers(tmp_path_factory):
    """Two servers on one database, the second to be killed."""
    first = Server(tmp_path_factory.mktemp("server"))
    await first.start()
    second = Server(first.data_dir)
    await second.start()
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
