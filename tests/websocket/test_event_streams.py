"""Listeners by server-sent events: what they receive, where they resume, and how they end."""

import asyncio
import json
import logging
import random
import socket
import time
from uuid import UUID

import psycopg
import pytest
from epochs import lose_end
from event_streams import EventSource, interpret
from hashing_costs import CHEAPEST
from people import PASSWORD, Person
from waiting import eventually

from att.api.keys import HUB
from att.app import create_app
from att.config.settings import Settings
from att.protocol import event_stream as protocol_module
from att.protocol.event_stream import EventId
from att.server.drain import DRAIN
from att.websocket import connection, event_stream as module

DEADLINE = 20
ACCEPT = {"Accept": "text/event-stream"}
GROUPS = [f"group {number}" for number in range(8)]


@pytest.fixture
async def open_stream():
    """Open a stream, with the last id of another one, past its hello."""
    opened = []

    async def go(person, last="", path="/listen/me", **headers):
        headers = ACCEPT | ({"Last-Event-ID": last} if last else {}) | headers
        response = await person.request("GET", path, headers=headers)
        assert response.status == 200, await response.text()
        source = EventSource(response, last)
        opened.append(source)
        source.hello = await source.receive()
        assert source.hello["type"] == "hello"
        return source

    yield go
    for source in opened:
        source.close()


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def tea(ann):
    return (await ann.make_group("tea"))["id"]


@pytest.fixture
async def ben(sign_up, ann, tea):
    """A member of Ann's group."""
    ben = await sign_up("ben")
    await ann.add("tea", ben)
    return ben


async def say(person, group, *numbers):
    for number in numbers:
        await person.broadcast(group, {"n": number})


async def numbers(source, count):
    """Return what the next messages say."""
    return [(await source.receive())["data"]["n"] for _ in range(count)]


def request(person, version="1.1"):
    """A request for a stream."""
    lines = f"GET /listen/me HTTP/{version}", "Host: here", f"Authorization: Bearer {person.token}"
    return "\r\n".join((*lines, "Accept: text/event-stream", "\r\n"))


def is_gone(client):
    async def probe():
        return not len(client.app[HUB].registry)

    return eventually(probe)


async def test_the_response(ann, tea, open_stream):
    """It is a stream that nobody keeps, neither a cache nor nginx, and begins with hello."""
    source = await open_stream(ann, Origin="http://of.another")
    headers = source.response.headers
    assert headers["Content-Type"] == "text/event-stream"
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
    assert headers["Transfer-Encoding"] == "chunked"
    assert [group["id"] for group in source.hello["groups"]] == [tea]
    assert source.last_id


async def test_the_frames_of_att_v1(ann, ben, tea, open_stream):
    """Each event is a frame of att.v1, byte for byte, also what is not of the log."""
    source = await open_stream(ann)
    async with await ann.listen(protocols=("att.v1",)) as ws:
        await ws.receive_json(timeout=DEADLINE)
        await ws.send_json({"type": "resume"})
        await ws.send_json({"type": "ping"})
        assert await ws.receive_json(timeout=DEADLINE) == {"type": "pong"}
        await say(ben, "tea", 1)
        await ben.request("POST", "/broadcast/tea?ephemeral=true", json={"typing": True})
        await ann.request("PATCH", "/groups/tea", json={"name": "pie"})
        await ann.request("PUT", "/groups/pie/read", json={"seq": 3})
        await ann.remove("pie", ben)
        frames = [await ws.receive_str(timeout=DEADLINE) for _ in range(5)]
    events = [await source.next() for _ in frames]
    assert [event.data for event in events] == frames
    assert [event.type for event in events] == ["message", "ephemeral", "changed", "read", "left"]
    assert EventId.parse(source.last_id).seqs == {UUID(tea): 5}


