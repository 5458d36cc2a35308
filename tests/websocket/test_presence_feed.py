"""Presence over att.v1: who else is connected, on any node, at once and with each change."""

import asyncio

import pytest
from people import Person
from talks import parts

from att.app import PRESENCE_FEED, create_app


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Nodes record and read presence more often, so that nobody waits for a second."""
    monkeypatch.setattr("att.realtime.presence._TICK", 0.05)
    monkeypatch.setattr("att.realtime.presence_feed._INTERVAL", 0.05)


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def ben(sign_up):
    return await sign_up("ben")


@pytest.fixture
async def tea(ann, ben):
    """A group of Ann's with Ben in it."""
    group = await ann.make_group("tea")
    await ann.add("tea", ben)
    return group["id"]


@pytest.fixture
async def other(client, settings, aiohttp_client):
    """A second node on the same database."""
    return await aiohttp_client(create_app(settings))


async def watching(talk, person):
    """Return a socket that is told who is connected, and the state that it is told at once."""
    said = await talk(person)
    await said.send(type="resume", presence=True)
    return said, await said.receive()


def users(frame):
    assert frame["type"] == "presence"
    assert all(user["since"].endswith("Z") for user in frame["users"])
    return {user["user"] for user in frame["users"]}


async def test_coming_and_going(ann, ben, tea, talk, other):
    """A user is there while any socket of theirs is, on any node, whether or not they want to know of others."""
    said, state = await watching(talk, ann)
    assert (state["group"], users(state)) == (tea, {str(ann.id)})
    there = Person(other, "ben", {"user_id": str(ben.id), "token": ben.token})
    first = await talk(there, {})
    online = {"type": "online", "group": tea, "user": str(ben.id)}
    assert await said.receive() == online
    _, seen = await watching(talk, Person(other, "ann", {"user_id": str(ann.id), "token": ann.token}))
    assert users(seen) == {str(ann.id), str(ben.id)}
    second = await talk(ben, {})
    await first.ws.close()  # the other socket is still there
    await said.send(type="ping")
    assert await said.receive() == {"type": "pong"}
    await second.ws.close()
    assert await said.receive() == online | {"type": "offline"}


async def test_members(ann, ben, tea, talk, sign_up):
    """Joining and leaving count, and whoever has left is told nothing more; nor is anybody else."""
    eve = await sign_up("eve")
    await talk(eve, {})
    quiet = await talk(ben, {})
    said, state = await watching(talk, ben)
    assert users(state) == {str(ben.id)}
    await ann.add("tea", eve)
    online = {"type": "online", "group": tea, "user": str(eve.id)}
    assert sorted([await said.receive(), await said.receive()], key=lambda frame: frame["type"])[1] == online
    cake = await ann.make_group("cake")
    await ann.add("cake", ben)
    heard = await said.receive_until("presence")
    assert (heard[-1]["group"], users(heard[-1])) == (cake["id"], {str(ben.id)})
    await ann.remove("tea", ben)
    assert (await said.receive())["type"] == "left"
    await ann.remove("tea", eve)
    await ann.add("cake", eve)
    assert parts([await said.receive(), await said.receive()], "type", "group") == [
        ("joined", cake["id"]),
        ("online", cake["id"]),
    ]
    assert {frame["type"] for frame in await quiet.receive_until("joined")} <= {"joined", "left"}


async def test_leaving_and_coming_back(client, ann, ben, tea, talk, monkeypatch):
    """Who leaves a group is told its state anew after joining again, also when both come between two reads."""
    said, state = await watching(talk, ben)
    feed, gate = client.app[PRESENCE_FEED], asyncio.Lock()

    async def tick(go=feed.tick):
        async with gate:
            await go()

    monkeypatch.setattr(feed, "tick", tick)
    async with gate:
        await ann.remove("tea", ben)
        await ann.add("tea", ben)
        assert [(await said.receive())["type"] for _ in range(2)] == ["left", "joined"]
    again = await said.receive()
    assert (again["group"], users(again)) == (tea, users(state))


async def test_a_large_group(ann, ben, tea, talk, monkeypatch):
    """Beyond a bound the frames say how many, and who again once there are fewer."""
    monkeypatch.setattr("att.realtime.presence_feed.NAMED_PRESENT", 1)
    monkeypatch.setattr("att.realtime.presence_feed._COUNT_INTERVAL", 0)
    said, _ = await watching(talk, ann)
    guest = await talk(ben, {})
    assert await said.receive() == {"type": "presence", "group": tea, "count": 2}
    await guest.ws.close()
    assert users(await said.receive()) == {str(ann.id)}


async def test_nobody_who_wants_to_know(client, ann, ben, tea, talk, monkeypatch):
    """Then the database is not asked, and a later listener is told the state of then."""
    said, _ = await watching(talk, ann)
    await said.ws.close()
    feed, asked = client.app[PRESENCE_FEED], []

    async def tick(go=feed.tick):
        asked.append(len(feed._told_groups))
        await go()

    monkeypatch.setattr(feed, "tick", tick)
    await talk(ben, {})
    _, state = await watching(talk, ann)
    assert users(state) >= {str(ann.id)}
    assert asked.count(0) <= 1


async def test_after_an_outage(client, ann, ben, tea, talk, sql):
    """What was not read is read again, and told once."""
    said, _ = await watching(talk, ann)
    sql("ALTER TABLE presence RENAME TO hidden")
    await talk(ben, {})
    sql("SELECT pg_sleep(0.2)")
    sql("ALTER TABLE hidden RENAME TO presence")
    assert await said.receive() == {"type": "online", "group": tea, "user": str(ben.id)}
