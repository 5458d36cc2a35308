"""Open sockets under load and under attack: what listeners receive, and how slow ones are closed."""

import asyncio
import gc
import json
import os
import resource
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest
from aiohttp import WSMsgType
from hashing_costs import CHEAPEST
from people import PASSWORD, Person
from waiting import eventually

from att.api.keys import EVENT_LOG, HUB, SESSIONS
from att.app import create_app
from att.config.settings import Settings
from att.errors import DatabaseUnavailable
from att.protocol.frames import CloseCode, pong_frame, text_frame
from att.realtime.registry import Dialect, Listener
from att.websocket import connection, frame_writer

LISTENERS = BROADCASTS = 250
MANY = 2_000  # messages of 32 kB: more than any kernel keeps for a socket
CLOSE_FRAME = 0x88
TAIL = 12  # bytes: the close frame of a slow listener


class BareListener(asyncio.Protocol):
    """A listener on a bare TCP connection, which compares each byte with what it expects."""

    def __init__(self, expected: bytes, request: bytes) -> None:
        self.expected = expected
        self.request = request
        self.heard = 0
        self.is_true = True
        self.tail = b""
        self.opened = asyncio.get_running_loop().create_future()
        self.lost = asyncio.get_running_loop().create_future()
        self.progress = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            head, _, data = data.partition(b"\r\n\r\n")
            self.opened.set_result(head)
        part = self.expected[self.heard : self.heard + len(data)]
        self.is_true = self.is_true and data.startswith(part)
        self.heard += len(part)
        self.tail = (self.tail + data)[-TAIL:]
        self.progress.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self.progress.set()

    async def has_read(self, count: int) -> None:
        """Wait for that many bytes."""
        async with asyncio.timeout(60):
            while self.heard < count:
                self.progress.clear()
                await self.progress.wait()


@pytest.fixture
async def open_bare(monkeypatch):
    """Open bare listeners of a user. They answer no pings, and so get none."""
    monkeypatch.setattr(connection, "HEARTBEAT", 3_600)
    opened = []

    async def go(person, expected=b"", receive_buffer=None) -> BareListener:
        server = person.client.server
        key = b64encode(os.urandom(16)).decode()
        request = (
            f"GET /listen/{person.id} HTTP/1.1\r\nHost: {server.host}\r\nAuthorization: Bearer {person.token}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n"
        )
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (server.host, server.port))
        _, listener = await loop.create_connection(lambda: BareListener(expected, request.encode()), sock=sock)
        opened.append(listener)
        assert b" 101 " in await asyncio.wait_for(listener.opened, 10)
        return listener

    yield go
    for listener in opened:
        listener.transport.abort()


