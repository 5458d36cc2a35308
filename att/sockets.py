"""One open WebSocket: the border between aiohttp and the hub."""

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime

from aiohttp import WSMsgType, web

from att.errors import Unavailable, UpgradeRequired
from att.realtime.frames import CloseCode, pong_frame
from att.sessions import Session, SessionStore

HEARTBEAT = 25.0  # seconds between pings; a peer that does not answer within half of it is gone
CLOSE_TIMEOUT = 5.0  # seconds for a peer to take what was written before it, and its close frame
BURST = 64  # messages of one peer that are ignored in one go
MESSAGE_LIMIT = 4 * 1024  # bytes that a plain listener may send at once, to be ignored


class Socket:
    """A ``Connection`` of the registry. Frames are written to the transport, never awaited."""

    def __init__(self, outbox_limit: int) -> None:
        self._outbox_limit = outbox_limit
        # Pings are answered by ourselves, through the bounded outbox: aiohttp would wait for a peer that never reads.
        self._response = web.WebSocketResponse(
            heartbeat=HEARTBEAT, timeout=CLOSE_TIMEOUT, autoping=False, compress=False, max_msg_size=MESSAGE_LIMIT + 1
        )
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.Timeout | None = None
        self._close_code: CloseCode | None = None

    def check(self, request: web.Request) -> None:
        """Raises UpgradeRequired when the request cannot become a WebSocket."""
        if not self._response.can_prepare(request).ok:
            raise UpgradeRequired

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

    def close(self, code: CloseCode) -> None:
        if self._close_code is None:
            self._close_code = code
            if self._patience is not None:
                # RuntimeError: the session expires at this very moment, and the wait is over by itself.
                with contextlib.suppress(RuntimeError):
                    self._patience.reschedule(0)

    async def run(self, request: web.Request, session: Session, sessions: SessionStore) -> web.StreamResponse:
        """Open it, and keep it open until either side closes it or the session ends."""
        await self._response.prepare(request)
        transport = self._transport = request.transport
        try:
            await self._ignore_until_closed(session, sessions)
            if self._close_code is not None:
                reason = self._close_code.reason.encode()
                await self._response.close(code=self._close_code, message=reason, drain=False)
        finally:
            if transport is not None:
                # Whoever has not read its close frame by then never will; what is buffered for it must not stay.
                asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, transport.abort)
        return self._response

    async def _ignore_until_closed(self, session: Session | None, sessions: SessionStore) -> None:
        while session is not None and self._close_code is None:
            try:
                async with asyncio.timeout(_seconds_until(session.expires_at)) as self._patience:
                    await self._ignore()
                return
            except TimeoutError:
                self._patience = None
            if self._close_code is None:
                session = await self._look_up(session, sessions)

    async def _ignore(self) -> None:
        for number in itertools.count(1):
            if number % BURST == 0:
                await asyncio.sleep(0)  # what has arrived is received without a pause; others want their turn
            message = await self._response.receive()
            if message.type is WSMsgType.PING:
                self.send(pong_frame(message.data))
            elif message.type not in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PONG):
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


def _seconds_until(moment: datetime) -> float:
    return max((moment - datetime.now(UTC)).total_seconds(), 1.0)
