"""What PostgreSQL announces: it is heard, and a connection that is lost is noticed."""

import asyncio
import os
import re
import signal

import pytest
from doubles import away
from waiting import eventually

from att.db import notifications as module
from att.db.dsn import describe
from att.db.notifications import NotificationChannel
from att.errors import DatabaseUnavailable

LISTENING = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'att'"


@pytest.fixture
def notify(sql):
    return lambda *payloads: [sql("SELECT pg_notify('att', %s)", payload) for payload in payloads]


@pytest.fixture
def backend(sql, postgresql):
    """The process at the other end of the channel."""
    return lambda: sql(LISTENING, postgresql.info.dbname)[0][0]


async def test_received(db_url, notify):
    """All that is announced from the moment on at which it listens, in order; nothing of other channels."""
    notify("early")
    async with asyncio.timeout(5), NotificationChannel(db_url, "att").listen() as payloads:
        notify("one", "two")
        assert [await anext(payloads) for _ in range(2)] == ["one", "two"]


async def test_silence(db_url, notify, monkeypatch):
    """A server that has nothing to say is asked whether it is there, and is heard afterwards."""
    monkeypatch.setattr(module, "_SILENCE", 0.01)
    asked, execute = asyncio.Event(), module._execute

    async def observed(connection, sql):
        row = await execute(connection, sql)
        if sql == "SELECT 1":
            asked.set()
        return row

    monkeypatch.setattr(module, "_execute", observed)
    async with asyncio.timeout(5), NotificationChannel(db_url, "att").listen() as payloads:
        hearing = asyncio.ensure_future(anext(payloads))
        await asked.wait()
        notify("late")
        assert await hearing == "late"


async def test_nothing_is_lost_when_it_meets_a_silence(db_url, sql, monkeypatch):
    """However the announcements fall between the questions whether the server is there, each is heard, once."""
    monkeypatch.setattr(module, "_SILENCE", 0.001)
    numbers = [str(number) for number in range(500)]
    async with asyncio.timeout(20), NotificationChannel(db_url, "att").listen() as payloads:

        async def hear():
            return [await anext(payloads) for _ in numbers]

        hearing = asyncio.create_task(hear())
        for number in numbers:
            await asyncio.to_thread(sql, "SELECT pg_notify('att', %s)", number)
        assert await hearing == numbers


async def test_a_server_that_is_silent_for_good(db_url, backend, monkeypatch):
    """It is noticed, although the connection is still there."""
    monkeypatch.setattr(module, "_SILENCE", 0.05)
    monkeypatch.setattr(module, "_TIMEOUT", 2)  # seconds, in which a busy machine stops the backend
    pid = None
    try:
        with pytest.raises(DatabaseUnavailable):
            async with asyncio.timeout(10), NotificationChannel(db_url, "att").listen() as payloads:
                pid = backend()
                os.kill(pid, signal.SIGSTOP)
                await anext(payloads)
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_connection_that_is_killed(db_url, sql, backend, postgresql):
    """The operator is told of which database, and what was said in the end."""
    with pytest.raises(DatabaseUnavailable, match=f"^{re.escape(DatabaseUnavailable().detail)}$") as caught:
        async with asyncio.timeout(4), NotificationChannel(db_url, "att").listen() as payloads:
            sql("SELECT pg_terminate_backend(%s)", backend())
            await anext(payloads)
    assert caught.value.why.startswith(f"the database {postgresql.info.dbname} at ")
    assert len(caught.value.why) > len(f"the database {describe(db_url)}: ")


async def test_no_server(db_url, postgresql):
    with away(postgresql), pytest.raises(DatabaseUnavailable):
        async with asyncio.timeout(5), NotificationChannel(db_url, "att").listen():
            pytest.fail("it listens")


async def test_a_statement_that_is_cancelled(db_url, sql, postgresql):
    """What an administrator cancels must not look like the end of the task that listens."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # aiopg reports it there as well

    async def listen():
        async with NotificationChannel(db_url, "att; SELECT pg_sleep(30)").listen():
            pytest.fail("it listens")

    async def cancel():
        query = f"SELECT pg_cancel_backend(pid) FROM ({LISTENING} AND query LIKE '%%sleep%%') AS listening"
        return sql(query, postgresql.info.dbname)

    listening = asyncio.create_task(listen())
    await eventually(cancel)
    with pytest.raises(DatabaseUnavailable):
        await asyncio.wait_for(listening, 5)


async def test_it_leaves_nothing(db_url, sql, postgresql):
    """The connection is closed with the block, however that ends."""
    with pytest.raises(ZeroDivisionError):
        async with NotificationChannel(db_url, "att").listen():
            raise ZeroDivisionError

    async def gone():
        return not sql(LISTENING, postgresql.info.dbname)

    await eventually(gone)
