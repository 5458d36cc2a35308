"""Who comes in by our listening sockets, over TLS or not, and what becomes of those who wait when they are closed."""

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
from doorway import DEADLINE, REQUEST, answer, ends, house
from waiting import eventually

from att.config.settings import ListenAddress
from att.http import acceptor
from att.http.tls import Certificate

FILES = Path(__file__).parents[1] / "certificates"
WAIT = b"GET /wait HTTP/1.1\r\nHost: att\r\n\r\n"


async def test_closing():
    """Nobody new gets in; who is there is served, and so is whoever had been waiting in line."""
    async with house() as here:
        reader, writer = await here.connect()
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        place = ("127.0.0.1", here.port)
        # Nothing is accepted while this runs.
        waiting = [socket.create_connection(place) for _ in range(150)]
        here.doors.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        for plug in waiting:
            later, its = await asyncio.open_connection(sock=plug)
            its.write(REQUEST)
            assert (await answer(later))[0] == 200
            its.close()
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        writer.close()
        await here.has(open=0)


async def test_closing_a_unix_socket(tmp_path):
    """Its file is gone at once, so that another server may take its place; those who are in line get in."""
    path = tmp_path / "s"
    async with house(address=ListenAddress(None, 0, str(path))) as here:
        assert here.doors.urls == [f"unix:{path}"]
        plug = socket.socket(socket.AF_UNIX)
        plug.connect(str(path))
        here.doors.close()
        assert not path.exists()
        async with house(address=ListenAddress(None, 0, str(path))):
            reader, writer = await asyncio.open_unix_connection(sock=plug)
            writer.write(REQUEST)
            assert (await answer(reader))[0] == 200
            writer.close()
            here.doors.close()
            assert path.exists()


async def test_many_at_once():
    """More than are accepted in one go."""
    async with house() as here:
        pairs = await asyncio.gather(*(here.connect() for _ in range(acceptor.BURST * 3)))
        for reader, writer in pairs:
            writer.write(REQUEST)
            assert (await answer(reader))[0] == 200
            writer.close()
        await here.has(open=0)


@contextlib.contextmanager
def no_files():
    """There are no files for anybody in this process until the block ends."""
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


async def test_no_room_in_the_system(monkeypatch, caplog):
    """Without files for another connection those that are open are served, and the others when there is room."""
    monkeypatch.setattr(acceptor, "_PAUSE", 0.01)
    async with house() as here:
        reader, writer = await here.connect()
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        with socket.socket() as plug:
            plug.setblocking(False)
            with no_files():
                assert plug.connect_ex(("127.0.0.1", here.port)) in (0, errno.EINPROGRESS)

                async def is_told():
                    return "no connection can be accepted" in caplog.text

                await eventually(is_told)
                writer.write(REQUEST)
                assert (await answer(reader))[0] == 200
            later, its = await asyncio.open_connection(sock=plug)
            its.write(REQUEST)
            assert (await answer(later))[0] == 200
            its.close()
        writer.close()


# TLS


@pytest.fixture
def trusting():
    """A client that believes who signed our certificates."""
    return ssl.create_default_context(cafile=FILES / "ca.pem")


@pytest.fixture
def certificate(tmp_path):
    """One whose files may be changed: they are in ``path``."""
    shutil.copy(FILES / "one.pem", tmp_path / "cert.pem")
    shutil.copy(FILES / "one.key", tmp_path / "key.pem")
    return Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")


def name_of(writer):
    """What the certificate that was shown is called."""
    return dict(pair for [pair] in writer.get_extra_info("peercert")["subject"])["commonName"]


async def test_tls(certificate, trusting):
    async with house(certificate=certificate) as here:
        assert here.doors.urls[0].startswith("https://127.0.0.1:")
        reader, writer = await here.connect(ssl=trusting)
        assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        await here.has(open=1, busy=0)
        writer.close()
        await here.has(open=0)


async def test_old_versions_are_refused(certificate, trusting):
    """A client that knows no other gets in where they are allowed, but not here."""
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.load_cert_chain(FILES / "one.pem", FILES / "one.key")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        lax.minimum_version = trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion.TLSv1_1
    for context in (lax, trusting):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    async with house(certificate=certificate) as here:
        ours, certificate.context = certificate.context, lax
        _, writer = await here.connect(ssl=trusting)
        writer.close()
        certificate.context = ours
        with pytest.raises(OSError):  # an error of TLS, or the connection is closed before there is one
            await here.connect(ssl=trusting)
        await here.has(open=0)


async def test_a_new_certificate(certificate, trusting, tmp_path):
    """It is shown to who comes then; connections that are open go on."""
    async with house(certificate=certificate) as here:
        reader, writer = await here.connect(ssl=trusting)
        assert name_of(writer) == "one"
        shutil.copy(FILES / "two.pem", tmp_path / "cert.pem")
        shutil.copy(FILES / "two.key", tmp_path / "key.pem")
        certificate.reload()
        _, later = await here.connect(ssl=trusting)
        assert name_of(later) == "two"
        (tmp_path / "cert.pem").write_text("nothing")
        certificate.reload()
        _, last = await here.connect(ssl=trusting)
        assert name_of(last) == "two"
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        for one in (writer, later, last):
            one.close()
        await here.has(open=0)


async def test_what_is_no_tls(certificate, caplog):
    """It is closed and counted out, and is nothing for the log."""
    async with house(certificate=certificate) as here:
        for data in (REQUEST, b"x", b""):
            reader, writer = await here.connect()
            writer.write(data)
            writer.write_eof()
            await ends(reader)
            writer.close()
        await here.has(open=0)
    gc.collect()
    assert not caplog.records


async def test_a_handshake_that_does_not_go_on(certificate, trusting, monkeypatch):
    """It is given up, counts until then, and keeps nobody out meanwhile."""
    monkeypatch.setattr(acceptor, "HANDSHAKE_TIMEOUT", 0.5)
    async with house(certificate=certificate, of_address=2) as here:
        reader, writer = await here.connect()
        await here.has(open=1)
        _, other = await here.connect(ssl=trusting)
        third, its = await here.connect()
        assert await ends(third) == b""
        its.close()
        assert await ends(reader) == b""
        writer.close()
        await here.has(open=1)
        other.close()


async def test_closing_while_a_handshake_goes_on(certificate, trusting):
    """Who has been accepted, or waits in line, gets in."""
    async with house(certificate=certificate) as here:
        plug = socket.create_connection(("127.0.0.1", here.port))
        plug.setblocking(False)
        here.doors.close()
        reader, writer = await asyncio.open_connection(sock=plug, ssl=trusting, server_hostname="localhost")
        async with asyncio.timeout(DEADLINE):
            writer.write(REQUEST)
            assert (await answer(reader))[0] == 200
        writer.close()
        await here.has(open=0)
