"""The direct connection: its statements, and what becomes of it."""

import asyncio

import pytest
from sqlalchemy import bindparam, select, text
from waiting import eventually

from att import errors
from att.db import direct_connection
from att.db.direct_connection import DirectConnection
from att.db.engine import Engine, planned_once, prepare

BACKEND = prepare(text("SELECT pg_backend_pid()"))
PREPARED = prepare(text("SELECT name FROM pg_prepared_statements"))
SLEEP = prepare(select(text("pg_sleep(:seconds)").bindparams(bindparam("seconds"))))
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
LONG = planned_once(prepare(text("SELECT length(CAST(:text AS text)), CAST(:number AS integer), '%'")), "long")
DIVIDE = prepare(text("SELECT 1 / CAST(:by AS integer)"))


@pytest.fixture
def connection(db):
    return DirectConnection(db)


@pytest.fixture
def terminate(postgresql):
    return lambda pid: postgresql.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


async def pid_of(connection):
    return (await connection.fetch_all(BACKEND))[0][0]


async def sleeper(postgresql):
    """Return the backend that sleeps, as soon as one does."""

    async def find():
        row = postgresql.execute(SLEEPING).fetchone()
        postgresql.commit()  # else it would see the same activity again
        return row and row[0]

    return await eventually(find)


async def test_statements(connection):
    """They have rows, run one after the other, and one of many bytes is written in parts."""
    found = await asyncio.gather(
        connection.fetch_all(LONG, text="x" * 8_000_000, number=1),
        connection.fetch_all(DIVIDE, by=1),
        connection.fetch_all(LONG, text="", number=2),
    )
    assert found == [[(8_000_000, 1, "%")], [(1,)], [(0, 2, "%")]]
    assert await connection.fetch_all(prepare(text("SET work_mem = '1MB'"))) == []


async def test_planned_once(connection, terminate):
    """A statement is prepared once on each connection."""
    for _ in range(2):
        for number in (1, 2):
            assert await connection.fetch_all(LONG, text="ü", number=number) == [(1, number, "%")]
        assert await connection.fetch_all(PREPARED) == [("long",)]
        terminate(await pid_of(connection))
        await eventually(lambda: is_lost(connection))


async def is_lost(connection):
    return connection._connection is None


async def test_an_error(connection):
    """An error of one statement is that of the engine, and the next one runs on the same connection."""
    pid = await pid_of(connection)
    with pytest.raises(errors.Busy):
        await connection.fetch_all(prepare(text("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$")))
    assert await pid_of(connection) == pid


async def test_lost_while_idle(connection, terminate):
    """The next statement runs on a new connection."""
    pid = await pid_of(connection)
    terminate(pid)
    assert await eventually(lambda: is_lost(connection))
    assert await pid_of(connection) != pid


async def test_lost_under_a_statement(connection, postgresql, terminate):
    """Its outcome is unknown, and it is not repeated."""
    sleeping = asyncio.create_task(connection.fetch_all(SLEEP, seconds=30))
    terminate(await sleeper(postgresql))
    with pytest.raises(errors.ConnectionLost):
        await sleeping
    assert await connection.fetch_all(DIVIDE, by=1) == [(1,)]


async def test_cancelled(connection, postgresql):
    """A connection whose statement is given up is not used again."""
    sleeping = asyncio.create_task(connection.fetch_all(SLEEP, seconds=30))
    pid = await sleeper(postgresql)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert await pid_of(connection) != pid


async def test_no_answer(connection, monkeypatch):
    """A statement without an answer has a time limit."""
    await pid_of(connection)
    monkeypatch.setattr(direct_connection, "QUERY_TIMEOUT", 0.2)
    with pytest.raises(errors.ConnectionLost):
        await connection.fetch_all(SLEEP, seconds=30)


async def test_another_server(connection, db):
    """When the engine connects anew, so does this."""
    pid = await pid_of(connection)
    await db.reconnect()
    assert await pid_of(connection) != pid


async def test_no_server(connection, db, data_dir, sql):
    """Without a server it is unavailable, and names the reason."""
    db.server._address = {"host": str(data_dir), "port": 1, "hostaddr": ""}
    with pytest.raises(errors.DatabaseUnavailable) as caught:
        await connection.fetch_all(DIVIDE, by=1)
    assert str(data_dir) in caught.value.why


async def test_the_end(db_url):
    """It ends with the engine, under a statement as well."""
    db = await Engine.connect(db_url)
    connection = DirectConnection(db)
    await pid_of(connection)
    sleeping = asyncio.create_task(connection.fetch_all(SLEEP, seconds=30))
    await asyncio.sleep(0)  # it is sent
    await db.close()
    with pytest.raises(errors.ConnectionLost):
        await sleeping
    with pytest.raises(errors.ShuttingDown):
        await pid_of(connection)
