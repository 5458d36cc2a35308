"""att.v1 on a socket, as docs/reference/realtime.md has it, and two nodes on one database."""

import json
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator
from people import PASSWORD, Person
from protocol_schema import SCHEMA
from talks import parts
from waiting import eventually

from att.api.keys import EVENT_LOG, HUB
from att.app import ENGINE, create_app
from att.errors import Unavailable
from att.groups.removal import RemovalTask
from att.protocol import messages
from att.protocol.frames import CloseCode
from att.realtime import hub
from att.websocket import subprotocols
from att.websocket.connection import WebSocketConnection

DEADLINE = 20
EARLY_RESUME = b"\x81\x91\0\0\0\0" + b'{"type":"resume"}'  # with a mask of zeros
SERVER = Draft202012Validator({"$ref": "#/$defs/server", "$defs": SCHEMA["$defs"]})


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


# One after the other


async def test_hello(client, ann, tea, talk):
    """It has the user's id, the ping interval, and the last seq of each group's log."""
    said = await talk(ann)
    assert said.hello == {
        "type": "hello",
        "user_id": str(ann.id),
        "session_id": said.hello["session_id"],
        "heartbeat": 25,
        "epoch": client.app[EVENT_LOG].epoch,
        "groups": [{"id": tea, "name": "tea", "seq": 2, "read": 0, "unread": 0}],
    }


async def test_live(ann, ben, tea, talk):
    """Events come with their seq: messages byte for byte, and joining and leaving members."""
    said = await talk(ben, {})
    body = b'{ "n" : 1.50, "n": 2 }'
    response = await ann.request("POST", "/broadcast/tea", data=body, headers={"Content-Type": "application/json"})
    sent = await response.json()
    text = await said.ws.receive_str(timeout=DEADLINE)
    assert text.endswith(f'"data":{body.decode()}}}')
    assert json.loads(text) == {
        "type": "message",
        "group": tea,
        "name": "tea",
        "seq": 3,
        "from": str(ann.id),
        "at": sent["at"],
        "data": {"n": 2},
    }
    await ann.remove("tea", ben)
    left = await said.receive()
    assert parts([left], "type", "group", "seq", "user") == [("left", tea, 4, str(ben.id))]
    await ann.broadcast("tea", {})
    await ann.add("tea", ben)
    assert parts([await said.receive()], "type", "seq", "user") == [("joined", 6, profile(ben))]


def profile(person, **names):
    return {"id": str(person.id), "login": person.login, "first_name": "", "last_name": ""} | names


async def test_names_of_who_joins(ann, tea, talk, sign_up):
    """``joined`` has the names that the user has when it is sent, live or from the log; a deleted user has none."""
    said, zoe = await talk(ann, {}), await sign_up("zoe")
    await ann.add("tea", zoe)
    assert parts([await said.receive()], "type", "user") == [("joined", profile(zoe))]
    await zoe.request("PATCH", "/users/me", json={"first_name": "Zoë"})
    said = await talk(ann, {tea: 2})
    assert parts([await said.receive()], "type", "user") == [("joined", profile(zoe, first_name="Zoë"))]
    await zoe.request("DELETE", "/users/me")
    said = await talk(ann, {tea: 2})
    nobody = profile(zoe, login=None, first_name=None, last_name=None)
    assert parts([await said.receive() for _ in range(2)], "type", "user") == [
        ("joined", nobody),
        ("left", str(zoe.id)),
    ]


