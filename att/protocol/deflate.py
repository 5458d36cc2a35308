"""The extension permessage-deflate (RFC 7692). Each message is compressed by itself, so sockets keep nothing for it."""

import re
import zlib
from collections.abc import Iterable

from att.protocol.frames import text_frame

_NAME = "permessage-deflate"
_WINDOW_BITS = 12  # of our compressor: with 15 a message of 1 KB costs eight times as much, and gets no smaller
_MEMORY_LEVEL = 5
_BITS = frozenset(str(bits) for bits in range(8, 16))
_RESPONSE = f"{_NAME}; server_no_context_takeover; client_no_context_takeover"
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # a token of RFC 9110
_PARAMETER = re.compile(rf'({_WORD})(?:[ \t]*=[ \t]*(?:({_WORD})|"({_WORD})"))?')  # RFC 6455, section 9.1
_TAIL = b"\0\0\xff\xff"  # of a flushed stream, which messages leave out
_STREAMS = 8  # that a message may consist of; nobody sends more than one

SMALLEST = 256  # bytes of a message that is compressed; a smaller one saves less than 100
LARGEST = 256 * 1024  # bytes likewise; a larger one could keep the loop for more than 5 ms
_THOROUGH = 16 * 1024  # bytes up to which the level is 6: with more, letters that repeat much cost it ten times as much


class TooLarge(Exception):
    """A message has more than its limit when it is inflated."""


def negotiate(headers: Iterable[str]) -> str:
    """Return the response to the first offer that can be accepted, given ``Sec-WebSocket-Extensions``; "" if none can.

    A header that is not understood is declined, too.
    """
    response = ""
    for extension in ",".join(headers).split(","):
        name, *texts = [text.strip(" \t") for text in extension.split(";")]
        if not name and not texts:
            continue
        matches = [_PARAMETER.fullmatch(text) for text in texts]
        parameters = [(match[1], match[2] or match[3]) for match in matches if match]
        if len(parameters) < len(texts) or not re.fullmatch(_WORD, name):
            return ""
        if name == _NAME and not response:
            response = _accept(parameters)
    return response


def _accept(parameters: list[tuple[str, str | None]]) -> str:
    """Return the response to an offer with these parameters, "" to decline it (RFC 7692, section 7.1)."""
    offered = dict(parameters)
    if len(offered) < len(parameters):
        return ""
    response = _RESPONSE
    for name, value in parameters:
        if name == "server_max_window_bits" and value in _BITS and int(value) >= _WINDOW_BITS:
            response += f"; {name}={_WINDOW_BITS}"
        elif name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return ""
        elif name != "client_max_window_bits" or (value is not None and value not in _BITS):
            return ""
    return response


def deflated_frame(payload: bytes) -> bytes:
    """Return a text frame, compressed if it is worth it, for clients with which that was negotiated."""
    if SMALLEST <= len(payload) <= LARGEST:
        level = 6 if len(payload) <= _THOROUGH else 1
        compressor = zlib.compressobj(level, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL)
        deflated = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if len(deflated) - len(_TAIL) < len(payload):
            return text_frame(deflated.removesuffix(_TAIL), is_compressed=True)
    return text_frame(payload)


def inflate(deflated: bytes, limit: int) -> bytes:
    """Return the payload of a compressed message. Raise TooLarge, or ``zlib.error``."""
    rest, room, parts = deflated + _TAIL, limit + 1, []
    for _ in range(_STREAMS):
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        parts.append(inflater.decompress(rest, room))
        room -= len(parts[-1])
        if room <= 0:
            raise TooLarge
        rest = inflater.unused_data  # after a block that was the last of its stream (RFC 7692, section 7.2.3.4)
        if not rest:
            return b"".join(parts)
    raise zlib.error("too many streams in one message")
