"""Fixtures: a real PostgreSQL, a migrated database for each test, an application on it, people who use it."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from aiohttp.test_utils import TestClient
from databases import Databases, copy_data, dsn_of, remove
from hashing_costs import CHEAPEST
from hypothesis import HealthCheck, settings as hypothesis_settings
from in_process import run_here  # noqa: F401 - a fixture of many
from loops import Loop
from people import PASSWORD, Person
from realtime_fixtures import append, hub, listen, live_sessions, log_reader, running_reader, spy_log, woken  # noqa: F401 - fixtures of many
from talks import talk  # noqa: F401 - a fixture of many
from valkey_servers import Valkey, ValkeyCluster

from att.app import create_app
from att.config.settings import Rate, Settings
from att.core.permissions import Actor
from att.core.process import collect_less_garbage
from att.core.quotas import Quota
from att.db import engine
from att.db.embedded import EmbeddedPostgres
from att.db.engine import Engine

# jsonschema imports it for the format "iri", which no schema of ours has. It takes 2 s of CPU, in each worker.
sys.modules.setdefault("rfc3987_syntax", None)

# How fast a machine is says nothing about the code.
hypothesis_settings.register_profile("att", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("att")

UNBOUNDED = Rate(10**9, timedelta(seconds=1))  # tests sign up and fail to log in as often as they like
UNLIMITED = dict.fromkeys(f"quota_{quota.replace('-', '_')}" for quota in Quota)  # settings without quotas
BASETEMP = pytest.StashKey[Path]()
SYSTEM = Path(__file__).with_name("system")
ROOM = 2 * 1024**3  # bytes; a test's database takes some 10 MiB, the log up to 1 GiB


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give each run a directory of its own, which it removes.

    Pytest closes the common one of all runs to other users with each run that begins, and the embedded PostgreSQL is
    another user; and it removes what earlier runs have left, which takes long.
    """
    if config.option.basetemp is None:
        config.stash[BASETEMP] = Path(tempfile.mkdtemp(prefix="att-tests-"))
        config.option.basetemp = config.stash[BASETEMP] / "base"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove it, unless a test has failed, which may have left a log there."""
    if exitstatus == pytest.ExitCode.OK and BASETEMP in session.config.stash:
        remove(session.config.stash[BASETEMP])


def pytest_collection_finish() -> None:
    """Do as the server does: exempt the tests and what they have imported from garbage collection."""
    collect_less_garbage()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in tests/system, and let each worker begin with some of their files.

    A long test at the end leaves other workers idle. pytest-xdist first gives each worker an equal part of the list.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    others = [item for item in items if SYSTEM not in item.path.parents]
    system = [item for item in items if SYSTEM in item.path.parents]
    first: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, (_, of_file) in enumerate(groupby(system, lambda item: item.path)):
        first[number % workers] += of_file
    part = -(-len(items) // workers)
    items.clear()
    for of_worker in first:
        for item in of_worker:
            item.add_marker("system")
        room = max(part - len(of_worker), 0)
        items += [*of_worker, *others[:room]]
        del others[:room]
    items += others


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test runs on the loop that the server runs on."""
    return {"uvloop": Loop}


def _memory() -> Path | None:
    """Where files stay in memory, if there is room: nearly each test has a database copied."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= ROOM
    return memory if has_room else None


@pytest.fixture(scope="session")
def initialised() -> Iterator[Path]:
    """The data directory of an embedded PostgreSQL that was started once and stopped, to be copied."""
    directory = Path(tempfile.mkdtemp(prefix="att-tests-", dir=_memory()))
    server = EmbeddedPostgres(directory / "initialised")
    server.start()
    server.stop()
    yield server.data_dir
    remove(directory)


@pytest.fixture
def data_dir(initialised: Path) -> Iterator[Path]:
    """A data directory of the test's own. It has been initialised, which takes longer than all else in a start."""
    directory = initialised.parent / "own"
    yield copy_data(initialised, directory)
    remove(directory)