async def test_changes(ann, ben, tea, talk, sql):
    """Changes of a group and of roles, removals and redactions come in the log's order, as the schema has them."""
    said, plain = await talk(ben, {}), await ann.listen()
    await ann.request("PATCH", "/groups/tea", json={"name": "Tee", "post": "owners"})
    await ann.request("PATCH", "/groups/tea", json={"post": "owners"})  # changes nothing
    await ann.request("PUT", f"/groups/tee/members/{ben.id}", json={"role": "owner"})
    await ben.broadcast("tee", {"n": 1})
    await ann.request("DELETE", "/groups/tee/events/5")
    sql("UPDATE members SET role = 'member' WHERE user_id = %s", str(ben.id))
    await ann.broadcast("tee", {"n": 2})
    await ann.make_group("milk")
    await ann.add("milk", ben)
    await ann.remove("tee", ben)
    heard = [await said.receive() for _ in range(8)]
    for frame in heard:
        SERVER.validate(frame)
        assert (frame["group"] == tea, frame["name"]) in ((True, "Tee"), (False, "milk"))
        del frame["name"], frame["at"], frame["group"]
    by, own, rules = {"by": str(ann.id)}, {"user": str(ben.id)}, {"join": "invite", "retention": 1000}
    changed, role, message, redacted, again, last, _, left = heard
    assert rules.items() <= changed.items()
    assert {"type": "changed", "seq": 3, "post": "owners", **by}.items() <= changed.items()
    assert role == {"type": "role", "seq": 4, "role": "owner", **own, **by}
    assert message == {"type": "message", "seq": 5, "from": str(ben.id), "data": {"n": 1}}
    assert redacted == {"type": "redacted", "seq": 6, "of": 5, **by}
    assert again == {"type": "role", "seq": 7, "role": "member", "by": None, **own}
    assert (last["seq"], heard[6]["type"]) == (8, "joined")
    assert left == {"type": "left", "seq": 9, "removed": True, **own, **by}
    assert [await plain.receive_json(timeout=DEADLINE) for _ in range(2)] == [{"n": 1}, {"n": 2}]
    await plain.close()


async def test_resume_after_a_redaction(ann, ben, tea, talk):
    """The message is in its place without its body, so that no seq is missing."""
    await ann.broadcast("tea", {"secret": 1})
    assert (await ann.request("DELETE", "/groups/tea/events/3")).status == 204
    said = await talk(ben, {tea: 2})
    heard = [await said.receive() for _ in range(2)]
    assert parts(heard, "type", "seq", "data", "of") == [("message", 3, None, None), ("redacted", 4, None, 3)]


async def test_nothing_before_resume(ann, ben, tea, talk):
    """Messages before the first frame come after it, once and in order."""
    said = await talk(ben)
    for number in range(3):
        await ann.broadcast("tea", {"n": number})
    await said.send(type="resume")
    await ann.broadcast("tea", {"n": 3})
    assert parts([await said.receive() for _ in range(4)], "seq", "data") == [(3 + n, {"n": n}) for n in range(4)]


async def test_resume(ann, ben, tea, talk):
    """A returning listener receives missed events, then new ones: none twice, none missing, in order."""
    cake = (await ben.make_group("cake"))["id"]
    for number in range(450):
        await ann.broadcast("tea", {"n": number})
    await ben.broadcast("cake", {"cake": 1})
    said = await talk(ben, {tea: 10})
    await ann.broadcast("tea", {"n": 450})
    heard = await said.receive_until("message")
    while heard[-1]["seq"] < 453:
        heard.append(await said.receive())
    assert [frame["seq"] for frame in heard] == list(range(11, 454))
    assert {frame["group"] for frame in heard} == {tea}
    again = await talk(ben, {tea: 453, cake: 0})
    assert parts([await again.receive() for _ in range(2)], "type", "group", "seq") == [
        ("joined", cake, 1),
        ("message", cake, 2),
    ]


async def test_resume_across_an_absence(ann, ben, tea, talk):
    """Messages without membership are left out; the user's leaving and joining mark where."""
    await ann.broadcast("tea", {"heard": True})
    await ann.remove("tea", ben)
    await ann.broadcast("tea", {"secret": True})
    await ann.add("tea", ben)
    await ann.broadcast("tea", {"heard": True})
    said = await talk(ben, {tea: 0})
    heard = [await said.receive() for _ in range(5)]
    assert parts(heard, "type", "seq") == [("joined", 2), ("message", 3), ("left", 4), ("joined", 6), ("message", 7)]


async def test_resume_of_a_group_that_was_left(ann, ben, tea, talk):
    """The last event of a group is the user's own leaving, also if the group is deleted."""
    await ann.broadcast("tea", {"n": 1})
    assert (await ann.request("DELETE", "/groups/tea")).status == 204
    said = await talk(ben, {tea: 2})
    heard = [await said.receive(), await said.receive()]
    while heard[-1].get("user") != str(ben.id):
        heard.append(await said.receive())
    assert {frame["type"] for frame in heard[1:]} == {"left"}
    assert said.hello["groups"] == []


