"""One open WebSocket: the border between the transport and the hub."""

import asyncio
import logging
import math
import time
from typing import Protocol

from aiohttp import WSCloseCode, WSMessage, WSMsgType
from aiohttp.http import WebSocketError

from att.errors import Unavailable
from att.http.access_log import OnClose
from att.http.connections import ClientQuota
from att.http.requests import BODY_LIMIT
from att.protocol.frames import PING_FRAME, CloseCode, pong_frame
from att.realtime.registry import Dialect
from att.sessions.store import Session, SessionStore
from att.websocket.frame_reader import FrameReader
from att.websocket.keepalive import BEAT, KeepaliveTimer
from att.websocket.upgrade import Upgraded

HEARTBEAT = 25.0  # seconds of silence after which a peer is pinged; one that is silent for half as long again is gone

# Bytes that a listener may send at once: a plain one is ignored, another one broadcasts.
MESSAGE_LIMITS = {Dialect.PLAIN: 4 * 1024, Dialect.V1: BODY_LIMIT + 4 * 1024}

log = logging.getLogger("att")


class MessageHandler(Protocol):
    """Who hears what is said on a socket."""

    def hear(self, message: WSMessage) -> None:
        """A message, text or bytes."""

    def end(self) -> None:
        """The connection is lost."""


class WebSocketConnection(FrameReader):
    """A ``Connection`` of the registry, a ``Peer`` of the heartbeat, and the protocol of a transport."""

    __slots__ = (
        "_caller",
        "_ears",
        "_expires_at",
        "_farewell",
        "_heard",
        "_heartbeat",
        "_renewal",
        "_session_id",
        "_sessions",
        "due",
    )

    def __init__(self, heartbeat: KeepaliveTimer, sessions: SessionStore, outbox_limit: int) -> None:
        super().__init__(outbox_limit)
        self.due = 0
        self._heartbeat = heartbeat
        self._sessions = sessions
        self._ears: MessageHandler | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._caller: ClientQuota | None = None
        self._farewell: OnClose | None = None

    def open(self, taken: Upgraded, session: Session, ears: MessageHandler, dialect: Dialect) -> None:
        """It is this transport's protocol: from now on frames can be sent. Nothing is heard before ``listen``."""
        self._caller, self._farewell = taken.caller, taken.farewell
        self._session_id, self._expires_at = session.id, session.expires_at.timestamp()
        self._ears = ears
        self._open(taken.transport)
        self._begin(MESSAGE_LIMITS[dialect])
        self._heard = self._heartbeat.now
        self._heartbeat.attach(self, min(_beats(HEARTBEAT), self._look_at_session()))

    def listen(self, early: bytes) -> None:
        """Hear what is said, and what was said already. If it was closed meanwhile, say so."""
        if self._deadline is None:
            self._say_why()
        if early:
            self.data_received(early)

    # What the peer says

    def data_received(self, data: bytes) -> None:
        self._heard = self._heartbeat.now
        super().data_received(data)

    def _hear(self, message: WSMessage) -> None:
        if message.type is WSMsgType.CLOSE:
            self._take_leave(message.data)
        elif self._close_code is not None or self._ears is None:
            return  # what is said after that is not heard
        elif message.type is WSMsgType.PING:
            self.send(pong_frame(message.data))
        elif message.type is not WSMsgType.PONG:
            try:
                self._ears.hear(message)
            except Exception:
                log.exception("what was said on a socket cannot be dealt with")
                self.close(CloseCode.RESYNC)

    def _take_leave(self, code: int) -> None:
        """The peer closes it, or has seen that we do."""
        self._end(code)
        if self._transport is not None:
            self._transport.close()

    def _give_up(self, error: BaseException) -> None:
        self._end(error.code if isinstance(error, WebSocketError) else WSCloseCode.INTERNAL_ERROR)
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()  # to close it now would throw away what is on the way, with our reason

    def _say_why(self) -> None:
        super()._say_why()
        self.release()  # to hear that the peer has seen it

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._heartbeat.detach(self)
        if self._renewal is not None:
            self._renewal.cancel()
        ears, self._ears = self._ears, None
        if ears is not None:
            ears.end()
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.release()
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            farewell(self._close_code)

    # The heartbeat

    def look(self) -> int:
        """Whether the peer is there, and its session. It is pinged in between, however soon it is looked at again."""
        ping, end = _beats(HEARTBEAT), _beats(HEARTBEAT * 1.5)
        if not self._is_open:
            return ping
        silent = self._heartbeat.now - self._heard
        if silent >= end:
            self.abort()
        elif silent >= ping:
            self.send(PING_FRAME)
        return min(max((ping if silent < ping else end) - silent, 1), self._look_at_session())

    def _look_at_session(self) -> int:
        """After how many beats to look again; it is looked up if it has expired as far as we know."""
        left = self._expires_at - time.time()
        if left <= 0 and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.get_running_loop().create_task(self._look_up())
        return max(math.ceil(left / BEAT), 1)

    async def _look_up(self) -> None:
        """How long the session lives by now. When it has ended, or cannot be told, the socket is closed."""
        try:
            session = await self._sessions.check(self._session_id)
        except Unavailable:
            self.close(CloseCode.RESYNC)
        except Exception:
            log.exception("it cannot be told whether a session has ended")
            self.close(CloseCode.RESYNC)
        else:
            if session is None:
                self.close(CloseCode.SESSION_ENDED)
            else:
                self._expires_at = session.expires_at.timestamp()


def _beats(seconds: float) -> int:
    return max(round(seconds / BEAT), 1)
