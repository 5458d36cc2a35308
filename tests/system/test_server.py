"""From end to end: the real process, on the embedded PostgreSQL, over real sockets."""

import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import sys
from pathlib import Path

import aiohttp
import fasteners
import psycopg
import pytest
from servers import PASSWORD, Server, enter, fetch, listen, serving, until_ok
from waiting import eventually

from att import __version__
from att.db.embedded import EmbeddedPostgres


@pytest.fixture
async def start(tmp_path_factory, db_url):
    """Start a server on this test's database; it is stopped in the end."""
    started = []

    async def go(*options, **place):
        server = Server(tmp_path_factory.mktemp("server"))
        started.append(server)
        await server.start("--db-url", db_url, *options, **place)
        return server

    yield go
    for server in started:
        if server.process.returncode is None:
            await server.end(signal.SIGKILL)


@pytest.fixture
async def server(data_dir):
    async with serving(data_dir) as server:
        yield server


async def test_the_main_job_survives_kill_9(server):
    """Sign up, make a group, listen, broadcast; kill it; all of it is still there, and the session too."""
    async with server.client() as client:
        user, signed_in = await enter(client, "/signup", "ann")
        async with client.post("/groups", json={"name": "tea"}, headers=signed_in) as response:
            assert response.status == 201
        async with client.ws_connect(f"/listen/{user}", headers=signed_in) as socket:
            async with client.post("/broadcast/tea", json={"hot": True}, headers=signed_in) as response:
                assert (await response.json())["delivered"] == 1
            assert await socket.receive_str(timeout=5) == '{"hot": true}'
            assert (await server.end(signal.SIGKILL))[0] == -signal.SIGKILL
            assert (await socket.receive(timeout=5)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)

    await server.start()
    async with server.client() as client:
        async with client.get(f"/users/{user}/groups", headers=signed_in) as response:
            assert [group["name"] for group in (await response.json())["items"]] == ["tea"]
        again, _ = await enter(client, "/login", "ANN")
        assert again == user
    assert (await server.end(signal.SIGTERM))[0] == 0
    assert not (server.data_dir / "postgresql" / "postmaster.pid").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_clean_stop(server, number):
    """Sockets are closed with 1012, a request in flight is finished, the status is 0, and PostgreSQL stops as well."""
    async with server.client() as client, await psycopg.AsyncConnection.connect(server.dsn, autocommit=True) as other:
        user, signed_in = await enter(client, "/signup", "ann")
        async with client.ws_connect(f"/listen/{user}", headers=signed_in) as socket:
            async with other.transaction():
                await other.execute("LOCK TABLE users")
                logging_in = asyncio.create_task(enter(client, "/login", "ann"))
                waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
                await eventually(lambda: fetch(other, waiting))
                ended = asyncio.create_task(server.end(number))
                message = await socket.receive(timeout=5)
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1012)
            assert (await logging_in)[0] == user
        await other.close()
        assert has_drained(await ended, sockets=1)
    assert not (server.data_dir / "postgresql" / "postmaster.pid").exists()


def has_drained(ended, sockets=0, seconds=20):
    """Whether the status is 0, and the log tells of the drain, and of nothing else."""
    status, log = ended
    begins = rf"the drain begins; sockets to close: {sockets}, within {seconds} s; another signal stops at once"
    messages = [json.loads(line)["message"] for line in log.splitlines()]
    patterns = (begins, r"the drain has ended after \d+\.\d s")
    return status == 0 and len(messages) == 2 and all(map(re.fullmatch, patterns, messages))


