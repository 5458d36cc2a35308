"""A client's WebSocket connection in att.v1."""

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Self

import aiohttp

from att import errors
from att.client.messages import (
    TRY_AGAIN,
    Ack,
    EphemeralMessage,
    Event,
    Frame,
    Lost,
    NewEpoch,
    Online,
    close_error,
    ephemeral_of,
    event_of,
    online_of,
    read,
    refusal,
)
from att.protocol.messages import SUBPROTOCOL, parse

OPEN_TIMEOUT = 10.0  # seconds to connect and receive hello
ANSWER_TIMEOUT = 10.0  # seconds for a broadcast to be answered
_CLOSE_TIMEOUT = 2.0
BUFFER = 1000  # events that wait for next(); when it is full, reading pauses
FRAME_LIMIT = 64 * 1024**2  # bytes; hello lists all groups of the user
_PING = b'{"type":"ping"}'


class ClientConnection:
    """One open WebSocket. Its own task reads it, so that broadcasts are answered while no event is taken."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, hello: Frame) -> None:
        self._socket = socket
        self._heartbeat = hello.heartbeat
        self._events: asyncio.Queue[Event | NewEpoch | Exception] = asyncio.Queue(BUFFER)
        self._pending: dict[int, asyncio.Future[Ack | Exception]] = {}
        self._ids = itertools.count(1)
        self._reader: asyncio.Task[None] | None = None
        self.on_ephemeral: Callable[[EphemeralMessage], object] = lambda _: None
        self.on_presence: Callable[[Online], object] | None = None
        self.online: dict[str, Online] = {}
        self.user_id = hello.user_id
        self.epoch = hello.epoch
        self.groups = {group.id: group.seq for group in hello.groups}
        self.markers = {group.id: group.read for group in hello.groups}
        self.unread = {group.id: group.unread for group in hello.groups}

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, url: str) -> Self:
        """Connect and receive hello. Raise Lost, aiohttp's ClientError, TimeoutError, or an AttError."""
        async with asyncio.timeout(OPEN_TIMEOUT):
            socket = await session.ws_connect(url, protocols=[SUBPROTOCOL], max_msg_size=FRAME_LIMIT)
            try:
                return cls(socket, await _receive_hello(socket))
            except BaseException:
                await _close(socket)
                raise

    async def resume(self, positions: Mapping[str, int], epoch: str) -> None:
        """Resume after these positions of an epoch, and start to read events.

        Without an epoch they are of the one in hello. An older server has none, and must not be sent one. Nor does it
        know presence, which is asked for if ``on_presence`` is set.
        """
        frame: dict[str, object] = {"type": "resume", "groups": dict(positions)}
        if epoch and self.epoch:
            frame["epoch"] = epoch
        if self.on_presence is not None and self.epoch:
            frame["presence"] = True
        await self._send(json.dumps(frame).encode())
        self._reader = asyncio.create_task(self._read())

    async def next(self) -> Event | NewEpoch:
        """Return the next event, or the epoch from here on. Raise Lost, or an AttError if reconnecting cannot help."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    @property
    def is_responsive(self) -> bool:
        """Return True if an answer would be read now: the socket is open, and reading does not pause."""
        return self._reader is not None and not self._reader.done() and not self._events.full()

    async def broadcast(self, group: str, body: bytes, key: str) -> Ack:
        """Broadcast a JSON object. Raise the server's refusal, or Lost if the server may or may not have it."""
        return await self._broadcast(group, f'"key":{json.dumps(key)}', body)

    async def broadcast_ephemeral(self, group: str, body: bytes) -> None:
        """Broadcast a JSON object to those who listen now. Raise the server's refusal, or Lost."""
        await self._broadcast(group, '"ephemeral":true', body)

    async def _broadcast(self, group: str, member: str, body: bytes) -> Ack:
        number = next(self._ids)
        names = f'"id":{number},"group":{json.dumps(group)},{member}'
        frame = f'{{"type":"broadcast",{names},"data":'.encode() + body + b"}"
        parse(frame)  # the server closes the socket after a malformed frame
        answer: asyncio.Future[Ack | Exception] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            await self._send(frame)
            async with asyncio.timeout(ANSWER_TIMEOUT):
                result = await answer
        except TimeoutError:
            raise Lost("the broadcast was not answered in time") from None
        finally:
            del self._pending[number]
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        """Close the connection. Pending broadcasts and ``next`` raise Lost."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        lost = Lost("the client has closed the connection")
        self._fail_pending(lost)
        if not self._events.full():
            self._events.put_nowait(lost)
        await _close(self._socket)

    async def _send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(self._heartbeat):
                await self._socket.send_frame(frame, aiohttp.WSMsgType.TEXT)
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise Lost("the connection was lost") from error

    async def _read(self) -> None:
        end: Exception
        try:
            while True:
                await self._on_frame(read(_text(await self._receive())))
        except (aiohttp.ClientError, OSError) as error:
            end = Lost(f"the connection was lost: {error}")
        except Exception as error:  # noqa: BLE001 - next() raises it
            end = error
        self._fail_pending(Lost("the connection was lost before the broadcast was answered"))
        await self._events.put(end)

    async def _receive(self) -> aiohttp.WSMessage:
        """Return the next message. After a silence send a ping; raise Lost if that is not answered either."""
        try:
            async with asyncio.timeout(self._heartbeat):
                return await self._socket.receive()
        except TimeoutError:
            await self._send(_PING)
        try:
            async with asyncio.timeout(self._heartbeat / 2):
                return await self._socket.receive()
        except TimeoutError:
            raise Lost("the server has stopped answering") from None

    async def _on_frame(self, frame: Frame) -> None:
        if frame.type in ("ack", "error"):
            self._on_answer(frame)
        elif frame.type == "epoch":
            await self._events.put(NewEpoch(frame.epoch))
        elif frame.type == "read":
            self.markers[frame.group] = max(frame.seq, self.markers.get(frame.group, 0))
        elif frame.type == "ephemeral":
            self.on_ephemeral(ephemeral_of(frame))
        elif frame.type == "presence":
            self._on_presence(online_of(frame))
        elif frame.type in ("online", "offline"):
            if (online := self.online.get(frame.group)) is not None:
                self._on_presence(online.changed(str(frame.user), is_online=frame.type == "online"))
        elif (event := event_of(frame)) is not None:
            if frame.type == "left" and frame.user == self.user_id:
                self.online.pop(frame.group, None)  # nothing more is told of it
            await self._events.put(event)

    def _on_presence(self, online: Online) -> None:
        if self.on_presence is not None and online != self.online.get(online.group):
            self.online[online.group] = online
            self.on_presence(online)

    def _on_answer(self, frame: Frame) -> None:
        answer = self._pending.get(frame.id) if isinstance(frame.id, int) else None
        if answer is None or answer.done():
            return
        if frame.type == "ack":
            answer.set_result(Ack(frame.group, frame.seq, frame.at, frame.epoch))
        elif frame.error in TRY_AGAIN:
            answer.set_result(Lost(frame.detail, errors.Unavailable.retry_after))
        else:
            answer.set_result(refusal(frame.error, frame.detail))

    def _fail_pending(self, reason: Exception) -> None:
        for answer in self._pending.values():
            if not answer.done():
                answer.set_result(reason)


async def _receive_hello(socket: aiohttp.ClientWebSocketResponse) -> Frame:
    if socket.protocol != SUBPROTOCOL:
        raise errors.ProtocolError(f"The server does not speak {SUBPROTOCOL}.")
    try:
        frame = read(_text(await socket.receive()))
    except errors.SessionEnded:
        raise errors.NotSignedIn from None  # the handshake was refused
    if frame.type != "hello":
        raise errors.ProtocolError("The server did not send hello.")
    return frame


def _text(message: aiohttp.WSMessage) -> str:
    """Return the text of a message. Raise the error that another kind of message means."""
    if message.type is aiohttp.WSMsgType.TEXT:
        return str(message.data)
    if message.type is aiohttp.WSMsgType.CLOSE:
        raise close_error(message.data, message.extra or "")
    raise Lost("the connection was lost")


async def _close(socket: aiohttp.ClientWebSocketResponse) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await socket.close()
    except TimeoutError:
        pass
