"""The client and the server together: what is promised, heard by whoever relies on it."""

import asyncio
import json
import os
import sys
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator
from people import PASSWORD
from protocol_schema import SCHEMA

from att import errors
from att.client.client import Client, Gap, Joined, Left, Message, Profile

PATIENCE = 20  # seconds for what should come at once


@pytest.fixture
async def base(client):
    """Where the server is."""
    return str(client.make_url("/"))


async def take(stream, count):
    """The next events of a stream, by a deadline."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(stream) for _ in range(count)]


async def begin(client, positions=None):
    """Listen; what comes from now on is heard. The first event is awaited by the task that is given back."""
    stream = client.listen(positions)
    first = asyncio.ensure_future(anext(stream))
    async with asyncio.timeout(PATIENCE):
        await client.connected.wait()
    return stream, first


@pytest.fixture
async def tea(sign_up):
    """Ann, Ben, and their group; its log has their joinings as 1 and 2."""
    ann, ben = await sign_up("ann"), await sign_up("ben")
    group = (await ann.make_group("tea"))["id"]
    await ann.add("tea", ben)
    return ann, ben, group


async def test_receives(base, tea):
    """A broadcast is heard as it was sent, with its place, its sender and its group."""
    ann, ben, group = tea
    async with Client(base, token=ben.token) as client:
        stream, first = await begin(client)
        response = await ann.request(
            "POST", "/broadcast/tea", data=b'{ "n" :1.0}', headers={"Content-Type": "application/json"}
        )
        answer = await response.json()
        async with asyncio.timeout(PATIENCE):
            event = await first
        assert event[:4] == (group, "tea", 3, str(ann.id))
        assert (event.body, event.data) == (b'{ "n" :1.0}', {"n": 1})
        assert (answer["group"], answer["seq"], answer["delivered"]) == (group, 3, 1)
        assert client.positions == {group: 3}
        await stream.aclose()


async def test_resumes(base, tea):
    """What happens while one is away is heard when one comes back, in order, and before what is new."""
    ann, ben, group = tea
    async with Client(base, token=ben.token) as client:
        _, first = await begin(client)
        await ann.broadcast("tea", {"n": 3})
        async with asyncio.timeout(PATIENCE):
            await first
        positions = dict(client.positions)
    for seq in range(4, 304):  # more than the server reads at once
        await ann.broadcast("tea", {"n": seq})
    async with Client(base, token=ben.token) as client:
        stream = client.listen(positions)
        heard = await take(stream, 300)
        await ann.broadcast("tea", {"n": 304})
        heard += await take(stream, 1)
        assert [(event.group, event.seq, event.data) for event in heard] == [
            (group, seq, {"n": seq}) for seq in range(4, 305)
        ]


async def test_ephemerals(base, tea, sign_up):
    """They come at once, whichever way they are sent; who may not send them is refused either way."""
    ann, ben, group = tea
    heard, has_come = [], asyncio.Event()

    def note(message):
        heard.append(message)
        has_come.set()

    async def next_one():
        async with asyncio.timeout(PATIENCE):
            await has_come.wait()
        has_come.clear()
        return heard.pop()

    cat = await sign_up("cat")
    async with Client(base, token=ben.token) as client, Client(base, token=cat.token) as stranger:
        stream = client.listen(on_ephemeral=note)
        first = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(PATIENCE):
            await client.connected.wait()
        await client.ephemeral("tea", b'{ "n":1.0}')
        message = await next_one()
        assert message == (group, str(ben.id), b'{ "n":1.0}')
        assert message.data == {"n": 1}
        async with Client(base, token=ann.token) as sender:
            await sender.ephemeral(group, {"n": 2})
        assert (await next_one()).sender == str(ann.id)
        with pytest.raises(errors.NotAMember):
            await stranger.ephemeral("tea", {})
        with pytest.raises(errors.NoSuchGroup):
            await client.ephemeral("coffee", {})
        assert not first.done()
        await ann.broadcast("tea", {})
        async with asyncio.timeout(PATIENCE):
            assert (await first).seq == 3
        await stream.aclose()


async def test_who_is_online(base, tea, monkeypatch):
    """The whole state comes first and after each change, and is forgotten with the group or the connection."""
    monkeypatch.setattr("att.realtime.presence._TICK", 0.05)  # so that nobody waits for a second
    monkeypatch.setattr("att.realtime.presence_feed._INTERVAL", 0.05)
    ann, ben, group = tea
    told = asyncio.Queue()

    async def next_state():
        async with asyncio.timeout(PATIENCE):
            online = await told.get()
        assert (online.group, online.count) == (group, len(online.users))
        return {*online.users}

    async with Client(base, token=ben.token) as client, Client(base, token=ann.token) as other:
        stream = client.listen(on_presence=told.put_nowait)
        first = asyncio.ensure_future(anext(stream))
        assert await next_state() == {str(ben.id)}
        _, there = await begin(other)
        assert await next_state() == {str(ann.id), str(ben.id)}
        assert client.online[group].users[str(ann.id)].tzinfo is not None
        assert other.online == {}
        there.cancel()
        assert await next_state() == {str(ben.id)}
        await ann.remove("tea", ben)
        async with asyncio.timeout(PATIENCE):
            assert isinstance(await first, Left)
        assert client.online == {}
        await ann.add("tea", ben)
        assert await next_state() == {str(ben.id)}
        await stream.aclose()
        assert client.online == {}


async def test_chosen_groups(base, tea, sign_up):
    """Only the named groups are heard, also after a loss; one that is not there, or not one's own, is an error."""
    ann, _, group = tea
    coffee = (await ann.make_group("coffee & milk"))["id"]
    await ann.make_group("other")
    await (await sign_up("cat")).make_group("cats")
    async with Client(base, token=ann.token) as client:
        stream = client.listen(groups=["coffee & milk", group])
        first = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(PATIENCE):
            await client.connected.wait()
        for name in ("other", "tea"):
            await ann.broadcast(name, {})
        async with asyncio.timeout(PATIENCE):
            assert (await first).group == group
        await client._disconnect()
        for name in ("other", "coffee & milk"):
            await ann.broadcast(name, {})
        assert [event.group for event in await take(stream, 1)] == [coffee]
        assert {*client.positions} == {group, coffee}
        await stream.aclose()
        for name, error in (("nowhere", errors.NoSuchGroup), ("cats", errors.NotAMember)):
            with pytest.raises(error):
                await take(client.listen(groups=[name]), 1)


