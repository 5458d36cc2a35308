"""The listener for operators: health and metrics at an address of its own, from the first moment to the last."""

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from databases import dsn_of
from doubles import away
from metric_samples import counts, samples
from small_server import read_response, read_to_end
from waiting import eventually

from att import __version__, app as app_module
from att.app import create_app
from att.config.settings import ListenAddress
from att.core.readiness import Readiness
from att.core.tasks import supervise
from att.db import engine
from att.errors import CannotStart
from att.http.access_log import REQUEST_LOG
from att.server import admin as admin_module
from att.server.admin import admin_application, serve_admin
from att.server.prometheus import process_registry

READY = {"status": "ready"}


class Operator:
    """Client of the Unix socket of --admin-listen."""

    def __init__(self, path: Path, session: aiohttp.ClientSession) -> None:
        self.path = path
        self.session = session

    async def ask(self, what: str) -> tuple[int, dict]:
        """Return the status and the JSON answer."""
        async with self.session.get(f"http://att{what}") as response:
            return response.status, await response.json()

    async def scrape(self):
        """Return the samples of the metrics page."""
        async with self.session.get("http://att/metrics") as response:
            assert response.status == 200
            return samples(await response.text())[0]


@contextlib.asynccontextmanager
async def open_operator(path):
    timeout = aiohttp.ClientTimeout(10)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), timeout=timeout) as session:
        yield Operator(path, session)


@pytest.fixture
async def operator(tmp_path):
    async with open_operator(tmp_path / "ops") as operator:
        yield operator


@pytest.fixture
def settings(settings, tmp_path):
    return replace(settings, admin_listen=ListenAddress(None, 0, str(tmp_path / "ops")))


async def test_the_main_address_has_none_of_it(client, operator):
    """Health and metrics are not public."""
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert (await client.get(path)).status == 404
        async with operator.session.get(f"http://att{path}") as response:
            assert response.status != 404
            assert response.headers["Cache-Control"] == "no-store"
    async with operator.session.get("http://att/users") as response:
        assert response.status == 404


async def test_unknown_paths(client, operator):
    """The answer is a problem, as at the main address, and repeats nothing of the request."""
    for method, path, status, code in (
        ("GET", "/hush", 404, "not found"),
        ("PUT", "/metrics", 405, "method not allowed"),
        ("BREW", "/metrics", 501, "not implemented"),
    ):
        async with operator.session.request(method, f"http://att{path}") as response:
            problem = await response.json(content_type="application/problem+json")
            assert (response.status, problem["status"], problem["error"]) == (status, status, code)
            assert response.headers["Cache-Control"] == "no-store"
            assert "Server" not in response.headers
    reader, writer = await asyncio.open_unix_connection(operator.path)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: att\r\nAuthorization: hush\0\r\n\r\n")
    status, headers, body = await read_response(reader)
    assert (status, headers["content-type"]) == (400, "application/problem+json; charset=utf-8")
    assert json.loads(body)["error"] == "malformed"
    assert b"hush" not in body
    assert await read_to_end(reader) == b""
    writer.close()


async def test_an_internal_error(ops, tmp_path, caplog):
    """The answer has no details; the log has the traceback."""

    async def fail(_request):
        raise KeyError("hush")

    ops.router.add_get("/fail", fail)
    async with (
        serve_admin(ops, ListenAddress(None, 0, str(tmp_path / "ops"))),
        open_operator(tmp_path / "ops") as operator,
        operator.session.get("http://att/fail") as response,
    ):
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["error"]) == (500, "internal error")
    assert "hush" not in str(problem)
    [record] = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert record.exc_info[0] is KeyError


async def test_ready(client, operator):
    """The report has each service with its time."""
    assert await operator.ask("/health/live") == (200, {"status": "alive"})

    async def is_ready():
        status, answer = await operator.ask("/health/ready")
        return status == 200 and answer

    answer = await eventually(is_ready)  # the bus connects in the background
    assert answer["status"] == "ready"
    assert answer["checks"].keys() == {"database", "bus", "tasks"}
    for check in answer["checks"].values():
        assert check.keys() == {"ok", "ms"}


async def test_without_a_database(client, operator, postgresql, caplog):
    """The server is alive but not ready, and names the cause; it recovers by itself. The log has a line for each."""
    caplog.set_level("INFO", "att")

    async def told(*failing):
        status, answer = await operator.ask("/health/ready")
        found = {name for name, check in answer["checks"].items() if not check["ok"]}
        return found - {"tasks"} == set(failing) and (status, answer)  # some of which may be tried meanwhile

    async def is_back():
        return any(line.startswith("the database is back") for line in caplog.messages)

    await eventually(told)
    with away(postgresql):
        status, answer = await eventually(lambda: told("database", "bus"), 15)
        assert (status, answer["status"]) == (503, "not ready")
        assert answer["checks"]["bus"]["away"] == ["postgresql"]
        assert dsn_of(postgresql) not in str(answer)
        assert await operator.ask("/health/live") == (200, {"status": "alive"})
        for _ in range(20):
            assert (await client.post("/login", json={"login": "ann", "password": "hush hush"})).status == 503
    await eventually(told, 15)
    await eventually(is_back, 15)
    lines = [re.sub(r":? .*", "", re.sub(r"request \S+", "request", line, count=1)) for line in caplog.messages]
    away_and_back = [line for line in caplog.messages if " is away" in line or " is back" in line]
    assert len(away_and_back) == 4, lines
    assert len([line for line in caplog.messages if "is answered 503" in line]) == 1


