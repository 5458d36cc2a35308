"""Limits on connections: their number, and the time that a request's head has."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import sys
import time
from ipaddress import ip_network

import pytest
from small_server import DEADLINE, LARGE, REQUEST, read_response, read_to_end, small_server
from waiting import eventually

from att.config.settings import ListenAddress
from att.core.memory import MemoryBudget
from att.http import connections
from att.http.connections import ConnectionLimiter

# Linux has the whole of 127.0.0.0/8; elsewhere there is one address.
SOURCES = [f"127.0.0.{number}" for number in range(1, 9)] if sys.platform == "linux" else ["127.0.0.1"]


@pytest.fixture
async def connect():
    """Open connections that are closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def go(server, source="127.0.0.1", data=b""):
            reader, writer = await server.connect(source)
            stack.callback(writer.close)
            writer.write(data)
            return reader, writer

        yield go


@pytest.fixture
def impatient(monkeypatch):
    """Let the heads of requests time out quickly."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.05)


def make_limiter(total=100, per_address=2, trusted=()):
    """Return a limiter that counts without a server."""

    class Server:
        request_factory = None

    return ConnectionLimiter(Server(), total, per_address, trusted)


async def no_head(server):
    return server.acceptor.traffic().busy == 3 and not server.limiter._awaiting


# One address


async def test_limit_per_address():
    """An address has a limit of its own; a closed connection makes room for another."""
    limiter = make_limiter()
    first = limiter.acquire("192.0.2.1")
    assert limiter.acquire("192.0.2.1") is first
    assert limiter.acquire("192.0.2.1") is None
    assert limiter.acquire("192.0.2.2") is not None
    limiter.release(first)
    assert limiter.acquire("192.0.2.1") is first
    assert limiter.traffic() == (3, 3)


async def test_an_ipv6_network_is_one_address():
    limiter = make_limiter()
    assert limiter.acquire("2001:db8::1") is limiter.acquire("2001:db8::ffff:1")
    assert limiter.acquire("2001:db8::2") is None
    assert limiter.acquire("2001:db8:0:1::1") is not None
    assert limiter.acquire("::ffff:192.0.2.1") is limiter.acquire("192.0.2.1")


async def test_proxies_and_unix_sockets_have_no_limit():
    limiter = make_limiter(trusted=frozenset({ip_network("10.0.0.0/8")}))
    for address in ["10.1.2.3", None]:
        assert all(limiter.acquire(address) for _ in range(20))


async def test_unused_quotas_are_removed():
    limiter = make_limiter()
    for number in range(50):
        limiter.release(limiter.acquire(f"192.0.2.{number}"))
    assert limiter.traffic() == (0, 0)
    assert limiter._quotas == {}


async def test_warning(caplog):
    """The log says once what to do."""
    limiter = make_limiter(per_address=1)
    for _ in range(10):
        limiter.acquire("192.0.2.1")
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "192.0.2.1" in record.message
    assert "--trust-proxy" in record.message


async def test_above_the_limit(connect):
    """A connection above the limit gets 503; the others are served."""
    async with small_server(per_address=2) as server:
        first, second = await connect(server), await connect(server)
        await server.has(open=2)
        reader, _ = await connect(server)
        status, headers, body = await read_response(reader)
        assert (status, json.loads(body)["error"], headers["connection"]) == (503, "too many connections", "close")
        assert int(headers["retry-after"]) > 0
        assert await read_to_end(reader) == b""
        for reader, writer in (first, second):
            writer.write(REQUEST)
            assert (await read_response(reader))[0] == 200
        first[1].close()
        await server.has(open=1)
        reader, _ = await connect(server, data=REQUEST)
        assert (await read_response(reader))[0] == 200


# All addresses


async def test_silent_connections_make_room(connect):
    """At the total limit the connection that has been silent for longest is closed, never one with a request."""
    async with small_server(total=3) as server:
        waiting, _ = await connect(server, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        used, _ = await connect(server, data=REQUEST)
        await read_response(used)
        silent, _ = await connect(server)
        await server.has(open=3, busy=2)
        reader, _ = await connect(server, data=REQUEST)
        assert (await read_response(reader))[0] == 200
        assert await read_to_end(used) == b""
        await server.has(open=3)
        await connect(server, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        assert await read_to_end(reader) == b""
        await connect(server, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        assert await read_to_end(silent) == b""
        await eventually(lambda: no_head(server))
        refused, _ = await connect(server)
        assert (await read_response(refused))[0] == 503
        server.go_on.set()
        assert (await read_response(waiting))[2] == b"done"


async def test_a_proxy_does_not_make_room(connect):
    """A proxy's idle connection stays open: a request may be on its way."""
    async with small_server(total=1, trusted=frozenset({ip_network("127.0.0.1/32")})) as server:
        reader, writer = await connect(server, data=REQUEST)
        await read_response(reader)
        await server.has(busy=0)
        refused, _ = await connect(server)
        assert (await read_response(refused))[0] == 503
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200