async def hear(client, count):
    """So many events."""
    async with asyncio.timeout(60):
        stream = client.listen()
        return [await anext(stream) for _ in range(count)]


async def shout(client, name, count):
    """So many broadcasts, one after the other: their acks."""
    return [await client.broadcast("tea", {"from": name, "n": number}) for number in range(count)]


async def cut(clients):
    """Break connections, one by one, without a word."""
    while True:
        for client in clients:
            await asyncio.sleep(0.02)
            if client._connection is not None:
                client._connection._socket._response.connection.transport.abort()


async def test_every_connection_may_be_lost(base, tea):
    """However often it is, everything is heard once and in order by everybody, and nothing is doubled."""
    ann, ben, group = tea
    count = 150
    async with Client(base, token=ann.token) as one, Client(base, token=ben.token) as other:
        for client in (one, other):
            client._pause = lambda seconds: asyncio.sleep(seconds / 20)
        hearing = [asyncio.create_task(hear(client, 2 * count)) for client in (one, other)]
        async with asyncio.timeout(60):
            await asyncio.gather(one.connected.wait(), other.connected.wait())
            cutter = asyncio.create_task(cut((one, other)))
            acks = await asyncio.gather(shout(one, "ann", count), shout(other, "ben", count))
            cutter.cancel()
            heard = await asyncio.gather(*hearing)
    assert heard[0] == heard[1]
    assert [event.seq for event in heard[0]] == [*range(3, 3 + 2 * count)]
    for name, mine in zip(("ann", "ben"), acks, strict=True):
        said = [event for event in heard[0] if event.data["from"] == name]
        assert [event.data["n"] for event in said] == [*range(count)]
        assert [(ack.group, ack.seq, ack.at) for ack in mine] == [(group, event.seq, event.at) for event in said]


async def test_broadcasts(base, tea):
    """Over the socket and over HTTP, by id and by name, the same key is the same broadcast."""
    _, ben, group = tea
    async with Client(base, token=ben.token) as client:
        by_http = await client.broadcast("tea", {"n": 1}, "k1")
        stream, first = await begin(client, {group: 2})
        async with asyncio.timeout(PATIENCE):
            assert (await first).seq == 3
        assert await client.broadcast(group, {"n": 1}, "k1") == by_http
        later = await client.broadcast("TEA", {"n": 3})
        assert (by_http.seq, later.seq) == (3, 4)
        [event] = await take(stream, 1)
        assert (event.seq, event.data, event.at) == (4, {"n": 3}, later.at)


async def test_refusals(base, tea, sign_up):
    """What is refused is refused alike over the socket and over HTTP, and costs nothing."""
    ann, _, _ = tea
    eve = await sign_up("eve")
    await ann.make_group("secret")
    async with Client(base, token=eve.token) as client:
        for kind, group in [(errors.NotAMember, "tea"), (errors.NoSuchGroup, "coffee")]:
            with pytest.raises(errors.AttError) as by_http:
                await client.broadcast(group, {})
            stream, first = await begin(client)
            with pytest.raises(errors.AttError) as by_socket:
                await client.broadcast(group, {})
            assert type(by_http.value) is type(by_socket.value) is kind
            assert by_http.value.detail == by_socket.value.detail
            assert client.connected.is_set()
            first.cancel()
            await asyncio.wait([first])
            await stream.aclose()


