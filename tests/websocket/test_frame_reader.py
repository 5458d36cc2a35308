"""Reading of frames in limited turns, over a real connection."""

import asyncio
import itertools
import socket

import pytest
from aiohttp import WSMsgType
from aiohttp.http import WebSocketError

from att.websocket import frame_reader
from att.websocket.frame_reader import FrameReader

DEADLINE = 5
PING = b"\x89\x80\0\0\0\0"


def text(payload):
    """A client's text frame; its mask is zero."""
    assert len(payload) < 126
    return bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload


class RecordingReader(FrameReader):
    """A reader that records messages, and pauses after so many."""

    def __init__(self):
        super().__init__(2**20)
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
    heard._start_reading(1_000)
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
    other._start_reading(1_000)
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
    other._start_reading(10)
    other.data_received(b"\xff" * 10)
    half = b"x" * 500
    head = b"\xfe\x01\xf4\0\0\0\0"
    heard.data_received(b"\x01" + head + half + b"\x80" + head + half)
    assert texts(heard) == ["x" * 1_000]
    assert heard.said[0].type is WSMsgType.TEXT
    assert heard.error is None
    assert other.error is not None
