"""Reading of frames (RFC 6455): aiohttp's reader extracts messages from the peer's bytes, a limited part at a time."""

import asyncio
from collections.abc import Hashable
from typing import Any

from aiohttp import WSCloseCode, WSMessage
from aiohttp._websocket.reader import WebSocketDataQueue  # the reader requires this class, which is not public
from aiohttp.http import WebSocketError, WebSocketReader

from att.core.fair_semaphore import SOURCE
from att.core.memory import MemoryBudget
from att.core.pace import ARRIVAL_TIMEOUT, PACE_TIME, Pace
from att.core.read_turns import ReadTurns
from att.protocol.frames import CloseCode
from att.websocket.frame_writer import FrameWriter
from att.websocket.inflating import Inflater
from att.websocket.masks import MaskScanner

_FINAL, _CONTROL, _LENGTH_16, _MASK_SIZE = 0x80, 0x08, 126, 4  # of a frame (RFC 6455, section 5.2)
TURN = 16 * 1024  # bytes of one peer that are read before other peers have their turn


class _Found(WebSocketDataQueue):
    """Results of a reader. All readers share one, which is emptied before the next reader is fed."""

    def __init__(self, *unused: Any, **options: Any) -> None:
        super().__init__(*unused, **options)
        self.messages: list[WSMessage] = []
        self.error: BaseException | None = None

    def feed_data(self, data: Any, _size: int) -> None:
        self.messages.append(data)

    def set_exception(self, exc: BaseException, _cause: BaseException | None = None) -> None:
        self.error = exc

    def take(self) -> tuple[list[WSMessage], BaseException | None]:
        """Remove and return the messages, and the error after them."""
        found = self.messages, self.error
        self.messages, self.error = [], None
        return found


_found = _Found(None, 0, loop=None)  # protocol, limit and loop are unused


class UnfinishedMessage:
    """Follows the frames of one peer, to know how many bytes of a message have come that has not ended (RFC 6455)."""

    __slots__ = ("_head", "_is_open", "_left", "size")

    def __init__(self) -> None:
        self.size = 0  # bytes since the message began; 0 between messages
        self._head = b""  # a frame's header, of which a part is missing
        self._left = 0  # bytes of the last frame that are still to come
        self._is_open = False  # frames of the message are still to come

    def feed(self, data: bytes) -> None:
        """Follow the next bytes."""
        self.size += len(data)  # of a message that has begun before
        data = self._head + data
        self._head = b""
        at, end = self._left, len(data)
        while at <= end:
            if not self._is_open:
                self.size = end - at
            start, at = at, self._end_of_frame(data, at)
            if at < 0:
                self._head, at = data[start:], end
                break
        self._left = at - end

    def _end_of_frame(self, data: bytes, at: int) -> int:
        """Return where the frame ends that begins here, or -1 if its header is not complete."""
        length, start = (data[at + 1] & 0x7F if at + 1 < len(data) else -1), at + 2
        if length >= _LENGTH_16:
            start += 2 if length == _LENGTH_16 else 8
            length = int.from_bytes(data[at + 2 : start])
        if length < 0 or start > len(data):
            return -1
        if not data[at] & _CONTROL:
            self._is_open = not data[at] & _FINAL
        return start + _MASK_SIZE + length


