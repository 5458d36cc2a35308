"""Clients that listen, and reconnect when they are cut off."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from random import Random
from typing import NamedTuple
from uuid import UUID

import aiohttp
import msgspec
from aiohttp import WSMsgType

from chaos import frames
from chaos.evidence import Frame, Heard, ListenerRecord, Opening, PlainRecord, Position, Read
from chaos.frames import Ack, Ephemeral, Epoch, Error, Hello, Rewind
from chaos.plan import Mishap

CONNECT_TIMEOUT = 5.0  # seconds
ANSWER_TIMEOUT = 8.0  # seconds for an acknowledgement; a later one is ignored
READS = 0.02  # of the messages that a client receives it marks so many as the last one that it has read
TOO_SLOW = 4000
RECONNECT = {1001, 1012, TOO_SLOW, 4001}  # close codes after which a client may connect again
OVERLOADED = 1013  # the code of a refused handshake that may succeed later
CLOSING = aiohttp.ClientWSTimeout(ws_close=0.5)


class Person(NamedTuple):
    """A user and their session."""

    id: UUID
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """The header that authenticates a request."""
        return {"Authorization": f"Bearer {self.token}"}


class NotConnected(Exception):
    """There is no socket to send on."""


class Listener:
    """A client that reconnects for as long as the run lasts. This class is a plain one."""

    def __init__(
        self, name: str, person: Person, connect: Callable[[], tuple[aiohttp.ClientSession, str]], seed: str
    ) -> None:
        self.name = name
        self.person = person
        self.is_wanted = asyncio.Event()
        self.is_reading = asyncio.Event()
        self.is_connected = asyncio.Event()
        self.connections = 0
        self.times_too_slow = 0
        self.faults: list[str] = []
        self.plain_records: list[PlainRecord] = []
        self._connect = connect
        self._random = Random(seed)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self.is_wanted.set()
        self.is_reading.set()

    protocols: tuple[str, ...] = ()

    async def run(self) -> None:
        """Listen for ever."""
        while True:
            await self.is_wanted.wait()
            try:
                await self._listen()
            except aiohttp.WSServerHandshakeError as error:
                if error.status != 503:
                    self.faults.append(f"{self.name}: refused with {error.status}")
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(self._random.uniform(0.02, 0.3))

    def cut(self) -> None:
        """Lose the connection."""
        if (transport := self._transport) is not None:
            transport.abort()

    async def suffer(self, mishap: Mishap, seconds: float) -> None:
        """Suffer a mishap."""
        match mishap:
            case Mishap.CUT:
                self.cut()
            case Mishap.AWAY:
                await self.go_away(seconds)
            case Mishap.SLOW:
                await self.stop_reading(seconds)

    async def go_away(self, seconds: float) -> None:
        """Disconnect, and come back later."""
        self.is_wanted.clear()
        if self._socket is not None:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await self._socket.close()
        await asyncio.sleep(seconds)
        self.is_wanted.set()

    async def stop_reading(self, seconds: float) -> None:
        """Read nothing for a while: frames stay in the buffers of the system, as long as there is room."""
        transport = self._transport
        self.is_reading.clear()
        if transport is not None:
            with contextlib.suppress(RuntimeError):
                transport.pause_reading()
        await asyncio.sleep(seconds)
        self.is_reading.set()
        if transport is not None and not transport.is_closing():
            with contextlib.suppress(RuntimeError):
                transport.resume_reading()

    async def _listen(self) -> None:
        session, url = self._connect()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            socket = await session.ws_connect(
                f"{url}/listen/{self.person.id}",
                headers=self.person.headers,
                protocols=self.protocols,
                max_msg_size=0,
                timeout=CLOSING,
            )
        async with socket:
            self._socket = socket
            self.connections += 1
            try:
                await self._converse(socket)
            finally:
                self._socket = None
                self.is_connected.clear()

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        record = PlainRecord(self.name, self.person.id, time.time(), is_open=True)
        self.plain_records.append(record)
        self.is_connected.set()
        try:
            await self._read(socket, record.bodies.append)
        finally:
            record.is_open = False

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, on_text: Callable[[str], None]) -> None:
        while (message := await socket.receive()).type is WSMsgType.TEXT:
            on_text(message.data)
            await self.is_reading.wait()
        is_expected = message.type is not WSMsgType.BINARY
        if message.type is WSMsgType.CLOSE:
            is_expected = message.data in RECONNECT
            self.times_too_slow += message.data == TOO_SLOW
        if not is_expected:
            self.faults.append(f"{self.name}: received {message.type.name} {message.data!r:.80} {message.extra or ''}")

    @property
    def _transport(self) -> asyncio.Transport | None:
        connection = None if self._socket is None else self._socket._response.connection
        return None if connection is None else connection.transport


class ListenerV1(Listener):
    """An att.v1 client that remembers its positions and resumes. ``record`` has what it received."""

    protocols = ("att.v1",)

    def __init__(
        self,
        name: str,
        person: Person,
        connect: Callable[[], tuple[aiohttp.ClientSession, str]],
        seed: str,
        groups: list[UUID],
        *,
        from_start: bool,
    ) -> None:
        super().__init__(name, person, connect, seed)
        self.record = ListenerRecord(name, person.id)
        self.positions: dict[UUID, int] = dict.fromkeys(groups, 0)
        self.epoch = ""
        self._server_epoch = ""
        self._is_new = not from_start
        self.markers: dict[UUID, int] = {}
        self._waiting: dict[int, asyncio.Future[Ack | Error | None]] = {}
        self._marking: set[asyncio.Task[None]] = set()

    async def broadcast(self, number: int, group: str, body: str, key: str | None) -> Ack | Error | None:
        """Send; return None if the result is unknown. Raises NotConnected if it certainly was not sent."""
        tail = "" if key is None else f',"key":{msgspec.json.encode(key).decode()}'
        return await self._ask(number, f'"group":"{group}","data":{body}{tail}')

    async def broadcast_ephemeral(self, number: int, group: str, body: str) -> Ack | Error | None:
        """Send an ephemeral message likewise."""
        return await self._ask(number, f'"ephemeral":true,"group":"{group}","data":{body}')

    async def _ask(self, number: int, members: str) -> Ack | Error | None:
        socket = self._socket
        if socket is None or not self.is_connected.is_set():
            raise NotConnected
        answered: asyncio.Future[Ack | Error | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        frame = f'{{"type":"broadcast","id":{number},{members}}}'
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await socket.send_str(frame)
                return await answered
        except (TimeoutError, OSError, aiohttp.ClientError):
            return None
        finally:
            self._waiting.pop(number, None)

    async def _listen(self) -> None:
        self._open(time.time())
        await super()._listen()

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        message = await socket.receive(timeout=CONNECT_TIMEOUT)
        if message.type is not WSMsgType.TEXT:
            if message.type is WSMsgType.CLOSE and message.data not in {*RECONNECT, OVERLOADED}:
                self.faults.append(f"{self.name}: refused with {message.data} {message.extra or ''}")
            return
        hello = frames.parse(message.data)
        if not isinstance(hello, Hello) or hello.user_id != self.person.id or socket.protocol != "att.v1":
            self.faults.append(f"{self.name}: greeted with {message.data[:80]}")
            return
        is_new = self._is_new
        self._greet(hello)
        groups = {str(group_id): seq for group_id, seq in self.positions.items()}
        resume = {"type": "resume"} if is_new else {"type": "resume", "epoch": self.epoch, "groups": groups}
        await socket.send_json(resume)
        self.is_connected.set()
        try:
            await self._read(socket, self._hear)
        finally:
            for answered in self._waiting.values():
                if not answered.done():
                    answered.set_result(None)

    async def _mark(self, group_id: UUID, seq: int) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await self._socket.send_json({"type": "read", "group": str(group_id), "seq": seq})

    def _open(self, at: float) -> None:
        """Note that a connection begins."""
        self.record.openings.append(Opening(len(self.record.frames), at))

    def _greet(self, hello: Hello) -> None:
        self.epoch, self._server_epoch = self.epoch or hello.epoch, hello.epoch
        self.record.standings += [(group.id, Position(group.seq, hello.epoch)) for group in hello.groups]
        if self._is_new:  # it starts at the positions of hello
            self.record.bases = {group.id: group.seq for group in hello.groups}
            self.positions |= self.record.bases
        self.markers = {group.id: group.read for group in hello.groups}
        self.record.reads += [Read(group.id, group.read, is_greeting=True) for group in hello.groups]
        self._is_new = False

    def _hear(self, text: str) -> None:
        try:
            frame = frames.parse(text)
        except msgspec.DecodeError as error:
            self.faults.append(f"{self.name}: {error}: {text[:80]}")
            return
        event = frames.event(frame)
        if event is not None:
            self.record.frames.append(event)
            self.positions[event.group_id] = event.seq
            if event.kind == "message" and self._random.random() < READS:
                task = asyncio.create_task(self._mark(event.group_id, event.seq))
                self._marking.add(task)
                task.add_done_callback(self._marking.discard)
        elif isinstance(frame, frames.Read):
            self.record.reads.append(Read(frame.group, frame.seq))
            self.markers[frame.group] = max(frame.seq, self.markers.get(frame.group, 0))
        elif isinstance(frame, Ephemeral):
            position = Position(self.positions.get(frame.group, 0), self._server_epoch)
            body = bytes(frame.data).decode()
            connection = len(self.record.openings)
            self.record.heard.append(Heard(frame.group, frame.from_, body, connection, position, time.time()))
        elif isinstance(frame, Epoch):
            self.epoch = self._server_epoch = frame.epoch
        elif isinstance(frame, Rewind):
            self.record.frames.append(Frame(frame.group, frame.to, "rewind", None, self.epoch))
            self.positions[frame.group] = frame.to
        elif isinstance(frame, Ack | Error):
            answered = self._waiting.get(frame.id or 0)
            if answered is not None and not answered.done():
                answered.set_result(frame)
        else:
            self.faults.append(f"{self.name}: greeted twice")