@pytest.fixture
def many_files():
    """Room for as many sockets as the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def registry(client):
    """The registry of the application under test."""
    return client.app[HUB].registry


@pytest.fixture
def streams(client):
    """Return the groups with listeners."""
    return client.app[HUB]._streams


@pytest.fixture
async def nobody_left(client, registry, streams) -> AsyncIterator[None]:
    """Whatever the test did, when everybody has gone nothing is left of them."""
    yield
    await eventually(lambda: is_empty(registry), 30)
    for index in (registry._users, registry._sessions, streams):
        assert not index


async def has(registry, count) -> bool:
    return len(registry) == count


async def is_empty(registry) -> bool:
    return await has(registry, 0)


def bodies(count, size=100):
    """Distinguishable messages, in bytes that no JSON library writes."""
    return [b'{ "n":%6d, "pad" : "%s" }' % (number, b"x" * size) for number in range(count)]


async def send_all(person, group, messages):
    """Broadcast one after the other; to how many sockets each was written."""
    delivered = []
    for message in messages:
        response = await person.request(
            "POST", f"/broadcast/{group}", data=message, headers={"Content-Type": "application/json"}
        )
        assert response.status == 200, await response.text()
        delivered.append((await response.json())["delivered"])
    return delivered


async def send_until(person, group, messages, listeners):
    """Broadcast until no more than so many are left: how many bytes of frames that was, and the counts on the way."""
    sent, delivered = 0, []
    for message in messages:
        delivered += await send_all(person, group, [message])
        sent += len(text_frame(message))
        if delivered[-1] <= listeners:
            return sent, delivered
    pytest.fail(f"{delivered[-1]} still listen after {sent} bytes")


async def test_many_listeners_and_broadcasts(sign_up, many_files, nobody_left, open_bare):
    """Each receives each one, in order, byte for byte."""
    ann = await sign_up("ann")
    await ann.make_group("all")
    messages = bodies(BROADCASTS)
    expected = b"".join(map(text_frame, messages))
    listeners = [await open_bare(ann, expected) for _ in range(LISTENERS)]
    assert await send_all(ann, "all", messages) == [LISTENERS] * BROADCASTS
    for listener in listeners:
        await listener.has_read(len(expected))
        assert listener.is_true


async def test_a_removed_member_receives_nothing_after_the_response(sign_up, nobody_left, open_bare):
    """They receive all messages before it; the others receive everything."""
    ann, ben = await sign_up("ann"), await sign_up("ben")
    await ann.make_group("tea")
    await ann.add("tea", ben)
    messages = bodies(200)
    before, after = messages[:100], messages[100:]
    heard_by_ben = b"".join(map(text_frame, before))
    heard_by_ann = b"".join(map(text_frame, messages))
    listeners = {person: await open_bare(person, heard_by_ann) for person in (ann, ben)}
    assert await send_all(ann, "tea", before) == [2] * 100
    await ann.remove("tea", ben)
    assert await send_all(ann, "tea", after) == [1] * 100
    await listeners[ann].has_read(len(heard_by_ann))
    await listeners[ben].has_read(len(heard_by_ben))
    assert [listeners[ann].heard, listeners[ben].heard] == [len(heard_by_ann), len(heard_by_ben)]
    for listener in listeners.values():
        assert listener.is_true


async def test_listeners_that_never_read_are_closed_unnoticed(client, sign_up, registry, monkeypatch, open_bare):
    """Ten of thirty stop reading; the rest receive everything, and the ten's memory is freed."""
    monkeypatch.setattr(frame_writer, "_CLOSE_TIMEOUT", 0.2)
    before = _in_memory()  # what a test that has failed left behind
    ann = await sign_up("ann")
    await ann.make_group("all")
    messages = bodies(MANY, 32_000)
    expected = b"".join(map(text_frame, messages))
    readers = [await open_bare(ann, expected) for _ in range(20)]
    sleepers = [await open_bare(ann, expected, receive_buffer=4_096) for _ in range(10)]
    for listener in sleepers:
        listener.transport.pause_reading()
    sent, delivered = await send_until(ann, "all", messages, 20)
    assert delivered == sorted(delivered, reverse=True)
    for listener in readers:
        await listener.has_read(sent)
        assert listener.is_true
    await eventually(lambda: has(registry, 20))
    for listener in sleepers:
        listener.transport.resume_reading()
        await asyncio.wait_for(listener.lost, 10)
        assert listener.heard < sent
    for listener in readers:
        listener.transport.close()
    await eventually(lambda: is_empty(registry))
    await eventually(lambda: _no_others_in_memory(before), 30)


def _in_memory():
    """All sockets and listeners of this process, by their addresses."""
    gc.collect()
    return {
        id(thing): thing for thing in gc.get_objects() if isinstance(thing, connection.WebSocketConnection | Listener)
    }


async def _no_others_in_memory(before) -> bool:
    return not _in_memory().keys() - before.keys()


async def _sign_up(client, login):
    response = await client.post("/signup", json={"login": login, "password": PASSWORD})
    return Person(client, login, await response.json())


async def test_a_slow_reader_gets_the_reason(sign_up, nobody_left, open_bare):
    """If it reads on, the close frame follows what was written before."""
    ann = await sign_up("ann")
    await ann.make_group("all")
    messages = bodies(MANY, 32_000)
    slow = await open_bare(ann, b"".join(map(text_frame, messages)), receive_buffer=200_000)
    slow.transport.pause_reading()
    sent, _ = await send_until(ann, "all", messages, 0)
    whole = sent - len(text_frame(messages[0]))  # the one that was too much was not written
    slow.transport.resume_reading()
    reason = CloseCode.TOO_SLOW.reason.encode()
    close_frame = bytes([CLOSE_FRAME, 2 + len(reason)]) + int(CloseCode.TOO_SLOW).to_bytes(2) + reason
    await slow.has_read(whole + len(close_frame))
    assert slow.heard == whole + len(close_frame)
    assert slow.tail == close_frame


async def test_a_message_of_any_size_reaches_a_listener_that_keeps_up(db_url, aiohttp_client):
    """Also one that is larger than the outbox may grow."""
    client = await aiohttp_client(create_app(Settings(db_url=db_url, hashing=CHEAPEST, outbox_limit=1)))
    ann = await _sign_up(client, "ann")
    await ann.make_group("all")
    async with await ann.listen() as ws:
        for number in range(3):
            assert await ann.broadcast("all", {"n": number, "pad": "x" * 200_000}) == 1
            assert json.loads(await ws.receive_str(timeout=5))["n"] == number