async def test_gap(ann, ben, tea, talk, sql):
    """Events that are no longer kept are announced, never skipped silently."""
    for number in range(5):
        await ann.broadcast("tea", {"n": number})
    sql("DELETE FROM events WHERE seq <= 4")
    said = await talk(ben, {tea: 2})
    assert await said.receive() == {"type": "gap", "group": tea, "name": "tea", "from": 3, "to": 4}
    assert parts([await said.receive() for _ in range(3)], "seq") == [(5,), (6,), (7,)]


async def test_resume_beyond_the_hello(ann, ben, tea, talk):
    """Events received elsewhere since do not come again, and none is skipped."""
    said, late = await talk(ben), await talk(ben)
    for number in range(3):
        await ann.broadcast("tea", {"n": number})
    await said.send(type="resume", groups={tea: 4})
    await late.send(type="resume", groups={tea: 10**6})
    assert parts([await said.receive()], "type", "seq") == [("message", 5)]
    assert parts([await late.receive()], "type", "to") == [("rewind", 5)]
    await ann.broadcast("tea", {"n": 3})
    for one in (said, late):
        assert parts([await one.receive()], "type", "seq") == [("message", 6)]


async def test_resume_beyond_a_leaving(ann, ben, tea, talk):
    """Events received elsewhere do not make a member of a user who has left since."""
    said = await talk(ben)
    await ann.remove("tea", ben)
    await ann.broadcast("tea", {"n": 1})
    await said.send(type="resume", groups={tea: 3})
    await ann.broadcast("tea", {"n": 2})
    await ann.add("tea", ben)
    assert parts([await said.receive()], "type", "seq") == [("joined", 6)]


async def test_resume_from_the_future(ann, tea, talk):
    """A seq that the log has not reached is set right; a group that is not there is as good as none."""
    said = await talk(ann, {tea: 10**6, str(uuid4()): 3})
    assert parts([await said.receive()], "type", "group", "to") == [("rewind", tea, 2)]
    await ann.broadcast("tea", {"n": 1})
    assert parts([await said.receive()], "type", "seq") == [("message", 3)]


async def test_catching_up_leaves_room_for_new_events(client, ann, ben, tea, talk, monkeypatch):
    """A listener that reads a long replay is not closed for what other groups send meanwhile."""
    await ben.make_group("cake")
    body = {"pad": "x" * 30_000}
    for _ in range(150):
        await ann.broadcast("tea", body)
    said = await talk(ben, {tea: 2})
    for number in range(50):
        await ben.broadcast("cake", {"n": number})
    seen = []
    while len(seen) < 150 or seen[-1] != 152:
        frame = await said.receive()
        if frame["group"] == tea:
            seen.append(frame["seq"])
    assert seen == list(range(3, 153))


# Broadcasting


async def test_broadcast(ann, ben, tea, talk):
    """It is acknowledged with its seq; a key makes a repeat safe; a refusal has its reason."""
    said, heard = await talk(ann, {}), await talk(ben, {})
    for number, frame in enumerate(({"group": tea}, {"group": "TEA", "key": "k"}, {"group": "tea", "key": "k"})):
        await said.send(type="broadcast", id=number, data={"n": min(number, 1)}, **frame)
    answers = [await said.receive() for _ in range(5)]
    acks = [answer for answer in answers if answer["type"] == "ack"]
    assert parts(acks, "id", "group", "seq") == [(0, tea, 3), (1, tea, 4), (2, tea, 4)]
    assert acks[1]["at"] == acks[2]["at"]
    assert parts([await heard.receive() for _ in range(2)], "seq", "data") == [(3, {"n": 0}), (4, {"n": 1})]
    await ann.make_group("cake")
    for group, error in (("cake", "not a member"), (str(uuid4()), "no such group")):
        await heard.send(type="broadcast", id="mine", group=group, data={})
        refused = await heard.receive()
        assert parts([refused], "type", "id", "error") == [("error", "mine", error)]
        assert refused["detail"]


