"""Upgrade of a request to a WebSocket (RFC 6455, section 4.2) that leaves aiohttp.

While a WebSocket of aiohttp's own is open, it keeps the request, its parser and two tasks: 13 KiB. Here its work ends
with the response, and the connection continues with a protocol of ours.
"""

import asyncio
import hashlib
from base64 import b64encode
from typing import NamedTuple

from aiohttp import hdrs, web
from aiohttp.http import WS_KEY

from att.errors import UpgradeRequired
from att.http.access_log import REQUEST_LOG, OnClose
from att.http.connections import ClientQuota, HttpConnection
from att.http.credentials import offered_subprotocols
from att.protocol.deflate import negotiate
from att.protocol.messages import SUBPROTOCOL
from att.realtime.registry import Dialect


def dialect_of(request: web.Request) -> Dialect:
    """Return the requested dialect. Raise UpgradeRequired if the request cannot become a WebSocket."""
    dialect = Dialect.V1 if SUBPROTOCOL in offered_subprotocols(request) else Dialect.PLAIN
    probe = web.WebSocketResponse(compress=False, protocols=_subprotocols(dialect))
    if not probe.can_prepare(request).ok:
        raise UpgradeRequired
    return dialect


class SwitchingProtocols(web.StreamResponse):
    """A 101 response, which has neither a body nor an end. Its ``head`` is sent with the first frames."""

    head = b""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Leave sending to the connection."""

    async def write_eof(self, data: bytes = b"") -> None:
        """End nothing."""


def extension_of(request: web.Request) -> str:
    """Return the response that accepts compression (RFC 7692), "" if there is none.

    Apple's network library, in Safari, in all browsers of iOS and in apps, offers it, and loses compressed messages.
    """
    agent = request.headers.get(hdrs.USER_AGENT, "")
    if "CFNetwork/" in agent or ("AppleWebKit/" in agent and "Chrome/" not in agent):
        return ""
    return negotiate(request.headers.getall(hdrs.SEC_WEBSOCKET_EXTENSIONS, ()))


async def accept(request: web.Request, dialect: Dialect, extension: str = "") -> SwitchingProtocols:
    """Return the 101 response, whose head is to be sent."""
    key = request.headers[hdrs.SEC_WEBSOCKET_KEY].encode()
    response = SwitchingProtocols(status=101)
    response.headers[hdrs.UPGRADE] = "websocket"
    response.headers[hdrs.CONNECTION] = "upgrade"
    digest = hashlib.sha1(key + WS_KEY, usedforsecurity=False).digest()
    response.headers[hdrs.SEC_WEBSOCKET_ACCEPT] = b64encode(digest).decode()
    for subprotocol in _subprotocols(dialect):
        response.headers[hdrs.SEC_WEBSOCKET_PROTOCOL] = subprotocol
    if extension:
        response.headers[hdrs.SEC_WEBSOCKET_EXTENSIONS] = extension
    await request.app.on_response_prepare.send(request, response)
    response.head = _head(request, response)
    return response


def _head(request: web.Request, response: web.StreamResponse) -> bytes:
    lines = [f"HTTP/{request.version.major}.{request.version.minor} 101 Switching Protocols"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a line break in a header")
    return "\r\n".join([*lines, "", ""]).encode()


class Upgraded(NamedTuple):
    """A detached connection: its transport, and the bytes that came early.

    At its close ``quota`` is to be released, and ``on_close`` called with the code.
    """

    transport: asyncio.Transport
    early: bytes
    quota: ClientQuota | None
    on_close: OnClose


def detach_transport(request: web.Request, protocol: asyncio.Protocol) -> Upgraded:
    """Continue the connection with this protocol. Raise ConnectionError if the peer is gone."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    on_close = request.app[REQUEST_LOG].on_close(request)
    early = _Early()
    request.protocol.set_parser(early)  # type: ignore[arg-type]  # only these two methods are used
    transport.set_protocol(protocol)
    if not transport.is_reading():  # aiohttp has paused it, as many bytes came early
        transport.resume_reading()
    quota = request.protocol.detach() if isinstance(request.protocol, HttpConnection) else None
    # aiohttp takes the connection for lost: it releases everything, and does not close the transport.
    request.protocol.transport = None
    request.protocol.connection_lost(None)
    return Upgraded(transport, early.data, quota, on_close)


class _Early:
    """Receiver of the bytes that come right after the request."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Ignore the end."""


def _subprotocols(dialect: Dialect) -> tuple[str, ...]:
    return (SUBPROTOCOL,) if dialect is Dialect.V1 else ()
