"""A small application behind our own doors, and bare connections to it."""

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
REQUEST = b"GET / HTTP/1.1\r\nHost: att\r\n\r\n"


class House:
    """What is behind the doors: ``/`` answers, ``/wait`` does so when it is let, ``/refuse``
    without its body, and ``/hand`` hands the connection over.
    """

    def __init__(self, doors, connections, go_on):
        self.doors = doors
        self.connections = connections
        self.go_on = go_on
        self.caller = None

    @property
    def port(self):
        return int(self.doors.urls[0].rpartition(":")[2])

    async def connect(self, source="127.0.0.1", **options):
        """A bare connection: a reader and a writer."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0), **options)

    async def has(self, **numbers):
        """Wait until the connections have so many open, busy …"""

        async def is_so():
            return all(getattr(self.doors.traffic(), name) == number for name, number in numbers.items())

        await eventually(is_so, DEADLINE)


@contextlib.asynccontextmanager
async def house(
    total=1_000, of_address=1_000, trusted=(), certificate=None, address=ANYWHERE, observer=None
) -> AsyncIterator[House]:
    """One that is open until the block ends."""
    go_on = asyncio.Event()

    async def greet(request):
        return web.Response(text="here")

    async def wait(request):
        await go_on.wait()
        return web.Response(text="done")

    async def refuse(request):
        return web.Response(status=403)

    async def hand(request):
        transport, here.caller = request.transport, request.protocol.hand_over()
        transport.set_protocol(asyncio.Protocol())
        request.protocol.transport = None
        request.protocol.connection_lost(None)
        transport.write(b"mine")
        handed.append(transport)
        return web.Response()

    handed = []
    app = web.Application()
    app.router.add_get("/hand", hand)
    app.router.add_get("/", greet)
    app.router.add_get("/wait", wait)
    app.router.add_post("/refuse", refuse)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    connections = ConnectionLimiter(runner.server, total, of_address, trusted, observer)
    doors = Acceptor(connections, certificate)
    await doors.open(address)
    here = House(doors, connections, go_on)
    try:
        yield here
    finally:
        for transport in handed:
            transport.abort()
        doors.close()
        connections.stop()
        await runner.cleanup()


async def answer(reader):
    """Status, headers (names in lower case) and body of the next answer."""
    async with asyncio.timeout(DEADLINE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")[:-2]
        assert first.startswith("HTTP/1.1 ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def ends(reader):
    """What comes until the other side closes; a connection that is cut off ends as well."""
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
        return b""
