"""A listener by server-sent events: it is one of att.v1 that resumes by itself, and has no way to send."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from uuid import UUID

from aiohttp import hdrs, web

from att.core.fair_semaphore import SOURCE
from att.http.requests import EVENT_STREAM
from att.protocol import messages
from att.protocol.event_stream import COMMENT, EventId, EventStream, chunk, close_event
from att.protocol.frames import text_frame
from att.realtime.event_log import EventLog, LogMoment, Position
from att.realtime.hub import SLICE, Hub
from att.realtime.log_reader import LogReader
from att.realtime.registry import Dialect, Listener
from att.sessions.store import Session
from att.websocket.connection import HEARTBEAT, MessageHandler, WebSocketConnection, ticks
from att.websocket.subprotocols import AttV1Protocol, ClientActions
from att.websocket.upgrade import Upgraded

CLOCK_MARGIN = 10_000_000  # microseconds by which the clock of a running database may be set back


class EventStreamConnection(WebSocketConnection):
    """Sends events where a WebSocket has frames. What the peer sends is ignored.

    The first event follows ``accept`` and ``open``. ``position`` is that of the last one.
    """

    __slots__ = ("_is_chunked", "_last_sent", "_stream")

    async def accept(
        self,
        request: web.Request,
        dialect: Dialect,  # noqa: ARG002 - it is V1
        extension: str = "",  # noqa: ARG002 - of WebSockets
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = EVENT_STREAM
        response.headers["X-Accel-Buffering"] = "no"  # nginx passes each event on at once
        response.force_close()
        await response.prepare(request)
        self._is_chunked = hdrs.TRANSFER_ENCODING in response.headers  # not in HTTP/1.0
        return response

    def begin(self, position: EventId) -> None:
        """Begin at this position."""
        self._stream = EventStream(position)

    def open(
        self, upgraded: Upgraded, session: Session, handler: MessageHandler, dialect: Dialect, *, inflates: bool = False
    ) -> None:
        self._last_sent = self._keepalive.now
        _limit_silence(upgraded.transport)
        super().open(upgraded, session, handler, dialect, inflates=inflates)

    def send(self, frame: bytes) -> bool:
        return self._send_event(self._stream.event(frame))

    def replay(self, frame: bytes) -> None:
        self._last_sent = self._keepalive.now
        super().replay(self._in_body(self._stream.event(frame)))

    def data_received(self, data: bytes) -> None:
        """Ignore what the peer sends."""

    def check_liveness(self) -> int:
        """Send a comment after a silence, and check the session. Return the ticks to the next check."""
        silence = ticks(HEARTBEAT)
        if not self._is_open:
            return silence
        if isinstance(self._handler, EventStreamProtocol):
            self._handler.on_check()
        if self._keepalive.now - self._last_sent >= silence and not self._stream.is_amid:
            self._send_event(COMMENT)
        return min(max(self._last_sent + silence - self._keepalive.now, 1), self._check_session())

    def _send_event(self, event: bytes) -> bool:
        self._last_sent = self._keepalive.now
        return super().send(self._in_body(event))

    def _in_body(self, data: bytes) -> bytes:
        return chunk(data) if self._is_chunked else data

    def _close_frame(self, code: int) -> bytes:
        end = b"\n\n" if self._stream.is_amid else b""  # of the event that has begun
        return self._in_body(end + close_event(code, self._reason)) + (chunk(b"") if self._is_chunked else b"")

    def _send_close(self) -> None:
        super()._send_close()
        if self._deadline is not None and self._transport is not None:
            self._pass_all()
            self._transport.close()


class EventStreamProtocol(AttV1Protocol):
    """Resumes by itself: from the last id that the client has received, or from now."""

    __slots__ = ("_advancing", "_moment", "_position", "_resume_frame", "_since", "_stream", "_unnamed")

    _moment: LogMoment
    _position: EventId

    def __init__(
        self,
        listener: Listener,
        connection: EventStreamConnection,
        hub: Hub,
        log_reader: LogReader,
        actions: ClientActions,
    ) -> None:
        super().__init__(listener, connection, hub, log_reader, actions)
        self._stream = connection
        self._since = 0
        self._resume_frame = messages.Resume({})
        self._unnamed: Sequence[Position] = ()
        self._advancing: asyncio.Task[None] | None = None

    async def find_moment(self, log: EventLog) -> None:
        """Find a time up to which the positions that are read from now on are complete."""
        self._moment = await log.moment()
        is_settled = self._moment.is_settled(await log.moment())
        self._since = self._moment.at - CLOCK_MARGIN if is_settled else 0

    async def find_start(self, log: EventLog, epoch: str, positions: Sequence[Position], last: EventId | None) -> None:
        """Find out where to resume, given the positions of an epoch."""
        wanted = [position for position in positions if self._listener.wants(position.group_id)]
        seqs = {position.group_id: position.seq for position in wanted}
        if last is None:
            self._position = EventId(epoch, self._since, seqs)
        else:
            self._position, epoch = last, last.epoch
            self._unnamed = [position for position in wanted if position.group_id not in last.seqs]
            found = await log.seqs_at([position.group_id for position in self._unnamed], last.since)
            seqs = {group_id: min(seq, seqs[group_id]) for group_id, seq in found.items()} | last.seqs
        self._resume_frame = messages.Resume(seqs, epoch)
        self._stream.begin(self._position)

    def _await_resume(self) -> None:
        frame, self._resume_frame = self._resume_frame, messages.Resume({})
        if frame.epoch == self._log_reader.epoch:
            self._unnamed = ()
        self._resume(frame)

    async def _start_anew(
        self,
        hello: Mapping[UUID, int],
        hello_epoch: str,
        named: Mapping[UUID, int] = MappingProxyType({}),
        epoch: str = "",
    ) -> None:
        if epoch != self._log_reader.epoch:
            # The client may have more of the groups that its id does not name, which may be lost.
            for group_id, name, *_ in self._unnamed:
                await self._stream.drained()
                self._stream.replay(text_frame(messages.rewind(group_id, name, named[group_id])))
        await super()._start_anew(hello, hello_epoch, named, epoch)

    # What ids do not name

    def on_check(self) -> None:
        """Move the time of the ids on if they do not name all groups that have changed since."""
        if self._position.is_crowded and (self._advancing is None or self._advancing.done()):
            self._advancing = asyncio.create_task(self._close_on_error(self._advance()))

    async def _advance(self) -> None:
        SOURCE.set(self._listener.user_id)  # not the timer's
        recent = self._position.take_recent()
        moment = await self._log_reader.moment()
        if not self._moment.is_settled(moment) or not await self._advance_to(self._moment.at, recent):
            self._position.put_back(recent)
        if self._position.since == self._moment.at or self._moment.epoch != moment.epoch:
            self._moment = moment

    async def _advance_to(self, since: int, recent: Mapping[UUID, int]) -> bool:
        """Move the time on to this one, up to which the log is complete, unless much has not been sent yet."""
        listener, behind = self._listener, {}
        for number, position in enumerate(await self._log_reader.positions(listener.user_id), 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if listener.wants(position.group_id) and (seq := self._hub.behind(listener, position)) is not None:
                behind[position.group_id] = seq
        is_present = listener.is_started and self._position.epoch == self._moment.epoch == self._log_reader.epoch
        return is_present and self._position.advance(since, behind, recent)

    def on_lost(self) -> None:
        super().on_lost()
        if self._advancing is not None:
            self._advancing.cancel()


def _limit_silence(transport: asyncio.Transport) -> None:
    """Have the kernel cut a peer off that does not confirm what it was sent, as a WebSocket's that answers no ping."""
    raw = transport.get_extra_info("socket")
    if raw is not None and sys.platform == "linux":
        with contextlib.suppress(OSError):  # the socket was closed already, or is none of TCP
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(HEARTBEAT * 1500))
