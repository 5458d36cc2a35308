"""Fixtures: a real PostgreSQL, and a migrated database for each test."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import uvloop
from pytest_postgresql import factories

from att.db.embedded import EmbeddedPostgres
from att.db.engine import Engine
from att.db.migrate import bring_up_to_date


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test runs on the loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedPostgres]:
    """The embedded PostgreSQL, for the whole run."""
    data_dir = Path(tempfile.mkdtemp(prefix="att-tests-"))
    server = EmbeddedPostgres(data_dir)
    with psycopg.connect(server.start(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # what a test wrote need not outlive the machine
        connection.execute("SELECT pg_reload_conf()")
    yield server
    server.stop()
    shutil.rmtree(data_dir)


@pytest.fixture(scope="session")
def postgres_server(embedded: EmbeddedPostgres) -> SimpleNamespace:
    """Where pytest-postgresql finds it."""
    return SimpleNamespace(
        host=str(embedded.data_dir / "postgresql"),
        port=5432,
        user="postgres",
        password="",
        options="",
        maintenance_dbname="postgres",
        template_dbname=None,
    )


def _migrate(*, host: str, user: str, dbname: str, **_rest: Any) -> None:
    bring_up_to_date(f"host={host} user={user} dbname={dbname}", migrate=True)


postgres_template = factories.postgresql_noproc(dbname="att", depends_on="postgres_server", load=[_migrate])
postgresql = factories.postgresql("postgres_template")

# A database without any table of ours.
empty_template = factories.postgresql_noproc(dbname="empty", depends_on="postgres_server")
empty_postgresql = factories.postgresql("empty_template")


def dsn_of(connection: Any) -> str:
    """The DSN of the database that a psycopg connection is to."""
    return f"postgresql://{connection.info.user}@/{connection.info.dbname}?host={connection.info.host}"


@pytest.fixture
def db_url(postgresql: Any) -> str:
    """The DSN of a migrated database of this test's own."""
    return dsn_of(postgresql)


@pytest.fixture
def empty_db_url(empty_postgresql: Any) -> str:
    """The DSN of an empty database of this test's own."""
    return dsn_of(empty_postgresql)


@pytest.fixture
async def db(db_url: str) -> AsyncIterator[Engine]:
    """An engine on the test's database."""
    engine = await Engine.connect(db_url)
    yield engine
    await engine.close()


async def eventually(probe: Callable[[], Awaitable[Any]], seconds: float = 5) -> Any:
    """The first true answer of ``probe``, for what announces itself by no event. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (answer := await probe()):  # noqa: ASYNC110 - another process gives us no Event
            await asyncio.sleep(0.005)
    return answer
