"""The load: bare TCP connections with just enough WebSocket and HTTP, which cost less than any server."""

import asyncio
import json
import socket
import struct
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from os import urandom
from uuid import UUID

from harness import Account, Circles

TIMEOUT = 60.0  # seconds
AT_ONCE = 64  # connections opened at the same time
TEXT = (0x81, 0xC1)  # the latter is compressed
PING = 0x89
CLOSE = 0x88


def mask(payload: bytes) -> bytes:
    """Build a client's text frame (RFC 6455). The mask is zero, which saves work here and not in the server."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", 0x81, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", 0x81, 0x80 | 127, length)
    return b"".join((head, b"\0\0\0\0", payload))


def pong(payload: bytes) -> bytes:
    """Build the pong for a ping, with its payload. Some servers close a connection without it 20 s later."""
    return struct.pack("!BB", 0x8A, 0x80 | len(payload)) + b"\0\0\0\0" + payload


class Listener(asyncio.Protocol):
    """A listener. ``on_frame`` is called with each payload; without it, frames are counted in ``received``."""

    def __init__(self, request: bytes, on_frame: Callable[[bytes], object] | None = None) -> None:
        self._request = request
        self._on_frame = on_frame
        self._rest = b""
        self.usual = 0  # bytes of the last frame
        self.received = 0
        self.on_count: Callable[[int], object] | None = None
        self.close_code: int | None = None
        self.close_reason = b""
        self.on_close: Callable[[], object] | None = None
        self.opened: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.write(self._request)

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set_result(None)
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed before it was open"))

    def send(self, payload: bytes) -> None:
        """Send a text frame."""
        self.transport.write(mask(payload))

    def data_received(self, data: bytes) -> None:
        if len(data) == self.usual and not self._rest and data[0] in TEXT:
            self._count()  # just one frame, as long as the one before
            return
        data = self._rest + data
        if not self.opened.done():
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            self.opened.set_result(head)
        self._rest = self._take(data)

    def _take(self, data: bytes) -> bytes:
        start, end = 0, len(data)
        while end - start >= 2:
            length, at = data[start + 1], start + 2
            if length == 126:
                at += 2
                length = int.from_bytes(data[start + 2 : at])
            elif length == 127:
                at += 8
                length = int.from_bytes(data[start + 2 : at])
            if end < at + length:
                break
            self._receive(data[start], data, at, length)
            if self._on_frame is None:
                self.usual = at + length - start
            start = at + length
        return data[start:]

    def _receive(self, kind: int, data: bytes, at: int, length: int) -> None:
        if kind in TEXT:
            if self._on_frame is not None:
                self._on_frame(data[at : at + length])
            self._count()
        elif kind == PING:
            self.transport.write(pong(data[at : at + length]))
        elif kind == CLOSE:
            self.close_code, self.close_reason = int.from_bytes(data[at : at + 2]), data[at + 2 : at + length]
            if self.on_close is not None:
                self.on_close()

    def _count(self) -> None:
        self.received += 1
        if self.on_count is not None:
            self.on_count(self.received)


def upgrade(path: str, *headers: str) -> bytes:
    """Build the request that opens a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {b64encode(urandom(16)).decode()}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def connect(port: int, protocol: asyncio.Protocol) -> None:
    """Open the connection of a protocol."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", port))
    await loop.create_connection(lambda: protocol, sock=connection)


async def open_listener(port: int, request: bytes, on_frame: Callable[[bytes], object] | None = None) -> Listener:
    """Open a listener, and wait until the server accepts it."""
    listener = Listener(request, on_frame)
    await connect(port, listener)
    async with asyncio.timeout(TIMEOUT):
        head = await listener.opened
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError(head.decode())
    return listener


async def open_many(count: int, open_one: Callable[[int], object], at_once: int = AT_ONCE) -> list:
    """Open many of them, a few at a time."""
    room = asyncio.Semaphore(at_once)

    async def go(number: int) -> object:
        async with room:
            return await open_one(number)

    return await asyncio.gather(*(go(number) for number in range(count)))


async def close_all(listeners: Sequence[Listener]) -> None:
    """Close the connections."""
    for listener in listeners:
        listener.transport.abort()
    await asyncio.gather(*(listener.lost for listener in listeners))


class Arrivals:
    """Waits until each of some listeners has received that many more frames."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._count = len(listeners)
        self._missing = 0
        self._goals = [0] * len(listeners)
        self._done = asyncio.Event()
        self._listeners = listeners
        for number, listener in enumerate(listeners):
            listener.on_count = lambda received, number=number: self._received(number, received)

    def expect(self, frames: int) -> None:
        """Start to count."""
        self._goals = [listener.received + frames for listener in self._listeners]
        self._missing = self._count
        self._done.clear()

    async def wait(self) -> None:
        """Wait until all have them."""
        async with asyncio.timeout(TIMEOUT):
            await self._done.wait()

    def _received(self, number: int, received: int) -> None:
        if received == self._goals[number]:
            self._missing -= 1
            if not self._missing:
                self._done.set()


