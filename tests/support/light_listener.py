"""A cheap att.v1 client, so that a test can have thousands. It reconnects as the server asks."""

import asyncio
import json
import re
import struct
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from os import urandom
from random import uniform
from typing import NamedTuple
from uuid import UUID

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
RETRY = re.compile(r"; retry in ([0-9]+(?:\.[0-9]+)?) s$")
TIMEOUT = 20.0  # seconds for whatever is waited for but events


class Ending(NamedTuple):
    """End of a socket: the code of its close frame, if any, and the time after which to come back."""

    code: int | None
    hint: float | None


def frame(kind: int, payload: bytes) -> bytes:
    """A client's frame (RFC 6455) of less than 64 KiB. Its mask is zero, which is as good as any for the server."""
    size = len(payload)
    head = struct.pack("!BB", kind, 0x80 | size) if size < 126 else struct.pack("!BBH", kind, 0x80 | 126, size)
    return head + b"\0\0\0\0" + payload


class Listener:
    """A listener to one group, which resumes after a reconnect.

    ``seqs`` are those of the received events, in order; ``endings`` count the ends of sockets; ``refusals`` are
    responses instead of a socket.
    """

    def __init__(self, port: int, address: str, token: str, group_id: UUID) -> None:
        self.seqs: list[int] = []
        self.endings: Counter[Ending] = Counter()
        self.refusals: list[str] = []
        self.is_connected = False
        self.base: int | None = None  # the seq from which on it hears
        self._port = port
        self._address = address
        self._token = token
        self.group_id = group_id
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, room: asyncio.Semaphore) -> None:
        """Listen until cancelled. The first connection waits for ``room``."""
        try:
            async with room:
                reader = await self._connect()
            while True:
                hint = None
                if reader is not None:
                    ending = await self._listen(reader)
                    self.endings[ending] += 1
                    hint = ending.hint
                self._hang_up()
                await asyncio.sleep(uniform(0, 0.5) if hint is None else hint)
                reader = await self._connect()
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        self.is_connected = False
        if self._writer is not None:
            self._writer.transport.abort()

    async def _connect(self) -> asyncio.StreamReader | None:
        try:
            async with asyncio.timeout(TIMEOUT):
                reader = await self._open()
                kind, payload = await self._read(reader)
                hello = json.loads(payload)
                assert (kind, hello["type"]) == (TEXT, "hello"), payload
                self._resume(hello)
                return reader
        except (OSError, asyncio.IncompleteReadError) as error:
            self.refusals.append(str(error) or repr(error))
        return None

    async def _listen(self, reader: asyncio.StreamReader) -> Ending:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                kind, payload = await self._read(reader)
                if kind == CLOSE:
                    hint = RETRY.search(payload[2:].decode())
                    return Ending(int.from_bytes(payload[:2]), float(hint[1]) if hint else None)
                self._on_frame(kind, payload)
        return Ending(None, None)

    async def _open(self) -> asyncio.StreamReader:
        place = ("127.0.0.1", self._port)
        reader, self._writer = await asyncio.open_connection(*place, local_addr=(self._address, 0), limit=8192)
        lines = [
            "GET /listen/me HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {b64encode(urandom(16)).decode()}",
            "Sec-WebSocket-Protocol: att.v1",
            f"Authorization: Bearer {self._token}",
        ]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(head.decode().splitlines()[0])
        return reader

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        kind, size = await reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2))
        assert size < 126 or size > 127 or kind & 0x80
        return kind, await reader.readexactly(size)

    def _resume(self, hello: dict) -> None:
        [standing] = hello["groups"]
        assert standing["id"] == str(self.group_id)
        self.base = standing["seq"] if self.base is None else self.base
        position = self.seqs[-1] if self.seqs else self.base
        resume = {"type": "resume", "groups": {str(self.group_id): position}}
        self._writer.write(frame(TEXT, json.dumps(resume).encode()))
        self.is_connected = True

    def _on_frame(self, kind: int, payload: bytes) -> None:
        if kind == PING:
            self._writer.write(frame(PONG, payload))
            return
        told = json.loads(payload)
        assert (kind, told["type"], told["group"]) == (TEXT, "message", str(self.group_id)), payload
        self.seqs.append(told["seq"])
