"""Ephemeral messages over HTTP and att.v1: to the present listeners on every node, members only, and in no log."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from people import PASSWORD, Person
from talks import parts
from waiting import eventually

from att.api.keys import EPHEMERAL_PUBLISHER, EVENT_LOG, HUB
from att.app import create_app
from att.config.settings import Rate
from att.errors import DatabaseUnavailable
from att.protocol.messages import EPHEMERAL_LIMIT
from att.realtime.broker_events import BrokerEvents
from att.websocket import subprotocols


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


@pytest.fixture
def listen(talk):
    """Open a user's socket that hears what is sent from now on."""

    async def go(person):
        said = await talk(person, {})
        await said.send(type="ping")
        assert await said.receive() == {"type": "pong"}
        return said

    return go


def there(other, person):
    """The same user on the other node."""
    return Person(other, person.login, {"user_id": str(person.id), "token": person.token})


def frame_of(tea, person, data):
    return {"type": "ephemeral", "group": tea, "from": str(person.id), "data": data}


async def post(person, group, data, **options):
    return await person.request("POST", f"/broadcast/{group}?ephemeral=true", json=data, **options)


async def seqs(person):
    page = await (await person.request("GET", "/groups/tea/events")).json()
    return [event["seq"] for event in page["items"]]


async def test_att_v1(ann, ben, tea, listen):
    """All sockets of att.v1 get it, the sender's too; plain ones and the log do not. With an id it is confirmed."""
    said, heard, plain = await listen(ann), await listen(ben), await ben.listen()
    await said.send(type="broadcast", ephemeral=True, group="TEA", data={"n": 1})
    await said.send(type="broadcast", ephemeral=True, group=tea, data={"n": 2}, id="x")
    frames = [frame_of(tea, ann, {"n": 1}), frame_of(tea, ann, {"n": 2})]
    assert [await heard.receive() for _ in range(2)] == frames
    got = [await said.receive() for _ in range(3)]
    assert [frame for frame in got if frame["type"] == "ephemeral"] == frames
    assert {"type": "ack", "id": "x", "group": tea} in got
    await ann.broadcast("tea", {"n": 3})
    assert await plain.receive_json(timeout=5) == {"n": 3}
    assert parts([await heard.receive()], "type", "seq") == [("message", 3)]
    assert await seqs(ann) == [1, 2, 3]


async def test_http(ann, ben, tea, listen, sign_up):
    """It answers 202 with the group; who may not broadcast may not do this either; there is a limit and no key."""
    heard, cat = await listen(ben), await sign_up("cat")
    response = await post(ann, "TEA", {"n": 1})
    assert (response.status, await response.json()) == (202, {"group": tea})
    assert await heard.receive() == frame_of(tea, ann, {"n": 1})
    for answer, error in (
        (await post(cat, "tea", {}), (403, "not a member")),
        (await post(ann, "coffee", {}), (404, "no such group")),
        (await post(ann, "tea", []), (422, "not an object")),
        (await post(ann, "tea", {"x": "y" * EPHEMERAL_LIMIT}), (413, "body too large")),
        (await post(ann, "tea", {}, headers={"Idempotency-Key": "k"}), (422, "invalid input")),
        (await ann.request("POST", "/broadcast/tea?ephemeral=perhaps", json={}), (422, "invalid input")),
    ):
        assert (answer.status, (await answer.json())["error"]) == error
    assert (await ann.request("POST", "/broadcast/tea?ephemeral=false", json={})).status == 200
    assert parts([await heard.receive()], "type", "seq") == [("message", 3)]


async def test_faults(ann, tea, listen, sign_up):
    """A refusal has the id of the frame, or null; the socket stays open."""
    said, cat = await listen(ann), await sign_up("cat")
    stranger = await listen(cat)
    large = {"x": "y" * EPHEMERAL_LIMIT}
    for talker, frame, error in (
        (stranger, {"group": "tea", "data": {}, "id": 1}, (1, "not a member")),
        (stranger, {"group": "tea", "data": {}}, (None, "not a member")),
        (said, {"group": "coffee", "data": {}}, (None, "no such group")),
        (said, {"group": "tea", "data": []}, (None, "invalid input")),
        (said, {"group": "tea"}, (None, "invalid input")),
        (said, {"group": "tea", "data": {}, "key": "k", "id": 2}, (2, "invalid input")),
        (said, {"group": "tea", "data": large, "id": 3}, (3, "invalid input")),
    ):
        await talker.send(type="broadcast", ephemeral=True, **frame)
        assert parts([await talker.receive()], "type", "id", "error") == [("error", *error)]
    await said.send(type="ping")
    assert await said.receive() == {"type": "pong"}


