"""One open WebSocket: the border between aiohttp and the hub."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from aiohttp import WSMessage, WSMsgType, web

from att.errors import Unavailable, UpgradeRequired
from att.identity import offered_subprotocols
from att.realtime.frames import CloseCode, pong_frame
from att.realtime.protocol import SUBPROTOCOL
from att.realtime.registry import Dialect
from att.sessions import Session, SessionStore
from att.web import BODY_LIMIT

HEARTBEAT = 25.0  # seconds between pings; a peer that does not answer within half of it is gone
CLOSE_TIMEOUT = 5.0  # seconds for a peer to take what was written before it, and its close frame
BURST = 64  # messages of one peer that are received in one go
KERNEL_BUFFER = 64 * 1024  # bytes that the kernel may hold of one socket's outbox; by itself it takes megabytes
DRAIN_TIMEOUT = 30.0  # seconds for a peer to take a quarter of its outbox while it is given what it missed
DRAIN_PAUSE = 0.01  # seconds between looks at the outbox, of which the transport tells its protocol alone

# Bytes that a listener may send at once: a plain one is ignored, another one broadcasts.
MESSAGE_LIMITS = {Dialect.PLAIN: 4 * 1024, Dialect.V1: BODY_LIMIT + 4 * 1024}

Hear = Callable[[WSMessage], Awaitable[None]]


class Socket:
    """A ``Connection`` of the registry. Frames are written to the transport, never awaited."""

    __slots__ = ("_close_code", "_outbox_limit", "_patience", "_reason", "_response", "_transport")

    def __init__(self, outbox_limit: int, dialect: Dialect = Dialect.PLAIN) -> None:
        self._outbox_limit = outbox_limit
        # Pings are answered by ourselves, through the bounded outbox: aiohttp would wait for a peer that never reads.
        self._response = web.WebSocketResponse(
            heartbeat=HEARTBEAT,
            timeout=CLOSE_TIMEOUT,
            autoping=False,
            compress=False,
            max_msg_size=MESSAGE_LIMITS[dialect] + 1,
            protocols=(SUBPROTOCOL,) if dialect is Dialect.V1 else (),
        )
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.Timeout | None = None
        self._close_code: CloseCode | None = None
        self._reason = b""

    def check(self, request: web.Request) -> None:
        """Raises UpgradeRequired when the request cannot become a WebSocket."""
        if not self._response.can_prepare(request).ok:
            raise UpgradeRequired

    async def open(self, request: web.Request) -> None:
        """Answer the request: from now on frames can be sent."""
        await self._response.prepare(request)
        self._response.headers.clear()  # they are sent, and would take room for as long as it is open
        self._transport = request.transport
        plug = request.get_extra_info("socket")
        if plug is not None:
            with contextlib.suppress(OSError):  # it was closed already
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)

    def send(self, frame: bytes) -> bool:
        transport = self._transport
        if transport is None or self._close_code is not None or transport.is_closing():
            return False
        # Looked at before the write: a frame of any size reaches a peer that keeps up.
        if transport.get_write_buffer_size() > self._outbox_limit:
            self.close(CloseCode.TOO_SLOW)
            return False
        transport.write(frame)
        return True

    def replay(self, frame: bytes) -> None:
        if self._transport is not None and self._is_open:
            self._transport.write(frame)

    def close(self, code: CloseCode, reason: bytes = b"") -> None:
        if self._close_code is None:
            self._close_code = code
            self._reason = reason or code.reason.encode()
            if self._patience is not None:
                # RuntimeError: the session expires at this very moment, and the wait is over by itself.
                with contextlib.suppress(RuntimeError):
                    self._patience.reschedule(0)

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

    async def run(self, session: Session, sessions: SessionStore, hear: Hear) -> web.StreamResponse:
        """Keep it open until either side closes it or the session ends; what it says is heard in order."""
        transport = self._transport
        try:
            await self._hear_until_closed(session, sessions, hear)
            if self._close_code is not None:
                await self._response.close(code=self._close_code, message=self._reason, drain=False)
        finally:
            if transport is not None:
                # Whoever has not read its close frame by then never will; what is buffered for it must not stay.
                asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, transport.abort)
        return self._response

    async def _hear_until_closed(self, session: Session | None, sessions: SessionStore, hear: Hear) -> None:
        while session is not None and self._close_code is None:
            try:
                async with asyncio.timeout(_seconds_until(session.expires_at)) as self._patience:
                    await self._hear(hear)
                return
            except TimeoutError:
                self._patience = None
            if self._close_code is None:
                session = await self._look_up(session, sessions)

    async def _hear(self, hear: Hear) -> None:
        for number in itertools.count(1):
            if number % BURST == 0:
                await asyncio.sleep(0)  # what has arrived is received without a pause; others want their turn
            message = await self._response.receive()
            if message.type is WSMsgType.PING:
                self.send(pong_frame(message.data))
            elif self._close_code is not None:
                return  # what was said after that is not heard
            elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await hear(message)
            elif message.type is not WSMsgType.PONG:
                return

    async def _look_up(self, session: Session, sessions: SessionStore) -> Session | None:
        """The session as it is now. When it has ended, or cannot be told, the socket is closed."""
        try:
            found = await sessions.check(session.id)
        except Unavailable:
            self.close(CloseCode.RESYNC)
            return None
        if found is None:
            self.close(CloseCode.SESSION_ENDED)
        return found

    @property
    def _is_open(self) -> bool:
        return self._transport is not None and self._close_code is None and not self._transport.is_closing()

    @property
    def _pending(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()


def _seconds_until(moment: datetime) -> float:
    return max((moment - datetime.now(UTC)).total_seconds(), 1.0)


def dialect_of(request: web.Request) -> Dialect:
    """What whoever asks wants to speak."""
    return Dialect.V1 if SUBPROTOCOL in offered_subprotocols(request) else Dialect.PLAIN
