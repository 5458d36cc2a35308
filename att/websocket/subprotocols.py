"""What is said on a listener's socket: nothing by a plain one, else att.v1 (docs/reference/realtime.md)."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from uuid import UUID

from aiohttp import WSMessage, WSMsgType

from att.errors import AttError, ProtocolError
from att.protocol import messages
from att.protocol.frames import CloseCode, text_frame
from att.realtime.event_log import Position, Publish
from att.realtime.hub import Hub
from att.realtime.log_reader import LogReader
from att.realtime.publish_queue import Outcome
from att.realtime.publisher import Publisher
from att.realtime.registry import Listener
from att.websocket.connection import HEARTBEAT, WebSocketConnection

RESUME_TIMEOUT = 10.0  # seconds for the first frame
IN_FLIGHT = 1_000  # broadcasts of one socket that are not answered yet; then nothing more is read from it

log = logging.getLogger("att")


class PlainProtocol:
    """A plain listener's: whatever it says is ignored."""

    __slots__ = ("_catching_up", "_feed", "_hub", "_listener", "_socket")

    def __init__(self, listener: Listener, socket: WebSocketConnection, hub: Hub, feed: LogReader) -> None:
        self._listener = listener
        self._socket = socket
        self._hub = hub
        self._feed = feed
        self._catching_up: asyncio.Task[None] | None = None

    def begin(self, positions: Sequence[Position]) -> None:
        """The socket is open, and its user stood there when the listener was attached."""
        self._settle(positions, {})

    def hear(self, message: WSMessage) -> None:
        """Something was said."""

    def end(self) -> None:
        """The socket is closed, or never came about. Harmless when it was told before."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._hub.detach(self._listener)

    def _settle(self, positions: Sequence[Position], resume: Mapping[UUID, int]) -> None:
        self._hub.settle(self._listener, positions, resume)
        if self._hub.missing(self._listener):
            self._go_on(self._catch_up())

    def _go_on(self, work: Awaitable[None]) -> None:
        self._catching_up = asyncio.create_task(self._guarded(work))

    async def _catch_up(self) -> None:
        await self._feed.catch_up(self._listener, self._socket.drained, self._socket.page_size)

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:
            log.exception("a listener cannot be given what it has missed")
            self._socket.close(CloseCode.RESYNC)


class AttV1Protocol(PlainProtocol):
    """One in att.v1."""

    __slots__ = ("_in_flight", "_positions", "_resume_timer", "_writer")

    def __init__(
        self, listener: Listener, socket: WebSocketConnection, hub: Hub, feed: LogReader, writer: Publisher
    ) -> None:
        super().__init__(listener, socket, hub, feed)
        self._writer = writer
        self._positions: Sequence[Position] | None = None
        self._resume_timer: asyncio.TimerHandle | None = None
        self._in_flight = 0

    def begin(self, positions: Sequence[Position]) -> None:
        self._positions = positions
        groups = [position for position in positions if position.is_member]
        self._send(messages.hello(self._listener.user_id, self._listener.session_id, HEARTBEAT, groups))
        self._resume_timer = asyncio.get_running_loop().call_later(
            RESUME_TIMEOUT, self._close, ProtocolError(f"no resume within {RESUME_TIMEOUT:.0f} s")
        )

    def hear(self, message: WSMessage) -> None:
        if message.type is not WSMsgType.TEXT:
            self._close(ProtocolError("a frame must be text"))
            return
        try:
            self._answer(messages.parse(message.data))
        except ProtocolError as error:
            self._close(error)

    def end(self) -> None:
        super().end()
        if self._resume_timer is not None:
            self._resume_timer.cancel()

    def _answer(self, frame: messages.Resume | messages.Broadcast | messages.Ping) -> None:
        if isinstance(frame, messages.Resume):
            self._resume(frame.groups)
        elif self._positions is not None:
            raise ProtocolError("the first frame must be resume")
        elif isinstance(frame, messages.Ping):
            self._send(messages.PONG)
        else:
            self._broadcast(frame)

    def _resume(self, groups: Mapping[UUID, int]) -> None:
        positions, self._positions = self._positions, None
        if positions is None:
            raise ProtocolError("resume comes once")
        if self._resume_timer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
        if any(groups.get(position.group_id, 0) > position.seq for position in positions):
            self._go_on(self._settle_anew(groups))
        else:
            self._settle(positions, groups)

    async def _settle_anew(self, groups: Mapping[UUID, int]) -> None:
        """It has heard more than there was when it was greeted: where its user stands is read once more."""
        positions = await self._feed.positions(self._listener.user_id)
        self._hub.settle(self._listener, positions, groups)
        await self._catch_up()

    def _broadcast(self, frame: messages.Broadcast) -> None:
        self._in_flight += 1
        if self._in_flight >= IN_FLIGHT:
            self._socket.hold()
        tell = partial(self._tell, frame.id)
        try:
            self._writer.submit(Publish(frame.group, self._listener.user_id, frame.data, frame.key), tell)
        except AttError as error:
            tell(error)

    def _tell(self, frame_id: messages.FrameId, outcome: Outcome) -> None:
        if self._in_flight == IN_FLIGHT:
            self._socket.release()
        self._in_flight -= 1
        if isinstance(outcome, AttError):
            self._send(messages.error(frame_id, outcome))
        else:
            event = outcome.event
            self._send(messages.ack(frame_id, event.group_id, event.seq, event.at))

    def _send(self, payload: bytes) -> None:
        self._socket.send(text_frame(payload))

    def _close(self, error: ProtocolError) -> None:
        self._socket.close(CloseCode.PROTOCOL_ERROR, error.reason)