async def test_many_idle_connections_block_no_client(connect):
    async with small_server(total=50) as server:
        for number in range(500):
            await connect(server, SOURCES[number % len(SOURCES)])
        reader, _ = await connect(server, data=REQUEST)
        assert (await read_response(reader))[0] == 200


# Late heads


async def test_a_slow_head(connect, impatient):
    """A head that arrives byte by byte gets 408 and is closed; other connections are served meanwhile."""
    async with small_server() as server:
        reader, writer = await connect(server)

        async def drip():
            with contextlib.suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.001)

        async with asyncio.timeout(DEADLINE):
            dripping = asyncio.create_task(drip())
            other, _ = await connect(server, data=REQUEST)
            assert (await read_response(other))[0] == 200
            status, headers, body = await read_response(reader)
            assert (status, json.loads(body)["error"], headers["connection"]) == (408, "request timeout", "close")
            assert headers["content-type"] == "application/problem+json; charset=utf-8"
            await server.has(open=1)
            dripping.cancel()


async def test_a_silent_connection(connect, impatient):
    """The connection is closed without a response: a browser may have opened it in advance."""
    async with small_server() as server:
        reader, _ = await connect(server)
        assert await read_to_end(reader) == b""


async def test_a_head_has_its_full_time(connect, monkeypatch):
    """The time counts from the start of the connection, not from a check."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 3600)
    async with small_server() as server:
        came = asyncio.get_running_loop().time()
        await connect(server, data=REQUEST[:-1])
        await server.has(busy=1)
        assert min(server.limiter._awaiting.values()) >= came


async def test_a_later_head_is_slow_as_well(connect, monkeypatch):
    """A connection that is kept alive may be silent, but a head that has begun must arrive in time."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 0.01)
    async with small_server() as server:
        reader, writer = await connect(server, data=REQUEST)
        assert (await read_response(reader))[0] == 200
        monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.0)
        await server.has(open=1, busy=0)
        silent, _ = await connect(server)
        assert await read_to_end(silent) == b""
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200
        writer.write(REQUEST[:-1])
        assert (await read_response(reader))[0] == 408
        await server.has(open=0)


