"""How many connections there may be, and how long they may be silent."""

import asyncio
import contextlib
import json
import logging
import socket
import struct
import sys
from ipaddress import ip_network

import pytest
from doorway import DEADLINE, REQUEST, answer, ends, house
from waiting import eventually

from att.config.settings import ListenAddress
from att.http import connections
from att.http.connections import ConnectionLimiter

# Linux has the whole of 127.0.0.0/8; elsewhere there is one address.
SOURCES = [f"127.0.0.{number}" for number in range(1, 9)] if sys.platform == "linux" else ["127.0.0.1"]


@pytest.fixture
async def opened():
    """Connections that are closed in the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def go(here, source="127.0.0.1", data=b""):
            reader, writer = await here.connect(source)
            stack.callback(writer.close)
            writer.write(data)
            return reader, writer

        yield go


@pytest.fixture
def impatient(monkeypatch):
    """Heads must arrive before one can look."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.05)


def book(total=100, of_address=2, trusted=()):
    """Connections that are only counted."""

    class Server:
        request_factory = None

    return ConnectionLimiter(Server(), total, of_address, trusted)


async def no_head(here):
    return here.doors.traffic().busy == 3 and not here.connections._awaiting


# Of one address


async def test_of_one_address():
    """So many and no more, whoever else there is; when one leaves another may come."""
    counted = book()
    first = counted.admit("192.0.2.1")
    assert counted.admit("192.0.2.1") is first
    assert counted.admit("192.0.2.1") is None
    assert counted.admit("192.0.2.2") is not None
    counted.leave(first)
    assert counted.admit("192.0.2.1") is first
    assert counted.traffic() == (3, 3)


async def test_a_network_of_ipv6_is_one_address():
    counted = book()
    assert counted.admit("2001:db8::1") is counted.admit("2001:db8::ffff:1")
    assert counted.admit("2001:db8::2") is None
    assert counted.admit("2001:db8:0:1::1") is not None
    assert counted.admit("::ffff:192.0.2.1") is counted.admit("192.0.2.1")


async def test_proxies_and_unix_sockets_are_not_counted_by_address():
    counted = book(trusted=frozenset({ip_network("10.0.0.0/8")}))
    for address in ["10.1.2.3", None]:
        assert all(counted.admit(address) for _ in range(20))


async def test_nothing_is_left_of_those_who_have_gone():
    counted = book()
    for number in range(50):
        counted.leave(counted.admit(f"192.0.2.{number}"))
    assert counted.traffic() == (0, 0)
    assert counted._callers == {}


async def test_the_operator_is_told(caplog):
    """Once, with what to do about it."""
    counted = book(of_address=1)
    for _ in range(10):
        counted.admit("192.0.2.1")
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "192.0.2.1" in record.message
    assert "--trust-proxy" in record.message


async def test_what_is_over_is_refused(opened):
    """With 503, while those who are there are served."""
    async with house(of_address=2) as here:
        first, second = await opened(here), await opened(here)
        await here.has(open=2)
        reader, _ = await opened(here)
        status, headers, body = await answer(reader)
        assert (status, json.loads(body)["error"], headers["connection"]) == (503, "too many connections", "close")
        assert int(headers["retry-after"]) > 0
        assert await ends(reader) == b""
        for reader, writer in (first, second):
            writer.write(REQUEST)
            assert (await answer(reader))[0] == 200
        first[1].close()
        await here.has(open=1)
        reader, _ = await opened(here, data=REQUEST)
        assert (await answer(reader))[0] == 200


# All together


