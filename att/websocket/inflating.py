"""Compressed messages of one peer (RFC 7692, section 6), for aiohttp's reader, whose own inflater would keep memory."""

import zlib

from aiohttp import WSCloseCode, WSMessage, WSMsgType
from aiohttp.http import WebSocketError

from att.protocol.deflate import TooLarge, inflate

_FINAL, _RSV1, _CONTROL, _OPCODE = 0x80, 0x40, 0x08, 0x0F  # of a frame (RFC 6455, section 5.2)
_LENGTHS = {126: 2, 127: 8}  # bytes of a longer length, by what stands in its place
_MASK_SIZE = 4
_LONGEST_HEAD = 14
_DATA = (WSMsgType.TEXT, WSMsgType.BINARY)


class Inflater:
    """Finds compressed messages in the parts in which a peer's bytes arrive, and inflates them to ``limit`` bytes.

    aiohttp's reader takes them for binary ones, without RSV1. It refuses RSV1 on all other frames, as it should be.
    """

    __slots__ = ("_ends_message", "_head", "_left", "_limit", "_type")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head = b""  # the beginning of an incomplete head
        self._left = 0  # bytes up to the next head
        self._type = 0  # of the compressed message that has begun, 0 if none has
        self._ends_message = False  # with the end of the frame that has begun

    def split(self, data: bytes, start: int) -> tuple[bytes, int, int]:
        """Return the bytes from ``start`` to the end of the first compressed message, as the reader is to get them.

        Also return where they end, and the type of the message that ends there, 0 if none does.
        """
        end, begin, ended = start, -1, 0
        while end < len(data) and not ended:
            if not self._left:
                head = self._head + data[end : end + _LONGEST_HEAD - len(self._head)]
                if not self._head and not self._type and head[0] & _RSV1 and head[0] & _OPCODE in _DATA:
                    self._type, begin = head[0] & _OPCODE, end
                size, length = _measure(head)
                if size > len(head):
                    self._head, end = head, len(data)
                    break
                end += size - len(self._head)
                self._head, self._left = b"", length
                self._ends_message = bool(self._type) and head[0] & (_FINAL | _CONTROL) == _FINAL
            step = min(self._left, len(data) - end)
            end += step
            self._left -= step
            if not self._left and self._ends_message:
                ended, self._type, self._ends_message = self._type, 0, False
        if begin < 0:
            return data[start:end], end, ended
        first = data[begin] & ~(_RSV1 | _OPCODE) | WSMsgType.BINARY
        return data[start:begin] + bytes((first,)) + data[begin + 1 : end], end, ended

    def inflate(self, message: WSMessage, message_type: int) -> tuple[WSMessage, int]:
        """Return a compressed message inflated, and its bytes. Raise WebSocketError."""
        if message.type is not WSMsgType.BINARY:
            raise WebSocketError(WSCloseCode.PROTOCOL_ERROR, "a message begins within another")
        try:
            payload = inflate(message.data, self._limit)
            data = payload.decode() if message_type == WSMsgType.TEXT else payload
        except TooLarge as error:
            raise WebSocketError(WSCloseCode.MESSAGE_TOO_BIG, "the message is too large when inflated") from error
        except (zlib.error, UnicodeDecodeError) as error:
            raise WebSocketError(WSCloseCode.INVALID_TEXT, "the message cannot be inflated to text") from error
        return WSMessage(WSMsgType(message_type), data, ""), len(payload)


def _measure(head: bytes) -> tuple[int, int]:
    """Return the bytes of the head that begins so, and of its frame's payload: certain if the head is complete."""
    length = head[1] & 0x7F if len(head) > 1 else 0
    start = 2 + _LENGTHS.get(length, 0)
    return start + _MASK_SIZE, int.from_bytes(head[2:start]) if length in _LENGTHS else length
