"""One open WebSocket: the border between the transport and the hub."""

import asyncio
import logging
import math
import time
from functools import cache
from typing import Protocol

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from aiohttp.http import WebSocketError

from att.core.memory import MemoryBudget
from att.core.read_turns import ReadTurns
from att.errors import Unavailable
from att.http.access_log import OnClose
from att.http.bodies import BODY_LIMIT
from att.http.connections import ClientQuota
from att.protocol.frames import PING_FRAME, PONG_HEAD, PONG_SIZE, CloseCode, is_close_code, pong_frame
from att.realtime.registry import Dialect
from att.sessions.store import Session, SessionStore
from att.websocket.frame_reader import FrameReader
from att.websocket.keepalive import TICK, KeepaliveTimer
from att.websocket.upgrade import Upgraded, accept

HEARTBEAT = 25.0  # seconds of silence before a ping; after half as long again the peer is considered gone

# Bytes of one message: a plain listener's is ignored, another one's may be a broadcast.
MESSAGE_LIMITS = {Dialect.PLAIN: 4 * 1024, Dialect.V1: BODY_LIMIT + 4 * 1024}

log = logging.getLogger("att")


class MessageHandler(Protocol):
    """Receiver of a connection's messages."""

    def on_message(self, message: WSMessage) -> None:
        """Handle a message, text or bytes."""

    def on_lost(self) -> None:
        """Handle the loss of the connection."""


