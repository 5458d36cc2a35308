"""A small application behind the acceptor, and bare connections to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web
from waiting import eventually

from att.config.settings import ListenAddress
from att.http.acceptor import Acceptor
from att.http.connections import ConnectionLimiter

DEADLINE = 10  # seconds
ANYWHERE = ListenAddress("127.0.0.1", 0)
LARGE = b"x" * 8 * 1024**2  # more than any kernel keeps for a socket
REQUEST = b"GET / HTTP/1.1\r\nHost: att\r\n\r\n"


class SmallServer:
    """Serves ``/`` at once, ``/wait`` when ``go_on`` is set, and ``/refuse`` without reading the body.

    ``/large`` gives ``LARGE``, ``/detach`` leaves the connection to another protocol.
    """

    def __init__(self, acceptor, limiter):
        self.acceptor = acceptor
        self.limiter = limiter
        self.go_on = asyncio.Event()
        self.quota = None

    @property
    def port(self):
        return int(self.acceptor.urls[0].rpartition(":")[2])

    async def connect(self, source="127.0.0.1", **options):
        """Open a bare connection; return its reader and writer."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0), **options)

    async def has(self, **numbers):
        """Wait until that many connections are open, busy …"""

        async def is_so():
            return all(getattr(self.acceptor.traffic(), name) == number for name, number in numbers.items())

        await eventually(is_so, DEADLINE)


@contextlib.asynccontextmanager
async def small_server(
    total=1_000, per_address=1_000, trusted=(), certificate=None, address=ANYWHERE, request_log=None, memory=None
) -> AsyncIterator[SmallServer]:
    """Serve until the block ends."""

    async def greet(request):
        return web.Response(text="here")

    async def wait(request):
        await server.go_on.wait()
        return web.Response(text="done")

    async def large(request):
        return web.Response(body=LARGE)

    async def refuse(request):
        return web.Response(status=403)

    async def detach(request):
        transport, server.quota = request.transport, request.protocol.detach()
        transport.set_protocol(asyncio.Protocol())
        request.protocol.transport = None
        request.protocol.connection_lost(None)
        transport.write(b"mine")
        detached.append(transport)
        return web.Response()

    detached = []
    app = web.Application()
    app.router.add_get("/detach", detach)
    app.router.add_get("/", greet)
    app.router.add_get("/wait", wait)
    app.router.add_get("/large", large)
    app.router.add_post("/refuse", refuse)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    limiter = ConnectionLimiter(runner.server, total, per_address, trusted, request_log, memory)
    acceptor = Acceptor(limiter, certificate)
    await acceptor.open(address)
    server = SmallServer(acceptor, limiter)
    try:
        yield server
    finally:
        for transport in detached:
            transport.abort()
        acceptor.close()
        limiter.stop()
        await runner.cleanup()


async def read_response(reader):
    """Return status, headers (names in lower case) and body of the next response."""
    async with asyncio.timeout(DEADLINE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")[:-2]
        assert first.startswith("HTTP/1.1 ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def read_to_end(reader):
    """Return all bytes until the other side closes or resets the connection."""
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
        return b""
