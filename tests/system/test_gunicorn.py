"""The application under gunicorn, with aiohttp's worker on uvloop."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from metric_samples import counts
from people import PASSWORD
from small_server import REQUEST, read_response, read_to_end
from waiting import eventually

from att.accounts.administrators import AdministratorCredentials
from att.config.settings import Settings
from att.core.memory import MemoryBudget
from att.core.read_turns import ReadTurns
from att.http import connections
from att.http.access_log import REQUEST_LOG, RequestLog
from att.http.context import MEMORY, READ_TURNS
from att.http.parse_errors import FIELD_LIMIT
from att.server import gunicorn as module

LISTENING = re.compile(rb"Listening at: (http://\S+) ")
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "gunicorn.md").read_text()
PRINTED = shlex.split(re.search(r"^\.venv/bin/gunicorn (.*)$", PAGE, re.MULTILINE)[1].replace(":8080", ":0"))
DEADLINE = 60  # seconds; a busy machine takes its time to start three processes


class Gunicorn:
    """Gunicorn with two workers and these environment variables."""

    def __init__(self, **variables):
        self.variables = {f"ATT_{name}": value for name, value in variables.items()}
        self.url = ""
        self.printed = b""
        self.errors = b""

    async def start(self, directory, *options):
        """Start it as in the documentation, but for the port and the number of workers."""
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *(
                Path(sys.executable).with_name("gunicorn"),
                *PRINTED,
                "--workers",
                "2",
                *options,
            ),
            env={name: value for name, value in os.environ.items() if not name.startswith("ATT_")}
            | self.variables
            | {"HOME": str(directory)},  # where it makes a socket to be controlled by
            stdout=pipe,
            stderr=pipe,
        )
        self._reading = [
            asyncio.create_task(self._read(self.process.stderr, "errors")),
            asyncio.create_task(self._read(self.process.stdout, "printed")),
        ]

    async def _read(self, stream, name):
        while line := await stream.readline():
            setattr(self, name, getattr(self, name) + line)

    async def listens(self):
        match = await eventually(self._find, DEADLINE)
        self.url = match[1].decode()

    async def _find(self):
        assert self.process.returncode is None, self.errors.decode()
        return LISTENING.search(self.errors)

    async def ends(self):
        """Return its exit status."""
        async with asyncio.timeout(DEADLINE):
            status = await self.process.wait()
            await asyncio.gather(*self._reading)
        return status


@pytest.fixture
async def gunicorn(tmp_path_factory):
    """Start gunicorn; stop it after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def go(*options, **variables):
            server = Gunicorn(**variables)
            await server.start(tmp_path_factory.mktemp("gunicorn"), *options)
            stack.push_async_callback(_stop, server)
            return server

        yield go


async def _stop(server):
    if server.process.returncode is None:
        server.process.terminate()
        await server.ends()


async def enter(client, path, login):
    async with client.post(path, json={"login": login, "password": PASSWORD}) as response:
        answer = await response.json()
        assert response.status < 300, answer
        return answer["user_id"], {"Authorization": f"Bearer {answer['token']}"}


