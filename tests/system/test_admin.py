"""The listener for operators, of processes: while they drain, at a port that is in use, under gunicorn."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from functools import partial

import aiohttp
import psycopg
import pytest
from databases import dsn_of
from metric_samples import samples
from waiting import eventually

SERVED = re.compile(r'health and metrics are served on ([^"\s]+)')


@pytest.fixture
def start(db_url, tmp_path):
    """Start a program that serves att, with these variables; return its process. Its errors go to a file."""
    with contextlib.ExitStack() as stack:

        def go(*command, **environment):
            errors = stack.enter_context((tmp_path / "stderr").open("w"))
            variables = {"ATT_DB_URL": db_url, "ATT_LISTEN": "127.0.0.1:0", **environment}
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield go


async def addresses(tmp_path, count):
    """Wait for that many processes; return their addresses of health and metrics."""

    async def told():
        found = SERVED.findall((tmp_path / "stderr").read_text())
        return len(found) == count and found

    return await eventually(told, 30)


async def test_draining_is_visible(start, tmp_path, postgresql):
    """From SIGTERM to the last answer the server is alive and not ready."""
    process = start("att", ATT_ADMIN_LISTEN="127.0.0.1:0", ATT_DRAIN_TIME="0s")
    banner = await asyncio.to_thread(process.stdout.readline)
    main = re.search(r"http://\S+", banner)[0]
    [admin] = await addresses(tmp_path, 1)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15)) as session:

        async def ask(path):
            async with session.get(f"http://{admin}{path}") as response:
                return response.status, (await response.json())["status"]

        async def tell(*wanted):
            return await ask("/health/ready") == wanted

        await eventually(lambda: tell(200, "ready"))
        with psycopg.connect(dsn_of(postgresql)) as other:
            other.execute("LOCK TABLE users")
            signing_up = asyncio.create_task(
                session.post(f"{main}/signup", json={"login": "ann", "password": "correct horse"})
            )

            async def waits():
                return other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone()

            await eventually(waits)
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: tell(503, "draining"))
            assert await ask("/health/live") == (200, "alive")
        async with await signing_up as response:
            assert response.status == 201
    assert await asyncio.to_thread(process.wait, 20) == 0


async def test_a_taken_port_of_att_server(start, tmp_path):
    """The error is one line, as for --listen."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = start("att", ATT_ADMIN_LISTEN=f"127.0.0.1:{port}")
        assert await asyncio.to_thread(process.wait, 30) == 1
    [line] = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith(f"att-server: cannot listen on 127.0.0.1:{port}: the address is in use")
    assert process.stdout.read() == ""


async def test_several_workers(start, tmp_path):
    """Under gunicorn each worker has its own metrics at its own port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ("gunicorn", "att.app:create_app()", "--workers", "2", "--bind", "127.0.0.1:0")
    process = start(*command, "--worker-class", "aiohttp.GunicornUVLoopWebWorker", ATT_ADMIN_LISTEN=f"127.0.0.1:{port}")
    served = await addresses(tmp_path, 2)
    assert len(set(served)) == 2

    async def figures(session, address):
        async with session.get(f"http://{address}/metrics") as response:
            found, _ = samples(await response.text())
            return "att_draining" in {name for name, *_ in found} and found  # it has started

    async with aiohttp.ClientSession() as session:
        for address in served:
            found = await eventually(partial(figures, session, address), 20)
            assert found["att_draining",] == 0
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.wait, 30)
    for address in served:
        host, _, number = address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(number)), 1)
