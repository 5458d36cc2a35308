"""The embedded PostgreSQL that ends under running servers is restarted."""

import asyncio
import json
import os
import signal

import fasteners
import psutil
import psycopg
import pytest
from processes import is_running, kill_all, postmaster_of
from servers import Server, enter, fetch, serving, until_ok
from waiting import eventually

from att.config import database
from att.config.database import open_database
from att.config.settings import Settings
from att.db.embedded import EmbeddedPostgres


@pytest.fixture
async def server(data_dir):
    async with serving(data_dir) as server:
        yield server


async def make_tea(client):
    """Sign up Ann, and create a group."""
    user, signed_in = await enter(client, "/signup", "ann")
    async with client.post("/groups", json={"name": "tea"}, headers=signed_in) as response:
        assert response.status == 201
    return user, signed_in


@pytest.mark.parametrize("with_children", [False, True])
async def test_it_is_started_again(server, with_children):
    """Requests work again, acknowledged events are kept, sockets still receive, and one line is logged."""
    acknowledged = []

    async def broadcast(client, signed_in):
        for n in range(1_000_000):
            async with client.post("/broadcast/tea", json={"n": n}, headers=signed_in) as response:
                if response.status == 200:
                    acknowledged.append(n)

    async with server.client() as client:
        user, signed_in = await make_tea(client)
        async with client.ws_connect(f"/listen/{user}", headers=signed_in) as socket:
            broadcasting = asyncio.create_task(broadcast(client, signed_in))
            await socket.receive_str(timeout=10)
            kill_all(server) if with_children else postmaster_of(server).kill()
            await until_ok(client, user, signed_in)
            before = len(acknowledged)
            await eventually(lambda: has_more(acknowledged, before), 30)
            broadcasting.cancel()
            heard = [json.loads(await socket.receive_str(timeout=10))["n"]]
            while acknowledged[-1] not in heard:
                heard.append(json.loads(await socket.receive_str(timeout=10))["n"])
        async with await psycopg.AsyncConnection.connect(server.dsn) as connection:
            rows = await connection.execute("SELECT (body->>'n')::int FROM events WHERE kind = 'message' ORDER BY seq")
            kept = [n for (n,) in await rows.fetchall()]
    assert set(acknowledged) <= set(kept)
    assert heard == kept[1 : 1 + len(heard)]
    status, log = await server.end(signal.SIGTERM)
    assert status == 0
    assert log.count("had ended; it was restarted") == 1
    assert "Traceback" not in log
    assert not is_running(server)


async def has_more(items, count):
    return len(items) > count


async def test_one_of_many_servers_starts_it_again(server):
    """One server restarts it, and the others use it, each time it ends."""
    second = Server(server.data_dir)
    await second.start()
    async with server.client() as client, second.client() as other:
        user, signed_in = await enter(client, "/signup", "ann")
        for _ in range(2):
            postmaster_of(server).kill()
            await until_ok(client, user, signed_in)
            await until_ok(other, user, signed_in)
    told = 0
    for each in (second, server):
        status, log = await each.end(signal.SIGTERM)
        assert status == 0
        told += log.count("had ended; it was restarted")
    assert told == 2
    assert not is_running(server)


async def test_it_is_tried_until_it_starts(server):
    """The reason of a failed restart is logged, and the restart is tried again."""
    version = server.data_dir / "postgresql" / "PG_VERSION"
    right = version.read_text()
    async with server.client() as client:
        user, signed_in = await enter(client, "/signup", "ann")
        version.write_text("9\n")
        postmaster_of(server).kill()
        line = ""
        while "restart of the embedded PostgreSQL: " not in line:
            line = await asyncio.to_thread(server.process.stderr.readline)
            assert line
        assert "found version 9" in line
        version.write_text(right)
        await until_ok(client, user, signed_in)
        kept = postmaster_of(server)
    status, log = await server.end(signal.SIGTERM)
    assert status == 0
    assert "had ended; it was restarted" in log
    assert await is_gone(kept)


async def test_one_that_another_process_starts_is_left_to_it(server):
    """While another process restarts it, nothing waits, not even a stop of the server."""
    async with server.client() as client:
        user, signed_in = await enter(client, "/signup", "ann")
        with fasteners.InterProcessLock(server.data_dir / "start.lock"):
            kill_all(server)
            async with client.get(f"/users/{user}/groups", headers=signed_in) as response:
                assert response.status == 503
            status, log = await server.end(signal.SIGTERM)
    assert status == 0
    assert "is started again" not in log


async def test_one_that_runs_is_no_news(data_dir, monkeypatch, caplog):
    """A running one is checked without a log line; at the end no task is left, and it is stopped."""
    looks = []
    keep_running = EmbeddedPostgres.keep_running
    monkeypatch.setattr(EmbeddedPostgres, "keep_running", lambda self: looks.append(keep_running(self)))
    monkeypatch.setattr(database, "RESTART_INTERVAL", 0.01)
    settings = Settings(data_dir=data_dir)
    before = asyncio.all_tasks()
    with caplog.at_level("INFO", "att"):
        async with open_database(settings):
            await eventually(lambda: has_more(looks, 3))
            assert is_running(settings)
    assert asyncio.all_tasks() == before
    assert [record for record in caplog.records if "PostgreSQL" in record.getMessage()] == []
    assert not is_running(settings)


async def test_the_interval(data_dir, monkeypatch):
    """In which it is looked for."""
    monkeypatch.setattr(database, "RESTART_INTERVAL", 0.05)
    settings = Settings(data_dir=data_dir)
    async with open_database(settings) as opened:
        ended = postmaster_of(settings)
        os.kill(ended.pid, signal.SIGINT)  # a clean stop, by the operator

        async def answers():
            try:
                async with await psycopg.AsyncConnection.connect(opened.dsn) as connection:
                    return await fetch(connection, "SELECT 1")
            except psycopg.OperationalError:
                return None

        await eventually(lambda: is_gone(ended), 20)
        assert await eventually(answers, 20) == (1,)


async def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
