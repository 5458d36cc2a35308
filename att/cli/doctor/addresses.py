"""Checks of the addresses of --listen and --admin-listen."""

import asyncio
import errno
import os
import socket
import ssl
from typing import NamedTuple

from att.cli.doctor.checks import Verdict, fail, ok, warn
from att.config.settings import ListenAddress
from att.http.bind import try_address

_TIMEOUT = 3.0  # seconds for an answer
ENOUGH = 4_096  # bytes of the answer
LOOPBACK = "127.0.0.1"


class Signature(NamedTuple):
    """A path to request, and what the answer contains if the server is att."""

    path: str
    word: bytes


API = Signature("/openapi.json", b'"title": "att"')
HEALTH = Signature("/health/live", b'"alive"')


async def check_address(option: str, address: ListenAddress, signature: Signature, *, is_tls: bool = False) -> Verdict:
    """Return the verdict on an address. It is tried, and free again afterwards."""
    try:
        await try_address(address)
    except (socket.gaierror, UnicodeError):
        return fail(f"{address}: the host is unknown", f"give an address of this machine in {option}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            reason = os.strerror(error.errno) if error.errno else str(error)
            return fail(f"{address}: {reason.lower()}", f"choose another {option}")
        if signature.word in await _request(address, signature.path, is_tls=is_tls):
            remedy = f"fine if this is the server that you check; for another one choose another {option}"
            return warn(f"{address} is in use by a running att-server", remedy)
        return fail(f"{address} is in use by something else", f"stop it, or choose another {option}")
    return ok(f"{address} is free" if address.port or address.path else "a free port is taken")


async def _request(address: ListenAddress, path: str, *, is_tls: bool) -> bytes:
    """Return the beginning of the answer; nothing if it is not HTTP, or TLS if that is asked for."""
    writer = None
    try:
        async with asyncio.timeout(_TIMEOUT):
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


async def _connect(
    address: ListenAddress, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path is not None:
        return await asyncio.open_unix_connection(address.path, ssl=tls, server_hostname="localhost" if tls else None)
    return await asyncio.open_connection(address.host or LOOPBACK, address.port, ssl=tls)


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
