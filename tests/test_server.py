"""From end to end: the real process, on the embedded PostgreSQL, over real sockets."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psycopg
import pytest
from conftest import eventually

from att.db.embedded import EmbeddedPostgres

BANNER = re.compile(r"att \S+ listens on (\S+)")
PASSWORD = "correct horse"


class Server:
    """One `att-server` process on one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.lines: list[str] = []
        self.process: subprocess.Popen[str]
        self.address = ""
        self.rest = ""  # what it printed after its banner

    async def start(self, *options: str, listen: str = "127.0.0.1:0") -> None:
        """Start it, and wait for its banner."""
        command = [sys.executable, "-m", "att", "--listen", listen, "--data-dir", str(self.data_dir), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = [await asyncio.to_thread(self.process.stdout.readline) for _ in range(2)]
        match = BANNER.search(self.lines[0])
        assert match, (self.lines, self.process.stderr.read())
        self.address = match[1]

    async def end(self, number: int) -> tuple[int, str]:
        """Send a signal; the exit status, and what it wrote to stderr."""
        self.process.send_signal(number)
        try:
            self.rest, complaint = await asyncio.to_thread(self.process.communicate, timeout=20)
        finally:
            self.process.kill()
        return self.process.returncode, complaint

    @property
    def dsn(self) -> str:
        """Its database."""
        return f"host={self.data_dir / 'postgresql'} user=postgres"

    @contextlib.asynccontextmanager
    async def client(self, **options) -> AsyncIterator[aiohttp.ClientSession]:
        async with aiohttp.ClientSession(self.address, timeout=aiohttp.ClientTimeout(10), **options) as session:
            yield session


@pytest.fixture
async def server(tmp_path_factory):
    """A server that is stopped in the end, with its PostgreSQL."""
    server = Server(tmp_path_factory.mktemp("server"))
    await server.start()
    yield server
    if server.process.returncode is None:
        await server.end(signal.SIGTERM)


async def enter(client, path, login, password=PASSWORD):
    """Sign up or log in: the user's id, and the header that signs a request in."""
    async with client.post(path, json={"login": login, "password": password}) as response:
        answer = await response.json()
        assert response.status < 300, answer
        return answer["user_id"], {"Authorization": f"Bearer {answer['token']}"}


async def fetch(connection, query):
    """The first row, by a psycopg connection."""
    return await (await connection.execute(query)).fetchone()


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
        assert await ended == (0, "")
    assert not (server.data_dir / "postgresql" / "postmaster.pid").exists()


async def test_the_banner_is_short_and_true(server):
    """Two lines: the address that was really bound, and where the data lives."""
    assert server.lines[0].startswith("att 0.1.0 listens on http://127.0.0.1:")
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
    assert await server.end(signal.SIGTERM) == (0, "")
    assert server.rest == ""
    await server.start()
    assert await server.end(signal.SIGTERM) == (0, "")
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

    async with server.client() as client:
        _, signed_in = await enter(client, "/signup", "ann")
        assert await run("create-admin", "ann") == "ann is an administrator now, with the new password\n"
        assert await status(client, signed_in) == 401
        _, signed_in = await enter(client, "/login", "ann", "another horse")
        assert await status(client, signed_in) == 200
        assert await run("reset-password", "ann") == "ann has the new password\n"
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
        assert await server.end(signal.SIGTERM) == (0, "")


async def until_ok(client, user, signed_in):
    """Ask until the answer is 200; every other one is a 503 that says when to try again, and none hangs."""

    async def ask():
        async with client.get(f"/users/{user}/groups", headers=signed_in) as response:
            if response.status == 200:
                return True
            answer = await response.json()
            assert (response.status, answer["error"]) == (503, "database unavailable")
            assert int(response.headers["Retry-After"]) > 0
            return False

    await eventually(ask, 30)


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


async def gone(path):
    return not path.exists()
