"""How a request becomes a WebSocket (RFC 6455, section 4.2) that is aiohttp's no more.

aiohttp keeps the request, its parser and two tasks for as long as a WebSocket of its own is open, 13 KiB. What it has
to do ends here with the answer, and the connection goes on with a protocol of ours.
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
from att.protocol.messages import SUBPROTOCOL
from att.realtime.registry import Dialect


def dialect_of(request: web.Request) -> Dialect:
    """What whoever asks wants to speak. Raises UpgradeRequired when the request cannot become a WebSocket."""
    dialect = Dialect.V1 if SUBPROTOCOL in offered_subprotocols(request) else Dialect.PLAIN
    probe = web.WebSocketResponse(compress=False, protocols=_subprotocols(dialect))
    if not probe.can_prepare(request).ok:
        raise UpgradeRequired
    return dialect


async def accept(request: web.Request, dialect: Dialect) -> web.StreamResponse:
    """Answer that it becomes one; ``take_over`` must follow at once. Raises ConnectionError when nobody is there."""
    key = request.headers[hdrs.SEC_WEBSOCKET_KEY].encode()
    response = web.StreamResponse(status=101)
    response.headers[hdrs.UPGRADE] = "websocket"
    response.headers[hdrs.CONNECTION] = "upgrade"
    digest = hashlib.sha1(key + WS_KEY, usedforsecurity=False).digest()
    response.headers[hdrs.SEC_WEBSOCKET_ACCEPT] = b64encode(digest).decode()
    for subprotocol in _subprotocols(dialect):
        response.headers[hdrs.SEC_WEBSOCKET_PROTOCOL] = subprotocol
    await response.prepare(request)
    return response


class Upgraded(NamedTuple):
    """A connection that was taken over: its transport, and what the peer has said already.

    When it is closed the quota, who counts connections, is to be told, and ``farewell`` with which code.
    """

    transport: asyncio.Transport
    early: bytes
    quota: ClientQuota | None
    on_close: OnClose


def detach_transport(request: web.Request, protocol: asyncio.Protocol) -> Upgraded:
    """Have the connection go on with this protocol, which tells the quota, if there is one, when it is closed.

    Raises ConnectionError when nobody is there.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    on_close = request.app[REQUEST_LOG].on_close(request)
    early = _Early()
    request.protocol.set_parser(early)  # type: ignore[arg-type]  # it asks for these two methods alone
    transport.set_protocol(protocol)
    quota = request.protocol.detach() if isinstance(request.protocol, HttpConnection) else None
    # To aiohttp the connection is lost, all but for its end: it lets go of everything, and does not close it.
    request.protocol.transport = None
    request.protocol.connection_lost(None)
    return Upgraded(transport, early.said, quota, on_close)


class _Early:
    """What aiohttp gives what came after the request to."""

    def __init__(self) -> None:
        self.said = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.said += data
        return False, b""

    def feed_eof(self) -> None:
        """It is over."""


def _subprotocols(dialect: Dialect) -> tuple[str, ...]:
    return (SUBPROTOCOL,) if dialect is Dialect.V1 else ()
