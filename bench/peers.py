"""Servers to compare att with, each a process of its own: `peers.py NAME PORT`.

Each sends every message of a client to all, but those of aiohttp: one answers HTTP, one only accepts WebSockets. They
have no log, no accounts and one group. Compression is off, and the loop is uvloop, as with att.
"""

import asyncio
import hashlib
import resource
import select
import socket
import sys
from base64 import b64encode

import uvloop

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BACKLOG = 4_096


def bare(port: int) -> None:
    """Serve with blocking sockets and a loop of ``send``: the kernel's cost alone. A ``sender`` does not listen."""
    acceptor = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    poll = select.epoll()
    poll.register(acceptor, select.EPOLLIN)
    everyone, listeners = {}, {}
    while True:
        for number, _ in poll.poll():
            if number == acceptor.fileno():
                connection, _ = acceptor.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                everyone[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            connection = everyone[number]
            data = _receive(connection)
            if not data:
                poll.unregister(connection)
                del everyone[number]
                listeners.pop(number, None)
            elif data.startswith(b"GET"):
                connection.send(_accept(data))
                if b"sender" not in data:
                    listeners[number] = connection
            else:
                _send_all(listeners.values(), _frame(data))


def _receive(connection: socket.socket) -> bytes:
    try:
        data = connection.recv(65_536)
        if data and not data.startswith(b"GET"):
            length = data[1] & 127
            length, head = (length, 6) if length < 126 else (int.from_bytes(data[2:4]), 8)
            while len(data) < head + length:
                data += connection.recv(65_536)
            return data[head:]
        return data
    except ConnectionError:
        return b""


def _accept(request: bytes) -> bytes:
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = b64encode(hashlib.sha1(key + GUID).digest())
    return b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"


def _frame(payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2)) + payload


def _send_all(listeners: object, frame: bytes) -> None:
    for connection in listeners:
        connection.send(frame)


def websockets(port: int) -> None:
    """Serve with ``websockets.broadcast``."""
    from websockets.asyncio.server import broadcast, serve

    everyone = set()

    async def handle(connection: object) -> None:
        if connection.request.path != "/sender":
            everyone.add(connection)
        try:
            async for message in connection:
                broadcast(everyone, message)
        finally:
            everyone.discard(connection)

    async def main() -> None:
        async with serve(handle, "127.0.0.1", port, compression=None, backlog=BACKLOG):
            await asyncio.Future()

    uvloop.run(main())


def starlette(port: int) -> None:
    """Serve with a loop of ``send_text`` in Starlette on uvicorn."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocketDisconnect

    everyone = set()

    async def handle(connection: object) -> None:
        await connection.accept()
        if connection.url.path != "/sender":
            everyone.add(connection)
        try:
            while True:
                message = await connection.receive_text()
                for listener in list(everyone):
                    await listener.send_text(message)
        except WebSocketDisconnect:
            pass
        finally:
            everyone.discard(connection)

    _uvicorn(Starlette(routes=[WebSocketRoute("/{path:path}", handle)]), port)


def socketio(port: int) -> None:
    """Serve with ``emit`` to a room in python-socketio on uvicorn."""
    import socketio as library

    server = library.AsyncServer(async_mode="asgi", ping_interval=3_600)

    @server.event
    async def join(sid: str, _data: object) -> None:
        await server.enter_room(sid, "room")

    @server.event
    async def say(_sid: str, data: object) -> None:
        await server.emit("message", data, room="room")

    _uvicorn(library.ASGIApp(server), port)


def _uvicorn(app: object, port: int) -> None:
    import uvicorn

    uvicorn.run(
        app,
        port=port,
        loop="uvloop",
        backlog=BACKLOG,
        log_level="error",
        access_log=False,
        ws_per_message_deflate=False,
    )


def aiohttp(port: int) -> None:
    """Serve a handler that reads a body and answers a small JSON object."""
    from aiohttp import web

    answer = {"group": "0" * 36, "seq": 1, "at": "2026-01-01T00:00:00.000000Z", "delivered": 0, "dropped": 0}

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response(answer)

    _aiohttp([web.post("/broadcast/{group}", handle)], port)


def aiohttp_websocket(port: int) -> None:
    """Serve with a loop of ``send_str`` in aiohttp, of messages over sockets and of posted ones."""
    from aiohttp import web

    everyone = set()
    answer = {"group": "0" * 36, "seq": 1, "at": "2026-01-01T00:00:00.000000Z", "delivered": 0, "dropped": 0}

    async def send(text: str) -> None:
        for socket_ in everyone:
            await socket_.send_str(text)

    async def listen(request: web.Request) -> web.WebSocketResponse:
        socket_ = web.WebSocketResponse(compress=False)
        await socket_.prepare(request)
        if request.path != "/sender":
            everyone.add(socket_)
        try:
            async for message in socket_:
                await send(message.data)
        finally:
            everyone.discard(socket_)
        return socket_

    async def post(request: web.Request) -> web.Response:
        await send(await request.text())
        return web.json_response(answer)

    _aiohttp([web.post("/broadcast/{group}", post), web.get("/{path:.*}", listen)], port)


def _aiohttp(routes: list, port: int) -> None:
    from aiohttp import web

    app = web.Application()
    app.add_routes(routes)

    async def main() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=BACKLOG).start()
        await asyncio.Future()

    uvloop.run(main())


PEERS = {peer.__name__: peer for peer in (bare, websockets, starlette, socketio, aiohttp, aiohttp_websocket)}

if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    PEERS[sys.argv[1]](int(sys.argv[2]))
