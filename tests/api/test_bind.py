"""The sockets on which the server listens."""

import errno
import socket

import pytest

from att.config.settings import ListenAddress
from att.errors import CannotStart
from att.http.bind import open_listeners


async def open_at(*address):
    """Open listeners at this address only."""
    return (await open_listeners([ListenAddress(*address)], "--listen"))[1]


@pytest.fixture
async def listen():
    """Open listeners, and close them after the test."""
    opened = []

    async def go(*address):
        opened.extend(found := await open_at(*address))
        return found

    yield go
    for listener in opened:
        listener.close()


def connects(listener):
    with socket.socket(listener.family) as caller:
        return caller.connect_ex(listener.getsockname()) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", None])
async def test_tcp(listen, host):
    """Each address of the host has a listener, at a free port if none is given."""
    listeners = await listen(host, 0)
    assert listeners
    for listener in listeners:
        assert listener.getsockname()[1] > 0
        assert connects(listener)
        assert not listener.getblocking()
    assert len({listener.getsockname()[0] for listener in listeners}) == len(listeners)


@pytest.mark.parametrize("host", [None, "::"])
async def test_every_interface(listen, host):
    """IPv4 and IPv6 have a listener each, at one port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listeners = await listen(host, port)
    assert {listener.getsockname()[1] for listener in listeners} == {port}
    with socket.socket() as caller:
        assert caller.connect_ex(("127.0.0.1", port)) == 0


async def test_address_in_use(listen):
    """The error is one line, and no listener stays open."""
    [listener] = await listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    for host in ("127.0.0.1", "localhost", None):
        with pytest.raises(CannotStart, match=rf":{port}: the address is in use"):
            await open_at(host, port)


async def test_again_at_once(listen):
    """The next server can listen at once where the last one has just stopped."""
    [listener] = await listen("127.0.0.1", 0)
    place = listener.getsockname()
    with socket.create_connection(place):
        accepted, _ = listener.accept()
        accepted.close()
        listener.close()
    await listen(*place)


@pytest.mark.parametrize(("host", "reason"), [("no.such.host.invalid", "the host is unknown"), ("a" * 70, "unknown")])
async def test_no_such_host(host, reason):
    with pytest.raises(CannotStart, match=reason):
        await open_at(host, 0)


async def test_an_address_of_somebody_else():
    with pytest.raises(CannotStart, match=r"cannot listen on 192\.0\.2\.1:0: "):
        await open_at("192.0.2.1", 0)


async def test_a_part_of_the_addresses_is_enough(listen, monkeypatch):
    """A machine without IPv6 may still resolve the name of an IPv6 address."""
    made = socket.socket

    def make(family=socket.AF_INET, *args):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        return made(family, *args)

    monkeypatch.setattr("att.http.bind.socket.socket", make)
    [listener] = await listen(None, 0)
    assert listener.family == socket.AF_INET
    with pytest.raises(CannotStart, match=r"no such family|not supported"):
        await open_at("::1", 0)


async def test_unix(listen, tmp_path):
    """The file of a killed server is replaced; that of a listening server, and any other file, stays."""
    path = tmp_path / "s"
    for _ in range(2):
        [listener] = await listen(None, 0, str(path))
        assert connects(listener)
        listener.close()
    await listen(None, 0, str(path))
    with pytest.raises(CannotStart, match=r"/s: the address is in use"):
        await open_at(None, 0, str(path))
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(CannotStart, match="in use"):
        await open_at(None, 0, str(file))
    assert file.read_text() == "mine"