async def test_several_sockets_of_one_user(sign_up, nobody_left):
    """Each receives the message."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    opened = [await ann.listen() for _ in range(3)]
    assert await ann.broadcast("tea", {"n": 1}) == 3
    for ws in opened:
        assert await ws.receive_json(timeout=5) == {"n": 1}
        await ws.close()


async def test_joining_and_leaving_count_at_once_on_open_sockets(sign_up, nobody_left):
    ann, ben = await sign_up("ann"), await sign_up("ben")
    await ann.make_group("tea")
    async with await ben.listen() as ws:
        assert await ann.broadcast("tea", {"n": 1}) == 0
        await ann.add("tea", ben)
        assert await ann.broadcast("tea", {"n": 2}) == 1
        response = await ben.request("DELETE", f"/groups/tea/members/{ben.id}")
        assert response.status == 204
        assert await ann.broadcast("tea", {"n": 3}) == 0
        await ann.add("tea", ben)
        response = await ann.request("DELETE", "/groups/tea")
        assert response.status == 204
        await ann.make_group("tea")
        assert await ann.broadcast("tea", {"n": 4}) == 0
        await ben.make_group("cake")
        assert await ben.broadcast("cake", {"n": 5}) == 1
        assert [await ws.receive_json(timeout=5) for _ in range(2)] == [{"n": 2}, {"n": 5}]


async def test_messages_of_a_plain_listener_are_ignored(sign_up, nobody_left):
    """Text or bytes; it still receives broadcasts."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    async with await ann.listen() as ws:
        await ws.send_str("hello")
        await ws.send_bytes(b"\0" * connection.MESSAGE_LIMITS[Dialect.PLAIN])
        await ws.ping()
        assert await ann.broadcast("tea", {}) == 1
        assert await ws.receive_str(timeout=5) == "{}"


async def test_pings_are_answered(sign_up, nobody_left, open_bare):
    """With what they carried (RFC 6455, section 5.5.2)."""
    listener = await open_bare(await sign_up("ann"), expected=pong_frame(b"tea"))
    mask = b"\0\0\0\0"
    listener.transport.write(b"\x89\x83" + mask + b"tea")
    await listener.has_read(len(listener.expected))
    assert listener.is_true


async def test_a_flood_of_small_messages_leaves_others_their_turn(sign_up, nobody_left, open_bare):
    """They are ignored in bursts, between which the loop runs."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    flood = await open_bare(ann)
    async with await ann.listen() as ws:
        flood.transport.write(b"\x81\x80\0\0\0\0" * 50_000)
        assert await ann.broadcast("tea", {}) == 2
        assert await ws.receive_str(timeout=5) == "{}"


async def test_a_peer_that_pings_and_never_reads_is_closed(sign_up, registry, monkeypatch, open_bare):
    """Pongs wait in the same bounded outbox as everything else."""
    monkeypatch.setattr(frame_writer, "_CLOSE_TIMEOUT", 0.2)
    listener = await open_bare(await sign_up("ann"), receive_buffer=4_096)
    listener.transport.pause_reading()
    ping = b"\x89\xfd" + b"\0\0\0\0" + b"x" * 125
    async with asyncio.timeout(60):
        while len(registry) and not listener.transport.is_closing():
            listener.transport.write(ping * 1_000)
            await asyncio.sleep(0.001)
    assert not len(registry)


async def test_a_listener_that_says_too_much_is_closed(sign_up, nobody_left):
    """With 1009, as RFC 6455 has it for a message that is too big."""
    ann = await sign_up("ann")
    async with await ann.listen() as ws:
        await ws.send_bytes(b"\0" * (connection.MESSAGE_LIMITS[Dialect.PLAIN] + 1))
        message = await ws.receive(timeout=5)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)


@pytest.mark.parametrize("way", ["close", "abort", "garbage"])
async def test_however_a_socket_ends_nothing_is_left_of_it(*, sign_up, registry, nobody_left, open_bare, way):
    ann = await sign_up("ann")
    listener = await open_bare(ann)
    assert len(registry) == 1
    if way == "garbage":
        listener.transport.write(b"\xff" * 100)
    else:
        getattr(listener.transport, way)()


async def test_a_dead_peer_is_gone_after_the_heartbeat(*, sign_up, registry, open_bare, monkeypatch, nobody_left):
    """The bare listener answers no pings."""
    monkeypatch.setattr(connection, "HEARTBEAT", 0.2)
    listener = await open_bare(await sign_up("ann"))
    assert len(registry) == 1
    await asyncio.wait_for(listener.lost, 10)


def test_a_dead_peer_is_gone_within_a_minute():
    """A ping after 25 s, and half of that for the answer."""
    assert connection.HEARTBEAT == 25
    assert connection.HEARTBEAT * 1.5 < 60


async def test_logging_out_closes_the_sessions_sockets(sign_up, client, nobody_left):
    """Those of another session of the user stay."""
    ann = await sign_up("ann")
    response = await client.post("/login", json={"login": "ann", "password": PASSWORD})
    elsewhere = Person(client, "ann", await response.json())
    async with await ann.listen() as ended, await elsewhere.listen() as stays:
        assert (await ann.request("POST", "/logout")).status == 204
        message = await ended.receive(timeout=5)
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4500, "session ended")
        await elsewhere.make_group("tea")
        assert await elsewhere.broadcast("tea", {}) == 1
        assert await stays.receive_str(timeout=5) == "{}"


@pytest.fixture
async def brief(db_url, aiohttp_client):
    """A client of an application whose sessions live for two seconds."""
    settings = Settings(db_url=db_url, hashing=CHEAPEST, session_ttl=timedelta(seconds=2))
    return await aiohttp_client(create_app(settings))


async def test_a_socket_does_not_outlive_its_session(brief):
    """At the session's expiry the socket is closed with SESSION_ENDED."""
    ann = await _sign_up(brief, "ann")
    async with await ann.listen() as ws:
        message = await ws.receive(timeout=10)
        assert (message.type, message.data) == (WSMsgType.CLOSE, CloseCode.SESSION_ENDED)