async def test_the_same_key_over_http(ann, tea, talk):
    """A key is the group's, whichever way it comes: the first answer again, and one event in the log.

    With another body it is refused both ways.
    """
    said, key = await talk(ann, {}), {"Idempotency-Key": "k"}
    await said.send(type="broadcast", id=1, group=tea, data={"n": 1}, key="k")
    ack = (await said.receive_until("ack"))[-1]
    answers = [await (await ann.request("POST", "/broadcast/tea", json={"n": 1}, headers=key)).json() for _ in range(2)]
    refused = await ann.request("POST", "/broadcast/tea", json={"n": 2}, headers=key)
    assert (refused.status, (await refused.json())["error"]) == (422, "key reused")
    await said.send(type="broadcast", id=2, group=tea, data={"n": 2}, key="k")
    assert parts([(await said.receive_until("error"))[-1]], "id", "error") == [(2, "key reused")]
    assert answers[0] == answers[1]
    assert parts(answers, "seq", "at") == [(ack["seq"], ack["at"])] * 2
    for keys in (["é"], ["k", "l"]):
        headers = [*ann.headers.items(), *(("Idempotency-Key", key) for key in keys)]
        refused = await ann.client.post("/broadcast/tea", json={}, headers=headers)
        assert (refused.status, (await refused.json())["error"]) == (422, "invalid input")


async def test_many_in_flight(ann, tea, talk, monkeypatch):
    """A client that sends too fast is read more slowly, and answered for each, in order."""
    monkeypatch.setattr(subprotocols, "IN_FLIGHT", 5)
    said = await talk(ann, {})
    for number in range(100):
        await said.send(type="broadcast", id=number, group=tea, data={})
    acks = []
    while len(acks) < 100:
        frame = await said.receive()
        if frame["type"] == "ack":
            acks.append((frame["id"], frame["seq"]))
    assert acks == [(number, number + 3) for number in range(100)]


async def test_too_much_waits(ann, tea, talk, client, monkeypatch):
    """When the queue is full it is said so, and can be sent again: 503 with Retry-After, or an error frame."""
    monkeypatch.setattr("att.realtime.publisher.QUEUE_ITEMS", 0)
    said = await talk(ann, {})
    await said.send(type="broadcast", id=1, group=tea, data={})
    assert parts([await said.receive()], "type", "id", "error") == [("error", 1, "busy")]
    response = await ann.request("POST", "/broadcast/tea", json={})
    assert (response.status, response.headers["Retry-After"]) == (503, "1")


# Out of order


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (["{"], "truncated"),
        (['{"type":"ping"}'], "first"),
        (['{"type":"broadcast","id":1,"group":"tea","data":{}}'], "first"),
        (['{"type":"resume"}', '{"type":"resume"}'], "once"),
        (['{"type":"resume"}', '{"type":"subscribe"}'], "subscribe"),
        (['{"type":"broadcast","id":1,"group":"tea","data":[]}'], "data"),
        (['{"type":"resume"}', '{"type":"broadcast","id":1,"group":"tea"'], "truncated"),
        (['{"type":"resume"}', '[{"id":1}]'], "object"),
        (['{"type":"resume"}', '{"type":"broadcast","id":1.5,"group":"tea","data":{}}'], "$.id"),
        ([b"{}"], "text"),
    ],
)
async def test_protocol_error(ann, talk, frames, reason):
    """A violation is answered with its reason, and a code that forbids to reconnect."""
    said = await talk(ann)
    for frame in frames:
        await (said.ws.send_str(frame) if isinstance(frame, str) else said.ws.send_bytes(frame))
    code, told = await said.closed()
    assert code == CloseCode.PROTOCOL_ERROR
    assert reason in told


