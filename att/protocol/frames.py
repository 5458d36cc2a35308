"""WebSocket frames as bytes (RFC 6455), and att's close codes."""

import struct
from enum import IntEnum
from typing import Self

_CONTINUATION, _TEXT, _FINAL = 0x00, 0x01, 0x80
_RSV1 = 0x40  # the message is compressed (RFC 7692, section 6)
FINAL_TEXT = _FINAL | _TEXT
FIRST_FRAGMENT, LAST_FRAGMENT = _TEXT, _FINAL | _CONTINUATION  # first bytes of frames
_CLOSE, _PING, _PONG = 0x88, 0x89, 0x8A
_LENGTH_16, _LENGTH_64 = 126, 127
_REGISTERED = frozenset({0, *range(1000, 1004), *range(1007, 1015)})


class CloseCode(IntEnum):
    """Reason of a close. 4000 to 4499, 1001, 1012 and 1013: reconnect; 4500 to 4999: do not."""

    GOING_AWAY = 1001, "server is stopping"
    RESTART = 1012, "server is restarting"
    OVERLOADED = 1013, "server is overloaded"
    TOO_SLOW = 4000, "too slow"
    RESYNC = 4001, "connect again"
    SESSION_ENDED = 4500, "session ended"
    PROTOCOL_ERROR = 4501, "protocol error"
    FORBIDDEN = 4502, "forbidden"

    reason: str

    def __new__(cls, value: int, reason: str) -> Self:
        code = int.__new__(cls, value)
        code._value_ = value
        code.reason = reason
        return code


def text_frame(payload: bytes, *, is_compressed: bool = False) -> bytes:
    """Return an unfragmented, unmasked text frame with ``payload``, which must be UTF-8 (RFC 6455, section 5.2)."""
    length, head = len(payload), FINAL_TEXT | _RSV1 if is_compressed else FINAL_TEXT
    if length < _LENGTH_16:
        header = struct.pack("!BB", head, length)
    elif length < 1 << 16:
        header = struct.pack("!BBH", head, _LENGTH_16, length)
    else:
        header = struct.pack("!BBQ", head, _LENGTH_64, length)
    return header + payload


def fragment(payload: bytes, *, is_first: bool, is_last: bool) -> bytes:
    """Return a part of a fragmented text message (RFC 6455, section 5.4)."""
    head = (_TEXT if is_first else _CONTINUATION) | (_FINAL if is_last else 0)
    return bytes((head,)) + text_frame(payload)[1:]


def payload_of(frame: bytes) -> bytes:
    """Return the payload of an unmasked frame."""
    return frame[{_LENGTH_16: 4, _LENGTH_64: 10}.get(frame[1], 2) :]


def is_close_code(code: int) -> bool:
    """Return True if a close frame may have this code; 0 stands for none (RFC 6455, sections 7.4.1 and 7.4.2)."""
    return code in _REGISTERED or 3000 <= code < 5000


PING_FRAME = bytes((_PING, 0))
PONG_HEAD, PONG_SIZE = bytes((_PONG, 0x80)), 6  # of a client's answer to it, which ends with the mask


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a ping with ``payload``, of at most 125 bytes (RFC 6455, section 5.5.3)."""
    return struct.pack("!BB", _PONG, len(payload)) + payload


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame with a reason of at most 123 bytes, or an empty one if the code is 0 (RFC 6455, 5.5.1)."""
    payload = struct.pack("!H", code) + reason if code else b""
    return struct.pack("!BB", _CLOSE, len(payload)) + payload
