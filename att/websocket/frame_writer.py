"""Writing of frames to a peer, which never waits, and closing with a reason."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from att.core.memory import MemoryBudget
from att.protocol.frames import CloseCode, close_frame
from att.realtime.registry import Recipients

_CLOSE_TIMEOUT = 5.0  # seconds for a peer to take pending data and the close frame
KERNEL_BUFFER = 64 * 1024  # bytes that the kernel may buffer for one socket; its default is megabytes
PART = 64 * 1024  # bytes that a transport gets at a time while the peer is slow
DRAIN_TIMEOUT = 30.0  # seconds for a peer to take a page while it catches up
DRAIN_PAUSE = 0.01  # seconds between checks of the pending data


class SharedSocket(socket.socket):
    """A socket that does not close its descriptor, which belongs to another one."""

    __slots__ = ()

    def __del__(self) -> None:
        self.detach()


class _Changes:
    """Counts the changes of active sockets of all connections."""

    count = 0


_changes = _Changes()


class FrameWriter(asyncio.Protocol):
    """The writing half: a protocol, a ``ListenerConnection`` and a ``MemoryHolder``.

    While the transport has nothing to write, frames bypass it, which costs half: they are sent by ``_active_socket``.
    It is set while the connection is open, except while data waits, and over TLS. What the kernel does not take waits
    here, where all connections share one object, of whatever size; the transport gets it in parts of ``PART`` bytes,
    since it may copy them.
    """

    # Python sorts slots by name, a base class's first, so a fan-out finds ``_active_socket`` beside the type.
    __slots__ = (
        "_active_socket",
        "_close_code",
        "_deadline",
        "_is_full",
        "_limit",
        "_memory",
        "_offset",
        "_passed",
        "_reason",
        "_spare_socket",
        "_transport",
        "_waiting",
        "_waiting_size",
        "held",
        "held_since",
    )

    def __init__(self, limit: int, memory: MemoryBudget) -> None:
        self._active_socket: SharedSocket | None = None
        self._limit = limit
        self._memory = memory
        self._spare_socket: SharedSocket | None = None
        self._transport: asyncio.Transport | None = None
        self._close_code: int | None = None
        self._reason = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._is_full = False  # the transport has bytes that the kernel has not taken
        self._waiting: deque[bytes] | None = None  # while frames wait, or the transport is full
        self._waiting_size = 0  # bytes that the transport has not got yet
        self._offset = 0  # bytes of the first waiting frame that it has got
        self._passed: tuple[bytes, ...] = ()  # frames that it has got to their end, while it is full
        self.held = 0
        self.held_since = 0.0

    def send(self, frame: bytes) -> bool:
        if self._active_socket is None:
            return self._send_behind(frame)
        try:
            sent = self._active_socket.send(frame)
        except OSError:
            sent = 0  # the transport gets the same error, and handles it
        if sent < len(frame):
            self._wait(frame, sent)
        return True

    def _send_behind(self, frame: bytes) -> bool:
        """Send a frame after the waiting ones, unless these are too many."""
        if not self._is_open:
            return False
        # Checked before the write, so that a frame of any size reaches a peer that keeps up.
        if self._pending > self._limit:
            self.close(CloseCode.TOO_SLOW)
            return False
        self._wait(frame)
        return True

    def send_if_room(self, frame: bytes) -> bool:
        return (self._active_socket is not None or self._pending <= self._limit // 4) and self.send(frame)

    def replay(self, frame: bytes) -> None:
        if self._is_open:
            self._wait(frame)

    def close(self, code: CloseCode, reason: bytes = b"") -> None:
        self._begin_close(code, reason or code.reason.encode())

    def abort(self) -> None:
        """Close the transport at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def page_size(self) -> int:
        """The number of bytes to replay at once, which leaves room for new events."""
        return self._limit // 4

    async def drained(self) -> None:
        """Wait until most of the pending data is written. Close a peer that is too slow."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while self._is_open and self._pending > self._limit // 4:  # noqa: ASYNC110 - see DRAIN_PAUSE
                    await asyncio.sleep(DRAIN_PAUSE)
        except TimeoutError:
            self.close(CloseCode.TOO_SLOW)

    # MemoryHolder

    def give_up(self) -> str:
        """Drop what waits, and close: the budget is full."""
        is_amid = bool(self._offset or self._passed)
        self._drop_waiting()
        if is_amid:
            self.abort()  # no frame can follow a part of one
        else:
            self.close(CloseCode.TOO_SLOW)
        return "outbox"

    # Callbacks of the transport

    def pause_writing(self) -> None:
        if self._waiting is None:
            self._waiting = deque()
        if not self._is_full and self._spare_socket is None:  # over TLS what the transport has is a copy
            self._memory.charge(self, PART)
        self._set_active(None)
        self._is_full = True

    def resume_writing(self) -> None:
        self._free_transport()
        self._pass_on()

    def eof_received(self) -> None:
        self._set_active(None)  # the transport closes itself now

    def connection_lost(self, _error: Exception | None) -> None:
        self._drop_waiting()
        self._free_transport()
        self._set_active(None)
        self._transport = self._spare_socket = self._waiting = None
        if self._deadline is not None:
            self._deadline.cancel()

    # Internals

    def _open(self, transport: asyncio.Transport) -> None:
        """Take over a transport, so that frames can be sent."""
        self._transport = transport
        raw, is_tls = transport.get_extra_info("socket"), transport.get_extra_info("sslcontext") is not None
        if raw is not None:
            _limit_kernel(raw)
            if not is_tls:
                self._spare_socket = SharedSocket(raw.family, raw.type, raw.proto, raw.fileno())
        # Calls ``pause_writing`` as soon as a byte waits: over TLS at the limit, else above it.
        transport.set_write_buffer_limits(high=int(is_tls), low=0)
        if transport.get_write_buffer_size():
            self.pause_writing()
        else:
            self._pass_on()

    def _begin_close(self, code: int, reason: bytes = b"") -> None:
        """Close once. A connection that is not open yet is closed by ``_send_close``."""
        if self._close_code is None:
            self._set_active(None)
            self._close_code, self._reason = code, reason
            self._send_close()

    def _set_active(self, active: SharedSocket | None) -> None:
        if self._active_socket is not active:
            self._active_socket = active
            _changes.count += 1

    def _send_close(self) -> None:
        """Send the close frame if there is one, behind what waits."""
        transport = self._transport
        if transport is not None and self._close_code is not None and not transport.is_closing():
            self._wait(self._close_frame(self._close_code))
            # A peer that has not taken the close frame by then never will; its pending data must not stay.
            self._deadline = asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT, transport.abort)

    def _close_frame(self, code: int) -> bytes:
        return close_frame(code, self._reason)

    @property
    def _is_open(self) -> bool:
        return self._transport is not None and self._close_code is None and not self._transport.is_closing()

    @property
    def _pending(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size() + self._waiting_size

    def _wait(self, frame: bytes, sent: int = 0) -> None:
        """Let a frame wait, of which some bytes were sent if nothing else waits. Pass on what the transport takes."""
        if self._transport is None:
            return
        if self._waiting is None:
            if self._spare_socket is None and len(frame) <= PART:  # over TLS frames never bypass the transport
                self._transport.write(frame)
                return
            self._set_active(None)
            self._waiting, self._offset = deque(), sent
        self._waiting.append(frame)
        self._waiting_size += len(frame) - sent
        self._memory.charge_frame(self, frame)
        if not self._is_full:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the transport parts of what waits, until it is full."""
        while self._transport is not None and not self._is_full:
            for frame in self._passed:
                self._memory.release_frame(self, frame)
            self._passed = ()
            if not self._waiting:
                self._waiting = None
                self._set_active(self._spare_socket if self._is_open else None)
                return
            # A transport that is closing ends as soon as it has sent what it has got.
            self._pass(self._waiting_size if self._transport.is_closing() else PART)

    def _pass_all(self) -> None:
        """Give the transport all that waits, before it closes."""
        self._pass(self._waiting_size)

    def _pass(self, room: int) -> None:
        """Give the transport so many bytes of the waiting frames, without a copy."""
        part: list[memoryview] = []
        passed: list[bytes] = []
        while self._waiting and room:
            frame = self._waiting[0]
            piece = memoryview(frame)[self._offset : self._offset + room]
            part.append(piece)
            room -= len(piece)
            self._waiting_size -= len(piece)
            self._offset += len(piece)
            if self._offset == len(frame):
                self._offset = 0
                passed.append(self._waiting.popleft())
        self._passed = (*self._passed, *passed)
        if part and self._transport is not None:
            self._transport.writelines(part)

    def _free_transport(self) -> None:
        if self._is_full and self._spare_socket is None:
            self._memory.release(self, PART)
        self._is_full = False

    def _drop_waiting(self) -> None:
        for frame in (*self._passed, *(self._waiting or ())):
            self._memory.release_frame(self, frame)
        self._passed = ()
        if self._waiting is not None:
            self._waiting.clear()
        self._waiting_size = self._offset = 0


