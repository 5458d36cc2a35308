"""Writing of frames: in one order whichever way they take, over TCP, a unix socket and TLS."""

import asyncio
import contextlib
import gc
import socket
import ssl
from pathlib import Path

import pytest

from att.core.memory import OVERHEAD, MemoryBudget
from att.protocol.frames import CloseCode, close_frame
from att.realtime.registry import Recipients
from att.websocket import frame_writer
from att.websocket.frame_writer import FrameWriter, SharedSocket, send_to_all

CERTIFICATES = Path(__file__).parents[1] / "certificates"
DEADLINE = 20
LIMIT = 1024**2
LARGE = b"L" * 4 * 1024**2  # more than any kernel keeps for a socket
WAYS = ["tcp", "unix", "tls"]
ALL = slice(0, 500)


class Out(FrameWriter):
    """Opens with its connection."""

    def __init__(self, limit, memory):
        super().__init__(limit, memory)
        self.opened, self.lost = asyncio.Event(), asyncio.Event()

    def connection_made(self, transport):
        self._open(transport)
        self.opened.set()

    def connection_lost(self, error):
        super().connection_lost(error)
        self.lost.set()

    @property
    def is_direct(self):
        """Return True if the next frame bypasses the transport."""
        return self._active_socket is not None


class Peer(asyncio.Protocol):
    """Records what it reads, while it reads."""

    def __init__(self):
        self.heard = bytearray()
        self.progress, self.lost = asyncio.Event(), asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.heard += data
        self.progress.set()

    def connection_lost(self, _error):
        self.lost.set()
        self.progress.set()

    async def has_read(self, count):
        """Wait for this many bytes, and no more."""
        async with asyncio.timeout(DEADLINE):
            while len(self.heard) < count and not self.lost.is_set():
                self.progress.clear()
                await self.progress.wait()
        return bytes(self.heard)


@contextlib.asynccontextmanager
async def pair(way, limit=LIMIT, memory=None):
    """An outbox that is open, and its peer, which does not read yet."""
    loop = asyncio.get_running_loop()
    out, here, there = Out(limit, memory or MemoryBudget(10**9)), {}, {}
    if way == "tls":
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(CERTIFICATES / "one.pem", CERTIFICATES / "one.key")
        here = {"ssl": server}
        there = {"ssl": ssl.create_default_context(cafile=CERTIFICATES / "ca.pem"), "server_hostname": "localhost"}
    if way == "unix":
        ours, theirs = socket.socketpair()
        _, peer = await loop.create_connection(Peer, sock=theirs)
        await loop.connect_accepted_socket(lambda: out, ours)
    else:
        listener = await loop.create_server(lambda: out, "127.0.0.1", 0, **here)
        port = listener.sockets[0].getsockname()[1]
        _, peer = await loop.create_connection(Peer, "127.0.0.1", port, **there)
        listener.close()
    await asyncio.wait_for(out.opened.wait(), DEADLINE)
    peer.transport.pause_reading()
    try:
        yield out, peer
    finally:
        out.abort()
        peer.transport.abort()
        await asyncio.wait_for(out.lost.wait(), DEADLINE)


def numbered(count, size=100):
    """Return distinguishable frames."""
    return [b"%08d" % number + b"x" * size for number in range(count)]


@pytest.mark.parametrize("way", WAYS)
async def test_order(way):
    """Frames arrive whole and in the order in which they were written, while the peer reads, stops, and reads again."""
    async with pair(way, limit=10**9) as (out, peer):
        expected, directly = bytearray(), set()
        frames = iter(numbered(30_000, size=700))
        for part in range(30):
            (peer.transport.pause_reading if part % 3 else peer.transport.resume_reading)()
            for number in range(1_000):
                frame = next(frames)
                directly.add(out.is_direct)
                if number % 7 == 3:
                    out.replay(frame)
                else:
                    assert out.send(frame)
                expected += frame
            await asyncio.sleep(0)
        peer.transport.resume_reading()
        assert await peer.has_read(len(expected)) == expected
        assert directly == ({False} if way == "tls" else {True, False})


