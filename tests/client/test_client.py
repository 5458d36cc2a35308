"""The client: against a server that does as it is told, frame by frame, and at the end against the real one."""

import asyncio
import json
import logging

import pytest
from aiohttp import web
from scripted import (
    AT,
    G1,
    G2,
    G3,
    ME,
    MOMENT,
    PATIENCE,
    RULES,
    Script,
    accepted,
    closes,
    message,
    problem,
    sends,
    wait,
)

from att import errors
from att.client import client as clients, connection as channels
from att.client.client import (
    Ack,
    Backoff,
    Changed,
    Client,
    Gap,
    Joined,
    Left,
    Message,
    Online,
    Profile,
    Redacted,
    Rewind,
    RoleChanged,
)
from att.protocol.frames import CloseCode


@pytest.fixture
async def script(aiohttp_server):
    """The server, and where it is."""
    script = Script()
    server = await aiohttp_server(script.app)
    script.url = str(server.make_url("/")).rstrip("/")
    return script


@pytest.fixture
async def someone(script, pauses):
    """A client of the script."""
    async with Client(script.url, token="secret") as client:
        yield client


@pytest.fixture
def pauses(monkeypatch):
    """How long the client has waited before it tried again; here it does not wait."""
    waited = []

    async def pause(_client, seconds):
        waited.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(Client, "_pause", pause)
    monkeypatch.setattr(clients.random, "uniform", lambda _low, high: high)
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (lambda _low, high: high,))
    return waited