async def test_owners_alone(client, ann, ben, tea, listen, sql):
    """The group's rule holds, and a role with broadcast.any may, as for other broadcasts."""
    said = await listen(ben)
    await said.send(type="broadcast", ephemeral=True, group="tea", data={})
    assert (await said.receive())["type"] == "ephemeral"
    await ann.request("PATCH", "/groups/tea", json={"post": "owners"})
    await said.receive_until("changed")
    await said.send(type="broadcast", ephemeral=True, group="tea", data={})
    assert parts([await said.receive()], "type", "error") == [("error", "not an owner")]
    sql("INSERT INTO roles (name, name_key, permissions) VALUES ('Crier', 'crier', '{broadcast.any}')")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Crier') WHERE id = %s", ben.id)
    await said.send(type="broadcast", ephemeral=True, group="tea", data={})
    assert (await said.receive())["type"] == "ephemeral"
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'User') WHERE id = %s", ben.id)
    client.app[EPHEMERAL_PUBLISHER]._clock = lambda: 1e12
    await said.send(type="broadcast", ephemeral=True, group="tea", data={})
    assert parts([await said.receive()], "type", "error") == [("error", "not an owner")]


async def test_the_database_is_asked_once(client, ann, ben, tea, listen, monkeypatch):
    """Until the log tells of a change nothing is read; what is sent meanwhile keeps its order."""
    asked, find = [], client.app[EPHEMERAL_PUBLISHER]._groups.find

    async def count(reference, user_id):
        asked.append(user_id)
        return await find(reference, user_id)

    monkeypatch.setattr(client.app[EPHEMERAL_PUBLISHER]._groups, "find", count)
    said, heard = await listen(ann), await listen(ben)
    for number in range(50):
        await said.send(type="broadcast", ephemeral=True, group=tea, data={"n": number})
    assert [(await heard.receive())["data"]["n"] for _ in range(50)] == [*range(50)]
    assert asked == [ann.id]
    await ann.request("PATCH", "/groups/tea", json={"name": "Tee"})
    await said.receive_until("changed")
    assert (await heard.receive())["type"] == "changed"
    asked.clear()
    await said.send(type="broadcast", ephemeral=True, group=tea, data={"n": 50})
    assert (await heard.receive())["data"] == {"n": 50}
    assert asked == [ann.id]


async def test_a_crowd(client, ann, tea, listen, monkeypatch):
    """Too many that wait for the database are refused, and so are all while it does not answer."""
    said = await listen(ann)
    monkeypatch.setattr(subprotocols, "WAITING_EPHEMERALS", 1)

    asked, is_late = asyncio.Event(), asyncio.Event()

    async def fail(_reference, _user_id):
        asked.set()
        await is_late.wait()
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(client.app[EPHEMERAL_PUBLISHER]._groups, "find", fail)
        for number in range(3):
            await said.send(type="broadcast", ephemeral=True, group=tea, data={}, id=number)
            await asked.wait()
        assert parts([await said.receive()], "id", "error") == [(2, "busy")]
        is_late.set()
        answers = [await said.receive() for _ in range(2)]
    assert parts(answers, "id", "error") == [(0, "database unavailable"), (1, "database unavailable")]
    await said.send(type="broadcast", ephemeral=True, group=tea, data={})
    assert (await said.receive())["type"] == "ephemeral"


async def test_two_nodes(ann, ben, tea, listen, other):
    """It reaches the listeners of other nodes, once, byte for byte, from nodes with and without a listener."""
    here, elsewhere = await listen(ann), await listen(there(other, ben))
    data = {"text": '"\U0001f375' * 200, "n": 1.0}
    await here.send(type="broadcast", ephemeral=True, group=tea, data=data)
    assert await elsewhere.receive() == await here.receive() == frame_of(tea, ann, data)
    await elsewhere.send(type="broadcast", ephemeral=True, group=tea, data={})
    assert await here.receive() == await elsewhere.receive() == frame_of(tea, ben, {})
    await elsewhere.ws.close()
    await eventually(partial(_has_no_stream, other.app[HUB]))
    assert (await post(there(other, ben), "tea", {"n": 2})).status == 202
    assert await here.receive() == frame_of(tea, ben, {"n": 2})


