"""Whether the addresses of --listen and --admin-listen are ours to take, or a server of ours has them already."""

import asyncio
import errno
import os
import socket
import ssl
from pathlib import Path
from typing import NamedTuple

from att.checks import Verdict, fail, ok, warn
from att.settings import Address

TIMEOUT = 3.0  # seconds in which whoever is there has answered
ENOUGH = 4_096  # bytes of the answer
LOOPBACK = "127.0.0.1"
UNIX_PATH = 107  # bytes of the path of a unix socket, on Linux; elsewhere it is less by a few


class Sign(NamedTuple):
    """What is asked for at an address, and what is in the answer if it is a server of ours that gives it."""

    path: str
    word: bytes


API = Sign("/openapi.json", b'"title": "att"')
HEALTH = Sign("/health/live", b'"alive"')


async def check_address(option: str, address: Address, sign: Sign, *, is_tls: bool = False) -> Verdict:
    """The verdict on one address. Nothing listens there when it returns that did not before."""
    try:
        if address.path is None:
            await _try_port(address)
        else:
            _try_path(Path(address.path))
    except (socket.gaierror, UnicodeError):
        return fail(f"{address}: the host is unknown", f"give an address of this machine in {option}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            reason = os.strerror(error.errno) if error.errno else str(error)
            return fail(f"{address}: {reason.lower()}", f"choose another {option}")
        if sign.word in await _ask(address, sign.path, is_tls=is_tls):
            remedy = f"well, if it is the one that you look at; for another one choose another {option}"
            return warn(f"{address} is taken by a server of ours that runs", remedy)
        return fail(f"{address} is in use by something else", f"stop it, or choose another {option}")
    return ok(f"{address} is free" if address.port or address.path else "a free port is taken")


async def _ask(address: Address, path: str, *, is_tls: bool) -> bytes:
    """The beginning of what is answered there; nothing by whoever does not speak as we do."""
    writer = None
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await _connect(address, _any_certificate() if is_tls else None)
            writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            return await reader.readexactly(ENOUGH)
    except asyncio.IncompleteReadError as error:
        return error.partial
    except (TimeoutError, OSError):
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()


async def _connect(address: Address, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path is not None:
        return await asyncio.open_unix_connection(address.path, ssl=tls, server_hostname="localhost" if tls else None)
    return await asyncio.open_connection(address.host or LOOPBACK, address.port, ssl=tls)


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _try_port(address: Address) -> None:
    """Bind to it for an instant, without listening: whoever connects is refused, as before. Raises OSError."""
    flags = socket.AI_PASSIVE
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=flags
    )
    for family, kind, protocol, _, place in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does, which may have just ended
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)


def _try_path(path: Path) -> None:
    """Raises OSError when a unix socket cannot be made there; the file of one that has ended is replaced."""
    if path.exists():
        if not path.is_socket():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            # EAGAIN: it is there, and has more callers than it can take.
            if probe.connect_ex(str(path)) in (0, errno.EAGAIN):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if len(os.fsencode(path)) > UNIX_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
