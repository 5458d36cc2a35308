"""The address of the server that a data source name leads to."""

import asyncio
import contextlib
import os
import socket

import pytest
from sqlalchemy import literal, select

from att import errors
from att.db import dsn as module
from att.db.engine import Engine, prepare

ONE = prepare(select(literal(1)))


async def test_no_connection_is_explained_without_the_password():
    with pytest.raises(errors.DatabaseUnavailable, match=r"db at 127\.0\.0\.1:1 as me") as caught:
        await Engine.connect("postgresql://me:hush@127.0.0.1:1/db")
    assert "hush" not in caught.value.detail


@pytest.fixture
async def tcp_port(embedded):
    """A TCP port that is relayed to the test's PostgreSQL."""

    async def relay(reader, writer):
        path = embedded.data_dir / "postgresql" / ".s.PGSQL.5432"
        onward_reader, onward = await asyncio.open_unix_connection(path)

        async def pump(source, sink):
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, onward), pump(onward_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_the_first_server_that_answers_is_used(tcp_port, db_url):
    """All hosts or addresses except one may be unreachable."""
    name = db_url.split("/")[3].partition("?")[0]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = closed.getsockname()[1]
        db = await Engine.connect(f"postgresql://postgres@127.0.0.1:{dead},127.0.0.1:{tcp_port}/{name}")
        assert db.server._address == {"host": "127.0.0.1", "port": tcp_port, "hostaddr": "127.0.0.1"}
        rows = await asyncio.gather(*(db.fetch_one(ONE) for _ in range(5)))
        assert rows == [(1,)] * 5
        await db.close()


@pytest.mark.parametrize(
    "place",
    [
        "{directory},127.0.0.2",
        "127.0.0.2,{directory}",
        "127.0.0.2:1,{directory}",
        "[::1]:1,{directory}",
        "[::1],{directory}",
        "{directory},[::1]:1",
        "127.0.0.2,{directory}/{name}?port=5432",
        "127.0.0.2,{directory}/{name}?hostaddr=127.0.0.2,",
        "127.0.0.1:{tcp_port},127.0.0.2",
        "127.0.0.2,127.0.0.1/{name}?port={tcp_port}",
    ],
)
async def test_a_list_of_hosts(tcp_port, db_url, embedded, place):
    """Some, all or none of the hosts have a port; one port may be for all. Only one of them is a PostgreSQL."""
    name = db_url.split("/")[3].partition("?")[0]
    directory = str(embedded.data_dir / "postgresql").replace("/", "%2F")
    place = place if "/" in place else place + "/{name}"
    dsn = f"postgresql://postgres@{place.format(directory=directory, name=name, tcp_port=tcp_port)}"
    db = await Engine.connect(dsn)
    assert await db.fetch_one(ONE) == (1,)
    await db.close()


@pytest.fixture
async def astray(tcp_port, db_url):
    """An engine, and a function that gives it a wrong address."""
    name = db_url.split("/")[3].partition("?")[0]
    db = await Engine.connect(f"postgresql://postgres@127.0.0.1:{tcp_port}/{name}")
    await db._pool.clear()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield db, lambda: db.server._address.update(port=closed.getsockname()[1])
    await db.close()


async def test_a_server_that_moved_is_found_again(astray):
    """When no connection succeeds, addresses are resolved again; until then the database is unavailable."""
    db, go_astray = astray
    go_astray()
    with pytest.raises(errors.DatabaseUnavailable):
        await db.fetch_one(ONE)
    await db.server._finding
    assert await db.fetch_one(ONE) == (1,)


async def test_a_server_that_refuses_is_said_to_each_who_asks(astray):
    """A refused connection does not affect the next one."""
    db, go_astray = astray
    for _ in range(10):
        go_astray()
        with pytest.raises(errors.DatabaseUnavailable):
            await db.fetch_one(ONE)
    await db.server._finding
    assert await asyncio.gather(*(db.fetch_one(ONE) for _ in range(5))) == [(1,)] * 5


async def test_a_server_that_refuses_spoils_no_descriptor(astray):
    """After closing, the descriptor of a refused connection can be used again."""
    db, go_astray = astray
    go_astray()
    with pytest.raises(errors.DatabaseUnavailable):
        await db.fetch_one(ONE)
    await db.close()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            for plug in socket.socketpair():
                loop.add_reader(stack.enter_context(plug), print)
                loop.remove_reader(plug)


async def test_a_descriptor_that_a_transport_has_by_now(db_url):
    """Closing leaves a descriptor alone that was given out again."""
    db = await Engine.connect(db_url)
    descriptor = db._pool._free[0].raw.fileno()
    await db._pool.clear()
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs), contextlib.closing(ours):
        os.dup2(ours.fileno(), descriptor)
        _, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
        with contextlib.closing(writer):
            await db.close()


async def test_names_are_resolved_off_the_loop(tcp_port, db_url, monkeypatch):
    """Later connections use the found address; libpq would resolve a name on the event loop."""
    name = db_url.split("/")[3].partition("?")[0]
    db = await Engine.connect(f"postgresql://postgres@localhost:{tcp_port}/{name}")
    assert db.server._address["hostaddr"] == "127.0.0.1"
    assert db.server._address["host"] == "localhost"  # which TLS compares with the certificate
    await db.close()


async def test_a_server_that_hangs_up_is_said(tcp_port, db_url, monkeypatch):
    """A server that closes a new connection is reported, too."""

    def hung_up(*_args, **_options):
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(module.socket, "socket", hung_up)
    with pytest.raises(errors.DatabaseUnavailable, match="closed the connection"):
        await asyncio.to_thread(module.locate, db_url)


async def test_closing_stops_the_search(db, monkeypatch):
    monkeypatch.setattr(module, "locate", lambda _dsn: (_ for _ in ()).throw(errors.DatabaseUnavailable))
    db.server.find_again()
    first = db.server._finding
    db.server.find_again()
    assert db.server._finding is first
    await db.server.close()
    assert first.done()