async def test_a_session_that_was_used_meanwhile_keeps_its_sockets(brief, postgresql, monkeypatch):
    """The expiry that the socket knew of has passed; the session's is later by now."""
    looked = asyncio.Event()
    store = brief.app[SESSIONS]

    async def check(session_id, check=store.check):
        session = await check(session_id)
        if session.expires_at.year > 2100:
            looked.set()
        return session

    monkeypatch.setattr(store, "check", check)
    ann = await _sign_up(brief, "ann")
    await ann.make_group("tea")
    async with await ann.listen() as ws:
        postgresql.execute("UPDATE sessions SET expires_at = '2200-01-01'")
        postgresql.commit()
        await asyncio.wait_for(looked.wait(), 10)
        assert await ann.broadcast("tea", {}) == 1
        assert await ws.receive_str(timeout=5) == "{}"


async def test_a_session_that_cannot_be_looked_up(brief, monkeypatch):
    """Its socket is closed, to reconnect when the database is back."""
    ann = await _sign_up(brief, "ann")
    async with await ann.listen() as ws:

        async def check(_session_id):
            raise DatabaseUnavailable

        monkeypatch.setattr(brief.app[SESSIONS], "check", check)
        message = await ws.receive(timeout=10)
        assert (message.type, message.data) == (WSMsgType.CLOSE, CloseCode.RESYNC)


async def test_a_session_that_ends_while_its_socket_opens(sign_up, client, monkeypatch, nobody_left):
    """Between the check of the token and the open socket: it is not left listening."""
    ann = await sign_up("ann")
    log = client.app[EVENT_LOG]

    async def log_out_first(user_id, read=log.positions, **options):
        assert (await ann.request("POST", "/logout")).status == 204
        return await read(user_id, **options)

    monkeypatch.setattr(log, "positions", log_out_first)
    ws = await ann.listen()
    message = await ws.receive(timeout=5)
    assert (message.type, message.data) == (WSMsgType.CLOSE, CloseCode.SESSION_ENDED)


@pytest.mark.parametrize("gone", ["left", "dropped"])
async def test_a_membership_that_ends_while_a_socket_opens(sign_up, client, monkeypatch, nobody_left, gone):
    """Positions read before the removal count as older: later messages are not received."""
    ann, ben = await sign_up("ann"), await sign_up("ben")
    group = await ann.make_group("tea")
    await ann.add("tea", ben)
    log = client.app[EVENT_LOG]

    async def change_after_read(user_id, read=log.positions, **options):
        found = await read(user_id, **options)
        path = f"/groups/{group['id']}" + (f"/members/{ben.id}" if gone == "left" else "")
        assert (await ann.request("DELETE", path)).status == 204
        return found

    monkeypatch.setattr(log, "positions", change_after_read)
    async with await ben.listen() as ws:
        if gone == "left":
            await ann.broadcast("tea", {"after": "ben has left"})
        await ben.make_group("cake")
        await ben.broadcast("cake", {"n": 1})
        assert await ws.receive_json(timeout=5) == {"n": 1}


async def test_no_socket_is_opened_while_the_server_stops(sign_up, client):
    ann = await sign_up("ann")
    client.app[HUB].stop_admitting()
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await ann.listen()
    assert refused.value.status == 503
