"""One socket on a real connection, without server or hub: keepalive, session and close. Ticks are counted."""

import asyncio
import logging
import socket
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from att.core.memory import MemoryBudget
from att.core.read_turns import ReadTurns
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
    """The part of a ``SessionStore`` that a socket uses. Each answer is given once, the last one always."""

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
    """Records messages; ``fault`` raises an error."""

    def __init__(self):
        self.messages = []
        self.ends = 0

    def on_message(self, message):
        self.messages.append(message.data)
        if message.data == "fault":
            raise RuntimeError("a fault")

    def on_lost(self):
        self.ends += 1


class FakeQuota:
    """Counts its releases."""

    def __init__(self):
        self.left = 0

    def release(self):
        self.left += 1


class Peer:
    """The other end, and the parts of this one."""

    def __init__(self, socket, handler, quota, keepalive, reader, writer):
        self.socket, self.handler, self.quota, self.keepalive = socket, handler, quota, keepalive
        self.reader, self.writer = reader, writer

    async def tick(self, times=1):
        for _ in range(times):
            await self.keepalive.tick()

    def send_frame(self, payload, kind=0x81):
        self.writer.write(bytes((kind, 0x80 | len(payload))) + MASK + payload)

    async def reads(self, frame):
        """Check the next bytes."""
        assert await asyncio.wait_for(self.reader.readexactly(len(frame)), DEADLINE) == frame

    async def reads_the_end(self):
        """Check that the connection is closed, without more bytes."""
        assert await asyncio.wait_for(self.reader.read(), DEADLINE) == b""

    async def was_read(self, count):
        """Wait until so many messages have arrived."""
        await self.until(lambda: len(self.handler.messages) >= count)

    async def until(self, probe):
        async with asyncio.timeout(DEADLINE):
            while not probe():  # noqa: ASYNC110 - the socket announces it to nobody
                await asyncio.sleep(0.001)


@pytest.fixture
async def open_socket():
    """Open a socket under a session, with a store that answers like this."""
    opened = []

    async def go(*answers, listens=True, head=b"", **expires_in):
        ours, theirs = socket.socketpair()
        keepalive, handler, quota = KeepaliveTimer(), RecordingHandler(), FakeQuota()
        closed = []
        store = answers[0] if answers and isinstance(answers[0], Store) else Store(*answers)
        under_test = WebSocketConnection(keepalive, store, 1024**2, MemoryBudget(10**9), ReadTurns())
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: under_test, sock=ours)
        taken = Upgraded(transport, b"", quota, closed.append)
        under_test.head = head
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


@pytest.mark.parametrize("is_short", [False, True])
async def test_the_head_comes_first(open_socket, is_short):
    """Frames that are sent before the socket listens come behind it. If memory is short meanwhile, nothing comes."""
    peer = await open_socket(listens=False, head=b"HEAD")
    peer.socket.send(b"frame")
    if is_short:
        peer.socket.give_up()
    peer.socket.listen(b"")
    peer.socket.send(b"next")
    peer.socket.close(CloseCode.RESTART)
    await (peer.reads_the_end() if is_short else peer.reads(b"HEADframenext"))


# The keepalive


async def test_a_silent_peer(open_socket):
    """It is pinged after 25 s, and cut after half as long again."""
    peer = await open_socket()
    await peer.tick(PING_AFTER - 1)
    assert peer.socket.send(b"still there")
    await peer.tick()
    await peer.reads(b"still there" + PING)
    await peer.tick(GONE_AFTER - PING_AFTER - 1)
    assert peer.socket.send(b"still there")
    await peer.tick()
    await peer.reads(b"still there")
    await peer.reads_the_end()


@pytest.mark.parametrize("kind", [0x8A, 0x81], ids=["pong", "text"])
async def test_a_peer_that_answers_the_ping(open_socket, kind):
    """Any frame is an answer; the next ping is 25 s later."""
    peer = await open_socket()
    for _ in range(3):
        await peer.tick(PING_AFTER + 5)
        await peer.reads(PING)
        before = peer.socket._last_received
        peer.send_frame(b"", kind)
        await peer.until(lambda before=before: peer.socket._last_received > before)