async def test_a_drain(start):
    """Sockets are closed one after the other: while some are gone others go on hearing; a request on a connection that
    was there before is answered, as the last one, and what it appended is there afterwards; no other gets in.
    """
    server = await start("--drain-time", "4s")
    async with server.client() as client, contextlib.AsyncExitStack() as stack:
        user, signed_in = await enter(client, "/signup", "ann")
        async with client.post("/groups", json={"name": "tea"}, headers=signed_in) as response:
            assert response.status == 201
        sockets = await listen(client, user, signed_in, 8, stack)
        kept = [aiohttp.ClientSession(server.address) for _ in range(2)]
        for session in kept:
            await stack.enter_async_context(session)
            async with session.get("/nothing") as response:
                await response.read()
        heard = [asyncio.create_task(socket.receive()) for socket in sockets]
        ended = asyncio.create_task(server.end(signal.SIGTERM))
        done, open_ones = await asyncio.wait(heard, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert 1 <= len(done) < len(sockets)
        async with kept[0].post("/broadcast/tea", json={"n": 1}, headers=signed_in) as response:
            assert (response.status, response.headers["Connection"]) == (200, "close")
            told = (await response.json())["delivered"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await kept[1].ws_connect(f"/listen/{user}", headers=signed_in)
        assert refused.value.status == 503
        assert int(refused.value.headers["Retry-After"]) > 0
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get("/nothing")
        messages = [await one for one in heard]
        assert 1 <= told <= len(open_ones)
        assert [message.data for message in messages].count('{"n": 1}') == told
        for message, its in zip(messages, sockets, strict=True):
            last = message if message.type is aiohttp.WSMsgType.CLOSE else await its.receive(timeout=10)
            assert (last.type, last.data) == (aiohttp.WSMsgType.CLOSE, 1012)
            assert re.fullmatch(r"server is restarting; retry in [1-5] s", last.extra)
    status, log = await ended
    assert status == 0
    assert "sockets to close: 8, within 4 s" in log


async def test_a_second_signal_stops_at_once(start):
    """Sockets that are left are closed with 1001, and a request that does not end is given up."""
    server = await start("--drain-time", "1h")
    async with server.client() as client, contextlib.AsyncExitStack() as stack:
        user, signed_in = await enter(client, "/signup", "ann")
        sockets = await listen(client, user, signed_in, 3, stack)
        heard = [asyncio.create_task(socket.receive()) for socket in sockets]
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait(heard, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        ended = asyncio.create_task(server.end(signal.SIGINT))
        assert sorted([(await one).data for one in heard]) == [1001, 1001, 1012]
    status, log = await ended
    assert status == 0
    assert log.count("sockets cut off: 2") == 1


async def test_a_request_that_has_begun_to_arrive(start):
    """Its connection is not cut, though the time is over."""
    server = await start("--drain-time", "0s")
    host, _, port = server.address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: att\r\n\r\nGET /nothing HTTP/1.1\r\n")
    async with asyncio.timeout(10):
        await reader.readuntil(b"}")
        writer.write(b"X: y\r\n")
        await writer.drain()
        async with server.client() as client, client.get("/nothing"):
            pass  # so that what was written before has come
        ended = asyncio.create_task(server.end(signal.SIGTERM))
        await eventually(lambda: refuses(server))
        writer.write(b"Host: att\r\n\r\n")
        answer = await reader.read()
    assert b"404 Not Found" in answer
    assert b"Connection: close" in answer
    writer.close()
    assert has_drained(await ended, seconds=0)


async def refuses(server):
    """Whether it accepts no connection any more."""
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


async def test_the_next_server_listens_at_once(start):
    """While one drains another may take its address, on TCP and on a unix socket, and keeps it."""
    first = await start("--drain-time", "1h")
    listen_to = first.address.removeprefix("http://")
    async with first.client() as client, contextlib.AsyncExitStack() as stack:
        user, signed_in = await enter(client, "/signup", "ann")
        sockets = await listen(client, user, signed_in, 2, stack)
        first.process.send_signal(signal.SIGTERM)
        await eventually(lambda: refuses(first))
        second = await start(listen=listen_to)
        assert second.address == first.address
        async with second.client() as other:
            await enter(other, "/login", "ann")
        assert len(sockets) == 2
        assert (await first.end(signal.SIGTERM))[0] == 0


FILES = Path(__file__).parents[1] / "certificates"


async def test_tls(start, tmp_path):
    """All of it by https and wss; the cookie is Secure. At SIGHUP a new certificate is shown, a bad one is not."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(FILES / "one.pem", cert)
    shutil.copy(FILES / "one.key", key)
    server = await start("--tls-cert", str(cert), "--tls-key", str(key))
    assert server.address.startswith("https://127.0.0.1:")
    server.trusted = ssl.create_default_context(cafile=FILES / "ca.pem")
    place = ("127.0.0.1", int(server.address.rpartition(":")[2]))

    def shown():
        with (
            socket.create_connection(place, 10) as plug,
            server.trusted.wrap_socket(plug, server_hostname="localhost") as its,
        ):
            return its.getpeercert()["subject"][0][0][1]

    async def is_shown(name):
        return await asyncio.to_thread(shown) == name

    async with server.client() as client, contextlib.AsyncExitStack() as stack:
        async with client.post("/signup", json={"login": "ann", "password": PASSWORD}) as response:
            answer = await response.json()
            cookie = response.cookies["__Host-att_session"]
            assert cookie["secure"]
            assert cookie["httponly"]
        signed_in = {"Authorization": f"Bearer {answer['token']}"}
        async with client.post("/groups", json={"name": "tea"}, headers=signed_in) as response:
            assert response.status == 201
        [ear] = await listen(client, answer["user_id"], signed_in, 1, stack)
        assert await is_shown("one")
        cert.write_text("nothing")
        server.process.send_signal(signal.SIGHUP)
        line = await asyncio.to_thread(server.process.stderr.readline)
        assert "keeping the present certificate: cannot use" in line
        assert await is_shown("one")
        shutil.copy(FILES / "two.pem", cert)
        shutil.copy(FILES / "two.key", key)
        server.process.send_signal(signal.SIGHUP)
        await eventually(lambda: is_shown("two"))
        async with client.post("/broadcast/tea", json={"n": 1}, headers=signed_in) as response:
            assert (await response.json())["delivered"] == 1
        assert await ear.receive_json(timeout=5) == {"n": 1}
        ended = asyncio.create_task(server.end(signal.SIGTERM))
        assert (await ear.receive(timeout=5)).data == 1012
    assert (await ended)[0] == 0


CROWD = 1_000  # idle connections
FILES_OF_SERVER = 500
SOURCES = [f"127.0.0.{number}" for number in range(2, 22)] if sys.platform == "linux" else ["127.0.0.1"]


@pytest.fixture
def crowd():
    """Open connections to an address, as many as the system lets us, up to ``CROWD``, which do nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    size = min(CROWD, hard - 500) if hard != resource.RLIM_INFINITY else CROWD
    plugs = []

    def gather(place):
        for number in range(size):
            source = (SOURCES[number % len(SOURCES)], 0)
            plugs.append(socket.create_connection(place, timeout=10, source_address=source))
        return size

    yield gather
    for plug in plugs:
        plug.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_crowd_of_idle_connections(start, crowd):
    """More than the server has files for: others are served meanwhile and afterwards, and open sockets stay."""
    server = await start("--address-connections", "100000", files=FILES_OF_SERVER)
    place = ("127.0.0.1", int(server.address.rpartition(":")[2]))
    async with server.client() as client, contextlib.AsyncExitStack() as stack:
        user, signed_in = await enter(client, "/signup", "ann")
        async with client.post("/groups", json={"name": "tea"}, headers=signed_in) as response:
            assert response.status == 201
        sockets = await listen(client, user, signed_in, 5, stack)
        gathering = asyncio.create_task(asyncio.to_thread(crowd, place))
        served = 0
        while not gathering.done():
            async with server.client() as other:
                await enter(other, "/login", "ann")
            served += 1
        assert gathering.result() > FILES_OF_SERVER
        assert served > 0
        async with server.client() as other, other.post("/broadcast/tea", json={"n": 1}, headers=signed_in) as response:
            assert (await response.json())["delivered"] == 5
        assert [await socket.receive_json(timeout=10) for socket in sockets] == [{"n": 1}] * 5
    assert (await server.end(signal.SIGTERM))[0] == 0


async def test_connections_of_one_address(start):
    """Sockets count as well as any other connection; when one is closed there is room for another."""
    server = await start("--address-connections", "3")
    async with server.client() as client, contextlib.AsyncExitStack() as stack:
        user, signed_in = await enter(client, "/signup", "ann")
        sockets = await listen(client, user, signed_in, 3, stack)  # the first by the connection of the sign-up
        async with server.client() as other:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await other.ws_connect(f"/listen/{user}", headers=signed_in)
        assert refused.value.status == 503
        await sockets[0].close()

        async def is_let_in():
            async with server.client() as other, other.get("/nothing") as response:
                return response.status == 404

        await eventually(is_let_in)
    status, log = await server.end(signal.SIGTERM)
    assert status == 0
    assert log.count("refusing connections of 127.0.0.1") == 1


async def test_the_banner_is_short_and_true(server):
    """Two lines: the address that was really bound, and where the data lives."""
    assert server.lines[0].startswith(f"att {__version__} listens on http://127.0.0.1:")
    assert str(server.data_dir) in server.lines[1]
    async with server.client() as client, client.get("/nothing") as response:
        assert response.status == 404


async def test_the_first_administrator(server):
    """The password that is made up signs in and is printed once; whom they give a role may what it permits until they
    take it away.
    """
    found = re.fullmatch(
        r"the administrator is admin with the password (\S+) \(shown once\)\n", server.process.stdout.readline()
    )
    async with server.client() as client:

        async def status(method, path, headers, **body):
            async with client.request(method, path, json=body or None, headers=headers) as response:
                return response.status

        _, admin = await enter(client, "/login", "admin", found[1])
        eve_id, eve = await enter(client, "/signup", "eve")
        assert await status("GET", "/users", eve) == 403
        assert await status("POST", "/roles", admin, name="Support", permissions=["users.read"]) == 201
        assert await status("PATCH", f"/users/{eve_id}", admin, role="Support") == 200
        assert await status("GET", "/users", eve) == 200
        for method, path in (("GET", "/roles"), ("GET", "/history"), ("POST", "/users"), ("POST", "/roles")):
            assert await status(method, path, eve, login="bob", name="bob") == 403
        assert await status("PATCH", f"/users/{eve_id}", admin, role="User") == 200
        assert await status("GET", "/users", eve) == 403
    assert has_drained(await server.end(signal.SIGTERM))
    assert server.rest == ""
    await server.start()
    assert has_drained(await server.end(signal.SIGTERM))
    assert server.rest == ""


async def test_commands_while_it_runs(server):
    """They work on the embedded PostgreSQL of a running server, leave it running, and count at the next request."""

    async def run(*arguments):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "att", *arguments, "--data-dir", str(server.data_dir)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate(b"another horse\n")
        assert process.returncode == 0
        return printed.decode()

    async def status(client, headers):
        async with client.get("/roles", headers=headers) as response:
            return response.status

    place = f"in {server.data_dir} (embedded PostgreSQL)\n"
    async with server.client() as client:
        _, signed_in = await enter(client, "/signup", "ann")
        assert await run("create-admin", "ann") == f"ann is an administrator now, with the new password, {place}"
        assert await status(client, signed_in) == 401
        _, signed_in = await enter(client, "/login", "ann", "another horse")
        assert await status(client, signed_in) == 200
        assert await run("reset-password", "ann") == f"ann has the new password, {place}"
        assert await status(client, signed_in) == 401
        assert "was already up to date" in await run("migrate")


async def test_two_servers_share_the_embedded_postgres(server):
    """A second server on the same data directory finds the first one's PostgreSQL, and leaves it running."""
    second = Server(server.data_dir)
    await second.start()
    async with server.client() as client:
        await enter(client, "/signup", "ann")
    async with second.client() as client:
        await enter(client, "/login", "ann")
    assert (await second.end(signal.SIGTERM))[0] == 0
    async with server.client() as client:
        await enter(client, "/login", "ann")


@pytest.mark.parametrize("listen", ["[::1]:0", "localhost:0", ":0"])
async def test_other_addresses(tmp_path, db_url, listen):
    server = Server(tmp_path)
    await server.start("--db-url", db_url, listen=listen)
    server.address = server.address.replace("0.0.0.0", "127.0.0.1")
    async with server.client() as client, client.get("/nothing") as response:
        assert response.status == 404
    assert (await server.end(signal.SIGTERM))[0] == 0


async def test_a_unix_socket_is_served_and_cleared_away(tmp_path, db_url):
    """Also when a killed server has left its file behind."""
    server = Server(tmp_path)
    path = tmp_path / "s"
    for number in (signal.SIGKILL, signal.SIGTERM):
        await server.start("--db-url", db_url, listen=f"unix:{path}")
        assert server.address == f"unix:{path}"
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as client, client.get("http://att/nothing") as response:
            assert response.status == 404
        await server.end(number)
    assert not path.exists()


async def test_migrate_then_serve(tmp_path_factory, empty_db_url):
    """--migrate brings a database of one's own up to date; afterwards it is not needed."""
    for options in (["--migrate"], []):
        server = Server(tmp_path_factory.mktemp("server"))
        await server.start("--db-url", empty_db_url, *options)
        async with server.client() as client:
            await enter(client, "/login" if not options else "/signup", "ann")
        assert has_drained(await server.end(signal.SIGTERM))


async def test_a_killed_database_connection(server):
    """Kill -9 of one: PostgreSQL drops them all and recovers, and so do we."""
    async with server.client() as client:
        user, signed_in = await enter(client, "/signup", "ann")
        async with await psycopg.AsyncConnection.connect(server.dsn, autocommit=True) as other:
            [pid] = await fetch(other, "SELECT pid FROM pg_stat_activity WHERE application_name = 'att'")
            os.kill(pid, signal.SIGKILL)
        await until_ok(client, user, signed_in)
        await enter(client, "/login", "ann")


async def test_a_restarted_database(server):
    """While it is down every answer is a 503, also to a log-in; an open socket stays, and hears when it is back."""
    async with server.client() as client:
        user, signed_in = await enter(client, "/signup", "ann")
        async with client.post("/groups", json={"name": "tea"}, headers=signed_in) as response:
            assert response.status == 201
        async with client.ws_connect(f"/listen/{user}", headers=signed_in) as socket:
            pid_file = server.data_dir / "postgresql" / "postmaster.pid"
            with fasteners.InterProcessLock(server.data_dir / "start.lock"):  # so that nobody starts it again yet
                os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)  # PostgreSQL's fast shutdown
                await eventually(lambda: gone(pid_file), 20)
                async with client.post("/login", json={"login": "ann", "password": PASSWORD}) as response:
                    assert response.status == 503
                async with client.post("/broadcast/tea", json={}, headers=signed_in) as response:
                    assert response.status == 503
            postgres = EmbeddedPostgres(server.data_dir)
            await asyncio.to_thread(postgres.start)
            await until_ok(client, user, signed_in)
            async with client.post("/broadcast/tea", json={"back": True}, headers=signed_in) as response:
                assert (await response.json())["delivered"] == 1
            assert await socket.receive_str(timeout=5) == '{"back": true}'
            await asyncio.to_thread(postgres.stop)
    assert (await server.end(signal.SIGTERM))[0] == 0
    assert not pid_file.exists()


async def gone(path):
    return not path.exists()
