"""Our listening sockets, and who comes in by them.

The accepting is our own, so that it is known who comes before anything is done for them, TLS above all, and so that
nobody who is waiting is turned away when we stop.
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

BURST = 64  # connections that are accepted in one go
HANDSHAKE_TIMEOUT = 10.0  # seconds for TLS to be agreed on
_CLOSE_TIMEOUT = 5.0  # seconds for TLS to be ended
_PAUSE = 0.2  # seconds without accepting when the system has no room for another connection
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger("att")


class Acceptor:
    """Takes in connections at one address, over TLS if there is a certificate."""

    def __init__(self, connections: ConnectionLimiter, certificate: Certificate | None = None) -> None:
        self._connections = connections
        self._certificate = certificate
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._path: Path | None = None
        self._arriving: set[asyncio.Task[None]] = set()

    async def open(self, *addresses: ListenAddress, option: str = "--listen") -> ListenAddress:
        """Listen at the first of the addresses that is free; where. Raises CannotStart, which names the option."""
        found, self._listeners = await open_listeners(addresses, option)
        self._path = None if found.path is None else Path(found.path)
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)
        self._connections.start()
        return found if found.path else found._replace(port=self._listeners[0].getsockname()[1])

    @property
    def urls(self) -> list[str]:
        """Where we listen."""
        scheme = "http" if self._certificate is None else "https"
        if self._path is not None:
            return [f"unix:{self._path}"]
        return [f"{scheme}://{ListenAddress(*listener.getsockname()[:2])}" for listener in self._listeners]

    def traffic(self) -> Traffic:
        return self._connections.traffic()

    def close(self) -> None:
        """Listen no more. Whoever has been waiting by now is let in."""
        listeners, self._listeners = self._listeners, []
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        for listener in listeners:
            self._loop.remove_reader(listener)
            listener.listen(0)  # nobody comes in so fast that there is no end
            with listener:
                arrived = [*_arrived(listener, None)]
            for plug, address in arrived:
                self._admit(plug, address)

    def _accept(self, listener: socket.socket) -> None:
        try:
            for plug, address in _arrived(listener, BURST):
                self._admit(plug, address)
        except OSError as error:
            log.warning("no connection can be accepted: %s", error.strerror)
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _admit(self, plug: socket.socket, address: Any) -> None:
        peer = address[0] if plug.family != socket.AF_UNIX else None
        caller = self._connections.admit(peer)
        if caller is None:
            refusal = parse_errors.too_many()
            self._connections.refused(peer, refusal)
            with plug, suppress(OSError):
                if self._certificate is None:
                    plug.send(parse_errors.raw(refusal))
            return
        task = self._loop.create_task(self._welcome(plug, caller))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _welcome(self, plug: socket.socket, caller: ClientQuota) -> None:
        connection = self._connections.open(caller)
        options: dict[str, Any] = {}
        if self._certificate is not None:
            timeouts = {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT, "ssl_shutdown_timeout": _CLOSE_TIMEOUT}
            options = {"ssl": self._certificate.context} | timeouts
        try:
            await self._loop.connect_accepted_socket(lambda: connection, plug, **options)
        except OSError:  # it has gone already, or speaks no TLS
            plug.close()
        finally:
            if connection.stage == NEW:
                caller.leave()


def _arrived(listener: socket.socket, limit: int | None) -> Iterator[tuple[socket.socket, Any]]:
    """Those who wait to be accepted. Raises OSError when the system has no room for another one."""
    count = 0
    while limit is None or count < limit:
        count += 1
        try:
            plug, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            continue  # it has gone already
        plug.setblocking(False)
        yield plug, address
