"""Frames as RFC 6455 has them, and the close codes."""

import asyncio
import re
import struct

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given, strategies as st

from att.protocol.frames import PING_FRAME, CloseCode, close_frame, fragment, pong_frame, text_frame

CLOSE_REASON_BYTES = 123  # RFC 6455, section 5.5: 125 for a control frame, less 2 for the code

EXPECTED = {
    CloseCode.GOING_AWAY: (1001, "server is stopping", True),
    CloseCode.RESTART: (1012, "server is restarting", True),
    CloseCode.OVERLOADED: (1013, "server is overloaded", True),
    CloseCode.TOO_SLOW: (4000, "too slow", True),
    CloseCode.RESYNC: (4001, "connect again", True),
    CloseCode.SESSION_ENDED: (4500, "session ended", False),
    CloseCode.PROTOCOL_ERROR: (4501, "protocol error", False),
    CloseCode.FORBIDDEN: (4502, "forbidden", False),
}


def decode(frame):
    """Read one frame by the layout of RFC 6455, section 5.2: final, reserved, opcode, masked, payload and the rest."""
    first, second = frame[0], frame[1]
    length, start = second & 0x7F, 2
    if length == 126:
        [length], start = struct.unpack_from("!H", frame, 2), 4
    elif length == 127:
        [length], start = struct.unpack_from("!Q", frame, 2), 10
    payload, rest = frame[start : start + length], frame[start + length :]
    return bool(first & 0x80), first & 0x70, first & 0x0F, bool(second & 0x80), payload, rest


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (0, "81 00"),
        (1, "81 01"),
        (125, "81 7d"),
        (126, "81 7e 00 7e"),
        (127, "81 7e 00 7f"),
        (65535, "81 7e ff ff"),
        (65536, "81 7f 00 00 00 00 00 01 00 00"),
        (262144, "81 7f 00 00 00 00 00 04 00 00"),
    ],
)
def test_layout(length, header):
    """One final, unmasked text frame, its length in the shortest form, and the payload as it is."""
    payload = b"x" * length
    frame = text_frame(payload)
    assert frame == bytes.fromhex(header) + payload
    assert decode(frame) == (True, 0, 0x1, False, payload, b"")


@given(st.integers(0, 70_000), st.sampled_from([b"x", b"\xc3\xa9"]))
def test_nothing_is_added(length, character):
    """At any length the frame is one whole frame, with nothing after it."""
    payload = character * length
    assert decode(text_frame(payload)) == (True, 0, 0x1, False, payload, b"")


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
async def test_aiohttp_reads_it(length):
    """A reader that is not ours reads the text that was sent, frame after frame from one stream."""
    loop = asyncio.get_running_loop()
    queue = WebSocketDataQueue(BaseProtocol(loop), limit=2**20, loop=loop)
    reader = WebSocketReader(queue, max_msg_size=2**20, compress=False, decode_text=True)
    texts = ["\u00e9" * (length // 2) + "x" * (length % 2), "next"]
    assert reader.feed_data(b"".join(text_frame(text.encode()) for text in texts)) == (False, b"")
    for text in texts:
        async with asyncio.timeout(10):
            message = await queue.read()
        assert (message.type, message.data) == (WSMsgType.TEXT, text)


def test_expected_codes_are_all():
    """Every close code is in the table above."""
    assert set(EXPECTED) == set(CloseCode)


@pytest.mark.parametrize(
    ("code", "value", "reason", "is_to_reconnect"), [(code, *row) for code, row in EXPECTED.items()]
)
def test_close_code(code, value, reason, is_to_reconnect):
    """A close code has a number, a reason, and a range for clients that do not know the code."""
    assert (code, code.value, code.reason) == (value, value, reason)
    assert CloseCode(value) is code
    assert struct.pack("!H", code) == value.to_bytes(2, "big")
    assert (code in (1001, 1012, 1013) or 4000 <= code <= 4499) is is_to_reconnect
    assert (4500 <= code <= 4999) is not is_to_reconnect
    assert 1 <= len(reason.encode()) <= CLOSE_REASON_BYTES


def test_ranges_are_documented():
    """The docstring of the codes gives their ranges."""
    [reconnect, terminal] = re.findall(r"(\d{4} to \d{4}[^:]*): ([^;.]*)", CloseCode.__doc__)
    assert reconnect == ("4000 to 4499, 1001, 1012 and 1013", "reconnect")
    assert terminal == ("4500 to 4999", "do not")


@pytest.mark.parametrize("payload", [b"", b"ping", b"x" * 125])
def test_pong(payload):
    """A pong is final, unmasked and carries what the ping did (RFC 6455, section 5.5.3)."""
    assert pong_frame(payload) == bytes([0x8A, len(payload)]) + payload


def test_ping():
    """A ping is final, unmasked and carries nothing."""
    assert decode(PING_FRAME) == (True, 0, 0x9, False, b"", b"")


@pytest.mark.parametrize(
    ("code", "reason", "payload"), [(4500, b"why", b"\x11\x94why"), (1000, b"", b"\x03\xe8"), (0, b"why", b"")]
)
def test_close_frame(code, reason, payload):
    """A close frame carries its code in network order, and its reason; without a code nothing (section 5.5.1)."""
    assert decode(close_frame(code, reason)) == (True, 0, 0x8, False, payload, b"")


def test_fragments():
    """A text frame, continuations, and a last one, which may be empty (RFC 6455, section 5.4)."""
    assert fragment(b"ab", is_first=True, is_last=False) == b"\x01\x02ab"
    assert fragment(b"c" * 126, is_first=False, is_last=False) == b"\x00\x7e\x00\x7e" + b"c" * 126
    assert fragment(b"", is_first=False, is_last=True) == b"\x80\x00"
