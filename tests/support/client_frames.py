"""Frames of a client (RFC 6455), compressed messages in them (RFC 7692), and a socket of which each frame is seen."""

import asyncio
import itertools
import zlib
from typing import Self

from people import Person

from att.protocol.deflate import inflate

FINAL, RSV1 = 0x80, 0x40
TEXT, BINARY, PING = 1, 2, 9
PLAIN, COMPRESSED, CLOSE = 0x81, 0xC1, 0x88  # first bytes of a server's frames
OFFER = "permessage-deflate; client_max_window_bits"
DEADLINE = 5


def deflate(payload: bytes) -> bytes:
    """Compress a message."""
    packer = zlib.compressobj(6, wbits=-15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def frame(first: int, payload: bytes) -> bytes:
    """Build a frame of less than 64 KiB, with a mask that is not zero."""
    size, mask = len(payload), b"\x01\x82\x7f\xf0"
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2)
    masked = bytes(one ^ key for one, key in zip(payload, itertools.cycle(mask), strict=False))
    return bytes([first]) + length + mask + masked


class BareSocket:
    """A listener that offers compression."""

    extension: str | None

    async def open(self, person: Person, *headers: str, offer: str = OFFER) -> Self:
        """Open it with these headers besides."""
        server = person.client.server
        self.reader, self.writer = await asyncio.open_connection(server.host, server.port)
        lines = [
            "GET /listen/me HTTP/1.1",
            "Host: here",
            f"Authorization: Bearer {person.token}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Sec-WebSocket-Extensions: {offer}",
            *headers,
        ]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE)).decode()
        assert head.startswith("HTTP/1.1 101 ")
        found = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-ext")]
        self.extension = found[0] if found else None
        return self

    async def receive(self) -> tuple[int, bytes]:
        """Return the first byte of the next frame, and what is in it."""
        async with asyncio.timeout(DEADLINE):
            first, size = await self.reader.readexactly(2)
            size = int.from_bytes(await self.reader.readexactly(2)) if size == 126 else size
            payload = await self.reader.readexactly(size)
        return first, inflate(payload, 2**20) if first == COMPRESSED else payload