async def test_invalid_frames(ann, tea, talk):
    """A frame whose id can be read is answered by an error, and the socket stays open."""
    said = await talk(ann, {})
    frames = {
        "subscribe": '{"type":"subscribe","id":"a","data":{"deep":[[1]]}}',
        "`data`": '{"id":"a","type":"broadcast","group":"tea"}',
        "unknown field": '{"type":"broadcast","id":"a","group":"tea","data":{},"extra":1}',
        "data: must be an object": '{"type":"broadcast","id":"a","group":"tea","data":[]}',
        "group: ": '{"type":"broadcast","id":"a","group":"a\\u0000","data":{}}',
        "key: ": '{"type":"broadcast","id":"a","group":"tea","data":{},"key":""}',
        "$.group": '{"type":"broadcast","id":"a","group":1,"data":{}}',
    }
    for says, frame in frames.items():
        await said.ws.send_str(frame)
        answer = await said.receive()
        assert parts([answer], "type", "id", "error") == [("error", "a", "invalid input")]
        assert says in answer["detail"]
    await said.send(type="broadcast", id=1, group="tea", data={})
    assert (await said.receive_until("ack"))[-1]["id"] == 1


async def test_nothing_after_a_protocol_error(ann, tea, talk, sql):
    """Frames behind the one that closed the socket are ignored."""
    said = await talk(ann, {})
    mask = b"\0\0\0\0"
    frames = [b"nonsense"] + [b'{"type":"broadcast","id":%d,"group":"tea","data":{}}' % number for number in range(50)]
    said.ws._response.connection.transport.write(
        b"".join(b"\x81" + bytes([0x80 | len(frame)]) + mask + frame for frame in frames)
    )
    assert (await said.closed())[0] == CloseCode.PROTOCOL_ERROR
    assert sql("SELECT count(*) FROM events WHERE kind = 'message'") == [(0,)]


async def test_no_resume(ann, talk, monkeypatch):
    """A client that never resumes is closed."""
    monkeypatch.setattr(subprotocols, "RESUME_TIMEOUT", 0.05)
    said = await talk(ann)
    code, told = await said.closed()
    assert (code, told) == (CloseCode.PROTOCOL_ERROR, "no resume within 0 s")


async def test_ping(ann, talk):
    said = await talk(ann, {})
    await said.send(type="ping")
    assert await said.receive() == {"type": "pong"}


async def test_a_token_among_the_subprotocols(client, ann, tea):
    """A page on another origin can set no header: the token goes with the subprotocols, and does not come back."""
    protocols = ("att.v1", f"att.bearer.{ann.token}")
    async with client.ws_connect(
        "/listen/me", protocols=protocols, headers={"Origin": "https://elsewhere.example"}
    ) as ws:
        assert ws.protocol == "att.v1"
        assert ann.token not in str(ws._response.headers)
        assert (await ws.receive_json(timeout=DEADLINE))["user_id"] == str(ann.id)


async def test_events_wait_for_the_log(ann, tea, talk, client, monkeypatch):
    """While the log cannot be read nothing is delivered; events come when it can."""
    await ann.broadcast("tea", {"n": 1})
    log, calls = client.app[EVENT_LOG], 0

    async def read_from(*args, read=log.read_from, **size):
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Unavailable
        return await read(*args, **size)

    monkeypatch.setattr(log, "read_from", read_from)
    said = await talk(ann, {tea: 0})
    assert parts([await said.receive() for _ in range(3)], "seq") == [(1,), (2,), (3,)]


async def test_an_error_while_catching_up(ann, tea, talk, client, monkeypatch):
    """The listener is disconnected to come back, rather than left waiting."""

    async def read_from(*_args, **_size):
        raise RuntimeError

    monkeypatch.setattr(client.app[EVENT_LOG], "read_from", read_from)
    said = await talk(ann, {tea: 0})
    assert (await said.closed())[0] == CloseCode.RESYNC


# Two nodes


@pytest.fixture
async def other(client, settings, aiohttp_client):
    """A second node on the same database."""
    return await aiohttp_client(create_app(settings))


def at(node, person):
    """The same person, by way of another node."""
    return Person(node, person.login, {"user_id": str(person.id), "token": person.token})


async def test_two_nodes_deliver_to_each_other(ann, ben, tea, talk, other):
    """Each listener receives all messages in one order, whichever node they came by."""
    here, there = await talk(ann, {}), await talk(at(other, ben), {})
    senders = [ann, at(other, ann)]
    for number in range(20):
        await senders[number % 2].broadcast("tea", {"n": number})
    for said in (here, there):
        assert parts([await said.receive() for _ in range(20)], "seq", "data") == [(3 + n, {"n": n}) for n in range(20)]


