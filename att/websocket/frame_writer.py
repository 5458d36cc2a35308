"""What is written to a peer, and never awaited: frames, and at the end why it is closed."""

import asyncio
import contextlib
import socket

from att.protocol.frames import CloseCode, close_frame

_CLOSE_TIMEOUT = 5.0  # seconds for a peer to take what was written before it, and its close frame
KERNEL_BUFFER = 64 * 1024  # bytes that the kernel may hold of one socket's outbox; by itself it takes megabytes
DRAIN_TIMEOUT = 30.0  # seconds for a peer to take a quarter of its outbox while it is given what it missed
DRAIN_PAUSE = 0.01  # seconds between looks at the outbox


class SharedSocket(socket.socket):
    """A socket whose descriptor is somebody else's, and is not closed with it."""

    __slots__ = ()

    def __del__(self) -> None:
        self.detach()


class FrameWriter(asyncio.Protocol):
    """A protocol, and a ``Connection`` of the registry.

    As long as nothing waits in the transport frames are sent past it, which costs half: by a raw on its socket. There
    is one in use from when it is open to when it is closed or lost, except while something waits, or over TLS. What
    comes while the transport has enough waits here: a frame is one object for all who wait for it, and in the transport
    each would cost memory and a system call.
    """

    # By name, and those of a first class before others: what a fan-out looks at in each lies beside its type.
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
        self._waiting: list[bytes] | None = None  # while the transport has enough
        self._waiting_size = 0  # bytes

    def send(self, frame: bytes) -> bool:
        if self._active_socket is None:
            return self._send_behind(frame)
        try:
            sent = self._active_socket.send(frame)
        except OSError:
            sent = 0  # the transport meets the same, and knows what to do
        if sent < len(frame):
            self._write(frame[sent:])
        return True

    def _send_behind(self, frame: bytes) -> bool:
        """Send it behind what waits, unless that is too much."""
        if not self._is_open:
            return False
        # Looked at before the write: a frame of any size reaches a peer that keeps up.
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
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def page_size(self) -> int:
        """How many bytes may be replayed at once, so that there is room left for what happens meanwhile."""
        return self._limit // 4

    async def drained(self) -> None:
        """Wait until most of what was written has gone. A peer that does not take it is closed."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while self._is_open and self._pending > self._limit // 4:  # noqa: ASYNC110 - see DRAIN_PAUSE
                    await asyncio.sleep(DRAIN_PAUSE)
        except TimeoutError:
            self.close(CloseCode.TOO_SLOW)

    # What the transport tells

    def pause_writing(self) -> None:
        self._active_socket, self._waiting = None, []

    def resume_writing(self) -> None:
        self._flush()
        if self._waiting is None:  # else that was enough again
            self._active_socket = self._spare_socket if self._is_open else None

    def eof_received(self) -> None:
        self._active_socket = None  # the transport closes it now

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = self._active_socket = self._spare_socket = self._waiting = None
        self._waiting_size = 0
        if self._deadline is not None:
            self._deadline.cancel()

    # Within

    def _open(self, transport: asyncio.Transport) -> None:
        """It is this transport's protocol, and frames can be sent."""
        self._transport = transport
        raw, is_tls = transport.get_extra_info("socket"), transport.get_extra_info("sslcontext") is not None
        if raw is not None:
            _limit_kernel(raw)
            if not is_tls:
                self._spare_socket = SharedSocket(raw.family, raw.type, raw.proto, raw.fileno())
        # So that we are told as soon as anything waits: over TLS that is when so much does, else when more does.
        transport.set_write_buffer_limits(high=int(is_tls), low=0)
        if not self._pending:
            self.resume_writing()

    def _begin_close(self, code: int, reason: bytes = b"") -> None:
        """Close it, the first time. If it is not open yet it is closed by ``_send_close``."""
        if self._close_code is None:
            self._close_code, self._reason, self._active_socket = code, reason, None
            self._send_close()

    def _send_close(self) -> None:
        """Send the close frame if there is one to be sent."""
        transport = self._transport
        if transport is not None and self._close_code is not None and not transport.is_closing():
            self._flush()
            transport.write(close_frame(self._close_code, self._reason))
            # Whoever has not taken its close frame by then never will; what waits for it must not stay.
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
        """Give the transport what waits here."""
        waiting, self._waiting, self._waiting_size = self._waiting, None, 0
        if waiting and self._transport is not None:
            self._transport.writelines(waiting)


def _limit_kernel(raw: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was closed already
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