class FrameReader(FrameWriter):
    """The reading half: handles messages, and can be paused. Unread bytes stay with the peer.

    A message must arrive at a minimum pace, and what has come of it counts against the budget of memory.
    """

    __slots__ = (
        "_arrival",
        "_has_turn",
        "_inflated",
        "_inflater",
        "_is_paused",
        "_masks",
        "_pace",
        "_reader",
        "_rest",
        "_source",
        "_turns",
        "_unfinished",
        "_unread",
    )

    def __init__(self, limit: int, memory: MemoryBudget, turns: ReadTurns) -> None:
        super().__init__(limit, memory)
        self._reader: WebSocketReader | None = None  # None before ``_start_reading`` and after an error
        self._masks = MaskScanner()
        self._rest = b""
        self._turns = turns
        self._source: Hashable = ""
        self._has_turn = False  # or will have one
        self._is_paused = False
        self._unfinished = UnfinishedMessage()
        self._inflater: Inflater | None = None
        self._inflated = 0  # bytes of inflated messages since reading was last not paused, so they may be waiting
        self._unread = 0  # bytes counted against the budget: of the unfinished message, the rest, and the inflated ones
        self._pace: Pace | None = None
        self._arrival: asyncio.TimerHandle | None = None  # while a message is unfinished

    def _start_reading(self, limit: int, source: Hashable, *, inflates: bool = False) -> None:
        """Start to read messages of at most ``limit`` bytes, also when inflated. The source takes turns with others."""
        self._source = source
        self._inflater = Inflater(limit) if inflates else None
        self._reader = WebSocketReader(_found, limit + 1, compress=False, decode_text=True)

    def _on_message(self, message: WSMessage) -> None:
        """Handle a message or a control frame."""
        raise NotImplementedError

    def _on_read_error(self, error: BaseException) -> None:
        """Handle bytes that are no WebSocket frames, or too long. Nothing is read after them."""
        raise NotImplementedError

    def pause(self) -> None:
        """Pause reading. Messages already being read are still handled."""
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Resume reading."""
        if self._is_paused:
            self._is_paused = False
            if self._inflated:
                self._inflated = 0
                self._count()
            self._schedule_turn()

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            return
        if self._rest or self._is_paused or len(data) > TURN:
            self._rest += data
            self._count()
        else:
            self._read(self._reader, data)
        if self._rest:
            if self._transport is not None:
                self._transport.pause_reading()
            self._schedule_turn()

    def give_up(self) -> str:
        """Drop an unfinished message or what waits, and close: the budget is full."""
        if not self._unread:
            return super().give_up()
        self._stop_reading()
        self.close(CloseCode.OVERLOADED)
        return "message"

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._stop_reading()

    def _schedule_turn(self) -> None:
        if not self._has_turn and not self._is_paused:
            self._has_turn = True
            self._turns.ask(self._source, self._read_on)

    def _read_on(self) -> None:
        self._has_turn = False
        part, self._rest = self._rest[:TURN], self._rest[TURN:]
        if part and self._reader is not None:
            self._read(self._reader, part)
        if self._rest:
            self._schedule_turn()
        elif not self._is_paused and self._transport is not None:
            self._transport.resume_reading()

    def _read(self, reader: WebSocketReader, data: bytes) -> None:
        """Read frames, up to an inflated message that waits or is large: then the others have their turn."""
        if self._inflater is None:
            self._feed(reader, data)
            return
        at = inflated = 0
        while at < len(data) and inflated < TURN and self._reader is not None:
            part, at, deflated_type = self._inflater.split(data, at)
            inflated += self._feed(reader, part, deflated_type)
            if self._is_paused:
                break
        if at < len(data) and self._reader is not None:
            self._rest = data[at:] + self._rest
            self._count()

    def _feed(self, reader: WebSocketReader, data: bytes, deflated_type: int = 0) -> int:
        """Handle the frames in these bytes. If a compressed message ends with them, return its size, else 0."""
        unmasked = self._masks.find_unmasked(data)
        reader.feed_data(data[:unmasked])
        messages, error = _found.take()
        self._unfinished.feed(data)
        SOURCE.set(self._source)  # also of the tasks that messages start
        size = 0
        if deflated_type and self._inflater is not None and error is None and unmasked is None:
            try:
                message, size = self._inflater.inflate(messages.pop(), deflated_type)
            except WebSocketError as found:
                error = found
            else:
                messages.append(message)
                self._inflated += size
                self._count()
        for message in messages:
            self._on_message(message)
        if not self._is_paused:
            self._inflated = 0
        if unmasked is not None:
            error = error or WebSocketError(WSCloseCode.PROTOCOL_ERROR, "a frame has no mask")
        if error is not None:
            self._stop_reading()
            self._on_read_error(error)
        elif self._unfinished.size or self._unread:
            self._count()
            self._check_pace()
        return size

    def _stop_reading(self) -> None:
        """Read nothing from now on."""
        self._reader, self._rest, self._unfinished, self._inflated = None, b"", UnfinishedMessage(), 0
        self._count()
        self._check_pace()

    def _count(self) -> None:
        """Charge what has come and is not handled."""
        unread = self._unfinished.size + len(self._rest) + self._inflated
        change, self._unread = unread - self._unread, unread
        if change > 0:
            self._memory.charge(self, change)
        else:
            self._memory.release(self, -change)

    def _check_pace(self) -> None:
        """Close a peer whose message arrives too slowly. While reading is paused, that is not its fault."""
        loop, arrival = asyncio.get_running_loop(), self._arrival
        if not self._unfinished.size:
            self._pace = self._arrival = None
            if arrival is not None:
                arrival.cancel()
            return
        now = loop.time()
        if self._pace is None or self._is_paused:
            self._pace = Pace(now, ARRIVAL_TIMEOUT, PACE_TIME)
        due = self._pace.after(self._unfinished.size, now)
        if due <= now:
            self._stop_reading()
            self.close(CloseCode.TOO_SLOW)
        elif arrival is None:
            self._arrival = loop.call_at(due, self._on_due)

    def _on_due(self) -> None:
        self._arrival = None
        self._check_pace()