async def test_a_change_on_another_node(ann, ben, tea, talk, other, sql):
    """Joining, leaving and deleting affect open sockets on every node."""
    carl = await _sign_up(other, "carl")
    said = await talk(carl, {})
    await ann.add("tea", carl)
    assert parts([await said.receive()], "type", "seq") == [("joined", 3)]
    sql('SELECT att_broadcast(%s, \'{"from": "sql"}\')', tea)
    assert parts([await said.receive()], "seq", "from", "data") == [(4, None, {"from": "sql"})]
    sql("DELETE FROM members WHERE user_id = %s", carl.id)
    assert parts([await said.receive()], "type", "seq") == [("left", 5)]
    await ann.broadcast("tea", {})
    sql("INSERT INTO members (group_id, user_id, role) SELECT %s, id, 'member' FROM users WHERE login = 'carl'", tea)
    assert parts([await said.receive()], "type", "seq") == [("joined", 7)]


async def test_a_session_that_ends_elsewhere(ann, talk, other, sql):
    """Its sockets are closed on every node, also when it is ended in SQL."""
    first, second = await talk(at(other, ann)), await talk(ann)
    assert (await ann.request("POST", "/logout")).status == 204
    for said in (first, second):
        assert (await said.closed())[0] == CloseCode.SESSION_ENDED

    async def is_refused():
        return (await at(other, ann).request("GET", "/groups")).status == 401

    await eventually(is_refused)
    ben = await _sign_up(other, "ben")
    said = await talk(ben)
    sql("DELETE FROM sessions")
    assert (await said.closed())[0] == CloseCode.SESSION_ENDED


async def test_a_user_who_is_disabled_in_sql(ann, talk, sql):
    """Their sessions end with it."""
    said = await talk(ann)
    sql("UPDATE users SET first_name = 'Ann'")
    sql("UPDATE users SET active = false")
    assert (await said.closed())[0] == CloseCode.SESSION_ENDED
    assert sql("SELECT count(*) FROM sessions") == [(0,)]


async def test_nothing_is_left(client, ann, ben, tea, talk):
    """When everybody has gone, whatever they were doing, the hub is empty."""
    for number in range(10):
        await ann.broadcast("tea", {"n": number})
    said = [await talk(ann), await talk(ben, {tea: 0}), await talk(ben, {})]
    for one in said:
        await one.ws.close()

    async def is_empty():
        return not client.app[HUB].registry and not client.app[HUB]._streams

    await eventually(is_empty)


async def _sign_up(node, login):
    response = await node.post("/signup", json={"login": login, "password": PASSWORD})
    return Person(node, login, await response.json())


CROWD = """
WITH crowd AS (
    INSERT INTO users (login, login_key, search_text, role_id)
    SELECT 'u' || n, 'u' || n, '', (SELECT id FROM roles WHERE name = 'User') FROM generate_series(1, 1000) AS n
    RETURNING id
)
INSERT INTO members (group_id, user_id, role) SELECT %s, id, 'member' FROM crowd
"""


async def test_the_end_of_a_large_group(talk, client, ann, ben, tea, sql):
    """Each listener hears their own leaving at once, and no one else's. Who was away hears what they have missed, too,
    before the members' rows are removed and after.
    """
    sql(CROWD, tea)
    said = [await talk(ann, {}), await talk(ann, {}), await talk(ben, {})]
    seq = (await (await ann.request("POST", f"/broadcast/{tea}", json={"n": 1})).json())["seq"]
    assert (await ann.request("DELETE", f"/groups/{tea}")).status == 204
    end = {"type": "left", "group": tea, "name": "", "seq": seq + 1, "removed": True, "by": str(ann.id)}
    own = [{**end, "user": str(who.id)} for who in (ann, ann, ben)]
    for each, leaving in zip(said, own, strict=True):
        *_, message, heard = await each.receive_until("left")
        assert (message["type"], message["seq"]) == ("message", seq)
        assert heard.pop("at")
        assert heard == leaving
    for _ in range(2):
        away = await talk(ben, {tea: seq - 1})
        assert away.hello["groups"] == []
        assert [(heard["type"], heard["seq"]) for heard in await away.receive_until("left")] == [
            ("message", seq),
            ("left", seq + 1),
        ]
        knows = await talk(ben, {tea: seq + 1})
        for each in (*said, away, knows):
            await each.send(type="ping")
            assert (await each.receive())["type"] == "pong"
        await RemovalTask(client.app[ENGINE]).remove()
    assert sql("SELECT count(*) FROM members") == [(0,)]


