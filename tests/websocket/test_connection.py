"""One socket on a real connection, without server or hub: its keepalive, session and end. Beats are counted."""

import asyncio
import logging
import socket
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from att.errors import DatabaseUnavailable
from att.protocol.frames import CloseCode, close_frame, pong_frame
from att.realtime.registry import Dialect
from att.sessions.store import Session
from att.websocket.connection import HEARTBEAT, WebSocketConnection
from att.websocket.keepalive import TICK, KeepaliveTimer
from att.websocket.upgrade import Upgraded

DEADLINE = 10
PING_AFTER, GONE_AFTER = round(HEARTBEAT / TICK), round(HEARTBEAT * 1.5 / TICK)
SESSION_ID, USER_ID = UUID(int=1), UUID(int=2)
PING, MASK = b"\x89\x00", b"\0\0\0\0"


def session(**expires_in):
    return Session(SESSION_ID, USER_ID, datetime.now(UTC) + timedelta(**expires_in))


class Store:
    """The part of a ``SessionStore`` that a socket asks. Each answer is given once; the last one for ever."""

    def __init__(self, *answers):
        self.answers = [*answers]
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def check(self, session_id):
        assert session_id == SESSION_ID
        self.asked += 1
        await self.gate.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class RecordingHandler:
    """Keeps what it hears; whoever says ``fault`` makes one."""

    def __init__(self):
        self.heard = []
        self.ends = 0

    def on_message(self, message):
        self.heard.append(message.data)
        if message.data == "fault":
            raise RuntimeError("a fault")

    def on_lost(self):
        self.ends += 1


class FakeQuota:
    """Whose connection it is."""

    def __init__(self):
        self.left = 0

    def release(self):
        self.left += 1


class Peer:
    """The other end, and what belongs to this one."""

    def __init__(self, socket, handler, quota, keepalive, reader, writer):
        self.socket, self.handler, self.quota, self.keepalive = socket, handler, quota, keepalive
        self.reader, self.writer = reader, writer

    async def tick(self, times=1):
        for _ in range(times):
            await self.keepalive.tick()

    def say(self, payload, kind=0x81):
        self.writer.write(bytes((kind, 0x80 | len(payload))) + MASK + payload)

    async def hears(self, frame):
        """This comes next."""
        assert await asyncio.wait_for(self.reader.readexactly(len(frame)), DEADLINE) == frame

    async def hears_the_end(self):
        """Nothing comes any more, and the connection is closed."""
        assert await asyncio.wait_for(self.reader.read(), DEADLINE) == b""

    async def was_heard(self, count):
        """What it said has arrived."""
        await self.until(lambda: len(self.handler.heard) >= count)

    async def until(self, probe):
        async with asyncio.timeout(DEADLINE):
            while not probe():  # noqa: ASYNC110 - the socket announces it to nobody
                await asyncio.sleep(0.001)


@pytest.fixture
async def open_socket():
    """Open a socket under a session, with a store that answers like this."""
    opened = []

    async def go(*answers, listens=True, **expires_in):
        ours, theirs = socket.socketpair()
        keepalive, handler, quota = KeepaliveTimer(), RecordingHandler(), FakeQuota()
        closed = []
        store = answers[0] if answers and isinstance(answers[0], Store) else Store(*answers)
        under_test = WebSocketConnection(keepalive, store, 1024**2)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: under_test, sock=ours)
        taken = Upgraded(transport, b"", quota, closed.append)
        under_test.open(taken, session(**(expires_in or {"days": 30})), handler, Dialect.PLAIN)
        if listens:
            under_test.listen(b"")
        peer = Peer(under_test, handler, quota, keepalive, *await asyncio.open_connection(sock=theirs))
        peer.closed = closed
        opened.append(peer)
        return peer

    yield go
    for peer in opened:
        peer.socket.abort()
        peer.writer.transport.abort()
        await peer.until(lambda peer=peer: peer.handler.ends)
        assert (peer.handler.ends, peer.quota.left, len(peer.keepalive), len(peer.closed)) == (1, 1, 0, 1)


