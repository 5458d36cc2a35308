"""Reading of frames in limited turns, over a real connection."""

import asyncio
import itertools
import socket

import pytest
from aiohttp import WSMsgType
from aiohttp.http import WebSocketError
from hypothesis import given, strategies as st

from att.core.memory import MemoryBudget
from att.core.read_turns import ReadTurns
from att.protocol.frames import CloseCode
from att.websocket import frame_reader
from att.websocket.frame_reader import FrameReader, UnfinishedMessage

DEADLINE = 20
PING = b"\x89\x80\0\0\0\0"


def text(payload):
    """A client's text frame; its mask is zero."""
    assert len(payload) < 126
    return bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload


class RecordingReader(FrameReader):
    """A reader that records messages, and pauses after so many."""

    def __init__(self, memory=None):
        super().__init__(2**20, memory or MemoryBudget(10**9), ReadTurns())
        self.said = []
        self.error = None
        self.hold_after = None
        self.progress = asyncio.Event()

    def _on_message(self, message):
        self.said.append(message)
        self.progress.set()
        if len(self.said) == self.hold_after:
            self.pause()

    def _on_read_error(self, error):
        self.error = error
        self.progress.set()

    async def until(self, probe):
        async with asyncio.timeout(DEADLINE):
            while not probe():
                self.progress.clear()
                await self.progress.wait()


@pytest.fixture
async def connected():
    """An inbox and the peer that speaks to it."""
    here, there = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, heard = await loop.create_connection(RecordingReader, sock=here)
    heard._open(transport)
    heard._start_reading(1_000, "user")
    reader, writer = await asyncio.open_connection(sock=there)
    yield heard, writer
    transport.abort()
    writer.transport.abort()
    del reader


def texts(heard):
    return [message.data for message in heard.said]


async def test_messages_come_in_order_however_they_are_cut(connected):
    """Byte by byte, or many in one piece."""
    heard, peer = connected
    expected = [f"number {number}" for number in range(20)]
    stream = b"".join(text(one.encode()) for one in expected)
    for byte in stream[:100]:
        peer.write(bytes([byte]))
        await peer.drain()
        await asyncio.sleep(0)
    peer.write(stream[100:])
    await heard.until(lambda: len(heard.said) == 20)
    assert texts(heard) == expected


async def test_two_readers_do_not_mix(connected):
    """They put what they find in the same place."""
    heard, _peer = connected
    other = RecordingReader()
    other._start_reading(1_000, "user")
    first, second = text(b"first"), text(b"second")
    heard.data_received(first[:4])
    other.data_received(second[:4])
    heard.data_received(first[4:])
    other.data_received(second[4:])
    assert (texts(heard), texts(other)) == (["first"], ["second"])


async def test_a_turn_ends(connected, monkeypatch):
    """Many bytes of one peer are read in parts, between which the loop runs."""
    monkeypatch.setattr(frame_reader, "TURN", 60)
    heard, _ = connected
    heard.data_received(PING * 100)
    seen = [len(heard.said)]
    while seen[-1] < 100:
        await asyncio.sleep(0)
        seen.append(len(heard.said))
    assert max(after - before for before, after in itertools.pairwise(seen)) == 10
    assert seen[0] == 0
    assert heard._transport.is_reading()


async def test_pause_and_resume(connected, monkeypatch):
    """A pause lets only messages of the same turn through; the rest follows the resume, without repeats."""
    monkeypatch.setattr(frame_reader, "TURN", 100)
    heard, peer = connected
    heard.hold_after = 5
    expected = [f"number {number:04d}" for number in range(3_000)]
    peer.write(b"".join(text(one.encode()) for one in expected))
    await heard.until(lambda: len(heard.said) >= 5)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(heard.said) < 5 + 100 // len(text(b"number 0000")) + 1
    assert not heard._transport.is_reading()
    heard.data_received(b"")  # some transports give what they have after they were asked to pause
    heard.resume()
    await heard.until(lambda: len(heard.said) == 3_000)
    assert texts(heard) == expected
    peer.write(text(b"and on"))
    await heard.until(lambda: len(heard.said) == 3_001)