def att_request(account: Account, *, is_v1: bool = False, inflates: bool = False) -> bytes:
    """Build the request of an att listener."""
    subprotocol = ["Sec-WebSocket-Protocol: att.v1"] if is_v1 else []
    extension = ["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"] if inflates else []
    return upgrade("/listen/me", f"Authorization: Bearer {account.token}", *subprotocol, *extension)


class Sender:
    """An att.v1 socket that broadcasts: one at a time, or many in flight."""

    def __init__(self, group: UUID | str, body: bytes) -> None:
        self._head = b'{"type":"broadcast","id":1,"group":"%s","data":' % str(group).encode()
        self.frame = mask(self._head + body + b"}")
        self.acks = 0
        self.others = 0
        self._hello: asyncio.Future[dict] = asyncio.get_running_loop().create_future()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.on_ack: Callable[[], object] | None = None
        self.listener: Listener

    async def open(self, port: int, account: Account) -> "Sender":
        """Connect, and start from now."""
        self.listener = await open_listener(port, att_request(account, is_v1=True), self._received)
        async with asyncio.timeout(TIMEOUT):
            await self._hello
        self.listener.send(b'{"type":"resume"}')
        return self

    def say(self) -> None:
        """Broadcast once."""
        self.listener.transport.write(self.frame)

    def set_body(self, body: bytes) -> None:
        """Set the body of the following broadcasts."""
        self.frame = mask(self._head + body + b"}")

    async def broadcast(self) -> None:
        """Broadcast, and wait until it is in the log."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.say()
        async with asyncio.timeout(TIMEOUT):
            await future

    def _received(self, payload: bytes) -> None:
        if payload.startswith(b'{"type":"ack"'):
            self.acks += 1
            if self._waiting:
                self._waiting.popleft().set_result(None)
            if self.on_ack is not None:
                self.on_ack()
        elif payload.startswith(b'{"type":"hello"'):
            self._hello.set_result(json.loads(payload))
        elif payload.startswith(b'{"type":"error"'):
            raise RuntimeError(payload.decode())
        else:
            self.others += 1


class Resumer:
    """An att.v1 listener that resumes in its circles, and can come back."""

    def __init__(self, account: Account, circles: Circles) -> None:
        self._account = account
        self._circles = circles
        self._frames = b""
        self._missing = 0
        self._up_to_date: asyncio.Future[None]
        self.listener: Listener

    async def open(self, port: int, missed: int = 0) -> "Resumer":
        """Connect as if the last events of each circle were missed, and wait until they have come.

        Raise ConnectionError.
        """
        seqs = ",".join(f'"{group}":{self._circles.head - missed}' for group in self._circles.groups)
        self._frames = mask(b'{"type":"resume","groups":{%s}}' % seqs.encode()) + mask(b'{"type":"ping"}')
        self._missing = missed * len(self._circles.groups) + 1  # and a pong
        self._up_to_date = asyncio.get_running_loop().create_future()
        self.listener = Listener(att_request(self._account, is_v1=True), self._receive)
        self.listener.on_close = self._on_close
        await connect(port, self.listener)
        head = await self.listener.opened
        if b" 101 " not in head.partition(b"\r\n")[0]:
            self.listener.transport.abort()
            raise ConnectionError(head.partition(b"\r\n")[0].decode())
        await self._up_to_date
        return self

    def _receive(self, payload: bytes) -> None:
        if payload.startswith(b'{"type":"hello"'):
            self.listener.transport.write(self._frames)
        elif payload.startswith((b'{"type":"pong"', b'{"type":"message"')):
            self._missing -= 1
            if not self._missing:
                self._up_to_date.set_result(None)

    def _on_close(self) -> None:
        self.listener.transport.close()
        if not self._up_to_date.done():
            why = f"closed with {self.listener.close_code} {self.listener.close_reason.decode()}"
            self._up_to_date.set_exception(ConnectionError(why))


class Poster(asyncio.Protocol):
    """A persistent connection, on which each request follows the response to the previous one."""

    def __init__(self, request: bytes, on_answer: Callable[["Poster"], object]) -> None:
        self._request = request
        self._on_answer = on_answer
        self._rest = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def post(self) -> None:
        """Send it once more."""
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        head, end, body = data.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            self._rest = data
            return
        if not data.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(data.decode())
        self._rest = b""
        self._on_answer(self)


def post_request(path: str, account: Account, body: bytes) -> bytes:
    """Build a broadcast over HTTP."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {account.token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def json_body(size: int) -> bytes:
    """Build a JSON object of this many bytes."""
    return b'{"pad":"%s"}' % (b"x" * (size - 10))