# The keepalive


async def test_who_is_silent_is_pinged_and_then_gone(open_socket):
    """After 25 s, and half as long again."""
    peer = await open_socket()
    await peer.tick(PING_AFTER - 1)
    assert peer.socket.send(b"still there")
    await peer.tick()
    await peer.hears(b"still there" + PING)
    await peer.tick(GONE_AFTER - PING_AFTER - 1)
    assert peer.socket.send(b"still there")
    await peer.tick()
    await peer.hears(b"still there")
    await peer.hears_the_end()


@pytest.mark.parametrize("kind", [0x8A, 0x81], ids=["pong", "text"])
async def test_whoever_answers_stays(open_socket, kind):
    """Anything is an answer; the next ping is 25 s after it."""
    peer = await open_socket()
    for _ in range(3):
        await peer.tick(PING_AFTER + 5)
        await peer.hears(PING)
        before = peer.socket._last_received
        peer.say(b"", kind)
        await peer.until(lambda before=before: peer.socket._last_received > before)


async def test_whoever_speaks_is_not_pinged(open_socket):
    """Nobody asks who was heard a moment ago."""
    peer = await open_socket()
    for number in range(20):
        await peer.tick(PING_AFTER // 2)
        peer.say(b"I am here")
        await peer.was_heard(number + 1)
    peer.say(b"x", 0x89)
    await peer.hears(pong_frame(b"x"))


async def test_what_is_closing_is_not_pinged(open_socket):
    """Its time is measured otherwise."""
    peer = await open_socket()
    peer.socket.close(CloseCode.RESYNC)
    await peer.tick(GONE_AFTER * 3)
    peer.say(b"", 0x88)
    await peer.hears(close_frame(CloseCode.RESYNC, b"connect again"))
    await peer.hears_the_end()


# The session


async def test_a_session_that_lives_on(open_socket):
    """It was used meanwhile: its socket stays, and it is not looked up before it expires anew."""
    store = Store(session(days=1))
    peer = await open_socket(store, seconds=-1)
    await peer.until(lambda: store.asked)
    await peer.tick(5)
    assert peer.socket.send(b"stays")
    await peer.hears(b"stays")
    assert store.asked == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, CloseCode.SESSION_ENDED),
        (DatabaseUnavailable(), CloseCode.RESYNC),
        (RuntimeError("a fault"), CloseCode.RESYNC),
    ],
)
async def test_a_session_that_does_not(open_socket, answer, code, caplog):
    """What has ended, or cannot be told, closes the socket; a fault of ours is logged."""
    with caplog.at_level(logging.ERROR, logger="att"):
        peer = await open_socket(answer, seconds=-1)
        await peer.hears(close_frame(code, code.reason.encode()))
    assert bool(caplog.records) == isinstance(answer, RuntimeError)


async def test_a_session_expires_on_an_open_socket(open_socket):
    """Within a beat or two of the moment that was told when it opened, without any other cause."""
    store = Store(None)
    peer = await open_socket(store, seconds=1)
    await peer.tick()
    assert store.asked == 0
    peer.socket._expires_at -= 1
    await peer.tick(round(1 / TICK))
    await peer.hears(close_frame(CloseCode.SESSION_ENDED, b"session ended"))


async def test_it_is_looked_up_once_at_a_time(open_socket):
    """A store that is slow is not asked again meanwhile, and its answer counts."""
    store = Store(session(seconds=-1), None)
    store.gate.clear()
    peer = await open_socket(store, seconds=-1)
    await peer.until(lambda: store.asked)
    await peer.tick(10)
    assert store.asked == 1
    store.gate.set()
    await peer.until(peer.socket._renewal.done)
    await peer.tick(2)
    await peer.hears(close_frame(CloseCode.SESSION_ENDED, b"session ended"))
    assert store.asked == 2


