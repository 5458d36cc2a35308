"""Reading of frames (RFC 6455): aiohttp's reader extracts messages from the peer's bytes, a limited part at a time."""

import asyncio
from typing import Any

from aiohttp import WSMessage
from aiohttp._websocket.reader import WebSocketDataQueue  # the reader requires this class, which is not public
from aiohttp.http import WebSocketReader

from att.websocket.frame_writer import FrameWriter

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


class FrameReader(FrameWriter):
    """The reading half: handles messages, and can be paused. Unread bytes stay with the peer."""

    __slots__ = ("_is_paused", "_reader", "_rest", "_turn")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._reader: WebSocketReader | None = None  # None before ``_start_reading`` and after an error
        self._rest = b""
        self._turn: asyncio.Handle | None = None
        self._is_paused = False

    def _start_reading(self, limit: int) -> None:
        """Start to read messages of at most ``limit`` bytes."""
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
            self._schedule_turn()

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            return
        if self._rest or self._is_paused or len(data) > TURN:
            self._rest += data
            if self._transport is not None:
                self._transport.pause_reading()
            self._schedule_turn()
        else:
            self._read(self._reader, data)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._reader, self._rest = None, b""
        if self._turn is not None:
            self._turn.cancel()

    def _schedule_turn(self) -> None:
        if self._turn is None and not self._is_paused:
            self._turn = asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        self._turn = None
        part, self._rest = self._rest[:TURN], self._rest[TURN:]
        if part and self._reader is not None:
            self._read(self._reader, part)
        if self._rest:
            self._schedule_turn()
        elif not self._is_paused and self._transport is not None:
            self._transport.resume_reading()

    def _read(self, reader: WebSocketReader, data: bytes) -> None:
        reader.feed_data(data)
        messages, error = _found.take()
        for message in messages:
            self._on_message(message)
        if error is not None:
            self._reader, self._rest = None, b""
            self._on_read_error(error)
