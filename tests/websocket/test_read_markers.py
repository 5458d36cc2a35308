"""Read markers over HTTP and att.v1: told to all sockets of the user, on every node."""

import pytest
from doubles import KILL
from people import Person
from talks import parts
from waiting import eventually

from att.api.keys import HUB, MARKER_UPDATES
from att.app import BROKERS, create_app


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def ben(sign_up):
    return await sign_up("ben")


@pytest.fixture
async def tea(ann, ben):
    """A group of Ann's with Ben in it; its log has two events."""
    group = await ann.make_group("tea")
    await ann.add("tea", ben)
    return group["id"]


@pytest.fixture
async def other(client, settings, aiohttp_client):
    """A second node on the same database."""
    return await aiohttp_client(create_app(settings))


async def test_http(ann, ben, tea):
    """It answers where the marker stands, and what is unread; a group's ETag is not of it."""
    await ann.broadcast("tea", {})
    await ann.broadcast("tea", {})
    before = await ben.request("GET", "/groups/tea")
    assert parts([await before.json()], "seq", "read", "unread") == [(4, 0, 2)]
    for seq, answer in ((3, {"read": 3, "unread": 1}), (1, {"read": 3, "unread": 1}), (99, {"read": 4, "unread": 0})):
        response = await ben.request("PUT", "/groups/tea/read", json={"seq": seq})
        assert (response.status, await response.json()) == (200, answer)
    after = await ben.request("GET", "/groups/tea")
    assert parts([await after.json()], "read", "unread") == [(4, 0)]
    assert after.headers["ETag"] == before.headers["ETag"]
    for path in ("/groups", f"/users/{ben.id}/groups"):
        items = (await (await ben.request("GET", path)).json())["items"]
        assert parts(items, "name", "read", "unread") == [("tea", 4, 0)]
    for body in ({}, {"seq": -1}, {"seq": "1"}, {"seq": 2**63}, {"seq": 1, "more": 1}):
        assert (await ben.request("PUT", "/groups/tea/read", json=body)).status == 422


async def test_non_members(ann, ben, tea):
    """Their view of an open group has no number of unread messages."""
    await ann.request("PATCH", "/groups/tea", json={"join": "open"})
    await ann.remove("tea", ben)
    response = await ben.request("GET", "/groups/tea")
    assert parts([await response.json()], "role", "read", "unread") == [(None, 0, None)]


async def test_sockets(ann, ben, tea, talk, other):
    """Each socket of the user hears of it, on each node, also the sender's; nobody else does."""
    here, there = (
        await talk(ben, {}),
        await talk(Person(other, "ben", {"user_id": str(ben.id), "token": ben.token}), {}),
    )
    stranger = await talk(ann, {})
    late = await talk(ben)
    assert late.hello["groups"] == [{"id": tea, "name": "tea", "seq": 2, "read": 0, "unread": 0}]
    await here.send(type="read", group="TEA", seq=1)
    frame = {"type": "read", "group": tea, "name": "tea", "seq": 1}
    assert [await here.receive(), await there.receive()] == [frame, frame]
    await there.send(type="read", group=tea, seq=99)
    frame["seq"] = 2
    assert [await here.receive(), await there.receive()] == [frame, frame]
    await here.send(type="read", group=tea, seq=1)  # no news
    await ann.broadcast("tea", {})
    assert [(await said.receive())["type"] for said in (here, there, stranger)] == ["message"] * 3
    await late.send(type="resume")
    assert {(frame["type"], frame["seq"]) for frame in [await late.receive() for _ in range(2)]} == {
        ("read", 2),
        ("message", 3),
    }
    again = await talk(ben)
    assert parts(again.hello["groups"], "seq", "read", "unread") == [(3, 2, 1)]


async def test_faults(client, ann, ben, tea, talk, monkeypatch):
    """They are answered by an error whose id is null, and the socket stays open."""
    said = await talk(ann, {})
    await ben.make_group("cake")
    for frame, error in (
        ({"group": "cake", "seq": 1}, "not a member"),
        ({"group": "coffee", "seq": 1}, "no such group"),
        ({"group": "tea", "seq": -1}, "invalid input"),
        ({"group": "tea"}, "invalid input"),
    ):
        await said.send(type="read", **frame)
        assert parts([await said.receive()], "type", "id", "error") == [("error", None, error)]
    monkeypatch.setattr("att.websocket.subprotocols.MARKS", 0)
    await said.send(type="read", group="tea", seq=1)
    assert parts([await said.receive()], "type", "id", "error") == [("error", None, "busy")]
    await said.send(type="ping")
    assert await said.receive() == {"type": "pong"}


async def test_a_crowd_of_marks(client, ben, tea, talk, monkeypatch):
    """Of many for one group that come at once the highest is written, not each."""
    moved, move = [], client.app[MARKER_UPDATES].move

    async def count(group, user_id, seq):
        moved.append(seq)
        return await move(group, user_id, seq)

    monkeypatch.setattr(client.app[MARKER_UPDATES], "move", count)
    for _ in range(50):
        await ben.broadcast("tea", {})
    said = await talk(ben, {})
    for seq in range(1, 53):
        await said.send(type="read", group="tea", seq=seq)
    frames = await said.receive_until("read")
    while frames[-1]["seq"] < 52:
        frames.append(await said.receive())
    assert len(moved) < 52


async def test_an_outage(client, ben, tea, talk, sql, postgresql):
    """What moved while announcements were missed is told when they come again."""
    said = await talk(ben, {})
    broker = client.app[BROKERS][0]
    with postgresql.transaction():
        postgresql.execute(KILL, (postgresql.info.dbname,))
        postgresql.execute("INSERT INTO read_markers (user_id, group_id, seq) VALUES (%s, %s, 2)", (ben.id, tea))
    frame = await said.receive()
    assert parts([frame], "type", "group", "seq") == [("read", tea, 2)]
    assert broker.is_connected
    await eventually(lambda: _is_told(client, ben))


async def _is_told(client, ben):
    [listener] = client.app[HUB].registry.of_user(ben.id)
    return [position.seq for position in listener.markers.values()] == [2]