async def test_removed(client, ann, ben, tea, listen, other, sql):
    """A removed member's is refused as soon as the removal is heard, and nobody hears one; nor do they hear others'."""
    said, gone = await listen(ann), await listen(there(other, ben))
    await gone.send(type="broadcast", ephemeral=True, group=tea, data={})
    assert [(await each.receive())["type"] for each in (gone, said)] == ["ephemeral"] * 2
    sql("DELETE FROM members WHERE user_id = %s", ben.id)
    for each in (gone, said):
        await each.receive_until("left")
    await gone.send(type="broadcast", ephemeral=True, group=tea, data={}, id=1)
    assert parts([await gone.receive()], "id", "error") == [(1, "not a member")]
    await said.send(type="broadcast", ephemeral=True, group=tea, data={"n": 2})
    assert await said.receive() == frame_of(tea, ann, {"n": 2})
    await gone.send(type="ping")
    assert await gone.receive() == {"type": "pong"}


async def test_a_node_that_has_not_heard_of_the_removal(ann, ben, tea, listen, other, sql, monkeypatch):
    """What it lets a removed member send is delivered by no node that has applied the removal."""
    said, gone = await listen(ann), await listen(there(other, ben))
    publish = partial(other.app[EPHEMERAL_PUBLISHER].publish, tea, ben.id)
    await publish(b'{"n":1}')
    assert [await each.receive() for each in (gone, said)] == [frame_of(tea, ben, {"n": 1})] * 2
    monkeypatch.setattr(other.app[HUB], "observe_head", lambda *_: None)
    monkeypatch.setattr(other.app[HUB], "offer", lambda *_: None)
    sql("DELETE FROM members WHERE user_id = %s", ben.id)
    await said.receive_until("left")
    await publish(b'{"n":2}')
    await ann.broadcast("tea", {})
    assert (await said.receive())["type"] == "message"
    await other.app[EPHEMERAL_PUBLISHER].publish(tea, ann.id, b'{"n":3}')  # on the same way, so it comes after it
    assert (await said.receive())["data"] == {"n": 3}


async def test_announcements_that_are_lost(ann, ben, tea, listen, other, sql, monkeypatch):
    """A removal holds a second later even where no announcement of it arrives, for the sender and for the listener."""
    said, gone = await listen(there(other, ann)), await listen(there(other, ben))
    for each in (said, gone):
        await each.send(type="broadcast", ephemeral=True, group=tea, data={})
        assert [(await one.receive())["type"] for one in (said, gone)] == ["ephemeral"] * 2
    monkeypatch.setattr(BrokerEvents, "on_announcement", lambda *_: None)
    sql("DELETE FROM members WHERE user_id = %s", ben.id)
    monkeypatch.setattr(other.app[EPHEMERAL_PUBLISHER], "_clock", lambda: 1e12)
    await gone.send(type="broadcast", ephemeral=True, group=tea, data={"n": 1}, id=1)
    assert ("ephemeral",) not in parts(await gone.receive_until("left"), "type")
    await said.send(type="broadcast", ephemeral=True, group=tea, data={"n": 2})
    assert [(await said.receive()).get("data") for _ in range(2)] == [None, {"n": 2}]


async def test_another_epoch(client, ann, ben, tea, listen, monkeypatch):
    """A permission of an earlier epoch is read again."""
    said = await listen(ann)
    assert (await post(ann, "tea", {})).status == 202
    assert (await said.receive())["type"] == "ephemeral"
    ephemerals = client.app[EPHEMERAL_PUBLISHER]
    assert ephemerals.publish_known("tea", ann.id, b"{}")
    monkeypatch.setattr(client.app[EVENT_LOG], "epoch", "another")
    assert ephemerals.publish_known("tea", ann.id, b"{}") is None


async def test_quota(settings, aiohttp_client, listen):
    """It has a quota of its own, over HTTP and att.v1 together."""
    client = await aiohttp_client(create_app(replace(settings, quota_ephemerals=Rate(2, timedelta(hours=1)))))
    answer = await client.post("/signup", json={"login": "ann", "password": PASSWORD})
    ann = Person(client, "ann", await answer.json())
    await ann.make_group("tea")
    said = await listen(ann)
    assert (await post(ann, "tea", {})).status == 202
    for number in range(2):
        await said.send(type="broadcast", ephemeral=True, group="tea", data={}, id=number)
    frames = [await said.receive() for _ in range(4)]
    [error] = [frame for frame in frames if frame["type"] == "error"]
    assert parts([error], "id", "error", "quota") == [(1, "quota exhausted", "ephemerals")]
    assert error["retry_after"] > 1_000
    answer = await post(ann, "tea", {})
    assert (answer.status, (await answer.json())["quota"]) == (429, "ephemerals")
    assert await ann.broadcast("tea", {}) == 1


async def _has_no_stream(hub):
    return not hub.heads()