async def test_what_looks_like_a_pong(open_socket):
    """It is one between two frames, also of one message, and not within a frame."""
    peer, pong = await open_socket(), b"\x8a\x80abcd"
    text = "\N{DOES NOT PRECEDE}abcd".encode()
    assert text.endswith(pong)
    frame = b"\x81" + bytes((0x80 | len(text),)) + MASK + text
    for part in (frame[: -len(pong)], pong, b"\x01\x81" + MASK + b"x", pong, b"\x80\x81" + MASK + b"y", pong):
        peer.socket.data_received(part)
    assert peer.handler.messages == [text.decode(), "xy"]


async def test_a_peer_that_sends_is_not_pinged(open_socket):
    """It was received a moment ago."""
    peer = await open_socket()
    for number in range(20):
        await peer.tick(PING_AFTER // 2)
        peer.send_frame(b"I am here")
        await peer.was_read(number + 1)
    peer.send_frame(b"x", 0x89)
    await peer.reads(pong_frame(b"x"))


async def test_a_closing_connection_is_not_pinged(open_socket):
    """It has a deadline of its own."""
    peer = await open_socket()
    peer.socket.close(CloseCode.RESYNC)
    await peer.tick(GONE_AFTER * 3)
    peer.send_frame(b"", 0x88)
    await peer.reads(close_frame(CloseCode.RESYNC, b"connect again"))
    await peer.reads_the_end()


# The session


async def test_a_session_that_lives_on(open_socket):
    """It was used meanwhile: its socket stays, without a lookup before the next expiry."""
    store = Store(session(days=1))
    peer = await open_socket(store, seconds=-1)
    await peer.until(lambda: store.asked)
    await peer.tick(5)
    assert peer.socket.send(b"stays")
    await peer.reads(b"stays")
    assert store.asked == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, CloseCode.SESSION_ENDED),
        (DatabaseUnavailable(), CloseCode.RESYNC),
        (RuntimeError("a fault"), CloseCode.RESYNC),
    ],
)
async def test_a_session_that_has_ended(open_socket, answer, code, caplog):
    """An ended session, or a failed lookup, closes the socket; an unexpected error is logged."""
    with caplog.at_level(logging.ERROR, logger="att"):
        peer = await open_socket(answer, seconds=-1)
        await peer.reads(close_frame(code, code.reason.encode()))
    assert bool(caplog.records) == isinstance(answer, RuntimeError)


async def test_a_session_expires_on_an_open_socket(open_socket):
    """The socket closes a tick or two after the expiry."""
    store = Store(None)
    peer = await open_socket(store, seconds=1)
    await peer.tick()
    assert store.asked == 0
    peer.socket._expires_at -= 1
    await peer.tick(round(1 / TICK))
    await peer.reads(close_frame(CloseCode.SESSION_ENDED, b"session ended"))


async def test_one_lookup_at_a_time(open_socket):
    """A slow store is not called again meanwhile, and its answer counts."""
    store = Store(session(seconds=-1), None)
    store.gate.clear()
    peer = await open_socket(store, seconds=-1)
    await peer.until(lambda: store.asked)
    await peer.tick(10)
    assert store.asked == 1
    store.gate.set()
    await peer.until(peer.socket._renewal.done)
    await peer.tick(2)
    await peer.reads(close_frame(CloseCode.SESSION_ENDED, b"session ended"))
    assert store.asked == 2


async def test_a_lookup_ends_with_its_socket(open_socket):
    """A closed socket cancels it."""
    store = Store(None)
    store.gate.clear()
    peer = await open_socket(store, seconds=-1)
    await peer.until(lambda: store.asked)
    renewal = peer.socket._renewal
    peer.socket.abort()
    await peer.until(renewal.cancelled)


# Messages


