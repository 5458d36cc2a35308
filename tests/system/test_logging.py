"""The log: a record is one line, whatever it contains, and no line has a secret."""

import asyncio
import contextlib
import json
import logging
import re

import aiohttp
import pytest
from server_processes import ServerProcess
from sqlalchemy import insert
from waiting import eventually

from att.config.settings import LogFormat
from att.db.engine import DriverError, prepare
from att.db.schema import users
from att.server.logging import formatter, printable

FORGED = "x\n2026-01-01T00:00:00Z [info     ] all is well\x1b[2J\r\u2028y"


def written(form, **record):
    """Return the text of a record, as written to a file."""
    return _written(form, logging.makeLogRecord({"name": "att", "levelname": "INFO", "levelno": 20, **record}))


def _written(form, record):
    return formatter(form, is_terminal=False).format(record)


def raised():
    """Return the exc_info of an exception whose message comes from a client."""
    try:
        int(FORGED)
    except ValueError as error:
        return type(error), ValueError(FORGED), error.__traceback__


@pytest.mark.parametrize("form", [LogFormat.TEXT, LogFormat.JSON, LogFormat.AUTO])
def test_a_record_is_a_line(form):
    """Nothing in the message, arguments or extra fields can end the line or move a cursor."""
    for record in ({"msg": FORGED}, {"msg": "%s", "args": (FORGED,)}, {"msg": "x", "user_agent": FORGED}):
        line = written(form, **record)
        assert line.isprintable(), line


def test_a_traceback_is_indented():
    """No line of a traceback looks like a log record."""
    first, *rest = written(LogFormat.TEXT, msg="x", exc_info=raised()).split("\n")
    assert "[error" in first or "[info" in first
    assert len(rest) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert rest[0] == "    Traceback (most recent call last):"


def test_json_is_one_object_a_line():
    """Also with a traceback; times are UTC; extra fields stand beside the message."""
    line = written(LogFormat.JSON, msg="two %d", args=(2,), exc_info=raised(), status=200, user_id=None)
    assert "\n" not in line
    told = json.loads(line)
    assert told.pop("exception").startswith("Traceback (most recent call last):\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", told.pop("timestamp"))
    assert told == {"message": "two 2", "level": "info", "logger": "att", "status": 200, "user_id": None}


def test_auto_is_text_on_a_terminal():
    """Automatic format: text on a terminal, else JSON."""
    record = logging.makeLogRecord({"msg": "x", "levelname": "INFO", "name": "att"})
    assert not formatter(LogFormat.AUTO, is_terminal=True).format(record).startswith("{")
    assert formatter(LogFormat.AUTO, is_terminal=False).format(record).startswith("{")
    assert formatter(LogFormat.JSON, is_terminal=True).format(record).startswith("{")


def test_tracebacks_have_no_locals():
    """A traceback shows code, and no value of a variable."""
    password = "hush hush"  # noqa: F841 - what a traceback with locals would show
    for is_terminal in (True, False):
        record = logging.makeLogRecord({"msg": "x", "levelname": "ERROR", "name": "att", "exc_info": raised()})
        assert "hush hush" not in formatter(LogFormat.TEXT, is_terminal=is_terminal).format(record)


@pytest.mark.parametrize("form", [LogFormat.TEXT, LogFormat.JSON])
async def test_rows_in_database_errors_are_hidden(db, form):
    """The error itself is kept."""
    add = prepare(insert(users).values(login="ann\n\nCONTEXT", login_key="ann", search_text="", password_hash="hush"))
    with pytest.raises(DriverError, match="hush") as error:
        await db.execute(add)
    line = written(form, msg="x", exc_info=(type(error.value), error.value, error.tb))
    assert "hush" not in line
    assert "null value in column" in line
    assert "DETAIL: (left out)" in line


def test_printable():
    assert printable("Grüße, 世界") == "Grüße, 世界"
    assert printable("a\nb\x00\udcff\u2028") == "a\\nb\\x00\\udcff\\u2028"


# A whole server


TOKEN_LIKE = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
PASSWORDS = ("sesame-ann", "sesame-ben", "sesame-wrong", "sesame-new", "sesame-root")
WORDS = ("whispered",)  # in bodies and queries