class WebSocketConnection(FrameReader):
    """A ``ListenerConnection``, a ``KeepalivePeer``, and the protocol of a transport."""

    __slots__ = (
        "_expires_at",
        "_handler",
        "_keepalive",
        "_last_received",
        "_on_close",
        "_quota",
        "_renewal",
        "_session_id",
        "_sessions",
        "due",
        "head",
    )

    def __init__(
        self,
        keepalive: KeepaliveTimer,
        sessions: SessionStore,
        outbox_limit: int,
        memory: MemoryBudget,
        read_turns: ReadTurns,
    ) -> None:
        super().__init__(outbox_limit, memory, read_turns)
        self.due = 0
        self._keepalive = keepalive
        self._sessions = sessions
        self._handler: MessageHandler | None = None
        self.head = b""
        self._renewal: asyncio.Task[None] | None = None
        self._quota: ClientQuota | None = None
        self._on_close: OnClose | None = None

    async def accept(self, request: web.Request, dialect: Dialect, extension: str = "") -> web.StreamResponse:
        """Send the head of the response, or keep it for the first frames; ``detach_transport`` must follow at once.

        Raise ConnectionError if the peer is gone.
        """
        response = await accept(request, dialect, extension)
        self.head = response.head
        return response

    def open(
        self, upgraded: Upgraded, session: Session, handler: MessageHandler, dialect: Dialect, *, inflates: bool = False
    ) -> None:
        """Take over a transport, so that frames can be sent. Messages are handled after ``listen``."""
        self._quota, self._on_close = upgraded.quota, upgraded.on_close
        self._session_id, self._expires_at = session.id, session.expires_at.timestamp()
        self._handler = handler
        self._open_behind_head(upgraded.transport)
        self._start_reading(MESSAGE_LIMITS[dialect], session.user_id, inflates=inflates)
        self._last_received = self._keepalive.now
        self._keepalive.attach(self, min(ticks(HEARTBEAT), self._check_session()))

    def refuse(self, upgraded: Upgraded, code: CloseCode, reason: bytes) -> None:
        """Take over a transport, only to close it."""
        self._quota, self._on_close = upgraded.quota, upgraded.on_close
        self._open_behind_head(upgraded.transport)
        self._start_reading(MESSAGE_LIMITS[Dialect.PLAIN], "")
        self._keepalive.attach(self, ticks(HEARTBEAT))
        self.close(code, reason)
        self._pass_held()
        self.data_received(upgraded.early)

    def listen(self, early: bytes) -> None:
        """Handle messages, beginning with those already received. If it was closed meanwhile, send the close frame."""
        self._pass_held()
        if self._deadline is None:
            self._send_close()
        if early:
            self.data_received(early)

    def _open_behind_head(self, transport: asyncio.Transport) -> None:
        """Take over a transport. A head that was not sent waits for the first frames: see ``_pass_held``."""
        self._open(transport)
        if self.head:
            if self._spare_socket is not None:  # else, over TLS, frames are written at once
                self.pause_writing()
            self._wait(self.head)

    def replay(self, frame: bytes) -> None:
        """Send a frame of a page. Until the loop's next turn the frames wait for each other: one write for all."""
        if self._active_socket is not None:
            self.pause_writing()
            asyncio.get_running_loop().call_soon(self._pass_held)
        super().replay(frame)
        if self._waiting_size > self.page_size:  # what is held must not make the peer look slow
            self._pass_held()

    def _pass_held(self) -> None:
        """Write at once what has waited for more, unless the transport still has bytes: then it goes behind them."""
        if self._transport is not None and not self._transport.get_write_buffer_size():
            self.resume_writing()

    def resume_writing(self) -> None:
        self.head = b""
        super().resume_writing()

    # Receiving

    def data_received(self, data: bytes) -> None:
        self._last_received = self._keepalive.now
        if len(data) == PONG_SIZE and data.startswith(PONG_HEAD) and self._masks.is_between_frames and not self._rest:
            return  # most that idle peers send is this
        super().data_received(data)

    def _on_message(self, message: WSMessage) -> None:
        if message.type is WSMsgType.CLOSE:
            if is_close_code(message.data):
                self._on_close_frame(message.data)
            else:
                self._on_read_error(WebSocketError(WSCloseCode.PROTOCOL_ERROR, "no such close code"))
        elif self._close_code is not None or self._handler is None:
            return  # messages after the close are ignored
        elif message.type is WSMsgType.PING:
            self.send(pong_frame(message.data))
        elif message.type is not WSMsgType.PONG:
            try:
                self._handler.on_message(message)
            except Exception:
                log.exception("a WebSocket message could not be handled")
                self.close(CloseCode.RESYNC)

    def _on_close_frame(self, code: int) -> None:
        """Close the transport: the peer has closed, or confirmed our close."""
        self._begin_close(code)
        self._pass_all()
        if self._transport is not None:
            self._transport.close()

    def _on_read_error(self, error: BaseException) -> None:
        self._begin_close(error.code if isinstance(error, WebSocketError) else WSCloseCode.INTERNAL_ERROR)
        self._pass_all()
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()  # closing would discard pending frames and the close frame

    def _send_close(self) -> None:
        super()._send_close()
        self.resume()  # to read the peer's close frame

    def give_up(self) -> str:
        if self.head:
            self._drop_waiting()
            self.abort()  # a close frame cannot come before the head
            return "outbox"
        given_up = super().give_up()
        if given_up == "message" and self._handler is not None:
            # It drops a message that it is parsing; not now, as this may be called from within a fan-out.
            asyncio.get_running_loop().call_soon(self._handler.on_lost)
        return given_up

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._keepalive.detach(self)
        if self._renewal is not None:
            self._renewal.cancel()
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.on_lost()
        quota, self._quota = self._quota, None
        if quota is not None:
            quota.release()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close(self._close_code)

    # Keepalive

    def check_liveness(self) -> int:
        """Ping a silent peer or cut it, and check the session. Return the ticks to the next check."""
        ping, end = ticks(HEARTBEAT), ticks(HEARTBEAT * 1.5)
        if not self._is_open:
            return ping
        silent = self._keepalive.now - self._last_received
        if silent >= end:
            self.abort()
        elif silent >= ping:
            self.send(PING_FRAME)
        return min(max((ping if silent < ping else end) - silent, 1), self._check_session())

    def _check_session(self) -> int:
        """Look up a session that may have expired. Return the ticks to the next check."""
        left = self._expires_at - time.time()
        if left <= 0 and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.get_running_loop().create_task(self._renew_session())
        return max(math.ceil(left / TICK), 1)

    async def _renew_session(self) -> None:
        """Update the session's expiry. Close the socket if the session has ended, or its store does not answer."""
        try:
            session = await self._sessions.check(self._session_id)
        except Unavailable:
            self.close(CloseCode.RESYNC)
        except Exception:
            log.exception("a session could not be looked up")
            self.close(CloseCode.RESYNC)
        else:
            if session is None:
                self.close(CloseCode.SESSION_ENDED)
            else:
                self._expires_at = session.expires_at.timestamp()


@cache
def ticks(seconds: float) -> int:
    """Return the number of ticks of the keepalive timer in this time."""
    return max(round(seconds / TICK), 1)
