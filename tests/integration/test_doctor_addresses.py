"""Addresses: free, ours, somebody else's, or none that can be had. Looking takes none of them."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl

import pytest
from aiohttp import web
from certificate_pairs import write_pair

from att.app import create_app
from att.cli.doctor import addresses
from att.cli.doctor.addresses import API, check_address
from att.cli.doctor.checks import Level
from att.config.settings import ListenAddress


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def answering(words):
    """The port of somebody who sends these words to each caller, and hangs up; without words is silent."""
    callers = []

    def answer(_reader, writer):
        callers.append(writer)
        if words is not None:
            writer.write(words)
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in callers:
            writer.transport.abort()


async def test_a_free_port():
    """It is free afterwards as well, and so it is when a connection to it has just ended."""
    address = ListenAddress("127.0.0.1", free_port())
    for _ in range(2):
        assert await check_address("--listen", address, API) == (Level.OK, f"{address} is free", "")
    with socket.create_server(("127.0.0.1", address.port)) as server, socket.socket() as caller:
        caller.connect(server.getsockname())
        server.accept()[0].close()  # whoever closes first keeps the address for a while
        caller.recv(1)
    assert await check_address("--listen", address, API) == (Level.OK, f"{address} is free", "")


@pytest.mark.parametrize("host", [None, "127.0.0.1", "localhost", "::1"])
async def test_however_it_is_written(host):
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    address = ListenAddress(host, free_port())
    assert (await check_address("--listen", address, API)).found == f"{address} is free"


async def test_any_port():
    assert (await check_address("--listen", ListenAddress("127.0.0.1", 0), API)).found == "a free port is taken"


async def test_a_server_of_ours(client):
    """Also when another of its addresses is asked for."""
    for host in ("127.0.0.1", None):
        address = ListenAddress(host, client.port)
        verdict = await check_address("--listen", address, API)
        assert verdict[:2] == (Level.WARN, f"{address} is in use by a running att-server")
        assert "choose another --listen" in verdict.remedy


async def test_a_server_of_ours_with_tls(settings, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_pair(tmp_path))
    async with serving(settings, ssl_context=context) as port:
        address = ListenAddress("127.0.0.1", port)
        assert (await check_address("--listen", address, API, is_tls=True)).level is Level.WARN
        assert (await check_address("--listen", address, API, is_tls=False)).level is Level.FAIL


@contextlib.asynccontextmanager
async def serving(settings, path=None, **options):
    """An application at a unix socket, or at the port that is given."""
    runner = web.AppRunner(create_app(settings))
    await runner.setup()
    try:
        site = web.UnixSite(runner, path) if path else web.TCPSite(runner, "127.0.0.1", 0, **options)
        await site.start()
        yield None if path else runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("words", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.0 200 OK\r\n\r\n{}", b"", None])
async def test_something_else(words, monkeypatch):
    """Whatever it says, or if it says nothing."""
    monkeypatch.setattr(addresses, "_TIMEOUT", 0.2)
    async with answering(words) as port:
        address = ListenAddress("127.0.0.1", port)
        verdict = await check_address("--admin-listen", address, API)
        assert verdict == (
            Level.FAIL,
            f"{address} is in use by something else",
            "stop it, or choose another --admin-listen",
        )


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (ListenAddress("192.0.2.1", 8000), os.strerror(errno.EADDRNOTAVAIL).lower()),
        (ListenAddress("no-such-host.invalid", 8000), "the host is unknown"),
        (ListenAddress("a..b", 80), "the host is unknown"),
        (ListenAddress(None, 0, "/no/such/directory/s"), "no such file or directory"),
        (ListenAddress(None, 0, f"/tmp/{'x' * 130}"), "name too long"),
        (ListenAddress(None, 0, "/dev/null"), "file exists"),
    ],
)
async def test_none_that_can_be_had(address, found):
    verdict = await check_address("--listen", address, API)
    assert verdict.level is Level.FAIL
    assert verdict.found.startswith(f"{address}: ")
    assert verdict.found.endswith(found)
    assert "--listen" in verdict.remedy


async def test_a_port_that_we_have_no_right_to(monkeypatch):
    """As port 80 for an ordinary user, also where the kernel grants it, or for root."""

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert (await check_address("--listen", ListenAddress(), API)).found == "127.0.0.1:8000: permission denied"


async def test_a_unix_socket(settings, tmp_path, monkeypatch):
    """Free, ours, left behind, somebody else's, in a directory that is not ours."""
    address = ListenAddress(None, 0, str(tmp_path / "s"))
    assert (await check_address("--listen", address, API)).found == f"{address} is free"
    assert not (tmp_path / "s").exists()
    async with serving(settings, address.path):
        assert (await check_address("--listen", address, API)).level is Level.WARN
    (tmp_path / "s").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(address.path)
        other.listen()
        monkeypatch.setattr(addresses, "_TIMEOUT", 0.2)
        assert (await check_address("--listen", address, API)).level is Level.FAIL
    assert (await check_address("--listen", address, API)).found == f"{address} is free"  # nobody is behind the file
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert (await check_address("--listen", address, API)).found.endswith("permission denied")