async def take(stream, count):
    """The next events of a stream, by a deadline."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(stream) for _ in range(count)]


async def until(probe):
    """Wait for what announces itself by no event."""
    async with asyncio.timeout(PATIENCE):
        while not probe():  # noqa: ASYNC110 - it is in the client, which knows nothing of tests
            await asyncio.sleep(0)


async def fails(stream):
    """What the stream raises next."""
    with pytest.raises(Exception) as caught:
        await take(stream, 1)
    return caught.value


# Hearing


NAMES = {"login": "ann", "first_name": "Ann", "last_name": None}


async def test_events(script, someone):
    """Every frame becomes an event of its kind; what is not known is passed over; positions follow."""
    script.groups = {G1: 4, G2: 9}
    script.parts = [
        sends(
            f'{{"type":"message","group":"{G1}","name":"tea","seq":5,"from":null,"at":"{AT}","data":{{ "n" :1.0}}}}',
            {"type": "weather", "group": [G1], "seq": "low"},
            {"type": "joined", "group": G1, "name": "tea", "seq": 6, "user": ME, "at": AT, "mood": "good"},
            {"type": "gap", "group": G2, "name": "two", "from": 10, "to": 20},
            {"type": "left", "group": G1, "name": "tea", "seq": 7, "user": ME, "at": AT},
            {"type": "joined", "group": G1, "name": "tea", "seq": 8, "user": {"id": ME, **NAMES}, "at": AT},
            {"type": "message", "group": G2, "name": "two", "seq": 21, "from": ME, "at": AT, "data": None},
            {"type": "changed", "group": G2, "name": "Two", "seq": 22, "at": AT, "by": ME} | RULES,
            {"type": "role", "group": G2, "name": "Two", "seq": 23, "at": AT, "user": ME, "role": "owner", "by": None},
            {"type": "redacted", "group": G2, "name": "Two", "seq": 24, "at": AT, "of": 21, "by": ME},
            {"type": "left", "group": G2, "name": "Two", "seq": 25, "user": ME, "at": AT, "removed": True, "by": None},
        )
    ]
    stream = someone.listen()
    heard, positions = [], []
    for _ in range(10):
        heard += await take(stream, 1)
        positions.append(dict(someone.positions))
    assert heard == [
        Message(G1, "tea", 5, None, MOMENT, b'{ "n" :1.0}'),
        Joined(G1, "tea", 6, ME, MOMENT),
        Gap(G2, "two", 10, 20),
        Left(G1, "tea", 7, ME, MOMENT),
        Joined(G1, "tea", 8, ME, MOMENT, Profile(ME, "ann", "Ann", None)),
        Message(G2, "two", 21, ME, MOMENT, b"null"),
        Changed(G2, "Two", 22, ME, MOMENT, **RULES),
        RoleChanged(G2, "Two", 23, ME, "owner", None, MOMENT),
        Redacted(G2, "Two", 24, 21, ME, MOMENT),
        Left(G2, "Two", 25, ME, MOMENT, removed=True, by=None),
    ]
    assert (heard[0].data, heard[5].data) == ({"n": 1}, None)
    assert positions[-1] == {G1: 8, G2: 25}
    assert positions[:4] == [{G1: 5, G2: 9}, {G1: 6, G2: 9}, {G1: 6, G2: 20}, {G1: 7, G2: 20}]
    assert script.offered == [("Bearer secret", "att.v1")]
    await stream.aclose()


async def test_presence(script, someone):
    """The frames become states of a group, of a large one only how many; changes of unknown states are passed over."""
    script.parts = [
        sends(
            {"type": "online", "group": G1, "user": "b"},
            {"type": "presence", "group": G1, "users": [{"user": ME, "since": AT}]},
            {"type": "online", "group": G1, "user": "b"},
            {"type": "online", "group": G1, "user": "b"},
            {"type": "offline", "group": G1, "user": ME},
            {"type": "presence", "group": G2, "count": 101},
            {"type": "offline", "group": G2, "user": "b"},
            {"type": "left", "group": G1, "name": "tea", "seq": 1, "user": ME, "at": AT},
        )
    ]
    told = []
    stream = someone.listen(on_presence=told.append)
    await take(stream, 1)
    assert told[0] == Online(G1, 1, {ME: MOMENT})
    assert [(one.group, one.count, one.users and {*one.users}) for one in told[1:]] == [
        (G1, 2, {ME, "b"}),
        (G1, 1, {"b"}),
        (G2, 101, None),
    ]
    assert someone.online == {G2: Online(G2, 101, None)}
    await stream.aclose()


async def test_trusts_the_server(script, someone):
    """What the server sends is given, in the order in which it is sent: it has promised that order, and no other."""
    script.parts = [sends(*(message(seq) for seq in (1, 2, 2, 1)))]
    assert [event.seq for event in await take(someone.listen(), 4)] == [1, 2, 2, 1]


async def test_resume(script, someone):
    """With positions one goes on after them, also in groups that one has left or was added to; without, from now."""
    script.groups = {G1: 4, G2: 9}
    script.parts = [sends(message(5)), sends(message(8))]
    stream = someone.listen()
    await take(stream, 1)
    await stream.aclose()
    await take(someone.listen({G1: 7, G3: 2}), 1)
    assert script.resumes == [{G1: 4, G2: 9}, {G1: 7, G2: 0, G3: 2}]


async def test_resumes_by_itself(script, someone):
    """After a lost connection one goes on after what was taken; a group that has come meanwhile is heard from its
    beginning for us.
    """
    script.groups = {G1: 4}
    script.parts = [sends(message(5), message(6), then=closes(1001)), sends(message(1, G2), message(7))]
    stream = someone.listen()
    assert [event.seq for event in await take(stream, 2)] == [5, 6]
    script.groups = {G1: 6, G2: 1}
    assert [(event.group, event.seq) for event in await take(stream, 2)] == [(G2, 1), (G1, 7)]
    assert script.resumes == [{G1: 4}, {G1: 6, G2: 0}]


async def test_what_was_received_is_not_lost(script, someone):
    """Events that came before the connection was lost are given first, and are not asked for again."""
    script.parts = [sends(*map(message, range(1, 51)), then=closes(4000)), sends(message(51))]
    assert [event.seq for event in await take(someone.listen(), 51)] == [*range(1, 52)]
    assert script.resumes[1] == {G1: 50}


async def test_own_left_is_not_repeated(script, someone):
    """The position in a group that one has left is kept, so that nothing of it is heard twice."""
    left = {"type": "left", "group": G1, "name": "tea", "seq": 5, "user": ME, "at": AT}
    script.parts = [sends(left, then=closes(1001)), sends(message(1, G2))]
    script.groups = {G1: 4}
    stream = someone.listen()
    await take(stream, 1)
    script.groups = {G2: 0}
    await take(stream, 1)
    assert script.resumes[1] == {G1: 5, G2: 0}


async def test_epochs(script, someone):
    """Positions are of the epoch of hello, and of a later one when all that it has lost was told. What is lost is not
    passed over if the connection ends in between.
    """
    script.groups = {G1: 7, G2: 7}
    rewinds = [{"type": "rewind", "group": group, "name": "tea", "to": 4} for group in (G1, G2)]
    script.parts = [
        sends(message(8), then=closes(4001)),
        sends(rewinds[0], message(5), then=closes(1001)),
        sends(*rewinds, {"type": "epoch", "epoch": "second"}, message(5), then=closes(1001)),
        sends(message(6)),
    ]
    stream, script.epoch = someone.listen(), "first"
    await take(stream, 1)
    assert someone.epoch == "first"
    script.epoch = "second"
    assert await take(stream, 1) == [Rewind(G1, "tea", 4)]
    assert (someone.epoch, someone.positions) == ("first", {G1: 4, G2: 7})
    assert [event.seq for event in await take(stream, 5)] == [5, 4, 4, 5, 6]
    assert (someone.epoch, someone.positions) == ("second", {G1: 6, G2: 4})
    assert script.epochs == [None, "first", "first", "second"]
    assert script.resumes[2:] == [{G1: 5, G2: 7}, {G1: 5, G2: 4}]
    await stream.aclose()


@pytest.mark.parametrize(("epoch", "told", "named"), [("", "new", None), ("old", "new", "old"), ("old", "", None)])
async def test_stored_epochs(script, someone, epoch, told, named):
    """The epoch of stored positions is named, unless it was not stored or the server is older than epochs."""
    script.epoch = told
    script.parts = [sends(message(8))]
    await take(someone.listen({G1: 7}, epoch), 1)
    assert script.epochs == [named]
    assert someone.epoch == (epoch or told)


async def test_resume_limit(script, someone, monkeypatch):
    """When there are more groups than the server takes, those come first that one still hears."""
    monkeypatch.setattr(clients, "RESUME_LIMIT", 2)
    script.groups = {G3: 1, G2: 1}
    script.parts = [sends(message(8))]
    await take(someone.listen({G1: 7, G2: 5, G3: 6}), 1)
    assert script.resumes == [{G2: 5, G3: 6}]


# When the connection ends


@pytest.mark.parametrize("code", [1000, 1001, 1009, 1011, 1012, 1013, 4000, 4001, 4499, 5000, None])
async def test_connects_again(script, someone, pauses, code):
    """Whatever does not say otherwise, and a connection that breaks, is made again after a moment."""

    async def breaks(_socket):
        script.transport.abort()

    script.parts = [sends(then=breaks if code is None else closes(code)), sends(message(1))]
    assert [event.seq for event in await take(someone.listen(), 1)] == [1]
    assert pauses == [0.5]


@pytest.mark.parametrize(
    ("code", "reason", "kind", "says"),
    [
        (4500, "session ended", errors.SessionEnded, "The session has ended"),
        (4501, "data: must be an object", errors.ProtocolError, "data: must be an object"),
        (4502, "not you: This belongs to another user.", errors.NotYou, "This belongs to another user."),
        (4502, "forbidden", errors.Forbidden, "You may not do this"),
        (4999, "no more", errors.AttError, "no more"),
    ],
)
async def test_terminal(script, someone, pauses, code, reason, kind, says):
    """What another try cannot mend is raised, after the events that came before."""
    script.parts = [sends(message(1), then=closes(code, reason))]
    stream = someone.listen()
    await take(stream, 1)
    error = await fails(stream)
    assert type(error) is kind
    assert says in error.detail
    assert pauses == []


def test_every_close_code_is_understood():
    """The client does with each of the server's codes what its range says."""
    from att.client.messages import Lost, close_error

    for code in CloseCode:
        assert isinstance(close_error(code, code.reason), errors.AttError) is (code >= 4500)
        assert isinstance(close_error(code, code.reason), Lost) is (code < 4500)


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("server is stopping; retry in 7 s", 7),
        ("server is stopping; retry in 2.5 s", 2.5),
        ("server is stopping; retry in 99999 s", 300),
        ("server is stopping; retry in 7 s or so", 0),
        ("retry", 0),
        ("", 0),
    ],
)
async def test_hint(script, someone, pauses, reason, hint):
    """The server is not asked again before it wants to be, within reason."""
    script.parts = [sends(then=closes(1001, reason)), sends(message(1))]
    await take(someone.listen(), 1)
    assert pauses == [hint + 0.5]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(401, "not signed in"), errors.NotSignedIn),
        (problem(403, "not you"), errors.Forbidden),
        (problem(404, "not found"), errors.NotFound),
        (web.Response(status=200, text="hello"), errors.AttError),
        (web.Response(status=400), errors.AttError),
    ],
)
async def test_refused(script, someone, pauses, answer, kind):
    """A refusal that stays is raised."""
    script.parts = [answer]
    assert type(await fails(someone.listen())) is kind
    assert pauses == []