@pytest.fixture(scope="session")
def embedded(initialised: Path) -> Iterator[EmbeddedPostgres]:
    """The embedded PostgreSQL, for the whole run."""
    server = EmbeddedPostgres(copy_data(initialised, initialised.parent / "shared"))
    with psycopg.connect(server.start(), autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")  # tests' data may be lost with the machine
        connection.execute("SELECT pg_reload_conf()")
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def _small_pools() -> Iterator[None]:
    """Each connection costs PostgreSQL as much CPU time as a dozen requests, and most tests need few."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(engine, "POOL_SIZE", 3)
        yield


@pytest.fixture(scope="session")
def databases(embedded: EmbeddedPostgres) -> Iterator[Databases]:
    """Maker of databases on the embedded PostgreSQL."""
    databases = Databases(str(embedded.data_dir / "postgresql"))
    yield databases
    databases.close()


@pytest.fixture
def postgresql(databases: Databases) -> Iterator[psycopg.Connection]:
    """Connection to a migrated database of this test's own."""
    with databases.copied("att", databases.migrated) as connection:
        yield connection


@pytest.fixture
def empty_postgresql(databases: Databases) -> Iterator[psycopg.Connection]:
    """Connection to an empty database of this test's own."""
    with databases.copied("empty", "template1") as connection:
        yield connection


@pytest.fixture
def db_url(postgresql: psycopg.Connection) -> str:
    """The DSN of a migrated database of this test's own."""
    return dsn_of(postgresql)


@pytest.fixture
def empty_db_url(empty_postgresql: psycopg.Connection) -> str:
    """The DSN of an empty database of this test's own."""
    return dsn_of(empty_postgresql)


@pytest.fixture
async def db(db_url: str) -> AsyncIterator[Engine]:
    """An engine on the test's database."""
    engine = await Engine.connect(db_url)
    yield engine
    await engine.close()


# Redis


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A Valkey, for the whole run; whoever kills one has one of their own."""
    server = Valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey_url(valkey: Valkey) -> str:
    """Where it is; there is nothing in it."""
    valkey.ask("FLUSHALL")
    return valkey.url


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[ValkeyCluster]:
    """Three Valkeys that are a cluster, for the whole run."""
    cluster = ValkeyCluster()
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster_url(valkey_cluster: ValkeyCluster) -> str:
    """Where one of them is; there is nothing in any."""
    for server in valkey_cluster.servers:
        server.ask("FLUSHALL")
    return valkey_cluster.url


@pytest.fixture
def settings(db_url: str) -> Settings:
    """Settings for the test's database, with hashing that costs nothing, nobody who is limited, and an end at once."""
    return Settings(
        db_url=db_url,
        hashing=CHEAPEST,
        login_failures=UNBOUNDED,
        address_failures=UNBOUNDED,
        signups=UNBOUNDED,
        **UNLIMITED,
        drain_time=timedelta(0),
    )


@pytest.fixture
async def client(settings: Settings, aiohttp_client: Any) -> TestClient:
    """A client of an application on the test's database."""
    return await aiohttp_client(create_app(settings))


@pytest.fixture
def sign_up(client: TestClient) -> Callable[[str], Awaitable[Person]]:
    """Make somebody new, who is signed in, by their login."""

    async def go(login: str) -> Person:
        response = await client.post("/signup", json={"login": login, "password": PASSWORD})
        assert response.status == 201, await response.text()
        return Person(client, login, await response.json())

    return go


# Below HTTP


@pytest.fixture
def sql(postgresql):
    """Run SQL beside the application; its rows, if it has any."""

    def run(query: str, *params: Any) -> Any:
        cursor = postgresql.execute(query, params)
        rows = cursor.fetchall() if cursor.description else None
        postgresql.commit()
        return rows

    return run


@pytest.fixture
def add_user(sql) -> Callable[[str], Actor]:
    """Make a user, on whose behalf something can be done."""

    def add(login):
        query = (
            "INSERT INTO users (login, login_key, search_text, role_id)"
            " SELECT %s, %s, %s, id FROM roles WHERE name = 'User' RETURNING id"
        )
        return Actor(sql(query, login, login, login)[0][0], uuid4(), "test")

    return add


@pytest.fixture
def add_group(sql) -> Callable[..., UUID]:
    """Make a group with these owners; its id. Their joining is in its log."""

    def add(name, *owners):
        group_id = sql("INSERT INTO groups (name, name_key) VALUES (%s, %s) RETURNING id", name, name)[0][0]
        for owner in owners:
            sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'owner')", group_id, owner)
        return group_id

    return add


@pytest.fixture
def ann_id(add_user) -> UUID:
    """A user."""
    return add_user("ann").user_id


@pytest.fixture
def tea(add_group, ann_id) -> UUID:
    """A group of Ann's. Its log ends with 1, by which she joined."""
    return add_group("tea", ann_id)
