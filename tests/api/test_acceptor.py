"""Accepting connections, with TLS and without, and closing the listening sockets."""

import asyncio
import contextlib
import errno
import gc
import os
import resource
import shutil
import socket
import ssl
from pathlib import Path

import pytest
from small_server import DEADLINE, REQUEST, read_response, read_to_end, small_server
from waiting import eventually

from att.config.settings import ListenAddress
from att.http import acceptor
from att.http.tls import Certificate

FILES = Path(__file__).parents[1] / "certificates"
WAIT = b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n"


async def test_closing():
    """New connections are refused; open and pending ones are served."""
    async with small_server() as server:
        reader, writer = await server.connect()
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200
        place = ("127.0.0.1", server.port)
        # Nothing is accepted while this runs.
        waiting = [socket.create_connection(place) for _ in range(150)]
        server.acceptor.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        for sock in waiting:
            later, its = await asyncio.open_connection(sock=sock)
            its.write(REQUEST)
            assert (await read_response(later))[0] == 200
            its.close()
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200
        writer.close()
        await server.has(open=0)


async def test_closing_a_unix_socket(tmp_path):
    """The file is removed at once, so that another server can take its place; pending connections are served."""
    path = tmp_path / "s"
    async with small_server(address=ListenAddress(None, 0, str(path))) as server:
        assert server.acceptor.urls == [f"unix:{path}"]
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        server.acceptor.close()
        assert not path.exists()
        async with small_server(address=ListenAddress(None, 0, str(path))):
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            writer.write(REQUEST)
            assert (await read_response(reader))[0] == 200
            writer.close()
            server.acceptor.close()
            assert path.exists()


async def test_many_at_once():
    """More connections than are accepted at a time are all served."""
    async with small_server() as server:
        pairs = await asyncio.gather(*(server.connect() for _ in range(acceptor.BURST * 3)))
        for reader, writer in pairs:
            writer.write(REQUEST)
            assert (await read_response(reader))[0] == 200
            writer.close()
        await server.has(open=0)


@contextlib.contextmanager
def no_files():
    """Let this process open no more files until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_out_of_files(monkeypatch, caplog):
    """When no more files can be opened, open connections are served, and pending ones once files are free."""
    monkeypatch.setattr(acceptor, "_PAUSE", 0.01)
    async with small_server() as server:
        reader, writer = await server.connect()
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200
        with socket.socket() as sock:
            sock.setblocking(False)
            with no_files():
                assert sock.connect_ex(("127.0.0.1", server.port)) in (0, errno.EINPROGRESS)

                async def is_logged():
                    return "cannot accept connections" in caplog.text

                await eventually(is_logged)
                writer.write(REQUEST)
                assert (await read_response(reader))[0] == 200
            later, its = await asyncio.open_connection(sock=sock)
            its.write(REQUEST)
            assert (await read_response(later))[0] == 200
            its.close()
        writer.close()


# TLS


@pytest.fixture
def trusting():
    """A TLS context that trusts the issuer of our certificates."""
    return ssl.create_default_context(cafile=FILES / "ca.pem")


@pytest.fixture
def certificate(tmp_path):
    """A certificate in ``tmp_path``, where a test can replace its files."""
    shutil.copy(FILES / "one.pem", tmp_path / "cert.pem")
    shutil.copy(FILES / "one.key", tmp_path / "key.pem")
    return Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")


def common_name(writer):
    """Return the common name of the server's certificate."""
    return dict(pair for [pair] in writer.get_extra_info("peercert")["subject"])["commonName"]


async def test_tls(certificate, trusting):
    async with small_server(certificate=certificate) as server:
        assert server.acceptor.urls[0].startswith("https://127.0.0.1:")
        reader, writer = await server.connect(ssl=trusting)
        assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200
        await server.has(open=1, busy=0)
        writer.close()
        await server.has(open=0)


async def test_old_versions_are_refused(certificate, trusting):
    """A client with TLS 1.1 only is refused, though another server would accept it."""
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.load_cert_chain(FILES / "one.pem", FILES / "one.key")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        lax.minimum_version = trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    for context in (lax, trusting):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    async with small_server(certificate=certificate) as server:
        ours, certificate.context = certificate.context, lax
        _, writer = await server.connect(ssl=trusting)
        writer.close()
        certificate.context = ours
        with pytest.raises(OSError):  # an error of TLS, or the connection is closed before there is one
            await server.connect(ssl=trusting)
        await server.has(open=0)


async def test_a_new_certificate(certificate, trusting, tmp_path):
    """New connections get it; open connections go on."""
    async with small_server(certificate=certificate) as server:
        reader, writer = await server.connect(ssl=trusting)
        assert common_name(writer) == "one"
        shutil.copy(FILES / "two.pem", tmp_path / "cert.pem")
        shutil.copy(FILES / "two.key", tmp_path / "key.pem")
        certificate.reload()
        _, later = await server.connect(ssl=trusting)
        assert common_name(later) == "two"
        (tmp_path / "cert.pem").write_text("nothing")
        certificate.reload()
        _, last = await server.connect(ssl=trusting)
        assert common_name(last) == "two"
        writer.write(REQUEST)
        assert (await read_response(reader))[0] == 200
        for one in (writer, later, last):
            one.close()
        await server.has(open=0)


async def test_not_tls(certificate, caplog):
    """The connection is closed and counted out, and nothing is logged."""
    async with small_server(certificate=certificate) as server:
        for data in (REQUEST, b"x", b""):
            reader, writer = await server.connect()
            writer.write(data)
            writer.write_eof()
            await read_to_end(reader)
            writer.close()
        await server.has(open=0)
    gc.collect()
    assert not caplog.records


async def test_a_handshake_that_stops(certificate, trusting, monkeypatch):
    """The handshake times out, counts until then, and does not block other clients."""
    monkeypatch.setattr(acceptor, "HANDSHAKE_TIMEOUT", 0.5)
    async with small_server(certificate=certificate, per_address=2) as server:
        reader, writer = await server.connect()
        await server.has(open=1)
        _, other = await server.connect(ssl=trusting)
        third, its = await server.connect()
        assert await read_to_end(third) == b""
        its.close()
        assert await read_to_end(reader) == b""
        writer.close()
        await server.has(open=1)
        other.close()


async def test_closing_during_a_handshake(certificate, trusting):
    """Accepted and pending connections are served."""
    async with small_server(certificate=certificate) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setblocking(False)
        server.acceptor.close()
        reader, writer = await asyncio.open_connection(sock=sock, ssl=trusting, server_hostname="localhost")
        async with asyncio.timeout(DEADLINE):
            writer.write(REQUEST)
            assert (await read_response(reader))[0] == 200
        writer.close()
        await server.has(open=0)