async def test_not_now(script, someone, pauses):
    """A server that is busy is asked again when it says, and more and more seldom; then it is as if nothing was."""
    wait_a_little = {"Retry-After": "3"}
    script.parts = [
        problem(503, "busy", **wait_a_little),
        problem(429, "too many attempts", **wait_a_little),
        web.Response(status=502),
        sends(message(1)),
    ]
    await take(someone.listen(), 1)
    assert pauses == [3.5, 4, 2]


async def test_not_there(script, someone, pauses, unused_tcp_port, caplog):
    """A server that cannot be reached is tried again, and the log says why."""
    caplog.set_level(logging.WARNING, "att.client.client")
    url, someone._url = someone._url, f"http://127.0.0.1:{unused_tcp_port}"
    stream = someone.listen()
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: len(pauses) >= 3)
    script.parts = [sends(message(1))]
    someone._url = url
    async with asyncio.timeout(PATIENCE):
        assert (await first).seq == 1
    assert pauses[:3] == [0.5, 1, 2]
    why = "connection refused (is it running, and is the URL right?)"
    assert f"the server at http://127.0.0.1:{unused_tcp_port} cannot be reached: {why}; trying again in" in caplog.text


async def test_another_protocol(aiohttp_server):
    """A server that does not know att.v1 is not listened to."""

    async def listen(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await wait(socket)
        return socket

    app = web.Application()
    app.router.add_get("/listen/me", listen)
    server = await aiohttp_server(app)
    async with Client(str(server.make_url("")), token="secret") as client:
        error = await fails(client.listen())
    assert type(error) is errors.ProtocolError
    assert "att.v1" in error.detail


@pytest.mark.parametrize("text", ["nonsense", "[]", "{}", '{"type":1}', '{"type":"message","at":"noon"}'])
async def test_nonsense(script, someone, text):
    """A server that sends what is no frame is not listened to any more; it would send it again."""
    script.parts = [sends(text)]
    assert type(await fails(someone.listen())) is errors.ProtocolError


async def test_half_a_character(script, someone):
    """What is in the log from before it was refused is heard, like what follows it."""
    script.parts = [sends(json.dumps(message(1, data={"a": "\ud800"})), message(2))]
    first, second = await take(someone.listen(), 2)
    assert (first.seq, first.body, first.data) == (1, b'{"a": "\\ud800"}', {"a": "\ud800"})
    assert second.seq == 2


async def test_silence(script, someone, pauses):
    """A server from which nothing comes is asked; when it does not answer, it is given up."""
    script.heartbeat = 0.05
    asked = []

    async def deaf(socket):
        asked.extend([frame.json() async for frame in socket])

    script.parts = [sends(then=deaf), sends(message(1))]
    await take(someone.listen(), 1)
    assert asked == [{"type": "ping"}]
    assert pauses == [0.5]


async def test_pong(script, someone, pauses):
    """A server that answers is not given up, however little it has to say."""
    script.heartbeat = 0.2

    async def answers(socket):
        for _ in range(3):
            assert await socket.receive_json() == {"type": "ping"}
            await socket.send_json({"type": "pong"})
        await socket.send_json(message(1))
        await wait(socket)

    script.parts = [answers]
    assert [event.seq for event in await take(someone.listen(), 1)] == [1]
    assert pauses == []


def test_backoff():
    """The bound doubles up to half a minute, what is waited is anything up to it, and a hint is added."""
    asked = []

    def uniform(low, high):
        asked.append((low, high))
        return high / 4

    backoff = Backoff(uniform)
    assert [backoff.next() for _ in range(3)] == [0.125, 0.25, 0.5]
    for _ in range(5):
        backoff.next()
    assert asked == [(0, bound) for bound in (0.5, 1, 2, 4, 8, 16, 30, 30)]
    assert backoff.next(hint=7) == 14.5
    backoff.reset()
    assert backoff.next() == 0.125
    assert all(0 <= Backoff().next() <= 0.5 for _ in range(100))


@pytest.mark.parametrize(("stable", "expected"), [(-1, [0.5, 0.5, 0.5]), (3600, [0.5, 1, 2])])
async def test_stable(script, someone, pauses, monkeypatch, stable, expected):
    """After a connection that has held for a while one begins anew to be patient, and not before."""
    monkeypatch.setattr(clients, "STABLE", stable)
    script.parts = [sends(then=closes(1001)) for _ in range(3)] + [sends(message(1))]
    await take(someone.listen(), 1)
    assert pauses == expected


async def test_one_at_a_time(script, someone):
    """A client listens once at a time, and again when that is over; leaving it ends its connection."""
    gone = asyncio.Event()

    async def part(socket):
        await sends(message(1))(socket)
        gone.set()

    script.parts = [part, sends(message(2))]
    stream = someone.listen()
    await take(stream, 1)
    assert someone.connected.is_set()
    with pytest.raises(RuntimeError, match="is already listening"):
        await take(someone.listen(), 1)
    await stream.aclose()
    with pytest.raises(TypeError):
        await take(someone.listen([1]), 1)
    assert not someone.connected.is_set()
    async with asyncio.timeout(PATIENCE):
        await gone.wait()
    assert [event.seq for event in await take(someone.listen(), 1)] == [2]


async def test_leaving_the_client(script, pauses):
    """Whoever leaves the client while they listen leaves nothing behind, and hears no more."""
    script.parts = [sends(message(1))]
    async with Client(script.url, token="secret") as client:
        stream = client.listen()
        await take(stream, 1)
    assert [task for task in asyncio.all_tasks() if "Channel" in repr(task)] == []
    with pytest.raises(RuntimeError):
        await take(stream, 1)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "ws://x", "https://x/?a", "https://x/#a"])