class _Sockets(NamedTuple):
    """The active sockets of recipients, None for a connection without one, as of this number of changes."""

    changes: int
    sockets: Sequence[SharedSocket | None]


def send_to_all(recipients: Recipients, frame: bytes, part: slice) -> int:
    """Send a frame to a part of the recipients as ``FrameWriter.send`` does. Return how many have taken it.

    While no socket changes the loop touches the sockets alone. From the first connection that does not take all on, it
    goes the usual way: whatever is done about that one may concern the others.
    """
    writers: Any = recipients
    known: _Sockets | None = recipients.known
    if known is None or known.changes != _changes.count:
        known = recipients.known = _Sockets(_changes.count, [writer._active_socket for writer in writers])  # noqa: SLF001
    size, sent, done = len(frame), 0, 0
    with contextlib.suppress(OSError):
        for active in known.sockets[part]:
            if active is None or (sent := active.send(frame)) != size:
                break
            done += 1
        else:
            return done
    rest: Sequence[FrameWriter] = writers[part][done:]
    if 0 < sent < size:
        rest[0]._wait(frame, sent)  # noqa: SLF001
        done, rest = done + 1, rest[1:]
    return done + sum([writer.send(frame) for writer in rest])


def _limit_kernel(raw: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the socket was closed already
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
