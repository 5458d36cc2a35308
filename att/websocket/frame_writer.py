"""Writing of frames to a peer, which never waits, and closing with a reason."""

import asyncio
import contextlib
import socket

from att.protocol.frames import CloseCode, close_frame

_CLOSE_TIMEOUT = 5.0  # seconds for a peer to take pending data and the close frame
KERNEL_BUFFER = 64 * 1024  # bytes that the kernel may buffer for one socket; its default is megabytes
DRAIN_TIMEOUT = 30.0  # seconds for a peer to take a page while it catches up
DRAIN_PAUSE = 0.01  # seconds between checks of the pending data


class SharedSocket(socket.socket):
    """A socket that does not close its descriptor, which belongs to another one."""

    __slots__ = ()

    def __del__(self) -> None:
        self.detach()


class FrameWriter(asyncio.Protocol):
    """The writing half: a protocol and a ``ListenerConnection``.

    While the transport has nothing to write, frames bypass it, which costs half: they are sent by ``_active_socket``.
    It is set while the connection is open, except while data waits, and over TLS. Frames that come while the transport
    is full are kept here, where all connections share one object; in the transport each copy would cost memory and a
    system call.
    """

    # Python sorts slots by name, a base class's first, so a fan-out finds ``_active_socket`` beside the type.
    __slots__ = (
        "_active_socket",
        "_close_code",
        "_deadline",
        "_limit",
        "_reason",
        "_spare_socket",
        "_transport",
        "_waiting",
        "_waiting_size",
    )

    def __init__(self, limit: int) -> None:
        self._active_socket: SharedSocket | None = None
        self._limit = limit
        self._spare_socket: SharedSocket | None = None
        self._transport: asyncio.Transport | None = None
        self._close_code: int | None = None
        self._reason = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._waiting: list[bytes] | None = None  # while the transport is full
        self._waiting_size = 0  # bytes

    def send(self, frame: bytes) -> bool:
        if self._active_socket is None:
            return self._send_behind(frame)
        try:
            sent = self._active_socket.send(frame)
        except OSError:
            sent = 0  # the transport gets the same error, and handles it
        if sent < len(frame):
            self._write(frame[sent:])
        return True

    def _send_behind(self, frame: bytes) -> bool:
        """Send a frame after the waiting ones, unless these are too many."""
        if not self._is_open:
            return False
        # Checked before the write, so that a frame of any size reaches a peer that keeps up.
        if self._pending > self._limit:
            self.close(CloseCode.TOO_SLOW)
            return False
        self._write(frame)
        return True

    def replay(self, frame: bytes) -> None:
        if self._is_open:
            self._write(frame)

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

    # Callbacks of the transport

    def pause_writing(self) -> None:
        self._active_socket, self._waiting = None, []

    def resume_writing(self) -> None:
        self._flush()
        if self._waiting is None:  # else the transport is full again
            self._active_socket = self._spare_socket if self._is_open else None

    def eof_received(self) -> None:
        self._active_socket = None  # the transport closes itself now

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = self._active_socket = self._spare_socket = self._waiting = None
        self._waiting_size = 0
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
        if not self._pending:
            self.resume_writing()

    def _begin_close(self, code: int, reason: bytes = b"") -> None:
        """Close once. A connection that is not open yet is closed by ``_send_close``."""
        if self._close_code is None:
            self._close_code, self._reason, self._active_socket = code, reason, None
            self._send_close()

    def _send_close(self) -> None:
        """Send the close frame if there is one."""
        transport = self._transport
        if transport is not None and self._close_code is not None and not transport.is_closing():
            self._flush()
            transport.write(close_frame(self._close_code, self._reason))
            # A peer that has not taken the close frame by then never will; its pending data must not stay.
            self._deadline = asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT, transport.abort)

    @property
    def _is_open(self) -> bool:
        return self._transport is not None and self._close_code is None and not self._transport.is_closing()

    @property
    def _pending(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size() + self._waiting_size

    def _write(self, frame: bytes) -> None:
        if self._waiting is not None:
            self._waiting.append(frame)
            self._waiting_size += len(frame)
        elif self._transport is not None:
            self._transport.write(frame)

    def _flush(self) -> None:
        """Pass the waiting frames to the transport."""
        waiting, self._waiting, self._waiting_size = self._waiting, None, 0
        if waiting and self._transport is not None:
            self._transport.writelines(waiting)


def _limit_kernel(raw: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the socket was closed already
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