def test_no_address(url):
    """What cannot be an address is told at once."""
    with pytest.raises(ValueError, match="is not the URL"):
        Client(url, token="x")


# Broadcasting


def answering(answer):
    """A part that answers the first broadcast: a dict over the id, or by hanging up; what it was is in ``frames``."""

    async def part(socket, script):
        frame = await socket.receive_json()
        script.frames.append(frame)
        if answer is None:
            await socket.close(code=1001)
        else:
            await socket.send_json({"id": frame["id"]} | answer)
            await wait(socket)

    return part


@pytest.fixture
async def listening(script, someone):
    """Begin to listen; the server answers a broadcast so."""
    tasks = []

    async def go(answer):
        async def part(socket):
            await answering(answer)(socket, script)

        async def listen():
            async for _ in someone.listen():
                pass

        script.parts = [part, sends()]
        tasks.append(asyncio.create_task(listen()))
        async with asyncio.timeout(PATIENCE):
            await someone.connected.wait()
        return someone

    yield go
    for task in tasks:
        task.cancel()
        await asyncio.wait([task])


async def test_broadcast_over_http(script, someone):
    """Without a socket it is a request; bytes are sent as they are; the group's name is part of the path."""
    script.answers = [accepted(), accepted(4)]
    assert await someone.broadcast("tea & cake/", b'{ "n": 1.0}', "k1") == Ack(G1, 3, MOMENT)
    assert await someone.broadcast(G1, {"n": "é"}) == Ack(G1, 4, MOMENT)
    [(path, key, body), (other_path, other_key, other_body)] = script.requests
    assert (path, key, body) == ("/broadcast/tea%20&%20cake%2F", "k1", b'{ "n": 1.0}')
    assert (other_path, json.loads(other_body)) == (f"/broadcast/{G1}", {"n": "é"})
    assert len(other_key) == 32


