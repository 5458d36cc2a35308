"""One open socket of att.v1 as a client has it."""

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Self

import aiohttp

from att import errors
from att.client.messages import TRY_AGAIN, Ack, Event, Frame, Lost, ending, event_of, read, refusal
from att.protocol.messages import SUBPROTOCOL, parse

OPEN_TIMEOUT = 10.0  # seconds to connect and be greeted
ANSWER_TIMEOUT = 10.0  # seconds for a broadcast to be answered
_CLOSE_TIMEOUT = 2.0
BUFFER = 1000  # events that wait to be taken; then nothing is read until one is
FRAME_LIMIT = 64 * 1024**2  # bytes; a greeting names all the groups of the user
_PING = b'{"type":"ping"}'


class ClientConnection:
    """One open socket. It is read by a task of its own, so that a broadcast is answered while nobody takes events."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, hello: Frame) -> None:
        self._socket = socket
        self._heartbeat = hello.heartbeat
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue(BUFFER)
        self._waiting: dict[int, asyncio.Future[Ack | Exception]] = {}
        self._ids = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self.user_id = hello.user_id
        self.groups = {group.id: group.seq for group in hello.groups}

    @classmethod
    async def open(cls, session: aiohttp.ClientSession, url: str) -> Self:
        """Connect, and be greeted. Raises Lost, aiohttp's ClientError and TimeoutError, or an AttError."""
        async with asyncio.timeout(OPEN_TIMEOUT):
            socket = await session.ws_connect(url, protocols=[SUBPROTOCOL], max_msg_size=FRAME_LIMIT)
            try:
                return cls(socket, await _greeting(socket))
            except BaseException:
                await _hang_up(socket)
                raise

    async def resume(self, positions: Mapping[str, int]) -> None:
        """Say what has been heard already, and begin to listen."""
        await self._send(json.dumps({"type": "resume", "groups": dict(positions)}).encode())
        self._task = asyncio.create_task(self._listen())

    async def next(self) -> Event:
        """The next event. Raises Lost, or an AttError when connecting again is of no use."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    @property
    def is_free(self) -> bool:
        """Whether an answer would be read soon: the socket is open, and not so many events wait that it is not read."""
        return self._task is not None and not self._task.done() and not self._events.full()

    async def broadcast(self, group: str, body: bytes, key: str) -> Ack:
        """Broadcast an object, given as JSON. Raises Lost when it is not known whether it was, or what refuses it."""
        number = next(self._ids)
        names = f'"id":{number},"group":{json.dumps(group)},"key":{json.dumps(key)}'
        frame = f'{{"type":"broadcast",{names},"data":'.encode() + body + b"}"
        parse(frame)  # one that the server does not understand would cost the socket
        answer: asyncio.Future[Ack | Exception] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._send(frame)
            async with asyncio.timeout(ANSWER_TIMEOUT):
                result = await answer
        except TimeoutError:
            raise Lost("the broadcast was not answered in time") from None
        finally:
            del self._waiting[number]
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        """Hang up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        gone = Lost("the client has hung up")
        self._fail(gone)
        if not self._events.full():
            self._events.put_nowait(gone)
        await _hang_up(self._socket)

    async def _send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(self._heartbeat):
                await self._socket.send_frame(frame, aiohttp.WSMsgType.TEXT)
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise Lost("the connection was lost") from error

    async def _listen(self) -> None:
        end: Exception
        try:
            while True:
                await self._take(read(_text(await self._receive())))
        except (aiohttp.ClientError, OSError) as error:
            end = Lost(f"the connection was lost: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever takes the events is told
            end = error
        self._fail(Lost("the connection was lost before the broadcast was answered"))
        await self._events.put(end)

    async def _receive(self) -> aiohttp.WSMessage:
        """What comes next. Silence is broken by a ping; when that is not answered either, the peer is gone."""
        try:
            async with asyncio.timeout(self._heartbeat):
                return await self._socket.receive()
        except TimeoutError:
            await self._send(_PING)
        try:
            async with asyncio.timeout(self._heartbeat / 2):
                return await self._socket.receive()
        except TimeoutError:
            raise Lost("the server has fallen silent") from None

    async def _take(self, frame: Frame) -> None:
        if frame.type in ("ack", "error"):
            self._answer(frame)
        elif (event := event_of(frame)) is not None:
            await self._events.put(event)

    def _answer(self, frame: Frame) -> None:
        answer = self._waiting.get(frame.id) if isinstance(frame.id, int) else None
        if answer is None or answer.done():
            return
        if frame.type == "ack":
            answer.set_result(Ack(frame.group, frame.seq, frame.at))
        elif frame.error in TRY_AGAIN:
            answer.set_result(Lost(frame.detail, errors.Unavailable.retry_after))
        else:
            answer.set_result(refusal(frame.error, frame.detail))

    def _fail(self, reason: Exception) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(reason)


async def _greeting(socket: aiohttp.ClientWebSocketResponse) -> Frame:
    if socket.protocol != SUBPROTOCOL:
        raise errors.ProtocolError(f"The server does not speak {SUBPROTOCOL}.")
    frame = read(_text(await socket.receive()))
    if frame.type != "hello":
        raise errors.ProtocolError("The server has not said hello.")
    return frame


def _text(message: aiohttp.WSMessage) -> str:
    """The text of a message. Raises what it means when it is none."""
    if message.type is aiohttp.WSMsgType.TEXT:
        return str(message.data)
    if message.type is aiohttp.WSMsgType.CLOSE:
        raise ending(message.data, message.extra or "")
    raise Lost("the connection was lost")


async def _hang_up(socket: aiohttp.ClientWebSocketResponse) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await socket.close()
    except TimeoutError:
        pass