async def test_a_failing_task(client, operator):
    """A server is not ready while background work fails, and names that work."""
    failed = asyncio.Event()

    async def fail():
        failed.set()
        raise KeyError

    async with supervise("counting sheep", fail):
        await failed.wait()
        status, answer = await operator.ask("/health/ready")
        assert (status, answer["checks"]["tasks"]["ok"]) == (503, False)
        assert [task["name"] for task in answer["checks"]["tasks"]["failing"]] == ["counting sheep"]
        assert (await operator.scrape())["att_tasks_failing",] == 1


async def test_it_starts_first(settings, operator, monkeypatch, aiohttp_client):
    """A starting server is alive and not ready: a migration may take minutes."""
    asked, go = asyncio.Event(), asyncio.Event()
    open_database = app_module.open_database

    @contextlib.asynccontextmanager
    async def slowly(settings):
        asked.set()
        await go.wait()
        async with open_database(settings) as database:
            yield database

    monkeypatch.setattr(app_module, "open_database", slowly)
    starting = asyncio.create_task(aiohttp_client(create_app(settings)))
    await asked.wait()
    assert (await operator.ask("/health/live"))[0] == 200
    status, answer = await operator.ask("/health/ready")
    assert (status, answer["status"], [*answer["checks"]]) == (503, "not ready", ["start"])
    assert ("att_build_info", ("python", ".".join(map(str, sys.version_info[:3]))), ("version", __version__)) in (
        await operator.scrape()
    )
    go.set()
    await starting
    assert [*(await operator.ask("/health/ready"))[1]["checks"]] == ["database", "bus", "tasks"]


async def test_metrics_after_traffic(client, operator, sign_up):
    """After some traffic the metrics have its numbers."""
    ann, ben = await sign_up("ann"), await sign_up("ben")
    for _ in range(3):
        assert (await client.post("/login", json={"login": "ann", "password": "wrong horse"})).status == 401
    await ann.make_group("tea")
    await ann.add("tea", ben)
    plain, spoken = await ben.listen(), await ann.listen(protocols=["att.v1"])
    assert (await spoken.receive_json(timeout=5))["type"] == "hello"
    await spoken.send_json({"type": "resume"})
    await spoken.send_json({"type": "ping"})
    assert (await spoken.receive_json(timeout=5))["type"] == "pong"
    for number in range(5):
        assert await ann.broadcast("tea", {"n": number}) == 2
    for _ in range(2):
        await ann.request("POST", "/broadcast/tea", json={}, headers={"Idempotency-Key": "once"})

    async def has_echoed():
        found = await operator.scrape()
        return (
            found["att_bus_rings_heard_total", ("bus", "postgresql")] > 0
            and found["att_bus_lag_seconds", ("bus", "postgresql")] > 0
        )

    await eventually(has_echoed)
    found = await operator.scrape()

    def requests(method, route, status):
        return found["att_http_requests_total", ("method", method), ("route", route), ("status", str(status))]

    assert requests("POST", "/signup", 201) == 2
    assert requests("POST", "/login", 401) == 3
    assert requests("POST", "/broadcast/{group}", 200) == 7
    assert found["att_http_request_duration_seconds_count", ("method", "POST"), ("route", "/login")] == 3
    assert found["att_sockets", ("dialect", "plain")] == found["att_sockets", ("dialect", "att.v1")] == 1
    assert found["att_listening_users",] == 2
    assert found["att_heard_groups",] == 1
    assert found["att_broadcasts_appended_total",] == 6
    assert found["att_broadcasts_repeated_total",] == 1
    assert found["att_deliveries_total",] == 12
    assert found["att_deliveries_dropped_total",] == 0
    assert found["att_append_batch_size_sum",] == found["att_append_wait_seconds_count",] == 7
    assert 0 < found["att_append_wait_seconds_sum",] < 60
    assert found["att_append_queue",] == 0
    assert found["att_bus_connected", ("bus", "postgresql")] == 1
    assert 0 < found["att_bus_rings_sent_total", ("bus", "postgresql")] <= 8
    assert 1 <= found["att_db_connections",] <= found["att_db_connections_limit",] == engine.POOL_SIZE
    assert found["att_db_waiting",] == found["att_hashing_running",] == found["att_hashing_waiting",] == 0
    assert found["att_tasks_failing",] == found["att_draining",] == 0
    if sys.platform == "linux":  # elsewhere the library does not tell of the process
        assert found["process_start_time_seconds",] > 0

    await plain.close(code=1000)
    await spoken.close(code=1001)

    async def are_closed():
        return counts(client.app[REQUEST_LOG].closes) == {("1000",): 1, ("1001",): 1}

    await eventually(are_closed)
    found = await operator.scrape()
    assert found["att_socket_closes_total", ("code", "1000")] == 1
    assert found["att_sockets", ("dialect", "plain")] == found["att_sockets", ("dialect", "att.v1")] == 0
    assert found["att_listening_users",] == found["att_heard_groups",] == 0


