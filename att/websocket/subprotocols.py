"""Subprotocols of a listener's socket: plain, which ignores messages, and att.v1, as in docs/reference/realtime.md."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from aiohttp import WSMessage, WSMsgType

from att.core.tasks import in_steps
from att.errors import AttError, Busy, InvalidFrame, ProtocolError
from att.protocol import messages
from att.protocol.frames import CloseCode, fragment, text_frame
from att.realtime.event_log import Position, Publish
from att.realtime.hub import SLICE, Hub
from att.realtime.log_reader import LogReader
from att.realtime.publish_queue import Outcome, PublishCallback
from att.realtime.registry import Dialect, Listener
from att.websocket.connection import HEARTBEAT, WebSocketConnection

RESUME_TIMEOUT = 10.0  # seconds for the resume frame
MARKS = 1_000  # groups of one socket whose read markers wait to be moved
WHOLE_HELLO = 5_000  # groups in a hello that is not fragmented
PARSED_AT_ONCE = 64 * 1024  # characters of a frame that is parsed in one step
WAITING_EPHEMERALS = 1_000  # of one socket that wait until their sender's permission is read
IN_FLIGHT = 1_000  # unanswered broadcasts of one socket, at which reading is paused

log = logging.getLogger("att")


class ClientActions(NamedTuple):
    """Actions that a client asks for. Each raises why it is not done.

    ``submit`` takes a broadcast and calls back; ``mark`` moves a read marker; ``watch`` tells a listener who is
    connected. ``count_ephemeral`` comes before an ephemeral. ``send_known`` sends it, or returns None if that has to
    wait for the database: then it is for ``send``. Both return the group.
    """

    submit: Callable[[Publish, PublishCallback], None]
    mark: Callable[[UUID | str, UUID, int], Awaitable[object]]
    watch: Callable[[Listener], None]
    count_ephemeral: Callable[[UUID], None]
    send_known: Callable[[UUID | str, UUID, bytes], UUID | None]
    send: Callable[[UUID | str, UUID, bytes], Awaitable[UUID]]


class PlainProtocol:
    """Plain subprotocol: ignores all messages."""

    __slots__ = ("_catching_up", "_connection", "_hub", "_listener", "_log_reader")

    def __init__(self, listener: Listener, connection: WebSocketConnection, hub: Hub, log_reader: LogReader) -> None:
        self._listener = listener
        self._connection = connection
        self._hub = hub
        self._log_reader = log_reader
        self._catching_up: asyncio.Task[None] | None = None

    def begin(self, epoch: str, positions: Sequence[Position]) -> None:
        """Begin on an open socket, with its user's positions of an epoch, read after the listener was attached."""
        if epoch == self._log_reader.epoch:
            self._start(positions, {})
        else:
            self._run(self._start_anew(_seqs(positions), epoch))

    def on_message(self, message: WSMessage) -> None:
        """Ignore a message."""

    def on_lost(self) -> None:
        """Detach the listener. May be called twice, or without ``begin``."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._hub.detach(self._listener)

    def _start(self, positions: Sequence[Position], resume: Mapping[UUID, int]) -> None:
        if len(positions) > SLICE:
            self._run(self._start_in_steps(positions, resume))
            return
        self._hub.start(self._listener, positions, resume)
        if self._hub.missing(self._listener):
            self._run(self._catch_up())

    def _run(self, work: Awaitable[None]) -> None:
        self._catching_up = asyncio.create_task(self._close_on_error(work))

    async def _start_anew(
        self,
        hello: Mapping[UUID, int],
        hello_epoch: str,
        named: Mapping[UUID, int] = MappingProxyType({}),
        epoch: str = "",
    ) -> None:
        """Start with positions read anew, from the seqs of hello and those that the client has named of an epoch.

        Both may be of an earlier epoch, or ahead of the positions that were read. Tell the client what does not hold.
        """
        reader, connection, told = self._log_reader, self._connection, dict(named)
        while True:
            positions = await reader.positions(self._listener.user_id)
            present, found = reader.epoch, {position.group_id: position for position in positions}
            start = await self._hold(hello_epoch, hello, found)
            held = await self._hold(epoch, named, found)
            for group_id, seq in told.items():
                if group_id not in found:  # others' groups are not told of; here the log knows nothing of this user
                    held[group_id] = seq if epoch == present else 0
                if held[group_id] < seq:
                    name = found[group_id].name if group_id in found else ""
                    await connection.drained()
                    connection.replay(text_frame(messages.rewind(group_id, name, held[group_id])))
                    told[group_id] = held[group_id]
            if present == reader.epoch:
                break
        if found.keys() - hello.keys():  # joined since hello, which does not tell from where on to hear it
            connection.close(CloseCode.RESYNC)
            return
        if self._listener.dialect is Dialect.V1 and epoch != present:
            connection.replay(text_frame(messages.epoch(present)))
        await self._start_in_steps(positions, start | held)

    async def _hold(self, epoch: str, seqs: Mapping[UUID, int], found: Mapping[UUID, Position]) -> dict[UUID, int]:
        """Return up to which seq these hold, and not beyond the positions found: the log may have grown since."""
        held = await self._log_reader.held(epoch, seqs)
        return {group_id: min(seq, found[group_id].seq) if group_id in found else seq for group_id, seq in held.items()}

    async def _start_in_steps(self, positions: Sequence[Position], resume: Mapping[UUID, int]) -> None:
        for _ in self._hub.starting(self._listener, positions, resume):
            await asyncio.sleep(0)
        await self._catch_up()

    async def _catch_up(self) -> None:
        await self._log_reader.catch_up(self._listener, self._connection.drained, self._connection.page_size)

    async def _close_on_error(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:
            log.exception("a listener could not be served")
            self._connection.close(CloseCode.RESYNC)


class AttV1Protocol(PlainProtocol):
    """Subprotocol att.v1."""

    __slots__ = (
        "_actions",
        "_ephemerals",
        "_epoch",
        "_in_flight",
        "_marking",
        "_marks",
        "_parsing",
        "_positions",
        "_resume_timer",
        "_sending",
        "_unparsed",
    )

    def __init__(
        self,
        listener: Listener,
        connection: WebSocketConnection,
        hub: Hub,
        log_reader: LogReader,
        actions: ClientActions,
    ) -> None:
        super().__init__(listener, connection, hub, log_reader)
        self._actions = actions
        self._ephemerals: deque[messages.EphemeralBroadcast] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._marks: dict[UUID | str, int] = {}
        self._marking: asyncio.Task[None] | None = None
        self._epoch = ""
        self._positions: Sequence[Position] | None = None
        self._resume_timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._unparsed: deque[str] | None = None  # frames that wait for a large one, or for the end of hello
        self._parsing: asyncio.Task[None] | None = None

    def begin(self, epoch: str, positions: Sequence[Position]) -> None:
        self._epoch, self._positions = epoch, positions
        groups = (each for each in positions if each.is_member and self._listener.wants(each.group_id))
        about = self._listener.user_id, self._listener.session_id, HEARTBEAT, epoch
        if len(positions) > WHOLE_HELLO:
            self._unparsed = deque()
            self._run(self._begin_in_steps(messages.hello_parts(*about, groups), self._unparsed))
        else:
            self._send(messages.hello(*about, groups))
            self._await_resume()

    async def _begin_in_steps(self, parts: Iterable[bytes], unparsed: deque[str]) -> None:
        """Send hello in fragments, at the pace of the client. What the client sends meanwhile is parsed at its end."""
        for number, part in enumerate(parts):
            await self._connection.drained()
            self._connection.replay(fragment(part, is_first=not number, is_last=False))
            await asyncio.sleep(0)
        self._connection.replay(fragment(b"", is_first=False, is_last=True))
        self._await_resume()
        await self._parse_in_steps(unparsed)

    def _await_resume(self) -> None:
        self._resume_timer = asyncio.get_running_loop().call_later(
            RESUME_TIMEOUT, self._close, ProtocolError(f"no resume within {RESUME_TIMEOUT:.0f} s")
        )

    def on_message(self, message: WSMessage) -> None:
        if message.type is not WSMsgType.TEXT:
            self._close(ProtocolError("a frame must be text"))
            return
        text = message.data
        if self._unparsed is not None:
            self._connection.pause()
            self._unparsed.append(text)
        elif len(text) <= PARSED_AT_ONCE:
            try:
                self._answer(messages.parse(text))
            except ProtocolError as error:
                self._refuse(error)
        else:
            self._connection.pause()
            self._unparsed = deque([text])
            self._parsing = asyncio.create_task(self._parse_in_steps(self._unparsed))

    async def _parse_in_steps(self, unparsed: deque[str]) -> None:
        """Answer a large frame, and those that had come with it, in their order."""
        try:
            while unparsed:
                try:
                    self._answer(await in_steps(messages.parsing(unparsed.popleft())))
                except ProtocolError as error:
                    self._refuse(error)
        except Exception:
            log.exception("a WebSocket message could not be handled")
            self._connection.close(CloseCode.RESYNC)
        self._unparsed = None
        if self._in_flight < IN_FLIGHT:
            self._connection.resume()

    def _refuse(self, error: ProtocolError) -> None:
        if isinstance(error, InvalidFrame) and self._positions is None:
            self._send(messages.error(error.id, error))
        else:
            self._close(error)

    def on_lost(self) -> None:
        super().on_lost()
        if self._parsing is not None:
            self._parsing.cancel()
        if self._resume_timer is not None:
            self._resume_timer.cancel()

    def _answer(self, frame: messages.ClientFrame) -> None:
        if isinstance(frame, messages.Resume):
            self._resume(frame)
        elif self._positions is not None:
            raise ProtocolError("the first frame must be resume")
        elif isinstance(frame, messages.Ping):
            self._send(messages.PONG)
        elif isinstance(frame, messages.MarkRead):
            self._mark_read(frame)
        elif isinstance(frame, messages.EphemeralBroadcast):
            self._send_ephemeral(frame)
        else:
            self._broadcast(frame)

    def _resume(self, frame: messages.Resume) -> None:
        positions, self._positions = self._positions, None
        if positions is None:
            raise ProtocolError("resume comes once")
        if self._resume_timer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
        resume = {group_id: seq for group_id, seq in frame.groups.items() if self._listener.wants(group_id)}
        if len(positions) > SLICE:
            self._run(self._resume_in_steps(positions, resume, frame.epoch))
        else:
            is_ahead = any(_is_ahead(resume, position) for position in positions)
            self._resume_from(positions, resume, frame.epoch, is_ahead=is_ahead)
        if frame.presence:
            self._actions.watch(self._listener)

    async def _resume_in_steps(
        self, positions: Sequence[Position], resume: Mapping[UUID, int], named_epoch: str | None
    ) -> None:
        is_ahead = False
        for start in range(0, len(positions), SLICE):
            is_ahead = is_ahead or any(_is_ahead(resume, position) for position in positions[start : start + SLICE])
            await asyncio.sleep(0)
        self._resume_from(positions, resume, named_epoch, is_ahead=is_ahead)

    def _resume_from(
        self, positions: Sequence[Position], resume: Mapping[UUID, int], named_epoch: str | None, *, is_ahead: bool
    ) -> None:
        epoch = self._epoch if named_epoch is None else named_epoch
        if is_ahead or not epoch == self._epoch == self._log_reader.epoch:
            self._run(self._start_anew(_seqs(positions), self._epoch, resume, epoch))
        else:
            self._start(positions, resume)

    def _broadcast(self, frame: messages.Broadcast) -> None:
        self._in_flight += 1
        if self._in_flight >= IN_FLIGHT:
            self._connection.pause()
        reply = partial(self._reply, frame.id)
        try:
            self._actions.submit(Publish(frame.group, self._listener.user_id, frame.data, frame.key), reply)
        except AttError as error:
            reply(error)

    def _reply(self, frame_id: messages.FrameId, outcome: Outcome) -> None:
        if self._in_flight == IN_FLIGHT and self._unparsed is None:
            self._connection.resume()
        self._in_flight -= 1
        if isinstance(outcome, AttError):
            self._send(messages.error(frame_id, outcome))
        else:
            event = outcome.event
            self._send(messages.ack(frame_id, event.group_id, event.seq, event.at, outcome.epoch))

    def _send_ephemeral(self, frame: messages.EphemeralBroadcast) -> None:
        """Send an ephemeral at once if its sender's permission is known, else in its order as soon as it is read."""
        user_id = self._listener.user_id
        try:
            self._actions.count_ephemeral(user_id)
            if self._ephemerals is not None:
                if len(self._ephemerals) >= WAITING_EPHEMERALS:
                    raise Busy
                self._ephemerals.append(frame)
            elif (group_id := self._actions.send_known(frame.group, user_id, frame.data)) is not None:
                self._confirm(frame, group_id)
            else:
                self._ephemerals = deque([frame])
                self._sending = asyncio.create_task(self._close_on_error(self._send_ephemerals(self._ephemerals)))
        except AttError as error:
            self._send(messages.error(frame.id, error))

    async def _send_ephemerals(self, frames: deque[messages.EphemeralBroadcast]) -> None:
        while frames:
            frame = frames.popleft()
            try:
                group_id = await self._actions.send(frame.group, self._listener.user_id, frame.data)
            except AttError as error:
                self._send(messages.error(frame.id, error))
            else:
                self._confirm(frame, group_id)
        self._ephemerals = None

    def _confirm(self, frame: messages.EphemeralBroadcast, group_id: UUID) -> None:
        if frame.id is not None:
            self._send(messages.ephemeral_ack(frame.id, group_id))

    def _mark_read(self, frame: messages.MarkRead) -> None:
        """Move a marker soon. Of many for one group that come meanwhile only the highest is written."""
        if len(self._marks) >= MARKS and frame.group not in self._marks:
            self._send(messages.error(None, Busy()))
            return
        self._marks[frame.group] = max(frame.seq, self._marks.get(frame.group, 0))
        if self._marking is None or self._marking.done():
            self._marking = asyncio.create_task(self._close_on_error(self._move_markers()))

    async def _move_markers(self) -> None:
        while self._marks:
            group = next(iter(self._marks))
            try:
                await self._actions.mark(group, self._listener.user_id, self._marks.pop(group))
            except AttError as error:
                self._send(messages.error(None, error))

    def _send(self, payload: bytes) -> None:
        self._connection.send(text_frame(payload))

    def _close(self, error: ProtocolError) -> None:
        if self._unparsed is not None:
            self._unparsed.clear()
        self._connection.close(CloseCode.PROTOCOL_ERROR, error.reason)


def _is_ahead(resume: Mapping[UUID, int], position: Position) -> bool:
    return resume.get(position.group_id, 0) > position.seq


def _seqs(positions: Sequence[Position]) -> dict[UUID, int]:
    return {position.group_id: position.seq for position in positions}