@pytest.mark.parametrize(("version", "is_chunked"), [("1.1", True), ("1.0", False)])
async def test_versions_of_http(client, ann, tea, version, is_chunked):
    """In HTTP/1.0 there are no chunks. In either what the client sends besides is ignored."""
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    writer.write(request(ann, version).encode())
    async with asyncio.timeout(DEADLINE):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 OK\r\n" in head
        assert (b"Transfer-Encoding: chunked" in head) == is_chunked
        await reader.readuntil(b"\n\n")
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await ann.request("POST", "/logout")
        rest = await reader.read()
    writer.transport.abort()
    assert rest.endswith(b"\r\n0\r\n\r\n") == is_chunked
    if not is_chunked:
        assert [event.type for event in interpret(rest)] == ["close"]


async def test_other_requests(ann, tea):
    """Without an upgrade and without this media type the address is for WebSockets alone, as before."""
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "text/html"}):
        assert (await ann.request("GET", "/listen/me", headers=headers)).status == 426
    for method in ("HEAD", "POST"):
        assert (await ann.request(method, "/listen/me", headers=ACCEPT)).status == 405
    async with await ann.listen(headers=ACCEPT) as ws:
        await say(ann, "tea", 1)
        assert await ws.receive_json(timeout=DEADLINE) == {"n": 1}


async def test_another_media_type_besides(ann, tea):
    """Of several media types this one is taken. An upgrade to another protocol, as curl offers it, is ignored."""
    for headers in ({"Accept": "text/html, Text/Event-Stream;q=0.5"}, ACCEPT | {"Upgrade": "h2c"}):
        response = await ann.request("GET", "/listen/me", headers=headers)
        assert response.status == 200
        response.close()