async def test_broadcast_over_the_socket(script, listening):
    """While one listens it goes over the socket."""
    client = await listening({"type": "ack", "group": G1, "seq": 3, "at": AT})
    async with asyncio.timeout(PATIENCE):
        assert await client.broadcast("tea", {"n": 1}, "k1") == Ack(G1, 3, MOMENT)
    assert script.frames == [{"type": "broadcast", "id": 1, "group": "tea", "key": "k1", "data": {"n": 1}}]
    assert script.requests == []


async def test_broadcast_while_an_event_is_dealt_with(script, someone):
    """Also where the next event is not asked for meanwhile, be it that thousands wait."""
    many = [message(seq) for seq in range(1, channels.BUFFER + 10)]

    async def part(socket):
        await sends(*many, then=noop)(socket)
        await answering({"type": "ack", "group": G1, "seq": 3, "at": AT})(socket, script)

    async def noop(_socket):
        pass

    script.parts, script.answers = [part], [accepted()]
    async for _ in someone.listen():
        await until(lambda: not someone._connection.is_responsive)
        async with asyncio.timeout(PATIENCE):
            assert await someone.broadcast("tea", {}) == Ack(G1, 3, MOMENT)
        break
    assert len(script.requests) == 1


async def test_broadcast_in_the_loop(script, someone):
    """An event can be answered by a broadcast right where it is heard."""

    async def part(socket):
        await socket.send_json(message(1))
        await answering({"type": "ack", "group": G1, "seq": 2, "at": AT})(socket, script)

    script.parts = [part]
    async with asyncio.timeout(PATIENCE):
        async for event in someone.listen():
            assert await someone.broadcast(event.group, {"re": event.seq}) == Ack(G1, 2, MOMENT)
            break