class Served:
    """Server whose output is kept, with all logging on."""

    def __init__(self, db_url, tmp_path, *options):
        self.out, self.err = tmp_path / "out", tmp_path / "err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = self._start(db_url, options, out, err)

    @staticmethod
    def _start(db_url, options, out, err):
        return ServerProcess(
            ["--listen", "127.0.0.1:0", *options],
            environment={
                "ATT_DB_URL": db_url,
                "ATT_ADMIN_LOGIN": "root",
                "ATT_ADMIN_PASSWORD": "sesame-root",
                "ATT_DRAIN_TIME": "0s",
                "ATT_TRUST_PROXY": "127.0.0.1",
            },
            output=(out, err),
            log_level=logging.DEBUG,
        )

    async def url(self):
        """Return its URL."""

        async def told():
            return re.search(r"listens on (\S+)", self.out.read_text())

        return (await eventually(told, 30))[1]

    def lines(self):
        """Return its log."""
        return self.err.read_text().splitlines()

    async def end(self):
        """Stop it; return all its output."""
        self.process.terminate()
        assert await asyncio.to_thread(self.process.wait, 30) == 0
        return self.out.read_text() + self.err.read_text()


@pytest.fixture
async def serve(db_url, tmp_path):
    servers = []

    def go(*options):
        servers.append(Served(db_url, tmp_path, *options))
        return servers[-1]

    yield go
    for server in servers:
        server.process.kill()
        server.process.wait()


class Visitor:
    """Client that tries all ways to authenticate, wrong ones too."""

    def __init__(self, http):
        self.http = http
        self.secrets = set()

    async def enter(self, path, login, password):
        """Sign up or log in; return the answer."""
        async with self.http.post(path, json={"login": login, "password": password}) as response:
            answer = await response.json()
            if response.status < 300:
                self.secrets.add(answer["token"])
            return answer

    async def ask(self, method, path, **options):
        """Return the status."""
        async with self.http.request(method, path, **options) as response:
            await response.read()
            return response.status

    async def listen(self, path, **options):
        """Open a WebSocket, if the server accepts it."""
        with contextlib.suppress(aiohttp.WSServerHandshakeError):
            return await self.http.ws_connect(path, **options)


async def visit(http):
    """Go through the API; return the secrets that were sent."""
    visitor = Visitor(http)
    ann = await visitor.enter("/signup", "ann", "sesame-ann")
    await visitor.enter("/signup", "ben", "sesame-ben")
    await visitor.enter("/login", "ann", "sesame-wrong")
    await visitor.enter("/login", "root", "sesame-root")
    again = await visitor.enter("/login", "ann", "sesame-ann")
    user, token = ann["user_id"], ann["token"]
    bearer, cookie = {"Authorization": f"Bearer {token}"}, {"Cookie": f"att_session={again['token']}"}
    assert await visitor.ask("POST", "/groups", json={"name": "tea"}, headers=bearer) == 201
    assert await visitor.ask("GET", f"/users/{user}/groups", headers=cookie) == 200
    assert await visitor.ask("GET", "/groups", headers={"Authorization": f"Basic {token}"}) == 401
    await visitor.ask("POST", "/broadcast/tea", json={"secret": "whispered"}, headers=bearer)
    await visitor.ask("POST", "/broadcast/tea", data='{"secret": "whispered', headers=bearer)
    await visitor.ask("POST", "/login", data='{"password": "sesame-ann', headers={"Content-Type": "application/json"})
    for path in (f"/{token}", f"/users/{token}", f"/users/me?token={token}", "/groups?password=sesame-ann&q=whispered"):
        await visitor.ask("GET", path, headers=bearer)
    await sockets(visitor, user, token, bearer)
    await visitor.ask("PUT", "/users/me/password", json={"current": "sesame-ann", "new": "sesame-new"}, headers=bearer)
    await not_http(http._base_url, token)
    assert await visitor.ask("POST", "/logout", headers=bearer) in (204, 401)
    return visitor.secrets


async def sockets(visitor, user, token, bearer):
    """Send a token as subprotocol, in the URL and in a header, and a malformed one."""
    offered = [("att.v1", f"att.bearer.{token}"), (f"att.bearer.{token}",), (f"att.bearer.{token[:-1]}x",)]
    for protocols in offered:
        if socket := await visitor.listen(f"/listen/{user}", protocols=protocols):
            await socket.close(code=1000)
    await visitor.listen(f"/listen/{user}?token={token}&access_token={token}")
    await visitor.ask("GET", f"/listen/{user}", headers={"Sec-WebSocket-Protocol": f"att.bearer.{token}"})
    socket = await visitor.listen(f"/listen/{user}", headers=bearer)
    await socket.send_str("whispered")
    await socket.close(code=1000)