async def test_a_head_that_the_server_is_late_to_read(connect, monkeypatch):
    """A head that has come in time is read, though the server was busy with other work until its time was over."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.1)
    async with small_server() as server:
        reader, writer = await connect(server)
        await server.has(open=1)
        os.write(writer.get_extra_info("socket").fileno(), REQUEST)
        time.sleep(0.2)  # noqa: ASYNC251 - the loop's other work
        assert (await read_response(reader))[0] == 200


async def test_a_request_in_flight_is_not_late(connect, impatient):
    async with small_server() as server:
        reader, _ = await connect(server, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        await server.has(busy=1)
        late, _ = await connect(server)
        assert await read_to_end(late) == b""
        server.go_on.set()
        assert (await read_response(reader))[2] == b"done"
        await server.has(open=1, busy=0)


async def test_an_unread_body_is_no_head(connect):
    """The connection is closed after it, and the body does not count as a head that is too large."""
    async with small_server() as server:
        reader, writer = await connect(server)
        writer.write(b"POST /refuse HTTP/1.1\r\nHost: att\r\nContent-Length: 300000\r\n\r\n")
        assert (await read_response(reader))[0] == 403
        writer.write(b"x" * 300_000)
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""  # all was read, else the connection would be reset
        await server.has(open=0)


async def test_many_requests_on_one_connection(connect):
    """Requests that come all at once are all answered; then the connection is idle."""
    async with small_server() as server:
        reader, _ = await connect(server, data=REQUEST * 50 + REQUEST[:9])
        for _ in range(50):
            assert (await read_response(reader))[0] == 200
        await server.has(open=1, busy=0)


async def test_closed_at_once(connect):
    """Each connection is counted out once, even if it is reset before it is accepted or during a response."""
    async with small_server() as server:
        for data in [b"", REQUEST, REQUEST * 20, REQUEST[:9]] * 10:
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
            sock.send(data)
            sock.close()
            await asyncio.sleep(0)
        reader, writer = await connect(server, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        await server.has(open=1, busy=1)
        writer.transport.abort()
        await server.has(open=0)
        server.go_on.set()
        reader, _ = await connect(server, data=REQUEST)
        assert (await read_response(reader))[0] == 200
        await server.has(open=1, busy=0)
        assert len(server.limiter._idle) == 1
        assert not server.limiter._awaiting


async def test_a_detached_connection(connect):
    """The quota counts until the new protocol releases it, and the connection is not closed to make room."""
    async with small_server(per_address=1, total=1) as server:
        reader, _ = await connect(server, data=b"GET /detach HTTP/1.1\r\nHost: att\r\n\r\n")
        assert await reader.readexactly(4) == b"mine"
        assert server.acceptor.traffic() == (1, 1)
        refused, _ = await connect(server)
        assert (await read_response(refused))[0] == 503
        server.quota.release()
        assert server.acceptor.traffic() == (0, 0)
        assert not server.limiter._idle
        reader, _ = await connect(server, data=REQUEST)
        assert (await read_response(reader))[0] == 200


async def test_on_a_unix_socket(tmp_path):
    """Connections on a unix socket are counted, but not limited."""
    path = str(tmp_path / "s")
    async with small_server(per_address=1, address=ListenAddress(None, 0, path)) as server:
        pairs = [await asyncio.open_unix_connection(path) for _ in range(3)]
        for reader, writer in pairs:
            writer.write(REQUEST)
            assert (await read_response(reader))[0] == 200
        await server.has(open=3, busy=0)
        for _, writer in pairs:
            writer.close()
        await server.has(open=0)


# Responses


async def test_a_response_that_waits_counts(connect):
    """Until its client has taken it."""
    memory = MemoryBudget(10**9)
    async with small_server(memory=memory) as server:
        reader, _ = await connect(server, data=REQUEST.replace(b" / ", b" /large "))

        async def is_counted():
            return memory.used

        assert await eventually(is_counted, DEADLINE) == 2 * len(LARGE)  # the transport has a copy
        assert (await read_response(reader))[2] == LARGE
        assert memory.used == 0


async def test_a_response_must_be_taken_at_a_minimum_pace(connect, monkeypatch):
    """A client that does not read is cut off."""
    monkeypatch.setattr(connections, "_STALL_TIME", 0.05)
    memory = MemoryBudget(10**9)
    async with small_server(memory=memory) as server:
        await connect(server, data=REQUEST.replace(b" / ", b" /large "))
        await server.has(busy=1)
        await server.has(open=0)
        assert memory.used == 0


async def test_a_full_budget_drops_a_response(connect):
    """That of a client that has waited for long; the one that reads gets its own."""
    memory = MemoryBudget(10**9)
    async with small_server(memory=memory) as server:
        for number in (1, 2):
            await connect(server, data=REQUEST.replace(b" / ", b" /large "))

            async def is_counted(number=number):
                return len(memory._holders) == number

            await eventually(is_counted, DEADLINE)
        memory.limit = memory.used
        reader, _ = await connect(server, data=REQUEST.replace(b" / ", b" /large "))
        assert (await read_response(reader))[2] == LARGE
        assert 1 <= memory.given_up.labels("response")._value.get() <= 2


# Requests on their way in


async def test_what_arrives_counts_from_the_start(connect):
    """A head that is not complete, a body that no handler reads, and the next request behind one."""
    memory = MemoryBudget(10**9)
    async with small_server(memory=memory) as server:

        async def has(low, high):
            async def is_so():
                return low <= memory.used <= high

            await eventually(is_so, DEADLINE)

        _, head = await connect(server, data=b"GET / HTTP/1.1\r\nHost: att\r\nX: " + b"x" * 10_000)
        await has(10_000, 40_000)
        head.transport.abort()
        await has(0, 0)
        long = REQUEST.replace(b" / ", b" /wait ")[:-2] + b"Content-Length: 99999\r\n\r\n"
        _, body = await connect(server, data=long + b"x" * 7_000)  # few enough that reading goes on
        await has(10_000, 40_000)
        body.transport.abort()
        await has(0, 0)
        reader, behind = await connect(server, data=REQUEST + REQUEST[:-2] + b"X: " + b"x" * 10_000)
        assert (await read_response(reader))[0] == 200
        await has(10_000, 40_000)
        behind.transport.abort()
        await has(0, 0)


async def test_a_full_budget_refuses_what_arrives(connect):
    """A head that is not complete gets 503; the one that is quick is served."""
    memory = MemoryBudget(80_000)
    async with small_server(memory=memory) as server:
        slow, _ = await connect(server, data=b"GET / HTTP/1.1\r\nHost: att\r\nX: " + b"x" * 16_000)
        await server.has(busy=1)
        reader, writer = await connect(server, data=REQUEST[:-2] + b"X: " + b"x" * 15_000)
        other, _ = await connect(server, data=REQUEST[:-2] + b"X: " + b"x" * 15_000)
        status, headers, _ = await read_response(slow)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        writer.write(b"\r\n\r\n")
        assert (await read_response(reader))[0] == 200
        assert not other.at_eof()
        assert memory.given_up.labels("body")._value.get() == 1


async def test_the_rest_of_a_refused_body_does_not_stay(connect):
    """It is read and ignored, so that the client gets the response, and takes no memory."""
    memory = MemoryBudget(200_000)
    async with small_server(memory=memory) as server:
        head = b"POST /refuse HTTP/1.1\r\nHost: att\r\nContent-Length: 3000000\r\n\r\n"
        reader, writer = await connect(server, data=head + b"x" * 100_000)
        assert (await read_response(reader))[0] == 403
        writer.write(b"x" * 2_900_000)
        assert await read_to_end(reader) == b""
        assert memory.used == 0
        assert memory.given_up.labels("body")._value.get() == 0