async def test_broadcast_in_the_loop_whose_socket_is_lost(script, someone, monkeypatch):
    """That the connection is lost is known at once, also while nobody asks for the next event."""
    monkeypatch.setattr(channels, "ANSWER_TIMEOUT", 10 * PATIENCE)

    async def part(socket):
        await socket.send_json(message(1))
        await answering(None)(socket, script)

    script.parts, script.answers = [part], [accepted()]
    async with asyncio.timeout(PATIENCE):
        async for event in someone.listen():
            assert await someone.broadcast(event.group, {}) == Ack(G1, 3, MOMENT)
            break


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("not a member", errors.NotAMember),
        ("no such group", errors.NoSuchGroup),
        ("not an owner", errors.NotAnOwner),
        ("weather", errors.AttError),
    ],
)
async def test_broadcast_is_refused(script, listening, code, kind):
    """A refusal is an error of its own class, over the socket and over HTTP; one that is not known says its code."""
    client = await listening({"type": "error", "error": code, "detail": "It rains."})
    for _ in range(2):
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(errors.AttError, match="It rains") as caught:
                await client.broadcast("tea", {})
        assert type(caught.value) is kind
        script.answers = [problem(403, code)]
        await client._disconnect()
    assert len(script.requests) == 1


async def test_broadcast_is_tried_again(script, someone, pauses):
    """With the same key, until there is an answer: no connection, no answer, a busy server."""
    script.answers = [None, problem(503, "busy", **{"Retry-After": "2"}), web.Response(status=500), accepted()]
    async with asyncio.timeout(PATIENCE):
        assert await someone.broadcast("tea", {}) == Ack(G1, 3, MOMENT)
    assert len({key for _, key, _ in script.requests}) == 1
    assert pauses == [0.5, 3, 2]


async def test_broadcast_whose_socket_is_lost(script, listening):
    """It goes on over HTTP with the same key: whether the server had it already is the key's business."""
    client = await listening(None)
    script.answers = [accepted()]
    async with asyncio.timeout(PATIENCE):
        assert await client.broadcast("tea", {}) == Ack(G1, 3, MOMENT)
    [frame], [(_, key, _)] = script.frames, script.requests
    assert key == frame["key"]


async def test_broadcast_that_is_not_answered(script, listening, monkeypatch):
    """Nor is an answer waited for without end."""
    monkeypatch.setattr(channels, "ANSWER_TIMEOUT", 0.05)
    client = await listening({"type": "pong"})
    script.answers = [accepted()]
    async with asyncio.timeout(PATIENCE):
        assert await client.broadcast("tea", {}) == Ack(G1, 3, MOMENT)


async def test_broadcast_to_a_busy_socket(script, listening, pauses):
    """What the server cannot do now is tried again in a moment."""
    client = await listening({"type": "error", "error": "busy", "detail": "Later."})
    trying = asyncio.create_task(client.broadcast("tea", {}, "k1"))
    await until(lambda: pauses)
    trying.cancel()
    assert pauses[0] == 1.5