async def test_bytes_that_come_during_a_pause(connected):
    """Bytes that the transport had already read wait, too."""
    heard, _ = connected
    heard.pause()
    heard.data_received(text(b"late"))
    await asyncio.sleep(0)
    assert heard.said == []
    heard.resume()
    await heard.until(lambda: texts(heard) == ["late"])
    assert heard._transport.is_reading()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"\xff" * 10, 1002),
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"\x81\xfe\x03\xea\0\0\0\0", 1009),
        (b"\x89\xfe\x00\xff\0\0\0\0", 1002),
    ],
)
async def test_nothing_is_read_after_an_error(connected, wrong, code):
    """Messages before it are handled; the error has its code, and the rest is discarded."""
    heard, _ = connected
    heard.data_received(text(b"before") + wrong + text(b"after") * 100)
    heard.data_received(text(b"after"))
    assert texts(heard) == ["before"]
    assert isinstance(heard.error, WebSocketError)
    assert heard.error.code == code


async def test_a_message_of_the_limit(connected):
    """As many bytes as are allowed, in fragments; and the fault in another reader is not ours."""
    heard, _ = connected
    other = RecordingReader()
    other._start_reading(10, "user")
    other.data_received(b"\xff" * 10)
    half = b"x" * 500
    head = b"\xfe\x01\xf4\0\0\0\0"
    heard.data_received(b"\x01" + head + half + b"\x80" + head + half)
    assert texts(heard) == ["x" * 1_000]
    assert heard.said[0].type is WSMsgType.TEXT
    assert heard.error is None
    assert other.error is not None


# Unfinished messages


def frame(size, *, is_final=True, kind=1):
    """A client's frame of this kind."""
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = bytes([0x80 | 126]) + size.to_bytes(2) if size < 2**16 else bytes([0x80 | 127]) + size.to_bytes(8)
    return bytes([0x80 * is_final | kind]) + length + b"\0\0\0\0" + b"x" * size


FRAMES = st.tuples(st.sampled_from(["ping", "part", "end"]), st.sampled_from([0, 1, 125, 126, 300, 70_000]))


@given(st.lists(FRAMES, min_size=1, max_size=8), st.lists(st.sampled_from([1, 2, 5, 100, 69_999]), min_size=1))
def test_bytes_since_a_message_began(frames, cuts):
    """They are counted however the stream is cut; control frames, also between fragments, end no message."""
    stream, began, is_open, expected = b"", 0, False, [0]
    for kind, size in frames:
        data = (
            frame(min(size, 125), kind=9) if kind == "ping" else frame(size, is_final=kind == "end", kind=not is_open)
        )
        expected += range(len(stream) + 1 - began, len(stream) + len(data) + 1 - began)
        stream += data
        if kind != "ping":
            is_open = kind == "part"
        if not is_open:
            expected[-1], began = 0, len(stream)
    unfinished, at = UnfinishedMessage(), 0
    for cut in itertools.cycle(cuts):
        unfinished.feed(stream[at : at + cut])
        at = min(at + cut, len(stream))
        assert unfinished.size == expected[at]
        if at == len(stream):
            break


async def test_an_unfinished_message_counts(connected):
    """With the bytes that are not read yet, until it has ended."""
    heard, _ = connected
    memory = heard._memory
    message = frame(900)
    heard.data_received(message[:500])
    assert memory.used == heard.held == 500
    heard.data_received(message[500:])
    assert memory.used == 0
    assert heard._arrival is None
    heard.pause()
    heard.data_received(message)
    assert memory.used == len(message)
    heard.resume()
    await heard.until(lambda: len(heard.said) == 2)
    assert memory.used == 0


async def test_a_message_must_come_at_a_minimum_pace(connected, monkeypatch):
    """A peer that stalls in the middle is closed; one that is between messages, or must wait for us, is not."""
    monkeypatch.setattr(frame_reader, "PACE_TIME", 0.05)
    heard, _ = connected
    heard.data_received(frame(5) + PING)
    assert heard._arrival is None
    heard.data_received(frame(900)[:500])
    heard.pause()
    heard._check_pace()
    assert heard._close_code is None
    heard.resume()
    await _until(lambda: heard._close_code == CloseCode.TOO_SLOW)
    assert heard._memory.used == 0


async def test_giving_up_an_unfinished_message(connected):
    """The peer is told that the server is overloaded, and nothing more is read."""
    heard, _ = connected
    heard.data_received(frame(900)[:500])
    assert heard.give_up() == "message"
    assert (heard._close_code, heard._memory.used) == (CloseCode.OVERLOADED, 0)
    heard.data_received(frame(5))
    assert not heard.said


async def _until(probe):
    async with asyncio.timeout(DEADLINE):
        while not probe():  # noqa: ASYNC110 - the connection announces it to its peer alone
            await asyncio.sleep(0.001)