@pytest.mark.parametrize("way", WAYS)
async def test_a_frame_that_is_taken_in_parts(way):
    """The rest of a frame waits for the kernel; above the limit the connection is closed behind it."""
    async with pair(way) as (out, peer):
        for taken in range(5):  # noqa: B007 - how many were taken
            if not out.send(LARGE):
                break
            assert not out.is_direct
        # What is encrypted already is the kernel's as far as we can see, and how much that is depends on the machine.
        assert taken in ({1, 2, 3} if way == "tls" else {1})
        peer.transport.resume_reading()
        expected = taken * LARGE + close_frame(CloseCode.TOO_SLOW, b"too slow")
        assert await peer.has_read(len(expected)) == expected


@pytest.mark.parametrize("way", WAYS)
async def test_a_frame_that_may_be_dropped(way):
    """It is sent in its order while little waits, and dropped while much does; that closes nothing."""
    async with pair(way) as (out, peer):
        assert out.send_if_room(b"a")
        assert out.send(LARGE)
        for _ in range(3):
            assert not out.send_if_room(b"dropped")
        peer.transport.resume_reading()
        await peer.has_read(1 + len(LARGE))
        await _until(lambda: not out._is_full)
        assert out.send_if_room(b"b")
        expected = b"a" + LARGE + b"b"
        assert await peer.has_read(len(expected)) == expected
        out.close(CloseCode.RESYNC)
        assert not out.send_if_room(b"after")


@pytest.mark.parametrize("way", WAYS)
async def test_back_to_the_direct_way(way):
    """When nothing waits any more."""
    async with pair(way, limit=10**9) as (out, peer):
        frames = [b"a", LARGE, b"b", LARGE, b"c"]
        for frame in frames:
            assert out.send(frame)
        peer.transport.resume_reading()
        expected = b"".join(frames)
        assert await peer.has_read(len(expected)) == expected
        await _until(lambda: out.is_direct == (way != "tls"))
        assert out.send(b"d")
        assert await peer.has_read(len(expected) + 1) == expected + b"d"


@pytest.mark.parametrize("way", WAYS)
async def test_what_waits(way):
    """Waiting frames stay out of a full transport, and count; the close frame follows them."""
    async with pair(way, limit=10**9) as (out, peer):
        for _ in range(1_000):
            if out._waiting is not None:
                break
            assert out.send(LARGE[:100_000])
        held, before = out._transport.get_write_buffer_size(), out._pending
        for frame in (frames := numbered(1_000)):
            assert out.send(frame)
        assert out._transport.get_write_buffer_size() == held
        assert out._pending == before + sum(map(len, frames))
        out.close(CloseCode.RESYNC, b"why")
        peer.transport.resume_reading()
        end = b"".join(frames) + close_frame(CloseCode.RESYNC, b"why")
        await _until(lambda: peer.heard.endswith(end))
        assert len(peer.heard) == peer.heard.count(b"L") + len(end)


@pytest.mark.parametrize("way", WAYS)
async def test_a_frame_of_any_size_waits_once(way):
    """All outboxes share it: a transport, which may copy what it gets, has a small part of it at a time."""
    memory = MemoryBudget(10**9)
    copies = frame_writer.PART if way == "tls" else 0
    async with pair(way, memory=memory) as (one, peer), pair(way, memory=memory) as (other, _):
        for out in (one, other):
            assert out.send(LARGE)
            await _until(lambda out=out: out._is_full)
            assert 0 < out._transport.get_write_buffer_size() <= 2 * frame_writer.PART
            assert [*out._waiting] == [LARGE]
            assert out._waiting[0] is LARGE
        assert memory.used == len(LARGE) + OVERHEAD + 2 * copies
        peer.transport.resume_reading()
        assert await peer.has_read(len(LARGE)) == LARGE
        await _until(lambda: not one.held)
        assert memory.used == len(LARGE) + OVERHEAD + copies
    assert memory.used == 0


@pytest.mark.parametrize("way", WAYS)
async def test_giving_up_what_waits(way):
    """In the middle of a frame the connection is cut; behind a whole one it is closed as too slow."""
    memory = MemoryBudget(10**9)
    async with pair(way, memory=memory) as (out, peer):
        out.send(LARGE)
        await _until(lambda: out._is_full)
        assert out.give_up() == "outbox"
        await asyncio.wait_for(out.lost.wait(), DEADLINE)
        assert memory.used == 0
    async with pair(way, memory=memory) as (out, peer):
        assert out.give_up() == "outbox"
        peer.transport.resume_reading()
        expected = close_frame(CloseCode.TOO_SLOW, b"too slow")
        assert await peer.has_read(len(expected)) == expected