async def test_the_silent_make_room(opened):
    """When all places are taken, the connection that has been silent for longest goes; none with a request does."""
    async with house(total=3) as here:
        waiting, _ = await opened(here, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        used, _ = await opened(here, data=REQUEST)
        await answer(used)
        silent, _ = await opened(here)
        await here.has(open=3, busy=2)
        reader, _ = await opened(here, data=REQUEST)
        assert (await answer(reader))[0] == 200
        assert await ends(used) == b""
        await here.has(open=3)
        await opened(here, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        assert await ends(reader) == b""
        await opened(here, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        assert await ends(silent) == b""
        await eventually(lambda: no_head(here))
        refused, _ = await opened(here)
        assert (await answer(refused))[0] == 503
        here.go_on.set()
        assert (await answer(waiting))[2] == b"done"


async def test_a_proxy_does_not_make_room(opened):
    """It would lose the request that it is about to send."""
    async with house(total=1, trusted=frozenset({ip_network("127.0.0.1/32")})) as here:
        reader, writer = await opened(here, data=REQUEST)
        await answer(reader)
        await here.has(busy=0)
        refused, _ = await opened(here)
        assert (await answer(refused))[0] == 503
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200


async def test_a_crowd_of_idle_connections_keeps_nobody_out(opened):
    async with house(total=50) as here:
        for number in range(500):
            await opened(here, SOURCES[number % len(SOURCES)])
        reader, _ = await opened(here, data=REQUEST)
        assert (await answer(reader))[0] == 200


# Heads that do not arrive


async def test_a_slow_head(opened, impatient):
    """One byte now and then: that connection is told so and closed, and others are served meanwhile."""
    async with house() as here:
        reader, writer = await opened(here)

        async def drip():
            with contextlib.suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.001)

        async with asyncio.timeout(DEADLINE):
            dripping = asyncio.create_task(drip())
            other, _ = await opened(here, data=REQUEST)
            assert (await answer(other))[0] == 200
            status, headers, body = await answer(reader)
            assert (status, json.loads(body)["error"], headers["connection"]) == (408, "request timeout", "close")
            assert headers["content-type"] == "application/problem+json; charset=utf-8"
            await here.has(open=1)
            dripping.cancel()


async def test_a_connection_without_a_word(opened, impatient):
    """It is closed, and told nothing: it may be a browser's that was opened in advance."""
    async with house() as here:
        reader, _ = await opened(here)
        assert await ends(reader) == b""


async def test_a_head_has_all_of_its_time(opened, monkeypatch):
    """It is counted from when the connection came, whenever we look."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 3600)
    async with house() as here:
        came = asyncio.get_running_loop().time()
        await opened(here, data=REQUEST[:-1])
        await here.has(busy=1)
        assert min(here.connections._awaiting.values()) >= came


async def test_a_later_head_is_slow_as_well(opened, monkeypatch):
    """A connection that is kept alive may be silent, but once a head has begun it must arrive."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 0.01)
    async with house() as here:
        reader, writer = await opened(here, data=REQUEST)
        assert (await answer(reader))[0] == 200
        monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.0)
        await here.has(open=1, busy=0)
        silent, _ = await opened(here)
        assert await ends(silent) == b""
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        writer.write(REQUEST[:-1])
        assert (await answer(reader))[0] == 408
        await here.has(open=0)


async def test_a_request_in_flight_is_not_late(opened, impatient):
    async with house() as here:
        reader, _ = await opened(here, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        await here.has(busy=1)
        late, _ = await opened(here)
        assert await ends(late) == b""
        here.go_on.set()
        assert (await answer(reader))[2] == b"done"
        await here.has(open=1, busy=0)


async def test_a_body_that_nobody_reads_is_no_head(opened):
    """The connection is not kept alive after it, and what comes of it is not taken for a head that is too large."""
    async with house() as here:
        reader, writer = await opened(here)
        writer.write(b"POST /refuse HTTP/1.1\r\nHost: att\r\nContent-Length: 300000\r\n\r\n")
        assert (await answer(reader))[0] == 403
        writer.write(b"x" * 300_000)
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""  # all of it was taken: else the connection would be reset
        await here.has(open=0)


async def test_many_requests_on_one_connection(opened):
    """Also when they come all at once; in the end it is idle."""
    async with house() as here:
        reader, _ = await opened(here, data=REQUEST * 50 + REQUEST[:9])
        for _ in range(50):
            assert (await answer(reader))[0] == 200
        await here.has(open=1, busy=0)


async def test_gone_as_soon_as_there(opened):
    """Each is counted out once, also those that are reset before they are let in, or while they are answered."""
    async with house() as here:
        for data in [b"", REQUEST, REQUEST * 20, REQUEST[:9]] * 10:
            plug = socket.create_connection(("127.0.0.1", here.port))
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
            plug.send(data)
            plug.close()
            await asyncio.sleep(0)
        reader, writer = await opened(here, data=b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n")
        await here.has(open=1, busy=1)
        writer.transport.abort()
        await here.has(open=0)
        here.go_on.set()
        reader, _ = await opened(here, data=REQUEST)
        assert (await answer(reader))[0] == 200
        await here.has(open=1, busy=0)
        assert len(here.connections._idle) == 1
        assert not here.connections._awaiting


async def test_a_connection_that_is_handed_over(opened):
    """It counts until whoever took it over says that it is closed, and is nobody's to close until then."""
    async with house(of_address=1, total=1) as here:
        reader, _ = await opened(here, data=b"GET /hand HTTP/1.1\r\nHost: att\r\n\r\n")
        assert await reader.readexactly(4) == b"mine"
        assert here.doors.traffic() == (1, 1)
        refused, _ = await opened(here)
        assert (await answer(refused))[0] == 503
        here.caller.leave()
        assert here.doors.traffic() == (0, 0)
        assert not here.connections._idle
        reader, _ = await opened(here, data=REQUEST)
        assert (await answer(reader))[0] == 200


async def test_by_a_unix_socket(tmp_path):
    """Its connections are counted, and exempt."""
    path = str(tmp_path / "s")
    async with house(of_address=1, address=ListenAddress(None, 0, path)) as here:
        pairs = [await asyncio.open_unix_connection(path) for _ in range(3)]
        for reader, writer in pairs:
            writer.write(REQUEST)
            assert (await answer(reader))[0] == 200
        await here.has(open=3, busy=0)
        for _, writer in pairs:
            writer.close()
        await here.has(open=0)
