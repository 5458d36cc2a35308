"""Open and check the sockets on which the server listens."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from att.config.settings import ListenAddress
from att.errors import CannotStart

# Bytes that the kernel stores of what a client sends; accepted sockets inherit it. Its default is megabytes, and one
# read may bring much of them before anybody knows who sends them.
RECEIVE_BUFFER = 64 * 1024
BACKLOG = 1_024  # pending connections; the system may allow fewer
UNIX_PATH = 107  # bytes of a unix socket's path on Linux; other systems allow a few less
ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # the host name has an address that this machine does not have


async def check_listeners(address: ListenAddress) -> None:
    """Raise CannotStart if the server cannot listen there now."""
    try:
        await try_address(address)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(address, error, "--listen") from error


async def try_address(address: ListenAddress) -> None:
    """Bind to the address and close it again, without listening. Raises OSError and UnicodeError."""
    if address.path is not None:
        _try_path(Path(address.path))
        return
    for sock in await _tcp_sockets(address):
        sock.close()


async def open_listeners(addresses: Sequence[ListenAddress], option: str) -> tuple[ListenAddress, list[socket.socket]]:
    """Listen at the first address that is free; return it and its sockets, one for each address of the host.

    Raises CannotStart, which names the option that sets the address.
    """
    for address in addresses[:-1]:
        try:
            return address, await _listeners(address)
        except (OSError, UnicodeError) as error:
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                raise _cannot_listen(address, error, option) from error
    try:
        return addresses[-1], await _listeners(addresses[-1])
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(addresses[-1], error, option) from error


async def _listeners(address: ListenAddress) -> list[socket.socket]:
    return await _tcp_sockets(address, BACKLOG) if address.path is None else [_unix_listener(address.path)]


async def _tcp_sockets(address: ListenAddress, backlog: int | None = None) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    host = None if address.is_everywhere else address.host
    found = await loop.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, sockaddr in dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found):
            try:
                listeners.append(_bound(socket.socket(family), sockaddr, backlog))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                absent = error
        if absent is not None and not listeners:
            raise absent
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _try_path(path: Path) -> None:
    """Raise OSError if no unix socket can be created there. A file that an ended server left would be replaced."""
    if path.exists():
        if not path.is_socket():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        _check_unclaimed(str(path))
    if len(os.fsencode(path)) > UNIX_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _unix_listener(path: str) -> socket.socket:
    _check_unclaimed(path)
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            Path(path).unlink()  # left by a server that was killed
    return _bound(socket.socket(socket.AF_UNIX), path, BACKLOG)


def _check_unclaimed(path: str) -> None:
    """Raise OSError if a server listens on the unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        # EAGAIN: it listens, but its backlog is full.
        if probe.connect_ex(path) in (0, errno.EAGAIN):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _bound(listener: socket.socket, sockaddr: Any, backlog: int | None) -> socket.socket:
    """Bind the socket, and listen if there is a backlog. Raises OSError."""
    try:
        if listener.family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.setblocking(False)
        listener.bind(sockaddr)
        if backlog is not None:
            listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _cannot_listen(address: ListenAddress, error: OSError | UnicodeError, option: str) -> CannotStart:
    if isinstance(error, socket.gaierror | UnicodeError):
        reason = "the host is unknown"
    elif error.errno == errno.EADDRINUSE:
        reason = f"the address is in use; stop what uses it or choose another with {option}"
    else:
        reason = os.strerror(error.errno) if error.errno else str(error)
    return CannotStart(f"cannot listen on {address}: {reason}")
