"""One open WebSocket: the border between the transport and the hub."""

import asyncio
import contextlib
import logging
import math
import socket
import time
from typing import Protocol

from aiohttp import WSCloseCode, WSMessage, WSMsgType
from aiohttp.http import WebSocketError

from att.connections import Caller
from att.errors import Unavailable
from att.handshake import Taken
from att.heartbeat import BEAT, Heartbeat
from att.inbox import Receiver
from att.observer import Farewell
from att.realtime.frames import PING_FRAME, CloseCode, close_frame, pong_frame
from att.realtime.registry import Dialect
from att.sessions import Session, SessionStore
from att.web import BODY_LIMIT

HEARTBEAT = 25.0  # seconds of silence after which a peer is pinged; one that is silent for half as long again is gone
CLOSE_TIMEOUT = 5.0  # seconds for a peer to take what was written before it, and its close frame
KERNEL_BUFFER = 64 * 1024  # bytes that the kernel may hold of one socket's outbox; by itself it takes megabytes
DRAIN_TIMEOUT = 30.0  # seconds for a peer to take a quarter of its outbox while it is given what it missed
DRAIN_PAUSE = 0.01  # seconds between looks at the outbox

# Bytes that a listener may send at once: a plain one is ignored, another one broadcasts.
MESSAGE_LIMITS = {Dialect.PLAIN: 4 * 1024, Dialect.V1: BODY_LIMIT + 4 * 1024}

log = logging.getLogger("att")


class Ears(Protocol):
    """Who hears what is said on a socket."""

    def hear(self, message: WSMessage) -> None:
        """A message, text or bytes."""

    def end(self) -> None:
        """The connection is lost, or never came about."""


class Socket(Receiver):
    """A ``Connection`` of the registry, and a ``Peer`` of the heartbeat. Frames are written, and never awaited."""

    __slots__ = (
        "_caller",
        "_close_code",
        "_deadline",
        "_ears",
        "_expires_at",
        "_farewell",
        "_heard",
        "_heartbeat",
        "_is_clear",
        "_outbox_limit",
        "_reason",
        "_renewal",
        "_session_id",
        "_sessions",
        "due",
    )

    def __init__(self, heartbeat: Heartbeat, sessions: SessionStore, outbox_limit: int) -> None:
        super().__init__()
        self.due = 0
        self._heartbeat = heartbeat
        self._sessions = sessions
        self._outbox_limit = outbox_limit
        self._is_clear = False  # open, and nothing waits to be written
        self._close_code: int | None = None
        self._reason = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._ears: Ears | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._caller: Caller | None = None
        self._farewell: Farewell | None = None

    def open(self, taken: Taken, session: Session, ears: Ears, dialect: Dialect) -> None:
        """From now on frames can be sent. Nothing is heard before ``listen``."""
        transport, self._caller, self._farewell = taken.transport, taken.caller, taken.farewell
        self._begin(transport, MESSAGE_LIMITS[dialect])
        self._session_id, self._expires_at = session.id, session.expires_at.timestamp()
        self._ears = ears
        plug = transport.get_extra_info("socket")
        if plug is not None:
            with contextlib.suppress(OSError):  # it was closed already
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        transport.set_write_buffer_limits(high=0)  # so that we are told as soon as anything waits
        self._is_clear = self._is_open and not transport.get_write_buffer_size()
        self._heard = self._heartbeat.now
        self._heartbeat.attach(self, min(_beats(HEARTBEAT), self._look_at_session()))

    def listen(self, early: bytes) -> None:
        """Hear what is said, and what was said already."""
        if self._close_code is not None:  # it was closed before it was open
            self._say_why()
        if early:
            self.data_received(early)

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()

    # The connection of a listener

    def send(self, frame: bytes) -> bool:
        if self._is_clear:
            self._transport.write(frame)  # type: ignore[union-attr]  # there is one, and this is the hottest line
            return True
        return self._send_behind(frame)

    def _send_behind(self, frame: bytes) -> bool:
        """Send it behind what waits to be written, unless that is too much."""
        if not self._is_open:
            return False
        # Looked at before the write: a frame of any size reaches a peer that keeps up.
        if self._pending > self._outbox_limit:
            self.close(CloseCode.TOO_SLOW)
            return False
        self._write(frame)
        return True

    def replay(self, frame: bytes) -> None:
        if self._is_open:
            self._write(frame)

    def close(self, code: CloseCode, reason: bytes = b"") -> None:
        self._end(code, reason or code.reason.encode())

    @property
    def page_size(self) -> int:
        """How many bytes may be replayed at once, so that there is room left for what happens meanwhile."""
        return self._outbox_limit // 4

    async def drained(self) -> None:
        """Wait until most of what was written has gone. A peer that does not take it is closed."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while self._is_open and self._pending > self._outbox_limit // 4:  # noqa: ASYNC110 - see DRAIN_PAUSE
                    await asyncio.sleep(DRAIN_PAUSE)
        except TimeoutError:
            self.close(CloseCode.TOO_SLOW)

    # What the transport tells

    def pause_writing(self) -> None:
        self._is_clear = False

    def resume_writing(self) -> None:
        self._is_clear = self._is_open

    def data_received(self, data: bytes) -> None:
        self._heard = self._heartbeat.now
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._is_clear = False
        self._heartbeat.detach(self)
        for handle in (self._deadline, self._renewal):
            if handle is not None:
                handle.cancel()
        ears, self._ears = self._ears, None
        if ears is not None:
            ears.end()
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.leave()
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            farewell(self._close_code)

    # What the peer says

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

    # The end

    def _take_leave(self, code: int) -> None:
        """The peer closes it, or has seen that we do."""
        self._end(code, b"")
        if self._transport is not None:
            self._transport.close()

    def _give_up(self, error: BaseException) -> None:
        code = error.code if isinstance(error, WebSocketError) else WSCloseCode.INTERNAL_ERROR
        self._end(code, b"")
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()  # to close it now would throw away what is on the way, with our reason

    def _end(self, code: int, reason: bytes) -> None:
        """Say so, once, and wait no longer than ``CLOSE_TIMEOUT``."""
        if self._close_code is None:
            self._close_code, self._reason, self._is_clear = code, reason, False
            if self._transport is not None:
                self._say_why()

    def _say_why(self) -> None:
        transport = self._transport
        if transport is not None and self._close_code is not None and not transport.is_closing():
            transport.write(close_frame(self._close_code, self._reason))
            # Whoever has not taken its close frame by then never will; what waits for it must not stay.
            self._deadline = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, transport.abort)
            self.release()

    # The heartbeat

    def look(self) -> int:
        if not self._is_open:
            return _beats(HEARTBEAT)
        silent, ping, end = self._heartbeat.now - self._heard, _beats(HEARTBEAT), _beats(HEARTBEAT * 1.5)
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

    # Within

    @property
    def _is_open(self) -> bool:
        return self._transport is not None and self._close_code is None and not self._transport.is_closing()

    @property
    def _pending(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)


def _beats(seconds: float) -> int:
    return max(round(seconds / BEAT), 1)