async def test_very_many_groups(talk, client, ann, monkeypatch):
    """A listener that is started in steps misses nothing of any group, and leaves nothing behind."""
    for module in (hub, subprotocols):
        monkeypatch.setattr(module, "SLICE", 2)
    groups = [(await ann.make_group(f"group {number}"))["id"] for number in range(5)]
    for group in groups:
        await ann.broadcast(group, {"n": 1})
    said = await talk(ann, dict.fromkeys(groups, 1))
    missed = [await said.receive() for _ in groups]
    for group in groups:
        await ann.broadcast(group, {"n": 2})
    live = [await said.receive() for _ in groups]
    for frames, seq in ((missed, 2), (live, 3)):
        assert sorted(parts(frames, "type", "group", "seq")) == sorted(("message", group, seq) for group in groups)
    await said.ws.close()

    async def is_empty():
        return not client.app[HUB]._streams

    await eventually(is_empty)


# Much at once


async def test_a_hello_of_very_many_groups_comes_in_fragments(ann, talk, monkeypatch):
    """It says the same. A resume that comes before its end waits for it, and what follows comes behind it."""
    for name in ("tea", "pie", "cake"):
        await ann.make_group(name)
    whole = (await talk(ann)).hello
    monkeypatch.setattr(subprotocols, "WHOLE_HELLO", 1)
    monkeypatch.setattr(messages, "HELLO_PART", 1)
    fragments = []
    fragment = subprotocols.fragment
    monkeypatch.setattr(subprotocols, "fragment", lambda *args, **end: fragments.append(end) or fragment(*args, **end))
    connection = WebSocketConnection.listen

    def listen(self, early):
        connection(self, early + EARLY_RESUME)

    monkeypatch.setattr(WebSocketConnection, "listen", listen)
    parts = await talk(ann)
    assert parts.hello["groups"] == whole["groups"]
    assert [end["is_first"] for end in fragments] == [True, *[False] * 5]
    assert [end["is_last"] for end in fragments] == [*[False] * 5, True]
    assert await ann.broadcast("tea", {"a": 1}) == 1
    assert (await parts.receive_until("message"))[-1]["data"] == {"a": 1}


async def test_a_large_frame_keeps_its_place(ann, talk, monkeypatch):
    """Frames behind one that is parsed in steps are answered after it, in their order."""
    await ann.make_group("tea")
    monkeypatch.setattr(subprotocols, "PARSED_AT_ONCE", 200)
    said = await talk(ann, {})
    for number, size in enumerate([10, 300, 10, 300, 300, 10]):
        await said.send(type="broadcast", id=number, group="tea", data={"n": number, "pad": "x" * size})
    await said.send(type="broadcast", id=6, group="tea", data=[0] * 300)
    await said.send(type="ping")
    frames = await said.receive_until("pong")
    while len([frame for frame in frames if frame["type"] in ("message", "ack")]) < 12:
        frames.append(await said.receive())
    for kind, member in (("message", "seq"), ("ack", "seq")):
        seqs = [frame[member] for frame in frames if frame["type"] == kind]
        assert seqs == sorted(seqs)
    assert [frame["data"]["n"] for frame in frames if frame["type"] == "message"] == [*range(6)]
    assert [frame["id"] for frame in frames if frame["type"] == "error"] == [6]


async def test_a_resume_of_very_many_groups(ann, talk, monkeypatch):
    """It is compared with the log step by step, and a seq that is ahead is told."""
    groups = [(await ann.make_group(name))["id"] for name in ("tea", "pie", "cake")]
    monkeypatch.setattr(subprotocols, "SLICE", 1)
    said = await talk(ann, {groups[1]: 9})
    frame = await said.receive()
    assert (frame["type"], frame["group"], frame["to"]) == ("rewind", groups[1], 1)
