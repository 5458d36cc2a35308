"""Accept connections on our listening sockets.

The server accepts by itself, so that limits apply before anything costs time (TLS above all), and so that pending
connections are still accepted when the server stops.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from att.config.settings import ListenAddress
from att.http import parse_errors
from att.http.bind import open_listeners
from att.http.connections import NEW, ClientQuota, ConnectionLimiter, Traffic
from att.http.tls import Certificate

BURST = 4  # connections that are accepted, and first read, in one turn of the loop
HANDSHAKE_TIMEOUT = 10.0  # seconds for the TLS handshake
_CLOSE_TIMEOUT = 5.0  # seconds for the end of TLS
_PAUSE = 0.2  # seconds without accepting when the system is out of resources
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger("att")


class Acceptor:
    """Accepts connections at one address, over TLS if there is a certificate."""

    def __init__(self, limiter: ConnectionLimiter, certificate: Certificate | None = None) -> None:
        self._limiter = limiter
        self._certificate = certificate
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._path: Path | None = None
        self._starting: set[asyncio.Task[None]] = set()

    async def open(self, *addresses: ListenAddress, option: str = "--listen") -> ListenAddress:
        """Listen at the first address that is free, and return it. Raises CannotStart, which names the option."""
        found, self._listeners = await open_listeners(addresses, option)
        self._path = None if found.path is None else Path(found.path)
        for listener in self._listeners:
            self._loop.add_reader(listener, self._on_readable, listener)
        self._limiter.start()
        return found if found.path else found._replace(port=self._listeners[0].getsockname()[1])

    @property
    def urls(self) -> list[str]:
        """URLs at which the server listens."""
        scheme = "http" if self._certificate is None else "https"
        if self._path is not None:
            return [f"unix:{self._path}"]
        return [f"{scheme}://{ListenAddress(*listener.getsockname()[:2])}" for listener in self._listeners]

    def traffic(self) -> Traffic:
        return self._limiter.traffic()

    def close(self) -> None:
        """Accept pending connections, then refuse new ones."""
        listeners, self._listeners = self._listeners, []
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        for listener in listeners:
            self._loop.remove_reader(listener)
            listener.listen(0)  # else new connections could come as fast as they are accepted
            with listener:
                pending = [*_accept(listener, None)]
            for sock, address in pending:
                self._start(sock, address)

    def _on_readable(self, listener: socket.socket) -> None:
        try:
            for sock, address in _accept(listener, BURST):
                self._start(sock, address)
        except OSError as error:
            log.warning("cannot accept connections: %s", error.strerror)
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener, self._on_readable, listener)

    def _start(self, sock: socket.socket, address: Any) -> None:
        peer = address[0] if sock.family != socket.AF_UNIX else None
        quota = self._limiter.acquire(peer)
        if quota is None:
            response = parse_errors.too_many()
            self._limiter.record_rejected(peer, response)
            with sock, suppress(OSError):
                if self._certificate is None:
                    sock.send(parse_errors.raw(response))
            return
        task = self._loop.create_task(self._start_protocol(sock, quota))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start_protocol(self, sock: socket.socket, quota: ClientQuota) -> None:
        connection = self._limiter.open(quota)
        options: dict[str, Any] = {}
        if self._certificate is not None:
            timeouts = {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT, "ssl_shutdown_timeout": _CLOSE_TIMEOUT}
            options = {"ssl": self._certificate.context} | timeouts
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock, **options)
        except OSError:  # the peer has closed it already, or does not speak TLS
            sock.close()
        finally:
            if connection.stage == NEW:
                quota.release()


def _accept(listener: socket.socket, limit: int | None) -> Iterator[tuple[socket.socket, Any]]:
    """Yield pending connections with their addresses. Raises OSError when the system is out of resources."""
    count = 0
    while limit is None or count < limit:
        count += 1
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            continue  # the peer has closed it already
        sock.setblocking(False)
        yield sock, address