async def test_connections_and_hashes_in_use(client, operator):
    """Database connections in use and passwords being hashed are counted."""
    engine, passwords = client.app[app_module.ENGINE], client.app[app_module.PASSWORDS]
    async with engine.transaction(), engine.transaction():
        found = await operator.scrape()
        assert found["att_db_connections",] >= found["att_db_connections_in_use",] >= 2

    async def is_free():
        return (await operator.scrape())["att_db_connections_in_use",] == 0

    await eventually(is_free)
    tasks = [asyncio.ensure_future(passwords.hash("x")) for _ in range(passwords._workers + 2)]
    await asyncio.sleep(0)
    assert passwords.use == (passwords._workers, 2)
    await asyncio.gather(*tasks)

    async def is_idle():
        return passwords.use == (0, 0)

    await eventually(is_idle)


# Where it is served


@pytest.fixture
def ops():
    return admin_application(Readiness(), process_registry())


def taken():
    """Return a listening socket and its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


async def test_a_taken_port(ops):
    """A taken port is an error; but several workers with the same port each take the next free one."""
    listener, port = taken()
    address = ListenAddress("127.0.0.1", port)
    with listener:
        with pytest.raises(CannotStart, match=f"127.0.0.1:{port}: the address is in use.*--admin-listen"):
            async with serve_admin(ops, address):
                pass
        other = admin_application(Readiness(), process_registry())
        async with (
            serve_admin(ops, address, is_hosted=True) as first,
            serve_admin(other, address, is_hosted=True) as second,
            aiohttp.ClientSession() as session,
        ):
            assert port < first.port < second.port <= port + 16
            for bound in (first, second):
                async with session.get(f"http://{bound}/health/live") as response:
                    assert response.status == 200


async def test_no_port_is_left(ops, monkeypatch):
    """The error names the last port that was tried."""
    monkeypatch.setattr(admin_module, "SPARE_PORTS", 1)
    listener, port = taken()
    with listener, contextlib.ExitStack() as others:
        with contextlib.suppress(OSError):  # the port is taken already
            others.enter_context(socket.create_server(("127.0.0.1", port + 1)))
        with pytest.raises(CannotStart, match=f"cannot listen on 127.0.0.1:{port + 1}: the address is in use"):
            async with serve_admin(ops, ListenAddress("127.0.0.1", port), is_hosted=True):
                pass


@pytest.mark.parametrize(("port", "candidates"), [(0, [0]), (9100, range(9100, 9117)), (65_530, range(65_530, 65_536))])
def test_candidates(port, candidates):
    """The following ports are tried, as far as they exist; port 0 once."""
    assert [address.port for address in admin_module._candidates(ListenAddress("127.0.0.1", port))] == [*candidates]


async def test_a_stale_unix_socket(ops, tmp_path):
    """The socket of a killed server is replaced, one that answers is not; the end removes it."""
    path = tmp_path / "ops"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    address = ListenAddress(None, 0, str(path))
    async with serve_admin(ops, address), open_operator(path) as operator:
        assert (await operator.ask("/health/live"))[0] == 200
        with pytest.raises(CannotStart, match="is in use"):
            async with serve_admin(admin_application(Readiness(), process_registry()), address):
                pass
        assert (await operator.ask("/health/live"))[0] == 200
    assert [*tmp_path.iterdir()] == []


async def test_a_unix_socket_per_worker(ops, tmp_path):
    """Each worker has its own socket, so none replaces that of another."""
    async with serve_admin(ops, ListenAddress(None, 0, str(tmp_path / "ops")), is_hosted=True) as bound:
        assert bound.path == f"{tmp_path}/ops.{os.getpid()}"
        async with open_operator(bound.path) as operator:
            assert (await operator.ask("/health/live"))[0] == 200
    assert [*tmp_path.iterdir()] == []


async def test_an_impossible_address(ops):
    for address in (ListenAddress("no-such-host.invalid", 1), ListenAddress(None, 0, "/no/such/dir/ops")):
        with pytest.raises(CannotStart, match=f"cannot listen on {address}"):
            async with serve_admin(ops, address):
                pass