async def test_a_handler_that_fails(open_socket, caplog):
    """It closes this socket to reconnect, and is logged; later messages are ignored."""
    peer = await open_socket()
    with caplog.at_level(logging.ERROR, logger="att"):
        for said in (b"one", b"fault", b"two"):
            peer.send_frame(said)
        await peer.reads(close_frame(CloseCode.RESYNC, b"connect again"))
    assert peer.handler.messages == ["one", "fault"]
    assert len(caplog.records) == 1


async def test_messages_after_the_close_are_ignored(open_socket):
    """Only the peer's close frame counts, and ends the connection."""
    peer = await open_socket()
    peer.socket.close(CloseCode.TOO_SLOW)
    peer.send_frame(b"late")
    peer.send_frame(b"late", 0x89)
    peer.send_frame(b"\x10\x00", 0x88)
    await peer.reads(close_frame(CloseCode.TOO_SLOW, b"too slow"))
    await peer.reads_the_end()
    assert peer.handler.messages == []


async def test_the_peer_closes(open_socket):
    """It gets its code back; later messages are ignored, and nothing more is sent."""
    peer = await open_socket()
    peer.send_frame(b"\x0f\xa1bye", 0x88)
    peer.send_frame(b"late")
    await peer.reads(close_frame(4001))
    await peer.reads_the_end()
    assert peer.handler.messages == []
    assert not peer.socket.send(b"late")


def closing(code):
    return b"\x88\x82" + MASK + code.to_bytes(2)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"\xff" * 50, 1002),
        (b"\x81\xfe\xff\xff" + MASK, 1009),
        (b"\x81\x05naked", 1002),
        (b"\x88\x00", 1002),
        *[(closing(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)],
    ],
)
async def test_malformed_frames(open_socket, wrong, code):
    """The peer gets the close code, also when it goes on sending; the connection is not just cut."""
    peer = await open_socket()
    peer.send_frame(b"before")
    peer.writer.write(wrong)
    for _ in range(100):
        peer.writer.write(b"\0" * 10_000)
        await asyncio.sleep(0)
    await peer.reads(close_frame(code))
    await peer.reads_the_end()
    assert peer.handler.messages == ["before"]
    peer.writer.close()
    await peer.until(lambda: peer.handler.ends)


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
async def test_close_codes(open_socket, code):
    """A code that is registered, or meant for programs, comes back."""
    peer = await open_socket()
    peer.writer.write(closing(code))
    await peer.reads(close_frame(code))
    await peer.reads_the_end()


async def test_malformed_frames_after_the_close(open_socket):
    """No second close frame is sent."""
    peer = await open_socket()
    peer.socket.close(CloseCode.RESYNC)
    peer.writer.write(b"\xff" * 50)
    await peer.reads(close_frame(CloseCode.RESYNC, b"connect again"))
    await peer.reads_the_end()


async def test_a_paused_connection_reads_the_close_frame(open_socket):
    """Frames of a closed connection are read up to the close frame."""
    peer = await open_socket()
    peer.socket.pause()
    peer.send_frame(b"late")
    peer.send_frame(b"\x0f\xa1", 0x88)
    peer.socket.close(CloseCode.RESYNC)
    await peer.reads(close_frame(CloseCode.RESYNC, b"connect again"))
    await peer.reads_the_end()
    assert peer.handler.messages == []


async def test_the_close_frame_is_sent_once(open_socket):
    """Whether it is closed before it listens or after."""
    peer = await open_socket(listens=False)
    peer.socket.close(CloseCode.SESSION_ENDED)
    peer.socket.listen(b"")
    peer.send_frame(b"", 0x88)
    await peer.reads(close_frame(CloseCode.SESSION_ENDED, b"session ended"))
    await peer.reads_the_end()


async def test_early_bytes(open_socket):
    """They are handled as soon as the connection listens."""
    peer = await open_socket(listens=False)
    peer.socket.listen(bytes((0x81, 0x85)) + MASK + b"early")
    assert peer.handler.messages == ["early"]
