"""Compressed messages from a peer, as they arrive over a connection."""

import asyncio
import itertools

import pytest
from aiohttp import WSMsgType
from client_frames import BINARY, FINAL, PING, RSV1, TEXT, deflate, frame
from hypothesis import given, strategies as st

from att.core.memory import MemoryBudget
from att.core.read_turns import ReadTurns
from att.websocket import frame_reader
from att.websocket.frame_reader import FrameReader

LIMIT = 200_000
HELLO = bytes.fromhex("f2 48 cd c9 c9 07 00")  # RFC 7692, section 7.2.3.1


class RecordingReader(FrameReader):
    """A reader without a transport that records messages, and pauses if a message says so."""

    def __init__(self):
        super().__init__(2**20, MemoryBudget(10**9), ReadTurns())
        self._start_reading(LIMIT, "user", inflates=True)
        self.said = []
        self.charged = []
        self.error = None

    def _on_message(self, message):
        self.said.append((message.type, message.data))
        self.charged.append(self._memory.used)
        if message.type == TEXT and message.data.startswith("wait"):
            self.pause()

    def _on_read_error(self, error):
        self.error = error.code

    async def until(self, count):
        """Wait for so many messages."""
        async with asyncio.timeout(5):
            while len(self.said) < count:  # noqa: ASYNC110 - turns of the loop are what it waits for
                await asyncio.sleep(0)


@pytest.fixture
async def reader():
    return RecordingReader()


def message(payload, *, sizes=(), kind=TEXT, is_compressed=True):
    """A message in fragments of these sizes and a last one, with a ping after each."""
    data = deflate(payload) if is_compressed else payload
    head = kind | RSV1 * is_compressed
    for size in sizes:
        yield frame(head, data[:size])
        yield frame(FINAL | PING, b"ping")
        head, data = 0, data[size:]
    yield frame(FINAL | head, data)


MESSAGES = st.tuples(
    st.text(max_size=300),
    st.lists(st.sampled_from([0, 1, 5, 100]), max_size=3),
    st.sampled_from([TEXT, BINARY]),
    st.booleans(),
)


@given(st.lists(MESSAGES, min_size=1, max_size=5), st.lists(st.sampled_from([1, 2, 3, 50, 5_000]), min_size=1))
def test_messages_come_as_they_were_sent(messages, cuts):
    """Compressed or not, in fragments, with pings between them, and wherever the stream is cut."""

    async def run():
        reader, stream, at = RecordingReader(), b"", 0
        for text, sizes, kind, is_compressed in messages:
            stream += b"".join(message(text.encode(), sizes=sizes, kind=kind, is_compressed=is_compressed))
        for cut in itertools.cycle(cuts):
            reader.data_received(stream[at : at + cut])
            at += cut
            if at >= len(stream):
                break
        assert reader.error is None
        expected = [(kind, text if kind == TEXT else text.encode()) for text, _, kind, _ in messages]
        assert [one for one in reader.said if one[0] is not WSMsgType.PING] == expected
        assert sum(one[0] is WSMsgType.PING for one in reader.said) == sum(len(sizes) for _, sizes, _, _ in messages)
        assert reader._memory.used == 0

    asyncio.run(run())


BOMB = frame(FINAL | RSV1 | TEXT, deflate(b"a" * (LIMIT + 1)))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (BOMB, 1009),
        (frame(RSV1 | TEXT, deflate(b"a" * 2**24)[:900]) + frame(FINAL, deflate(b"a" * 2**24)[900:]), 1009),
        (frame(FINAL | RSV1 | TEXT, deflate(b"\xff")), 1007),
        (frame(FINAL | RSV1 | TEXT, b"\xff" * 9), 1007),
        (frame(FINAL | RSV1 | TEXT, b"\x03\x00" * 100), 1007),
        (frame(FINAL | TEXT, b"\xff"), 1007),
        (frame(FINAL | RSV1 | PING, b""), 1002),
        (frame(RSV1 | TEXT, HELLO[:3]) + frame(FINAL | RSV1, HELLO[3:]), 1002),
        (frame(TEXT, b"a") + frame(FINAL | RSV1, HELLO), 1002),
        (frame(FINAL | RSV1, HELLO), 1002),
        (frame(FINAL | RSV1 | 0x20 | TEXT, HELLO), 1002),
        (frame(FINAL | RSV1 | 0x10 | TEXT, HELLO), 1002),
        (frame(FINAL | RSV1 | 3, HELLO), 1002),
        (frame(RSV1 | TEXT, HELLO[:3]) + frame(FINAL | TEXT, b"a"), 1002),
        (frame(RSV1 | TEXT, b"") + frame(FINAL | TEXT, b"a"), 1002),
        (frame(RSV1 | TEXT, HELLO[:3]) + frame(FINAL | RSV1 | TEXT, HELLO), 1002),
        (frame(RSV1 | TEXT, b"") + frame(FINAL | RSV1 | TEXT, HELLO), 1002),
        (bytes([FINAL | RSV1 | TEXT, len(HELLO)]) + HELLO, 1002),
        (frame(RSV1 | TEXT, HELLO[:3]) + bytes([FINAL, 4]) + HELLO[3:], 1002),
    ],
)
async def test_what_breaks_the_standard(reader, wrong, code):
    """The message before it is handled, the error has its code, and nothing is read after it."""
    before = frame(FINAL | RSV1 | TEXT, HELLO)
    reader.data_received(before + wrong + before)
    reader.data_received(before)
    assert reader.said == [(TEXT, "Hello")]
    assert reader.error == code
    assert reader._memory.used == 0


async def test_without_negotiation():
    """RSV1 is a violation of the protocol."""
    reader = RecordingReader()
    reader._start_reading(LIMIT, "user")
    reader.data_received(frame(FINAL | RSV1 | TEXT, HELLO))
    assert (reader.said, reader.error) == ([], 1002)


async def test_one_large_message_a_turn(reader, monkeypatch):
    """After an inflated message that is large others have their turn, and the next one is not inflated yet."""
    monkeypatch.setattr(frame_reader, "TURN", 1_000)
    large = frame(FINAL | RSV1 | TEXT, deflate(b"a" * 1_000))
    reader.data_received(large * 20)
    assert len(reader.said) == 1
    assert reader._memory.used == 19 * len(large)
    await reader.until(20)
    assert reader._memory.used == 0
    assert reader.said == [(TEXT, "a" * 1_000)] * 20


async def test_a_message_that_waits_is_charged(reader):
    """While reading is paused, an inflated message counts, and those behind it are not inflated."""
    waiting = frame(FINAL | RSV1 | TEXT, deflate(b"wait" * 1_000))
    reader.data_received(waiting * 3)
    assert len(reader.said) == 1
    assert reader._memory.used == reader.held == 4_000 + 2 * len(waiting)
    for count in (2, 3):
        reader.resume()
        await reader.until(count)
    assert reader._memory.used == 4_000
    reader.resume()
    assert reader._memory.used == 0
    assert reader.charged == [4_000] * 3


async def test_an_inflated_message_may_be_too_much(reader):
    """If the budget is full with it, the peer loses it."""
    reader._memory.limit = 3_000
    reader.data_received(frame(FINAL | RSV1 | TEXT, deflate(b"wait" * 1_000)))
    assert reader._memory.used == 0
    assert reader._reader is None
