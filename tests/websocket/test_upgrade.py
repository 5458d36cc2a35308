"""A request becomes a WebSocket, and aiohttp lets go of it."""

import asyncio
import gc
import socket

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from aiohttp.web_protocol import RequestHandler
from waiting import eventually

from att.api.keys import EVENT_LOG, HUB
from att.protocol.frames import text_frame

DEADLINE = 20
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # the example of RFC 6455, section 1.3


def upgrade(person, *headers):
    lines = [
        f"GET /listen/{person.id} HTTP/1.1",
        "Host: here",
        f"Authorization: Bearer {person.token}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.fixture
async def ann(sign_up):
    ann = await sign_up("ann")
    await ann.make_group("tea")
    return ann


@pytest.fixture
async def dial(client):
    """Open bare connections to the server."""
    opened = []

    async def go():
        reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
        opened.append(writer)
        return reader, writer

    yield go
    for writer in opened:
        writer.transport.abort()


async def head_of(reader):
    """The answer's status line, and its headers in lower case."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)).decode()
    status, *lines = head.strip().split("\r\n")
    return status, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def masked(payload, kind=0x81):
    return bytes((kind, 0x80 | len(payload))) + b"\0\0\0\0" + payload


async def test_the_answer(ann, dial):
    """RFC 6455, section 4.2.2: 101, the key's counterpart, and nothing of a body."""
    reader, writer = await dial()
    writer.write(upgrade(ann))
    status, headers = await head_of(reader)
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert (headers["upgrade"], headers["connection"]) == ("websocket", "upgrade")
    assert headers["sec-websocket-accept"] == ACCEPT
    assert not {"sec-websocket-protocol", "sec-websocket-extensions", "transfer-encoding"} & set(headers)
    assert headers.get("content-length", "0") == "0"
    assert headers["x-request-id"]


async def test_the_subprotocol(ann, dial):
    """The known one of those offered is chosen, and never the token."""
    reader, writer = await dial()
    writer.write(upgrade(ann, f"Sec-WebSocket-Protocol: other, att.v1, att.bearer.{ann.token}"))
    _, headers = await head_of(reader)
    assert headers["sec-websocket-protocol"] == "att.v1"


@pytest.mark.parametrize("cut", [0, 1, 7, 100_000])
async def test_bytes_that_come_with_the_request(ann, dial, cut):
    """They are handled wherever they are cut, and answered after the hello."""
    reader, writer = await dial()
    said = masked(b'{"type":"resume"}') + masked(b'{"type":"ping"}') * 50
    stream = upgrade(ann, "Sec-WebSocket-Protocol: att.v1") + said
    place = len(stream) - len(said) + cut
    writer.write(stream[:place])
    await asyncio.sleep(0)
    writer.write(stream[place:])
    await head_of(reader)
    expected = text_frame(b'{"type":"pong"}') * 50
    async with asyncio.timeout(DEADLINE):
        heard = await reader.readexactly(2)
        assert heard[0] == 0x81
        hello = await reader.readexactly(int.from_bytes(await reader.readexactly(2)) if heard[1] == 126 else heard[1])
        assert hello.startswith(b'{"type":"hello"')
        assert await reader.readexactly(len(expected)) == expected


@pytest.mark.parametrize(
    "spoilt",
    [
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Connection: Upgrade", "Connection: close"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 12"),
        (f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Key: short"),
        (f"Sec-WebSocket-Key: {KEY}", "X-None: none"),
    ],
)
async def test_a_request_that_cannot_be_upgraded(client, ann, dial, spoilt):
    """It is refused with what it would take, and nobody is attached."""
    reader, writer = await dial()
    writer.write(upgrade(ann).replace(*(part.encode() for part in spoilt)))
    status, headers = await head_of(reader)
    assert status.startswith("HTTP/1.1 426 ")
    assert headers["sec-websocket-version"] == "13"


async def test_aiohttp_keeps_nothing_of_it(client, ann):
    """No protocol, request or task of aiohttp is left while the socket is open."""
    before = {id(one) for one in _handlers_and_requests()}
    async with await ann.listen() as ws:
        server = client.server.runner.server
        await eventually(lambda: _none_but(before, server))
        assert await ann.broadcast("tea", {"n": 1}) == 1
        assert await ws.receive_json(timeout=DEADLINE) == {"n": 1}
        await ws.ping()
        await ws.close()
        assert ws.close_code == 1000


def _handlers_and_requests():
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, RequestHandler | web.Request)]


async def _none_but(before, server):
    """None of theirs but those that others have left, and that of the requests that are none of a WebSocket."""
    left = [one for one in _handlers_and_requests() if id(one) not in before]
    requests = [one for one in left if isinstance(one, web.Request) and "listen" in one.path]
    handlers = [one for one in left if isinstance(one, RequestHandler) and one not in server.connections]
    return not requests and not handlers and len(server.connections) <= 1


async def test_a_peer_that_goes_while_it_opens(client, ann, dial, monkeypatch):
    """Nothing is left of it, and the next one is served."""
    log, registry = client.app[EVENT_LOG], client.app[HUB].registry
    seen = asyncio.Event()
    gone = asyncio.Event()

    async def wait_until_gone(user_id, read=log.positions, **options):
        seen.set()
        await asyncio.wait_for(gone.wait(), DEADLINE)
        return await read(user_id, **options)

    monkeypatch.setattr(log, "positions", wait_until_gone)
    _, writer = await dial()
    writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.write(upgrade(ann))
    await asyncio.wait_for(seen.wait(), DEADLINE)
    assert len(registry) == 1
    writer.transport.abort()
    await eventually(lambda: _count(client.server.runner.server, 1))
    gone.set()
    await eventually(lambda: _none(registry))
    async with await ann.listen():
        assert len(registry) == 1


async def _count(server, most):
    return len([one for one in server.connections if one.transport is not None]) <= most


async def _none(registry):
    return not len(registry)


async def test_the_peer_closes(ann):
    """Its code comes back to it (RFC 6455, section 5.5.1), and none if it gave none."""
    async with await ann.listen() as ws:
        await ws.close(code=4321)
        assert ws.close_code == 4321
    ws = await ann.listen()
    ws._writer.transport.write(masked(b"", 0x88))
    message = await ws.receive(timeout=DEADLINE)
    assert (message.type, message.data) == (WSMsgType.CLOSE, 0)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await ann.client.ws_connect("/listen/me")