async def test_who_may(client, ann, ben, tea):
    """Only oneself, signed in; with the cookie no page of another origin."""
    client.session.cookie_jar.clear()
    assert (await client.get("/listen/me", headers=ACCEPT)).status == 401
    assert (await ann.request("GET", f"/listen/{ben.id}", headers=ACCEPT)).status == 403
    cookie = {"Cookie": f"att_session={ann.token}"}
    for headers, status in (
        ({}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ):
        response = await client.get("/listen/me", headers=ACCEPT | cookie | headers)
        assert response.status == status, headers
        response.close()


async def test_chosen_groups(ann, tea, open_stream):
    """As for sockets."""
    await ann.make_group("pie")
    source = await open_stream(ann, path="/listen/me?group=pie")
    await say(ann, "tea", 1)
    await say(ann, "pie", 2)
    assert [group["name"] for group in source.hello["groups"]] == ["pie"]
    assert await numbers(source, 1) == [2]
    assert len(EventId.parse(source.last_id).seqs) == 1
    for path, status in (("/listen/me?group=pi", 404), ("/listen/me?groups=pie", 422)):
        assert (await ann.request("GET", path, headers=ACCEPT)).status == status


# Resuming


async def test_resume(ann, ben, tea, open_stream):
    """By the last id, in the header or in the query, each missed event comes once, then the new ones."""
    source = await open_stream(ben)
    first = source.last_id
    await say(ann, "tea", 1, 2)
    assert await numbers(source, 2) == [1, 2]
    source.close()
    await say(ann, "tea", 3, 4)
    again = await open_stream(ben, source.last_id)
    await say(ann, "tea", 5)
    assert await numbers(again, 3) == [3, 4, 5]
    by_query = await open_stream(ben, path=f"/listen/me?last_event_id={again.last_id}")
    from_the_first = await open_stream(ben, first, path=f"/listen/me?last_event_id={again.last_id}")
    await say(ann, "tea", 6)
    assert await numbers(by_query, 1) == [6]
    assert await numbers(from_the_first, 6) == [1, 2, 3, 4, 5, 6]


async def test_what_happens_while_away(ann, ben, tea, open_stream, sign_up):
    """Also groups that one has joined and left meanwhile, and left ones, as far as one was a member."""
    source = await open_stream(ben)
    source.close()
    await ann.make_group("pie")
    await say(ann, "pie", 1)
    await ann.add("pie", ben)
    await say(ann, "pie", 2)
    await ann.remove("pie", ben)
    await say(ann, "pie", 3)
    await ann.remove("tea", ben)
    await say(ann, "tea", 4)
    again = await open_stream(ben, source.last_id)
    await ann.add("tea", ben)
    heard = {"tea": [], "pie": []}
    for _ in range(5):
        frame = await again.receive()
        heard[frame["name"]].append(frame["type"])
    assert heard == {"tea": ["left", "joined"], "pie": ["joined", "message", "left"]}
    once_more = await open_stream(ben, again.last_id)
    await say(ann, "tea", 5)
    assert await numbers(once_more, 1) == [5]


@pytest.mark.parametrize("last", ["x", "AAAA", "%00", "ü", str(EventId("e"))[:-1]])
async def test_malformed_ids(ann, last):
    """They are refused before the stream begins."""
    for path, headers in ((f"/listen/me?last_event_id={last}", {}), ("/listen/me", {"Last-Event-ID": last})):
        response = await ann.request("GET", path, headers=ACCEPT | headers)
        problem = await response.json()
        assert (response.status, problem["error"]) == (422, "invalid input")
        assert [fault["field"] for fault in problem["errors"]] == ["Last-Event-ID" if headers else "last_event_id"]


async def test_the_last_id_of_a_socket(ann):
    """Sockets resume by a frame; a last id in the query of one is refused, an empty one of a stream is none."""
    for last in ("", str(EventId("e"))):
        response = await ann.request("GET", f"/listen/me?last_event_id={last}", headers={"Upgrade": "websocket"})
        assert response.status == 422
    response = await ann.request("GET", "/listen/me?last_event_id=", headers=ACCEPT)
    assert response.status == 200
    response.close()


async def test_a_forged_id(ann, ben, tea, open_stream):
    """It shows nobody what they may not read, nor whether it is there."""
    secret = UUID((await ann.make_group("secret"))["id"])
    await say(ann, "secret", 1)
    known = EventId.parse((await open_stream(ben)).last_id)
    for epoch in (known.epoch, "forged"):
        forged = EventId(epoch, 0, {secret: 0, UUID(tea): 0, UUID(int=7): 0})
        source = await open_stream(ben, str(forged))
        await say(ann, "tea", 2)
        heard = []
        while not heard or heard[-1]["type"] != "message" or heard[-1]["data"] != {"n": 2}:
            heard.append(await source.receive())
        assert "secret" not in json.dumps(heard)
        assert str(secret) not in json.dumps(heard)
        assert [frame["seq"] for frame in heard if "seq" in frame] == sorted({f["seq"] for f in heard if "seq" in f})
        source.close()
        await ann.request("DELETE", f"/groups/tea/events/{heard[-1]['seq']}")


async def test_an_earlier_epoch(ann, tea, open_stream, sql):
    """A client with a position that the log has lost is told so, and gets what the log has instead."""
    source = await open_stream(ann)
    await say(ann, "tea", 2, 3, 4)
    await numbers(source, 3)
    source.close()
    epoch = lose_end(sql, tea, 2)
    await say(ann, "tea", "new")
    again = await open_stream(ann, source.last_id)
    frames = [await again.receive() for _ in range(3)]
    assert [frame["type"] for frame in frames] == ["rewind", "epoch", "message"]
    assert (frames[0]["to"], frames[1]["epoch"], frames[2]["data"]) == (2, epoch, {"n": "new"})
    assert EventId.parse(again.last_id).epoch == epoch
    once_more = await open_stream(ann, again.last_id)
    await say(ann, "tea", 5)
    assert await numbers(once_more, 1) == [5]


# Many groups


@pytest.fixture
def few_named(monkeypatch):
    """Ids that name three groups."""
    monkeypatch.setattr(protocol_module, "NAMED_GROUPS", 3)


@pytest.fixture
async def many(ann, few_named):
    """Ann's groups, more than an id names."""
    return {name: (await ann.make_group(name))["id"] for name in GROUPS}


async def seqs(source, count):
    """Return group and seq of the next events."""
    frames = [await source.receive() for _ in range(count)]
    return [(frame["name"], frame["seq"]) for frame in frames]


async def advance(client, source, person, moment):
    """Have the time of the ids move on beyond a moment in seconds, and a group tell the new id."""
    [listener] = client.app[HUB].registry.of_user(person.id)

    async def probe():
        listener.connection.check_liveness()
        await say(person, GROUPS[0], 0)
        await source.receive()
        return EventId.parse(source.last_id).since > moment * 1_000_000

    await eventually(probe)


async def test_resume_in_many_groups(ann, many, open_stream):
    """What is missed in groups that the id does not name comes, too; what comes again is recent."""
    source = await open_stream(ann)
    for name in GROUPS:
        await say(ann, name, 1)
    assert await seqs(source, len(GROUPS)) == [(name, 2) for name in GROUPS]
    source.close()
    assert len(source.last_id) < 300
    for name in GROUPS[::2]:
        await say(ann, name, 2)
    again = await open_stream(ann, source.last_id)
    missed = {(name, 3) for name in GROUPS[::2]}
    heard = []
    while not missed <= {*heard}:
        heard += await seqs(again, 1)
    named = EventId.parse(source.last_id).seqs
    for name, group_id in many.items():
        own = [seq for each, seq in heard if each == name]
        assert own == sorted({*own})
        assert UUID(group_id) not in named or own == [3] * (name in GROUPS[::2])


async def test_the_time_of_ids_moves_on(client, ann, many, open_stream):
    """Then what came before it does not come again."""
    source = await open_stream(ann)
    for name in GROUPS:
        await say(ann, name, 1)
    await seqs(source, len(GROUPS))
    await advance(client, source, ann, time.time())
    source.close()
    again = await open_stream(ann, source.last_id)
    await say(ann, GROUPS[7], "last")
    assert (await again.receive())["data"] == {"n": "last"}


async def test_a_transaction_that_was_open(ann, many, open_stream, db_url, monkeypatch):
    """An event that gets its time before the client comes, and is committed after it has gone, is not lost."""
    monkeypatch.setattr(module, "CLOCK_MARGIN", 0)
    with psycopg.connect(db_url) as other:
        other.execute("SELECT att_broadcast(%s, %s)", (many[GROUPS[5]], '{"n": "late"}'))
        source = await open_stream(ann)
        source.close()
        other.commit()
    again = await open_stream(ann, source.last_id)
    while (frame := await again.receive())["type"] != "message":
        pass
    assert frame["data"] == {"n": "late"}


async def test_an_earlier_epoch_in_many_groups(ann, many, open_stream, sql):
    """Groups that the id does not name are told to go back as far as they may have lost something."""
    source = await open_stream(ann)
    for name in GROUPS:
        await say(ann, name, 1)
    await seqs(source, len(GROUPS))
    source.close()
    lost = next(name for name in GROUPS if UUID(many[name]) not in EventId.parse(source.last_id).seqs)
    lose_end(sql, many[lost], 1)
    await say(ann, lost, "new")
    again = await open_stream(ann, source.last_id)
    heard = []
    while not heard or heard[-1].get("data") != {"n": "new"}:
        heard.append(await again.receive())
    assert min(frame["to"] for frame in heard if frame["type"] == "rewind" and frame["name"] == lost) <= 1


class Wanderer:
    """Somebody who listens to what happens, is cut off now and then, and resumes."""

    def __init__(self, person, open_stream):
        self.person = person
        self.source = None
        self.heard = {name: set() for name in GROUPS}
        self._open_stream = open_stream
        self._order = {}
        self._receiving = None

    async def move_on(self):
        """Close the stream, and open the next one."""
        last = "" if self.source is None else self.source.last_id
        if self._receiving is not None:
            self._receiving.cancel()
        if self.source is not None:
            self.source.close()
        self._receiving = None
        self.source, self._order = await self._open_stream(self.person, last), {}

    async def hear(self, seconds=DEADLINE):
        """Receive an event, which is in order. Return None if there is none."""
        if self._receiving is None:
            self._receiving = asyncio.create_task(self.source.receive())
        if not (await asyncio.wait([self._receiving], timeout=seconds))[0]:
            return None
        frame, self._receiving = self._receiving.result(), None
        if "seq" in frame:
            assert frame["seq"] > self._order.get(frame["name"], 0)
            self._order[frame["name"]] = frame["seq"]
            self.heard[frame["name"]].add(frame["seq"])
        return frame


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost(*, client, ann, sign_up, many, open_stream, seed):
    """Whatever happens in many groups, over many streams: each event of a membership comes, in order."""
    dice, ben = random.Random(seed), await sign_up("ben")
    wanderer = Wanderer(ben, open_stream)
    await wanderer.move_on()
    members = await wander(client, dice, ann, wanderer)
    for name in GROUPS:
        if name not in members:
            await ann.add(name, ben)
        await say(ann, name, "end")
    missing = {*GROUPS}
    while missing:
        frame = await wanderer.hear()
        if frame.get("data") == {"n": "end"}:
            missing.discard(frame["name"])
    for name in GROUPS:
        page = await (await ben.request("GET", f"/groups/{name}/events?limit=1000")).json()
        assert {item["seq"] for item in page["items"]} <= wanderer.heard[name], name


async def wander(client, dice, ann, wanderer):
    """Let things happen, and cut streams off. Return the groups in which the wanderer is then."""
    ben, members = wanderer.person, set()
    for step in range(60):
        name, choice = dice.choice(GROUPS), dice.randrange(8)
        if choice == 0:
            await (ann.remove if name in members else ann.add)(name, ben)
            members ^= {name}
        elif choice == 1:
            while dice.random() < 0.9 and await wanderer.hear(0.02):
                pass
            await wanderer.move_on()
        elif choice == 2:
            for listener in client.app[HUB].registry.of_user(ben.id):
                listener.connection.check_liveness()
        else:
            await say(ann, name, step)
    await wanderer.move_on()
    return members


# Ends


async def test_the_end_of_a_session(client, ann, tea, open_stream):
    """The last event says why; the next request is a 401, at which EventSource gives up."""
    source = await open_stream(ann)
    assert (await ann.request("POST", "/logout")).status == 204
    [event] = await source.rest()
    assert (event.type, json.loads(event.data)) == ("close", {"code": 4500, "reason": "session ended"})
    assert (await ann.request("GET", "/listen/me", headers=ACCEPT)).status == 401
    await is_gone(client)


async def test_drain(client, ann, open_stream):
    """EventSource waits for as long as the reason says before it connects again."""
    source = await open_stream(ann)
    await client.app[DRAIN].run()
    [event] = await source.rest()
    found = json.loads(event.data)
    assert found["code"] == 1012
    assert source.interpreter.retry == int(found["reason"].split()[-2]) * 1_000
    assert 1_000 <= source.interpreter.retry <= 5_000


async def test_quota(db_url, aiohttp_client):
    """Streams count as sockets."""
    settings = Settings(db_url=db_url, hashing=CHEAPEST, quota_sockets=2)
    client = await aiohttp_client(create_app(settings))
    response = await client.post("/signup", json={"login": "ann", "password": PASSWORD})
    ann = Person(client, "ann", await response.json())
    async with await ann.listen():
        stream = await ann.request("GET", "/listen/me", headers=ACCEPT)
        assert stream.status == 200
        refused = await ann.request("GET", "/listen/me", headers=ACCEPT)
        assert refused.status == 429
        assert (await refused.json())["quota"] == "sockets"
        assert refused.headers["Retry-After"]
        stream.close()


async def test_presence(ann, ben, tea, open_stream):
    """Who listens by a stream is connected."""
    await open_stream(ben)

    async def probe():
        return (await (await ann.request("GET", "/groups/tea/presence")).json())["items"]

    [item] = await eventually(probe)
    assert (item["user_id"], item["sockets"]) == (str(ben.id), 1)


def connect(client, person, receive_buffer=4_096):
    """A connection whose peer does not read."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.connect((client.server.host, client.server.port))
    lines = (
        "GET /listen/me HTTP/1.1",
        "Host: here",
        f"Authorization: Bearer {person.token}",
        "Accept: text/event-stream",
    )
    raw.sendall("\r\n".join((*lines, "\r\n")).encode())
    return raw


async def is_there(client):
    async def probe():
        return [each for each in client.app[HUB].registry.everyone() if each.is_started]

    [listener] = await eventually(probe)
    return listener


async def test_a_slow_client(db_url, aiohttp_client):
    """It gets what was sent before its outbox was full, whole, and the reason, if it reads on."""
    client = await aiohttp_client(create_app(Settings(db_url=db_url, hashing=CHEAPEST, outbox_limit=100_000)))
    response = await client.post("/signup", json={"login": "ann", "password": PASSWORD})
    ann = Person(client, "ann", await response.json())
    await ann.make_group("tea")
    raw = connect(client, ann)
    await is_there(client)
    count = 0
    while await ann.broadcast("tea", {"n": count, "pad": "x" * 50_000}):
        count += 1
    raw.setblocking(False)
    parts = []
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        while part := await loop.sock_recv(raw, 2**20):
            parts.append(part)
    raw.close()
    body = b"".join(parts).partition(b"\r\n\r\n")[2]
    chunks = []
    while body:
        size, _, body = body.partition(b"\r\n")
        chunks.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    assert chunks[-1] == b""
    events = interpret(b"".join(chunks))
    assert [json.loads(event.data)["data"]["n"] for event in events[1:-1]] == [*range(count)]
    assert json.loads(events[-1].data) == {"code": 4000, "reason": "too slow"}
    await is_gone(client)


async def test_a_silent_stream(ann, open_stream, monkeypatch):
    """A comment keeps it open after each silence."""
    for each in (module, connection):
        monkeypatch.setattr(each, "HEARTBEAT", 0.5)
    source = await open_stream(ann)

    reading = asyncio.create_task(source.next())

    async def probe():
        return source.interpreter.comments >= 2

    await eventually(probe)
    assert not reading.done()
    reading.cancel()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such timeout")
async def test_a_peer_that_confirms_nothing(client, ann, tea, monkeypatch):
    """It is cut off though its outbox is not full: the kernel has not been able to send it anything for some time."""
    monkeypatch.setattr(module, "HEARTBEAT", 0.2)
    raw = connect(client, ann)
    await is_there(client)
    monkeypatch.setattr(module, "HEARTBEAT", 3_600)
    await ann.broadcast("tea", {"pad": "x" * 900_000})
    await is_gone(client)
    raw.close()


async def test_access_log(db_url, aiohttp_client, caplog):
    """A stream is one line, at its end, with its close code."""
    caplog.set_level(logging.INFO, "att.access")
    client = await aiohttp_client(create_app(Settings(db_url=db_url, hashing=CHEAPEST, access_log=True)))
    response = await client.post("/signup", json={"login": "ann", "password": PASSWORD})
    ann = Person(client, "ann", await response.json())
    stream = EventSource(await ann.request("GET", "/listen/me", headers=ACCEPT))
    await stream.receive()
    await ann.request("POST", "/logout")
    await stream.rest()

    async def probe():
        return [each for each in caplog.records if getattr(each, "route", "") == "/listen/{user_id}"]

    [line] = await eventually(probe)
    assert (line.status, line.close_code, line.user_id) == (200, 4500, str(ann.id))