async def test_broadcast_is_given_up(script, someone, monkeypatch):
    """In the end it is told that nobody knows."""
    monkeypatch.setattr(clients, "BROADCAST_TIMEOUT", 0)
    script.answers = [None]
    with pytest.raises(errors.Unavailable, match="may have been lost"):
        await someone.broadcast("tea", {})


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"nonsense", errors.NotJson),
        (b'{"a":"\xff"}', errors.NotJson),
        ({"a": float("nan")}, errors.NotJson),
        ({"a": {1}}, errors.NotJson),
        (b"[]", errors.NotAnObject),
        ([1], errors.NotAnObject),
        ('{"a": 1}', errors.NotAnObject),
    ],
)
async def test_no_object(script, someone, data, kind):
    """What cannot be broadcast is told before anything is sent."""
    with pytest.raises(kind):
        await someone.broadcast("tea", data)
    assert script.requests == []


@pytest.mark.parametrize("changes", [{"group": ""}, {"group": "x" * 300}, {"group": "a\0"}])
async def test_a_bad_broadcast_does_not_cost_the_socket(script, listening, changes):
    """What the server would not understand is not sent over the socket; the next broadcast still goes over it."""
    client = await listening({"type": "ack", "group": G1, "seq": 3, "at": AT})
    with pytest.raises(errors.ProtocolError, match="group"):
        await client.broadcast(**{"data": {}, "group": "tea"} | changes)
    async with asyncio.timeout(PATIENCE):
        await client.broadcast("tea", {})
    assert len(script.frames) == 1


async def test_bad_key(script, someone):
    """Nor is a key that is none."""
    with pytest.raises(ValueError, match="1 to 200 printable"):
        await someone.broadcast("tea", {}, "a\n")
    assert script.requests == []


# Signing in


async def test_log_in(script):
    """A login and a password will do."""
    script.answers = [web.json_response({"user_id": ME, "token": "secret", "expires_at": AT})]
    client = await Client.log_in(script.url, "ann", "hush")
    script.parts = [sends(message(1))]
    async with client:
        await take(client.listen(), 1)
    [(path, _, body)] = script.requests
    assert (path, json.loads(body)) == ("/login", {"login": "ann", "password": "hush"})
    assert script.offered[0][0] == "Bearer secret"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(401, "auth failed"), errors.AuthFailed),
        (problem(429, "too many attempts", **{"Retry-After": "90"}), errors.TooManyAttempts),
        (problem(503, "busy", **{"Retry-After": "1"}), errors.Unavailable),
        (None, errors.Unavailable),
        (web.Response(status=502, text="hello"), errors.Unavailable),
    ],
)
async def test_log_in_is_refused(script, answer, kind):
    """It is tried once, and told how it went."""
    script.answers = [answer]
    with pytest.raises(kind) as caught:
        await Client.log_in(script.url, "ann", "hush")
    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after", 0) in (0, 1, 90)


@pytest.mark.parametrize("is_login", [True, False])
@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ({"text": "hello"}, errors.AttError, "200"),
        ({"text": "{", "content_type": "application/json"}, errors.AttError, "something unreadable"),
        ({"text": '["token"]', "content_type": "application/json"}, errors.AttError, "200"),
        ({"text": '{"access_token": "x"}', "content_type": "application/json"}, errors.AttError, "200"),
        ({"status": 404}, errors.NotFound, "404"),
        ({"status": 404, "text": '{"error": "not found"}', "content_type": "application/json"}, errors.NotFound, "404"),
        ({"status": 405}, errors.AttError, "405"),
        ({"status": 501}, errors.AttError, "501"),
    ],
)
async def test_no_att(script, someone, pauses, answer, kind, says, is_login):
    """Whoever answers as att never does is no att; that is told at once, with where it was, and never the password."""
    script.answers = [web.Response(**answer)]
    url = script.url.replace("://", "://ann:hush@")
    with pytest.raises(errors.AttError) as caught:
        await (Client.log_in(url, "ann", "hush") if is_login else someone.broadcast("tea", {}))
    assert type(caught.value) is kind
    where = f"The server at {script.url} is not att, or not at this path"
    assert caught.value.detail == f"{where} (it answered {says}); check the URL."
    assert pauses == []


async def test_no_tls(script, pauses):
    """What is wrong with it is told in words."""
    async with Client(script.url.replace("http:", "https:"), token="secret") as client:
        error = await fails(client.listen())
    assert error.detail.endswith(": no TLS can be agreed on: wrong version number.")
    assert "No safe connection to the server at https://127.0.0.1:" in error.detail