async def test_a_full_budget_closes_the_slowest():
    """The peer that has not read for longest loses what waits for it, and the frame is sent to the others."""
    memory = MemoryBudget(len(LARGE) * 3 // 2)
    async with pair("tcp", memory=memory) as (slow, _), pair("tcp", memory=memory) as (fast, peer):
        assert slow.send(LARGE)
        peer.transport.resume_reading()
        assert fast.send(other := LARGE[:-1] + b"!")
        await asyncio.wait_for(slow.lost.wait(), DEADLINE)
        assert await peer.has_read(len(other)) == other
        assert memory.given_up.labels("outbox")._value.get() == 1


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_frames_that_wait_for_a_half_closed_peer(way):
    """A peer that has ended its side may still read everything."""
    async with pair(way, limit=10**9) as (out, peer):
        frames = [LARGE, *numbered(1_000)]
        for frame in frames:
            assert out.send(frame)
        peer.transport.write_eof()
        await _until(lambda: out._transport is None or out._transport.is_closing())
        peer.transport.resume_reading()
        expected = b"".join(frames)
        assert await peer.has_read(len(expected)) == expected


async def test_not_before_data_of_the_transport():
    """Data that the transport had before goes first."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    _, peer = await loop.create_connection(Peer, sock=theirs)
    peer.transport.pause_reading()
    transport.write(LARGE)
    out = Out(10**9, MemoryBudget(10**9))
    transport.set_protocol(out)
    out._open(transport)
    assert not out.is_direct
    assert out.send(b"after")
    peer.transport.resume_reading()
    assert await peer.has_read(len(LARGE) + 5) == LARGE + b"after"
    transport.abort()
    peer.transport.abort()
    await asyncio.wait_for(out.lost.wait(), DEADLINE)


@pytest.mark.parametrize("way", WAYS)
async def test_a_peer_that_has_gone(way):
    """Writing to a peer that is gone raises nothing; the connection is lost, and frames are refused."""
    async with pair(way) as (out, peer):
        if way == "tcp":
            linger = b"\1\0\0\0\0\0\0\0"  # for no time: it is reset
            peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.transport.abort()
        async with asyncio.timeout(DEADLINE):
            while not out.lost.is_set():
                out.send(b"hello?")
                await asyncio.sleep(0)
        assert not out.is_direct
        assert not out.send(b"hello?")
        out.replay(b"hello?")
        out.close(CloseCode.RESYNC)
        out.abort()


@pytest.mark.parametrize("way", WAYS)
async def test_a_half_closed_peer(way):
    """The transport closes after the peer's end; no frame bypasses it then."""
    async with pair(way) as (out, peer):
        out.send(LARGE)
        if peer.transport.can_write_eof():
            peer.transport.write_eof()
        else:
            peer.transport.close()
        peer.transport.resume_reading()
        await asyncio.wait_for(out.lost.wait(), DEADLINE)
        assert not out.send(b"after")


async def test_nothing_after_the_close_frame():
    """The close frame is sent once, as the last."""
    async with pair("tcp") as (out, peer):
        out.send(LARGE)
        out.close(CloseCode.RESYNC, b"why")
        out.close(CloseCode.TOO_SLOW)
        assert not out.send(b"after")
        out.replay(b"after")
        peer.transport.resume_reading()
        expected = LARGE + close_frame(CloseCode.RESYNC, b"why")
        assert await peer.has_read(len(expected)) == expected
        await asyncio.sleep(0)
        assert not out.is_direct
        assert not out.send(b"after")
        peer.transport.close()
        await asyncio.wait_for(out.lost.wait(), DEADLINE)
        assert bytes(peer.heard) == expected


async def test_closed_while_nothing_waits():
    """Then nothing is sent past the transport either."""
    async with pair("tcp") as (out, peer):
        assert out.is_direct
        out.close(CloseCode.SESSION_ENDED)
        assert not out.send(b"after")
        peer.transport.resume_reading()
        expected = close_frame(CloseCode.SESSION_ENDED, b"session ended")
        assert await peer.has_read(len(expected)) == expected


async def test_a_peer_that_does_not_read_its_close_frame(monkeypatch):
    """It is cut off, and its pending data dropped."""
    monkeypatch.setattr(frame_writer, "_CLOSE_TIMEOUT", 0.05)
    async with pair("tcp") as (out, _):
        out.send(LARGE)
        out.close(CloseCode.RESYNC)
        await asyncio.wait_for(out.lost.wait(), DEADLINE)


async def test_drained(monkeypatch):
    """It returns when most data is written, and closes a peer that takes none."""
    async with pair("tcp") as (out, peer):
        await out.drained()
        out.send(LARGE)
        waiting = asyncio.create_task(out.drained())
        await asyncio.sleep(0)
        assert not waiting.done()
        peer.transport.resume_reading()
        await asyncio.wait_for(waiting, DEADLINE)
        assert out._pending <= LIMIT // 4
        peer.transport.pause_reading()
        monkeypatch.setattr(frame_writer, "DRAIN_TIMEOUT", 0.05)
        while out._pending <= LIMIT // 4:  # what the buffers of the system take differs
            assert out.send(LARGE)
        await asyncio.wait_for(out.drained(), DEADLINE)
        assert not out.send(b"after")


def test_a_shared_socket_closes_nothing():
    """The descriptor belongs to the transport, and may have been reused."""
    ours, theirs = socket.socketpair()
    plug = SharedSocket(ours.family, ours.type, ours.proto, ours.fileno())
    assert plug.send(b"a") == 1
    del plug
    gc.collect()
    assert ours.send(b"b") == 1
    assert theirs.recv(10) == b"ab"
    ours.close()
    theirs.close()


async def test_before_it_is_open():
    """Frames are refused; a close is sent when the connection opens."""
    out = FrameWriter(LIMIT, MemoryBudget(10**9))
    assert not out.send(b"early")
    out.replay(b"early")
    out.abort()
    out.close(CloseCode.SESSION_ENDED)
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    _, peer = await loop.create_connection(Peer, sock=theirs)
    transport.set_protocol(out)
    out._open(transport)
    assert not out.send(b"early")
    out._send_close()
    expected = close_frame(CloseCode.SESSION_ENDED, b"session ended")
    assert await peer.has_read(len(expected)) == expected
    transport.abort()
    peer.transport.abort()


async def _until(probe):
    async with asyncio.timeout(DEADLINE):
        while not probe():  # noqa: ASYNC110 - the transport announces it to its protocol alone
            await asyncio.sleep(0.001)


async def test_many_at_once():
    """Each gets a frame as by itself: one that reads, one that is slow, one over TLS, and one that is closing."""
    limit = 2 * len(LARGE)
    async with (
        pair("tcp", limit) as (one, reader),
        pair("unix", limit) as (slow, late),
        pair("tls", limit) as (tls, secret),
        pair("tcp") as (closing, gone),
    ):
        closing.close(CloseCode.RESYNC)
        writers = Recipients([one, slow, tls, closing])
        assert send_to_all(writers, b"1", ALL) == 3
        assert send_to_all(writers, LARGE, ALL) == 3
        assert not slow.is_direct
        assert send_to_all(writers, b"3", ALL) == 3
        for peer in (reader, late, secret):
            peer.transport.resume_reading()
            assert await peer.has_read(len(LARGE) + 2) == b"1" + LARGE + b"3"
        gone.transport.abort()


async def test_many_at_once_of_whom_one_has_gone():
    """An error of one socket is that of its transport, and the others get the frame."""
    async with pair("tcp") as (one, _), pair("tcp") as (two, reader):
        one._active_socket.shutdown(socket.SHUT_WR)
        assert send_to_all(Recipients([one, two]), b"1", ALL) == 2
        reader.transport.resume_reading()
        assert await reader.has_read(1) == b"1"
        await asyncio.wait_for(one.lost.wait(), DEADLINE)


async def test_a_part_of_many():
    """A frame goes to those in the part, also after a socket in another part has changed, or is not used any more."""
    async with contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(pair("tcp")) for _ in range(4)]
        audience = Recipients(out for out, _ in pairs)
        for _, peer in pairs:
            peer.transport.resume_reading()
        assert [send_to_all(audience, b"1", slice(*ends)) for ends in ((0, 2), (2, 9))] == [2, 2]
        kept = audience[1]._active_socket
        audience[1].close(CloseCode.RESYNC)
        stack.callback(kept.detach)
        assert [send_to_all(audience, b"2", slice(*ends)) for ends in ((0, 2), (2, 9))] == [1, 2]
        for number, (_, peer) in enumerate(pairs):
            expected = b"1" + (close_frame(CloseCode.RESYNC, b"connect again") if number == 1 else b"2")
            assert await peer.has_read(len(expected)) == expected
