"""deploy/nginx.conf: the real nginx with that very file, before real servers on a real PostgreSQL and Valkey."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from types import SimpleNamespace

import aiohttp
import psycopg
import pytest
from event_streams import EventSource
from people import PASSWORD
from site_parts import DEPLOY, ROOT, Echo, Nginx, Node, Redis, needs_nginx, open_directory, started
from waiting import eventually

from att.db.migrate import bring_up_to_date
from att.http.bodies import BODY_LIMIT

pytestmark = needs_nginx
DATABASE = "nginx"


@pytest.fixture(scope="module")
def site(embedded) -> Iterator[SimpleNamespace]:
    """A site of two servers, on a PostgreSQL and a Valkey."""
    host = embedded.data_dir / "postgresql"
    with psycopg.connect(f"host={host} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
        db_url = f"postgresql://postgres@/{DATABASE}?host={host}"
        bring_up_to_date(db_url, migrate=True)
        with open_directory() as directory, open_directory() as nginx_directory:
            redis = Redis(directory)
            nodes = [Node(directory / f"node-{number}", db_url, redis_url=redis.url) for number in (1, 2)]
            nginx = Nginx(nginx_directory, [node.port for node in nodes])
            with started(redis, *nodes, nginx):
                yield SimpleNamespace(url=f"http://127.0.0.1:{nginx.port}", nodes=nodes, nginx=nginx)
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture
async def web(site):
    """A client of the site, without cookies: each of its requests may be somebody else's."""
    async with aiohttp.ClientSession(site.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def nginx():
    """One nginx more, before a server that answers with the head of what it is asked, as it came."""
    with open_directory() as directory:
        async with Echo() as echo:
            nginx = Nginx(directory, [echo.port])
            with started(nginx):
                yield nginx


async def echoed(nginx, path="/", **headers):
    """Ask nginx for something with these headers; the names and values of those that the node gets."""
    async with aiohttp.request("GET", f"http://127.0.0.1:{nginx.port}{path}", headers=headers) as response:
        assert response.status == 200
        head = await response.text()
    return [line.partition(": ")[::2] for line in head.splitlines()[1:] if line]


async def sign_up(web, login):
    async with web.post("/signup", json={"login": login, "password": PASSWORD}) as response:
        assert response.status == 201, await response.text()
        answer = await response.json()
    return SimpleNamespace(id=answer["user_id"], headers={"Authorization": f"Bearer {answer['token']}"})


async def logged(nginx, path, status):
    """The line of a request that has been answered, when it is in the log."""

    async def probe():
        lines = [json.loads(line) for line in nginx.lines().splitlines() if line.startswith("{") and line.endswith("}")]
        return next((line for line in lines if (line["path"], line["status"]) == (path, status)), None)

    return await eventually(probe)


async def problem(response, status, code):
    """It is a problem with this code, as the servers make them."""
    assert response.status == status
    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Request-ID"]
    body = await response.json()
    assert (body["status"], body["error"], body["type"]) == (status, code, "about:blank")
    assert body["title"]
    return body


async def test_conversation(site, web):
    """Sign up, log in, make a group, listen on either node in either dialect, broadcast: all of it through nginx."""
    ben = await sign_up(web, "ben")
    async with web.post("/login", json={"login": "ben", "password": PASSWORD}) as response:
        assert response.status == 200
    async with web.post("/groups", json={"name": "tea"}, headers=ben.headers) as response:
        assert response.status == 201
    sockets = [
        await web.ws_connect("/listen/me", headers=ben.headers, protocols=protocols)
        for protocols in ((), (), ("att.v1",), ("att.v1",))
    ]
    for socket_ in sockets[2:]:
        assert (await socket_.receive_json(timeout=5))["type"] == "hello"
        await socket_.send_json({"type": "resume"})
        await socket_.send_json({"type": "ping"})
        assert await socket_.receive_json(timeout=5) == {"type": "pong"}
    async with web.post("/broadcast/tea", json={"kettle": "on"}, headers=ben.headers) as response:
        assert response.status == 200
        delivered = (await response.json())["delivered"]
    heard = [await socket_.receive_json(timeout=5) for socket_ in sockets]
    for socket_ in sockets:
        await socket_.close()
    assert heard[:2] == [{"kettle": "on"}] * 2
    assert [message["data"] for message in heard[2:]] == [{"kettle": "on"}] * 2
    assert 0 < delivered < 4  # by the node that took it: the others' were on the other node


async def test_server_sent_events(site, web):
    """Each event comes through nginx at once, and a stream goes on where another one has ended, on any node."""
    eve = await sign_up(web, "eve")
    async with web.post("/groups", json={"name": "stream"}, headers=eve.headers) as response:
        assert response.status == 201
    last = ""
    for number in range(4):
        if last:
            async with web.post("/broadcast/stream", json={"missed": number}, headers=eve.headers) as response:
                assert response.status == 200
        accept = {"Accept": "text/event-stream", "Accept-Encoding": "gzip", "Last-Event-ID": last}
        async with web.get("/listen/me", headers=eve.headers | accept) as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
            assert "Content-Encoding" not in response.headers
            source = EventSource(response, last)
            assert (await source.receive())["type"] == "hello"
            if last:
                assert (await source.receive())["data"] == {"missed": number}
            async with web.post("/broadcast/stream", json={"live": number}, headers=eve.headers) as broadcast:
                assert broadcast.status == 200
            assert (await source.receive())["data"] == {"live": number}
            last = source.last_id
            source.close()


async def test_cookie(web, site):
    """A page of the site itself may act by the cookie: the nodes learn by which host and port it came."""
    await sign_up(web, "cora")
    async with aiohttp.ClientSession(site.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.post("/login", json={"login": "cora", "password": PASSWORD}) as response:
            assert response.status == 200
        async with browser.post("/groups", json={"name": "ours"}, headers={"Origin": site.url}) as response:
            assert response.status == 201
        async with browser.post("/groups", json={"name": "x"}, headers={"Origin": "http://evil.example"}) as response:
            assert response.status == 403


async def test_address(site):
    """The nodes hear who called nginx, whatever the caller writes into headers."""
    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.1", 0))
    async with aiohttp.ClientSession(site.url, connector=connector) as web:
        dora = await sign_up(web, "dora")
        async with web.post("/login", json={"login": "dora", "password": PASSWORD}, headers=forged) as response:
            assert response.status == 200
        async with web.get("/sessions", headers=dora.headers) as response:
            sessions = (await response.json())["items"]
    assert [session["address"] for session in sessions] == ["127.0.0.1"] * 2


async def test_headers(nginx):
    """What a stranger writes of themselves is replaced, and nothing but WebSocket is upgraded."""
    head = await echoed(
        nginx,
        "/a%20b?c=d",
        Host="att.example:81",
        Upgrade="h2c",
        Connection="Upgrade, HTTP2-Settings",
        Forwarded="for=1.2.3.4",
        **{"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"},
        **{"X-Forwarded-Prefix": "/evil"},
    )
    headers = {name.lower(): value for name, value in head}
    assert len(headers) == len(head)
    assert headers["host"] == headers["x-forwarded-host"] == "att.example:81"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert not {"upgrade", "connection", "forwarded", "x-forwarded-prefix"} & headers.keys()
    assert "/a%20b?c=d" not in nginx.lines()


async def test_upgrade(nginx):
    headers = dict(await echoed(nginx, "/listen/me", Upgrade="WebSocket", Connection="Upgrade"))
    assert (headers["Upgrade"], headers["Connection"]) == ("websocket", "upgrade")


async def test_request_id(nginx, site, web):
    """A request's id is passed on if it is one, made if not; nginx's own answers bear it too."""
    assert dict(await echoed(nginx, **{"X-Request-ID": "a1:b/c"}))["X-Request-ID"] == "a1:b/c"
    for rubbish in ("", "a b", 'a"b', "x" * 129):
        made = dict(await echoed(nginx, **{"X-Request-ID": rubbish}))["X-Request-ID"]
        assert len(made) == 32, rubbish
    for path in ("/metrics", "/users/me"):
        async with web.get(path, headers={"X-Request-ID": "mine"}) as response:
            assert response.headers.getall("X-Request-ID") == ["mine"]


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/health/ready", "/health", "/x/../health/live"]
)
async def test_operators_pages(nginx, path):
    """What is for the operator is not there for the world: nginx asks no node for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in answer


async def test_not_found_is_the_same(site, web):
    """Nothing tells nginx's answers from those of the nodes."""
    async with web.get("/metrics") as response:
        ours = await problem(response, 404, "not found")
    async with web.get("/nowhere") as response:
        assert await response.json() == ours


async def test_body_limit(site, web):
    """A body of the largest size that the nodes take passes; one byte more is refused as they would refuse it."""
    emma = await sign_up(web, "emma")
    async with web.post("/groups", json={"name": "large"}, headers=emma.headers) as response:
        assert response.status == 201
    headers = emma.headers | {"Content-Type": "application/json"}
    body = b'{"pad":"' + b"x" * (BODY_LIMIT - 10) + b'"}'
    assert len(body) == BODY_LIMIT
    async with web.post("/broadcast/large", data=BytesIO(body), headers=headers) as response:
        assert response.status == 200
    async with web.post("/broadcast/large", data=BytesIO(body + b" "), headers=headers) as response:
        refused = await problem(response, 413, "body too large")
    node = f"http://127.0.0.1:{site.nodes[0].port}/broadcast/large"
    async with web.post(node, data=BytesIO(body + b" "), headers=headers) as response:
        assert await response.json() == refused
    assert (await logged(site.nginx, "/broadcast/large", 413))["node"] == ""


async def test_flood_of_logins(nginx):
    """Too many log-ins from one address are refused before a node hears of them, and other routes are not."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{nginx.port}") as web:
        answers = await asyncio.gather(*(web.post(f"/{('login', 'signup')[turn % 2]}") for turn in range(60)))
        refused = [answer for answer in answers if answer.status == 429]
        assert 0 < len(refused) <= 40  # twenty pass at once, more as time goes by
        await problem(refused[0], 429, "too many attempts")
        assert refused[0].headers["Retry-After"] == "5"
        for answer in answers:
            answer.release()
        async with web.get("/login/x") as response:
            assert response.status == 200


async def test_connections_of_one_address(nginx):
    """One address has at most a thousand requests and sockets open; then it is told to come later."""
    request = b"POST /groups HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"  # and no body yet
    with ExitStack() as stack:
        for _ in range(1_000):
            plug = stack.enter_context(socket.create_connection(("127.0.0.1", nginx.port)))
            plug.sendall(request)
        async with asyncio.timeout(10), aiohttp.ClientSession(f"http://127.0.0.1:{nginx.port}") as web:
            while (response := await web.get("/")).status == 200:  # until nginx has read them all
                response.release()
            await problem(response, 429, "too many attempts")


async def test_busy_nodes():
    """What a server that is busy cannot take, another is asked, unless it may have been begun; it is not shut out."""
    with open_directory() as directory:
        async with Echo() as idle, Echo("503 Busy") as busy:
            nginx = Nginx(directory, [idle.port, busy.port])
            with started(nginx):
                async with aiohttp.ClientSession(f"http://127.0.0.1:{nginx.port}") as web:
                    got = [(await web.get("/")).status for _ in range(20)]
                    posted = [(await web.post("/")).status for _ in range(20)]
    assert set(got) == {200}
    assert sorted(posted) == [200] * 10 + [503] * 10


async def test_all_busy():
    """When all servers are busy, each request has the answer of one of them: of when to come back they know best."""
    with open_directory() as directory:
        async with Echo("503 Busy") as busy:
            nginx = Nginx(directory, [busy.port] * 2)
            with started(nginx):
                async with aiohttp.ClientSession(f"http://127.0.0.1:{nginx.port}") as web:
                    answers = [await (await web.get("/")).text() for _ in range(20)]
    assert all(answer.startswith("GET / HTTP/1.1") for answer in answers)


async def test_nodes_away(site, web):
    """A node that is killed costs nobody an answer; without any, nginx says when to come back, and they come back."""
    fay = await sign_up(web, "fay")
    first, second = site.nodes
    first.kill()
    for number in range(20):
        async with web.post("/groups", json={"name": f"fays {number}"}, headers=fay.headers) as response:
            assert response.status == 201
    second.kill()
    async with web.get("/groups", headers=fay.headers) as response:
        await problem(response, 503, "unavailable")
        assert response.headers["Retry-After"] == "2"
    for node in site.nodes:
        await asyncio.to_thread(node.start)
    async with asyncio.timeout(30):
        while True:
            async with web.get("/groups", headers=fay.headers) as response:
                if response.status == 200:
                    break
            await asyncio.sleep(0.05)


async def test_log(site, web):
    """The log tells what was asked and by whom it was answered; no query string, no header, no password."""
    async with web.get("/users?search=whom-i-seek", headers={"Authorization": "Bearer my-token"}) as response:
        assert response.status == 401
    line = await logged(site.nginx, "/users", 401)
    assert (line["method"], line["address"]) == ("GET", "127.0.0.1")
    assert line["node"].startswith("127.0.0.1:")
    for secret in ("whom-i-seek", "my-token", PASSWORD):
        assert secret not in site.nginx.lines()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine to make a certificate")
async def test_tls(site):
    """With the include for TLS nginx serves HTTPS, and the session's cookie is Secure."""
    make = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=localhost -days 2"
    with open_directory() as directory:
        files = ("-keyout", f"{directory}/privkey.pem", "-out", f"{directory}/fullchain.pem")
        await asyncio.to_thread(subprocess.run, [*make.split(), *files], check=True, capture_output=True)
        listen = (DEPLOY / "nginx.d" / "listen-tls.conf.example").read_text().replace("/etc/att/tls", str(directory))
        nginx = Nginx(directory, [node.port for node in site.nodes], listen)
        connector = aiohttp.TCPConnector(ssl=False)
        with started(nginx):
            async with (
                aiohttp.ClientSession(f"https://127.0.0.1:{nginx.port}", connector=connector) as web,
                web.post("/signup", json={"login": "gil", "password": PASSWORD}) as response,
            ):
                assert response.status == 201
                assert "Secure" in response.headers["Set-Cookie"]


def test_stops():
    """It ends cleanly when it is told to, and has had nothing to complain about."""
    with open_directory() as directory:
        nginx = Nginx(directory, [1])
        with started(nginx):
            assert nginx.stop(signal.SIGTERM) == 0
        assert nginx.lines() == ""


def test_machines():
    """With what docs/how-to/machines.md does to the includes on a machine, nginx takes the configuration."""
    commands = re.findall(r"^sed -i .+$", (ROOT / "docs" / "how-to" / "machines.md").read_text(), re.MULTILINE)
    with open_directory() as directory:
        nginx = Nginx(directory, [1])
        for name in ("nodes.conf", "listen.conf"):
            shutil.copy(DEPLOY / "nginx.d" / name, directory / "nginx.d")
        assert subprocess.run([*nginx.command(), "-t"], check=False, capture_output=True).returncode  # att1 is unknown
        for line in commands:
            subprocess.run(line.replace("/etc/att", str(directory)), shell=True, check=True)
        subprocess.run([*nginx.command(), "-t"], check=True, capture_output=True)
        nodes = (directory / "nginx.d" / "nodes.conf").read_text()
    assert re.findall("server (.+?) ", nodes) == ["127.0.0.1:8001", "127.0.0.1:8002"]