async def test_membership(base, tea):
    """One's own leaving is the last that one hears; who comes back hears nothing of the time between."""
    ann, ben, group = tea
    async with Client(base, token=ben.token) as client:
        stream, first = await begin(client)
        await ann.broadcast("tea", {"n": 3})
        await ann.remove("tea", ben)
        await ann.broadcast("tea", {"not": "for ben"})
        await ann.add("tea", ben)
        await ann.broadcast("tea", {"n": 7})
        async with asyncio.timeout(PATIENCE):
            heard = [await first] + await take(stream, 3)
        told = [(type(event), event.seq) for event in heard]
        assert told == [(Message, 3), (Left, 4), (Joined, 6), (Message, 7)]
        assert heard[1].user == heard[2].user == str(ben.id)
    async with Client(base, token=ben.token) as client:
        heard = await take(client.listen({group: 2}), 4)
        assert [(type(event), event.seq) for event in heard] == told


async def test_added_while_away(base, tea):
    """A group that one was added to meanwhile is heard from one's joining on."""
    ann, ben, group = tea
    async with Client(base, token=ben.token) as client:
        _, first = await begin(client)
        first.cancel()
        await asyncio.wait([first])
        positions = dict(client.positions)
    other = (await ann.make_group("coffee"))["id"]
    await ann.broadcast("coffee", {"not": "for ben"})
    await ann.add("coffee", ben)
    await ann.broadcast("coffee", {"n": 4})
    async with Client(base, token=ben.token) as client:
        joined, message = await take(client.listen(positions), 2)
        assert (joined.group, joined.seq, joined.user) == (other, 3, str(ben.id))
        assert joined.profile == Profile(str(ben.id), "ben", "", "")
        assert (message.group, message.seq, message.data) == (other, 4, {"n": 4})
        assert client.positions == {group: 2, other: 4}


async def test_gap(base, tea, sql):
    """What is no longer kept is told, and what is left follows."""
    ann, ben, group = tea
    for seq in range(3, 8):
        await ann.broadcast("tea", {"n": seq})
    sql("DELETE FROM events WHERE group_id = %s AND seq <= 5", UUID(group))
    async with Client(base, token=ben.token) as client:
        heard = await take(client.listen({group: 2}), 3)
    assert heard[0] == Gap(group, "tea", 3, 5)
    assert [event.seq for event in heard[1:]] == [6, 7]


async def test_session_ends(base, tea):
    """Whoever is logged out is told, and is not let in again."""
    _, ben, _ = tea
    async with Client(base, token=ben.token) as client:
        _, first = await begin(client)
        await ben.request("POST", "/logout")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(errors.SessionEnded):
                await first
        with pytest.raises(errors.NotSignedIn):
            await take(client.listen(), 1)
        with pytest.raises(errors.NotSignedIn):
            await client.broadcast("tea", {})


async def test_log_in(base, tea):
    """A login and a password will do; wrong ones are told."""
    _, _, group = tea
    async with await Client.log_in(base, "ben", PASSWORD) as client:
        assert (await client.broadcast("tea", {})).group == group
    with pytest.raises(errors.AuthFailed):
        await Client.log_in(base, "ben", "wrong horse")


async def test_command(base, tea):
    """From terminal to terminal; each line is a frame of att.v1."""
    ann, ben, group = tea

    async def run(*arguments, token):
        environment = os.environ | {"ATT_URL": base, "ATT_TOKEN": token}
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "att", *arguments, env=environment, stdout=pipe, stderr=pipe
        )

    async with Client(base, token=ann.token) as client:
        await client.broadcast("tea", {"n": 3})
    listening = await run("listen", token=ben.token)
    try:
        sending = asyncio.create_task(_repeat(lambda: run("broadcast", "tea", '{"n": 4}', token=ann.token)))
        async with asyncio.timeout(60):
            frame = json.loads(await listening.stdout.readline())
        sending.cancel()
        await asyncio.wait([sending])
    finally:
        listening.kill()
        await listening.communicate()
    Draft202012Validator({"$ref": "#/$defs/message", "$defs": SCHEMA["$defs"]}).validate(frame)
    assert (frame["group"], frame["name"], frame["data"]) == (group, "tea", {"n": 4})


async def _repeat(start):
    """Run a command again and again: nobody tells when the other one has begun to listen."""
    while True:
        process = await start()
        try:
            await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


async def test_read_markers(base, tea):
    """A marker is moved, and known from hello, from this client and from another one."""
    ann, ben, group = tea
    for number in range(3):
        await ann.broadcast("tea", {"n": number})
    async with Client(base, token=ben.token) as client, Client(base, token=ben.token) as other:
        assert await client.read("tea", 3) == 2
        stream, first = await begin(client)
        assert (client.markers, client.unread) == ({group: 3}, {group: 2})
        assert await other.read(group, 4) == 1
        await ann.broadcast("tea", {"n": 3})
        async with asyncio.timeout(PATIENCE):
            await first  # the marker has come before
        assert client.markers == {group: 4}
        for name, error in (("", errors.NoSuchGroup), ("coffee", errors.NoSuchGroup)):
            with pytest.raises(error):
                await client.read(name, 1)
        await stream.aclose()