async def test_a_look_up_ends_with_its_socket(open_socket):
    store = Store(None)
    store.gate.clear()
    peer = await open_socket(store, seconds=-1)
    await peer.until(lambda: store.asked)
    renewal = peer.socket._renewal
    peer.socket.abort()
    await peer.until(renewal.cancelled)


# What is said


async def test_a_fault_in_who_hears(open_socket, caplog):
    """It closes this socket, to come back, and is logged; nothing behind it is heard."""
    peer = await open_socket()
    with caplog.at_level(logging.ERROR, logger="att"):
        for said in (b"one", b"fault", b"two"):
            peer.say(said)
        await peer.hears(close_frame(CloseCode.RESYNC, b"connect again"))
    assert peer.handler.heard == ["one", "fault"]
    assert len(caplog.records) == 1


async def test_after_the_close_nothing_is_heard(open_socket):
    """Nor answered; the peer's own close frame ends it."""
    peer = await open_socket()
    peer.socket.close(CloseCode.TOO_SLOW)
    peer.say(b"late")
    peer.say(b"late", 0x89)
    peer.say(b"\x10\x00", 0x88)
    await peer.hears(close_frame(CloseCode.TOO_SLOW, b"too slow"))
    await peer.hears_the_end()
    assert peer.handler.heard == []


async def test_the_peer_closes(open_socket):
    """It gets its code back; what it says behind is not heard, and what is broadcast not sent."""
    peer = await open_socket()
    peer.say(b"\x0f\xa1bye", 0x88)
    peer.say(b"late")
    await peer.hears(close_frame(4001))
    await peer.hears_the_end()
    assert peer.handler.heard == []
    assert not peer.socket.send(b"late")


@pytest.mark.parametrize(("wrong", "code"), [(b"\xff" * 50, 1002), (b"\x81\xfe\xff\xff" + MASK, 1009)])
async def test_what_is_no_websocket(open_socket, wrong, code):
    """The peer is told what was wrong, also when it goes on and on; its connection is not just cut."""
    peer = await open_socket()
    peer.say(b"before")
    peer.writer.write(wrong)
    for _ in range(100):
        peer.writer.write(b"\0" * 10_000)
        await asyncio.sleep(0)
    await peer.hears(close_frame(code))
    await peer.hears_the_end()
    assert peer.handler.heard == ["before"]
    peer.writer.close()
    await peer.until(lambda: peer.handler.ends)


async def test_what_is_no_websocket_after_the_close(open_socket):
    """There is nothing more to say."""
    peer = await open_socket()
    peer.socket.close(CloseCode.RESYNC)
    peer.writer.write(b"\xff" * 50)
    await peer.hears(close_frame(CloseCode.RESYNC, b"connect again"))
    await peer.hears_the_end()


async def test_a_socket_that_is_held_up_sees_the_peer_close(open_socket):
    """Whoever is closed is heard out as far as its close frame."""
    peer = await open_socket()
    peer.socket.pause()
    peer.say(b"late")
    peer.say(b"\x0f\xa1", 0x88)
    peer.socket.close(CloseCode.RESYNC)
    await peer.hears(close_frame(CloseCode.RESYNC, b"connect again"))
    await peer.hears_the_end()
    assert peer.handler.heard == []


async def test_why_is_told_once(open_socket):
    """Whether it is closed before it listens or after."""
    peer = await open_socket(listens=False)
    peer.socket.close(CloseCode.SESSION_ENDED)
    peer.socket.listen(b"")
    peer.say(b"", 0x88)
    await peer.hears(close_frame(CloseCode.SESSION_ENDED, b"session ended"))
    await peer.hears_the_end()


async def test_what_was_said_early(open_socket):
    """Is heard as soon as it listens."""
    peer = await open_socket(listens=False)
    peer.socket.listen(bytes((0x81, 0x85)) + MASK + b"early")
    assert peer.handler.heard == ["early"]