async def say(url, header):
    """Send a request with this header, which is refused; return the status and the answer."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /users/me HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n")
    status, headers, body = await read_response(reader)
    assert headers["content-type"] == "application/problem+json; charset=utf-8"
    assert b"secret" not in body
    assert await read_to_end(reader) == b""
    writer.close()
    return status, json.loads(body)["error"]


async def test_two_workers(gunicorn, db_url):
    """Sign up, make a group, listen on many sockets, broadcast. At SIGTERM each socket is told when to reconnect."""
    server = await gunicorn("--graceful-timeout", "30", DB_URL=db_url, DRAIN_TIME="1s", ACCESS_LOG="1")
    await server.listens()
    timeout = aiohttp.ClientTimeout(DEADLINE)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as client, contextlib.AsyncExitStack() as stack:
        user, signed_in = await enter(client, "/signup", "ann")
        async with client.post("/groups", json={"name": "tea"}, headers=signed_in) as response:
            assert response.status == 201
        sockets = [
            await stack.enter_async_context(client.ws_connect(f"/listen/{user}", headers=signed_in)) for _ in range(10)
        ]
        async with client.post("/broadcast/tea", json={"n": 1}, headers=signed_in) as response:
            assert response.status == 200
        assert [await socket.receive_json(timeout=DEADLINE) for socket in sockets] == [{"n": 1}] * 10
        assert await say(server.url, b"Authorization: Bearer a secret\0") == (400, "malformed")
        assert await say(server.url, b"Authorization: secret" + b"x" * FIELD_LIMIT) == (431, "headers too large")
        server.process.terminate()
        for socket in sockets:
            message = await socket.receive(timeout=DEADLINE)
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
            assert re.fullmatch(r"server is restarting; retry in [1-5] s", message.extra)
    assert await server.ends() == 0
    assert b"Traceback" not in server.errors
    assert b"a secret" not in server.errors
    assert server.errors.count(b'"status": 431') == 1
    assert server.printed == b"" or re.fullmatch(rb"the administrator is admin .*\n", server.printed)


async def test_a_slow_head(monkeypatch):
    """A slow request head is answered 408; a pause between two requests may be longer."""
    monkeypatch.setattr(connections, "_SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.05)
    app = module.Application()
    app[REQUEST_LOG] = RequestLog()
    app[MEMORY] = MemoryBudget(1_000_000)
    app[READ_TURNS] = ReadTurns()
    runner = web.AppRunner(app, keepalive_timeout=DEADLINE, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        with contextlib.closing(writer):
            writer.write(REQUEST)
            assert (await read_response(reader))[0] == 404
            await asyncio.sleep(0.2)
            writer.write(REQUEST[:-1])
            assert (await read_response(reader))[0] == 408
            assert await read_to_end(reader) == b""
        assert counts(app[REQUEST_LOG].refusals)["408",] == 1
    finally:
        await runner.cleanup()


async def test_embedded(gunicorn, tmp_path_factory):
    """The workers share one embedded PostgreSQL, one prints the first password, and it stops with the last worker."""
    data_dir = tmp_path_factory.mktemp("data")
    server = await gunicorn(DATA_DIR=str(data_dir))
    await server.listens()
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(DEADLINE)) as client:
        await enter(client, "/signup", "ann")
        for _ in range(5):
            await enter(client, "/login", "ann")
    server.process.terminate()
    assert await server.ends() == 0
    assert server.printed.count(b"the administrator is admin with the password") == 1
    assert not (data_dir / "postgresql" / "postmaster.pid").exists()


async def test_a_second_signal(gunicorn, db_url):
    """A second signal ends the drain at once: remaining sockets are closed with 1001."""
    server = await gunicorn("--workers", "1", "--graceful-timeout", "300", DB_URL=db_url, DRAIN_TIME="1h")
    await server.listens()
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(DEADLINE)) as client:
        user, signed_in = await enter(client, "/signup", "ann")
        async with contextlib.AsyncExitStack() as stack:
            listening = [client.ws_connect(f"/listen/{user}", headers=signed_in) for _ in range(4)]
            sockets = [await stack.enter_async_context(socket) for socket in listening]
            server.process.terminate()
            waiting = [asyncio.create_task(socket.receive()) for socket in sockets]
            await asyncio.wait(waiting, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
            server.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(DEADLINE):
                codes = [(await one).data for one in waiting]
    assert sorted(codes) == [1001] * 3 + [1012]
    assert await server.ends() == 0


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"DRAIN_TIME": "2h"}, b"att: Invalid value for '--drain-time': '2h' is too long"),
        ({"DB_URL": "postgresql://me:secret@127.0.0.1:1/mine"}, b"att: "),
    ],
)
async def test_a_failed_start(gunicorn, variables, line):
    """Gunicorn prints one line with the reason, starts no other worker, and its exit status is not 0."""
    server = await gunicorn(**variables)
    assert await server.ends() != 0
    assert line in server.errors
    assert b"Traceback" not in server.errors
    assert b"secret" not in server.errors


def test_ignored_settings(monkeypatch, caplog):
    """Settings that gunicorn replaces are named in a warning."""
    for name in [name for name in os.environ if name.startswith("ATT_")]:
        monkeypatch.delenv(name)
    assert module.read_settings() == Settings()
    assert not caplog.records
    monkeypatch.setenv("ATT_LISTEN", ":8080")
    monkeypatch.setenv("ATT_ADDRESS_CONNECTIONS", "5")
    module.read_settings()
    assert [re.search(r"--bind|ATT_ADDRESS", record.message)[0] for record in caplog.records] == [
        "--bind",
        "ATT_ADDRESS",
    ]


def test_the_first_password(capsys):
    """The password is printed only if it was generated."""
    module.announce_administrator(None)
    assert capsys.readouterr().out == ""
    module.announce_administrator(AdministratorCredentials("admin", "made up"))
    assert capsys.readouterr().out == "the administrator is admin with the password made up (shown once)\n"