async def not_http(url, token):
    """Send a request that is cut off, and some that are not HTTP."""
    for request in (
        f"GET /users/me?token={token} HTTP/7\r\nAuthorization: Bearer {token}\r\n\r\n",
        f"{token} / HTTP/1.1\r\n\r\n",
        f"POST /login HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: x\r\n\r\n",
        'POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"password": "sesame-ann"',
    ):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request.encode())
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_is_logged(serve, form):
    """No token, password, body or query is logged, however a client authenticates, and by no library."""
    server = serve("--access-log", "--log-format", form)
    async with aiohttp.ClientSession(await server.url(), timeout=aiohttp.ClientTimeout(15)) as http:
        secrets = await visit(http)
    told = await server.end()
    assert len(secrets) >= 4
    for secret in (*secrets, *(secret[:-1] for secret in secrets), *PASSWORDS, *WORDS):
        assert secret not in told
    assert not TOKEN_LIKE.findall(told)
    assert len(re.findall(r"request_id", told)) > 15
    assert "Traceback" not in told


async def lines_of(server, wanted):
    """Wait for that many lines of requests; return them."""

    async def told():
        found = [line for line in map(json.loads, server.lines()) if line["message"] == "request"]
        return len(found) >= wanted and found

    return await eventually(told, 10)


async def test_a_request_is_a_line(serve):
    """The line has user, route, address and status. That of a WebSocket comes when it is closed."""
    server = serve("--access-log", "--log-format", "json")
    url = await server.url()
    agent = "Mozilla " + "x" * 1000
    async with aiohttp.ClientSession(url, headers={"User-Agent": agent}) as http:
        visitor = Visitor(http)
        ann = await visitor.enter("/signup", "ann", "sesame-ann")
        bearer = {"Authorization": f"Bearer {ann['token']}"}
        headers = {**bearer, "X-Request-ID": "r-1", "X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
        await visitor.ask("GET", f"/users/{ann['user_id']}", headers=headers)
        socket = await visitor.listen(f"/listen/{ann['user_id']}", headers=bearer)
        await visitor.ask("GET", "/no/such/thing")
        assert len(await lines_of(server, 3)) == 3
        await socket.close(code=1001)
        _, asked, nothing, listened = await lines_of(server, 4)
    assert asked.pop("ms") >= 0
    assert asked.pop("timestamp")
    assert asked == {
        "message": "request",
        "level": "info",
        "logger": "att.access",
        "request_id": "r-1",
        "user_id": ann["user_id"],
        "method": "GET",
        "route": "/users/{user_id}",
        "status": 200,
        "address": "203.0.113.9",
        "user_agent": agent[:200],
    }
    assert (nothing["route"], nothing["status"], nothing["user_id"], nothing["address"]) == (
        None,
        404,
        None,
        "127.0.0.1",
    )
    assert (listened["route"], listened["status"], listened["close_code"]) == ("/listen/{user_id}", 101, 1001)
    await server.end()


async def test_a_refusal_is_a_line(serve):
    """The line has the address and the status, and nothing that the client sent."""
    server = serve("--access-log", "--log-format", "json")
    host, port = re.fullmatch(r"http://(.+):(\d+)", await server.url()).groups()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /whispered HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
    async with asyncio.timeout(10):
        told = (await reader.read()).decode()
    writer.close()
    [line] = await lines_of(server, 1)
    assert line.pop("timestamp")
    assert line == {
        "message": "request",
        "level": "info",
        "logger": "att.access",
        "request_id": re.search(r"X-Request-ID: (\w+)", told)[1],
        "user_id": None,
        "method": None,
        "route": None,
        "status": 400,
        "ms": None,
        "address": "127.0.0.1",
        "user_agent": None,
    }
    assert "whispered" not in await server.end()


async def test_lines_cannot_be_forged(serve):
    """Nothing that a client sends as name, id, method, path or address can forge a line."""
    server = serve("--access-log", "--log-format", "text")
    url = await server.url()
    host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()
    for forged in ("2026-01-01T00:00:00Z [info     ] forged\x85\u2028\t\u202e", "\x1b[2J", "\rforged", "\nX-A: forged"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /x%0A2026-01-01T00:00:00Z%20forged HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            + f"User-Agent: a\x85{forged}\r\nX-Request-ID: {forged}\r\nX-Forwarded-For: {forged}\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()

    async def told():
        return [line for line in server.lines() if "status=404" in line]

    assert "forged" in (await eventually(told))[0]
    await server.end()
    for line in server.lines():
        assert line.isprintable()
        assert not line.startswith(("2026-01-01", "X-A", "forged"))


async def test_without_access_log(serve):
    """Without --access-log, answered requests are not logged."""
    server = serve("--log-format", "json")
    async with aiohttp.ClientSession(await server.url()) as http:
        await Visitor(http).enter("/signup", "ann", "sesame-ann")
    await server.end()
    told = [line["message"] for line in map(json.loads, server.lines()) if line["logger"].startswith("att")]
    assert [message for message in told if not message.startswith("the drain ")] == []
