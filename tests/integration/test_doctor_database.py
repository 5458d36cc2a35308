"""The database, as it is and broken in turn: each fault is told, with what mends it, and nothing is changed."""

import asyncio
import contextlib
import re
import socket
import struct
import tempfile
from pathlib import Path

import psycopg
import pytest

from att.app import RETENTION, create_app
from att.cli.doctor import database as module
from att.cli.doctor.checks import Level
from att.cli.doctor.database import check_database, judge_server
from att.db.rights import FUNCTIONS, RIGHTS

NAMES = [
    "database",
    "database rights",
    "schema",
    "log",
    "listen and notify",
    "durability",
    "connections",
    "database clock",
]


async def check(dsn, **options):
    """What is found, by name."""
    return {finding.name: finding async for finding in check_database(dsn, **options)}


def faults(found):
    """What is not well there; the tests' own server does not wait for its disk."""
    return [name for name, finding in found.items() if finding.level is not Level.OK and name != "durability"]


@pytest.fixture
def admin(postgresql):
    """A connection by which each statement is its own transaction."""
    with psycopg.connect(host=postgresql.info.host, dbname=postgresql.info.dbname, user="postgres") as connection:
        connection.autocommit = True
        yield connection


@pytest.fixture
def clerk(admin, db_url):
    """The DSN of a user who has no rights but those that a server needs."""
    admin.execute("CREATE ROLE clerk LOGIN")
    for table, rights in RIGHTS.items():
        admin.execute(f"GRANT {', '.join(rights)} ON {table} TO clerk")
    for function in FUNCTIONS:
        admin.execute(f"GRANT EXECUTE ON FUNCTION {function} TO clerk")
    yield db_url.replace("postgres@", "clerk@")
    admin.execute("DROP OWNED BY clerk")
    admin.execute("DROP ROLE clerk")


async def test_a_database_that_serves(db_url, postgresql):
    """Each check is made, in this order, and no secret is told."""
    found = await check(db_url)
    assert [*found] == NAMES
    assert faults(found) == []
    assert found["database"].found.startswith("PostgreSQL ")
    assert "UTF8" in found["database"].found
    assert found["schema"].found.startswith("up to date, at ")


async def test_nothing_is_changed(db_url, postgresql, sql):
    """Not a row is written, and no server of ours hears anything."""
    count = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
    before = sql(count)
    postgresql.execute("LISTEN att")
    postgresql.commit()
    await check(db_url)
    assert sql(count) == before
    assert [*postgresql.notifies(timeout=0)] == []


# Who may do what


def test_rights_are_documented():
    """docs/how-to/postgresql.md grants exactly these rights on tables."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "postgresql.md").read_text(encoding="utf-8")
    grants = re.findall(r"^GRANT ([A-Z, ]+) ON ([a-z_, ]+) TO att_app;$", page, re.MULTILINE)
    assert {name: tuple(rights.split(", ")) for rights, names in grants for name in names.split(", ")} == RIGHTS


async def test_the_rights_are_enough(clerk, settings, aiohttp_client):
    """With just these a server works: signing up, groups, broadcasts, listening, the log, and trimming it."""
    client = await aiohttp_client(create_app(type(settings)(**{**vars(settings), "db_url": clerk})))
    token = {}

    async def ask(method, path, status, **options):
        response = await client.request(method, path, headers=token, **options)
        assert response.status == status, await response.text()
        return await response.json() if status != 204 else None

    ann = await ask("POST", "/signup", 201, json={"login": "ann", "password": "correct horse"})
    ben = await ask("POST", "/signup", 201, json={"login": "ben", "password": "correct horse"})
    token["Authorization"] = f"Bearer {ann['token']}"
    await ask("POST", "/groups", 201, json={"name": "tea"})
    await ask("PUT", f"/groups/tea/members/{ben['user_id']}", 201)
    async with client.ws_connect(f"/listen/{ann['user_id']}", headers=token) as listening:
        await ask("POST", "/broadcast/tea", 200, json={"n": 1})
        assert await listening.receive_json(timeout=5) == {"n": 1}
    assert len((await ask("GET", "/groups/tea/events", 200))["items"]) == 3
    await ask("PATCH", "/groups/tea", 200, json={"retention": 1})
    await ask("GET", f"/users/{ann['user_id']}/history", 200)
    await ask("GET", f"/users/{ann['user_id']}/sessions", 200)
    await ask("DELETE", f"/groups/tea/members/{ben['user_id']}", 204)
    await client.app[RETENTION].trim()
    await ask("DELETE", "/groups/tea", 204)
    await ask("POST", "/logout", 204)


async def test_a_user_with_the_rights(clerk):
    assert faults(await check(clerk)) == []


async def test_a_right_that_is_missing(clerk, admin):
    """Each is missed, and what is advised mends it."""
    for table, right in [(table, right) for table, rights in RIGHTS.items() for right in rights]:
        admin.execute(f"REVOKE {right} ON {table} FROM clerk")
        finding = (await check(clerk))["database rights"]
        assert finding[1:] == (Level.FAIL, f"clerk lacks rights on {table}", f"GRANT {right} ON {table} TO clerk;")
        admin.execute(finding.remedy)
    assert faults(await check(clerk)) == []


async def test_a_function_that_may_not_be_called(clerk, admin):
    admin.execute("REVOKE EXECUTE ON FUNCTION att_append FROM clerk")
    finding = (await check(clerk))["database rights"]
    assert finding.level is Level.FAIL
    admin.execute(finding.remedy)
    assert faults(await check(clerk)) == []


async def test_somebody_without_any_rights(clerk, admin):
    """All that is missing is told at once; what cannot be read for it says so."""
    admin.execute("DROP OWNED BY clerk")
    found = await check(clerk)
    assert found["schema"].level is Level.FAIL
    assert "permission denied for table alembic_version" in found["schema"].found
    admin.execute(found["database rights"].remedy)
    assert faults(await check(clerk)) == []


async def test_a_schema_that_is_closed(clerk, admin):
    """Tables that cannot be seen are not taken for missing."""
    admin.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    finding = (await check(clerk))["database rights"]
    assert finding.found == "clerk may not use the schema public"
    admin.execute(finding.remedy)
    assert faults(await check(clerk)) == []


# The schema


async def test_a_schema_that_is_behind(empty_db_url):
    found = await check(empty_db_url)
    assert faults(found) == ["schema"]
    assert found["schema"].level is Level.FAIL
    assert "Added user table, Added group table" in found["schema"].found
    assert "att-server migrate" in found["schema"].remedy
    assert (await check(empty_db_url, migrate=True))["schema"].level is Level.WARN


async def test_a_schema_that_is_behind_by_one(db_url, admin):
    admin.execute("UPDATE alembic_version SET version_num = 'e92a50c7d618'")
    assert (await check(db_url))["schema"].found.startswith("behind by Added event table")


async def test_a_schema_that_is_ahead(db_url, admin):
    admin.execute("UPDATE alembic_version SET version_num = 'fffffffffff0'")
    for migrate in (False, True):
        finding = (await check(db_url, migrate=migrate))["schema"]
        assert finding[1:3] == (Level.FAIL, "newer than this program")
        assert "upgrade att" in finding.remedy


# The log


JOIN = "INSERT INTO members SELECT group_id, '{ben}', 'member' FROM members"


@pytest.mark.parametrize(
    ("fault", "seq"),
    [
        ("UPDATE groups SET seq = 2", 3),
        ("INSERT INTO events (group_id, seq, kind, actor_id) SELECT group_id, 9, 'joined', user_id FROM members", 1),
        (f"DELETE FROM events WHERE kind = 'joined'; {JOIN}", 3),
        (JOIN, 3),
        ("DELETE FROM members", 1),
    ],
)
async def test_a_log_that_does_not_fit(db_url, admin, add_user, tea, fault, seq):
    """Its seqs are beyond that of the group, or its joins and leaves are not those of the members."""
    ben = add_user("ben").user_id
    admin.execute("INSERT INTO members VALUES (%s, %s, 'member')", (tea, ben))
    admin.execute("DELETE FROM members WHERE user_id = %s", (ben,))
    assert faults(await check(db_url)) == []
    admin.execute("SET session_replication_role = replica")
    admin.execute("UPDATE groups SET seq = 9")
    admin.execute(fault.format(ben=ben))
    finding = (await check(db_url))["log"]
    assert finding.level is Level.FAIL
    assert finding.found == f"that of the group {tea} does not fit its members or its seq, at {seq}"
    assert "Restore" in finding.remedy


async def test_a_log_without_its_oldest_events_fits(db_url, admin, add_user, tea):
    """As retention leaves it, and with a raised seq; a deleted group's events are nobody's."""
    for fault in ("DELETE FROM events", "UPDATE groups SET seq = seq + 100", "DELETE FROM groups"):
        admin.execute(fault)
        assert faults(await check(db_url)) == []


async def test_a_log_that_is_too_large_to_look_through(db_url, monkeypatch):
    """The database cancels a statement that takes too long; that is no fault of the log."""
    monkeypatch.setattr(module, "BEYOND_HEAD", module._reading("SELECT pg_cancel_backend(pg_backend_pid())"))
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # aiopg reports it there as well
    assert (await check(db_url))["log"][1:3] == (Level.OK, "too large to be looked through in a few seconds")


# Whether it can be had


async def only(dsn):
    """The one finding, when nothing more can be looked at."""
    [finding] = (await check(dsn)).values()
    assert finding.name == "database"
    assert finding.level is Level.FAIL
    assert finding.remedy
    assert "hush" not in str(finding)
    return finding


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("postgresql://me:hush@127.0.0.1:1/db", "onnection refused"),
        ("postgresql://me:hush@no-such-host.invalid/db", "no-such-host.invalid"),
        ("host=/no/such/dir dbname=db password=hush", "No such file"),
    ],
)
async def test_no_database(dsn, words):
    assert words in (await only(dsn)).found


async def test_no_such_database(db_url, postgresql):
    assert '"missing" does not exist' in (await only(db_url.replace(f"/{postgresql.info.dbname}?", "/missing?"))).found


async def test_a_wrong_password(embedded, db_url, admin):
    hba = embedded.data_dir / "postgresql" / "pg_hba.conf"
    trusting = hba.read_text()
    admin.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    try:
        hba.write_text("local all guarded scram-sha-256\n" + trusting)
        admin.execute("SELECT pg_reload_conf()")
        assert "password authentication failed" in (await only(db_url.replace("postgres@", "guarded:hush@"))).found
    finally:
        hba.write_text(trusting)
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("DROP ROLE guarded")


async def test_something_that_says_nothing():
    """It is given up: here after the time that the DSN gives it, which is less than ours."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        assert "timeout" in (await only(f"postgresql://me:hush@127.0.0.1:{port}/db?connect_timeout=2")).found


async def test_another_encoding(embedded, admin):
    admin.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        found = await check(f"postgresql://postgres@/ascii?host={admin.info.host}")
        assert found["database"].level is Level.FAIL
        assert "ENCODING 'UTF8'" in found["database"].remedy
    finally:
        admin.execute("DROP DATABASE ascii WITH (FORCE)")


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (("12.9", 12, "UTF8"), "13 or later"),
        (("18.1", 18, "LATIN1"), "ENCODING 'UTF8'"),
    ],
)
def test_a_server_that_does_not_do(server, words):
    verdict = judge_server("here", *server)
    assert verdict.level is Level.FAIL
    assert words in verdict.remedy
    assert judge_server("here", "13.0", 13, "UTF8").level is Level.OK


# How it works


class Pooler:
    """Between a server and who connects by its socket in ``directory``; it keeps announcements to itself.

    So does a pooler that gives a server's connection to somebody else after each transaction: what is announced on it
    reaches whoever has it at the moment.
    """

    def __init__(self, server):
        self._server = server
        self._tasks = []
        self.kept = 0

    @contextlib.asynccontextmanager
    async def running(self, directory):
        server = await asyncio.start_unix_server(self._accept, f"{directory}/.s.PGSQL.5432")
        try:
            yield
        finally:
            server.close()
            await asyncio.wait_for(asyncio.gather(*self._tasks), 5)  # whoever was connected has hung up

    def _accept(self, reader, writer):
        self._tasks.append(asyncio.create_task(self._relay(reader, writer)))

    async def _relay(self, reader, writer):
        theirs, to_them = await asyncio.open_unix_connection(f"{self._server}/.s.PGSQL.5432")
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await asyncio.gather(self._forward(reader, to_them), self._sift(theirs, writer))
        for end in (writer, to_them):
            end.transport.abort()

    async def _forward(self, reader, writer):
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def _sift(self, reader, writer):
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            if head[:1] == b"A":  # NotificationResponse
                self.kept += 1
            else:
                writer.write(head + body)


async def test_a_pooler_that_works_by_transaction(db_url, postgresql, monkeypatch):
    """An announcement that does not come back fails, though all else is well."""
    monkeypatch.setattr(module, "_ARRIVAL", 0.5)
    pooler = Pooler(postgresql.info.host)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        async with pooler.running(directory):
            found = await check(db_url.replace(postgresql.info.host, directory))
    assert pooler.kept == 1
    assert faults(found) == ["listen and notify"]
    assert found["listen and notify"].level is Level.FAIL
    assert "pooler" in found["listen and notify"].remedy


async def test_durability(db_url, admin):
    """What is off is named; it is well when all is on."""
    finding = (await check(db_url))["durability"]
    assert finding.level is Level.WARN
    assert "fsync, full_page_writes, synchronous_commit = on" in finding.remedy
    settings = ("fsync", "full_page_writes", "synchronous_commit")
    try:
        for setting in settings:
            admin.execute(f"ALTER SYSTEM SET {setting} = on")
        admin.execute("SELECT pg_reload_conf()")
        await until(admin, "SHOW fsync", "on")
        assert (await check(db_url))["durability"][1:3] == (
            Level.OK,
            "fsync on, full_page_writes on, synchronous_commit on",
        )
        admin.execute(f'ALTER DATABASE "{admin.info.dbname}" SET synchronous_commit = off')
        assert (await check(db_url))["durability"].remedy.endswith("set synchronous_commit = on")
    finally:
        for setting in settings:
            admin.execute(f"ALTER SYSTEM SET {setting} = off")
        admin.execute("SELECT pg_reload_conf()")
        await until(admin, "SHOW fsync", "off")


async def until(connection, query, value):
    async with asyncio.timeout(5):
        while connection.execute(query).fetchone() != (value,):  # noqa: ASYNC110 - another process gives us no Event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("limit", "level"), [(11, Level.FAIL), (12, Level.WARN), (23, Level.WARN), (24, Level.OK)])
async def test_room_for_connections(clerk, admin, monkeypatch, limit, level):
    """The least of all limits counts: whether a process finds room, and a second one beside it."""
    [(others,)] = admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL AND application_name <> 'att'"
    )
    for order in (f"ALTER ROLE clerk CONNECTION LIMIT {limit + others}", "ALTER ROLE clerk CONNECTION LIMIT -1"):
        admin.execute(order)
        finding = (await check(clerk))["connections"]
        if "-1" not in order:
            assert finding.level is level
            assert finding.found.startswith(f"{limit + others} at most, {others} others', ")
    assert finding.level is Level.OK


@pytest.mark.parametrize(("shift", "level"), [(0, Level.OK), (-5, Level.WARN), (5, Level.WARN), (600, Level.FAIL)])
async def test_the_clock(db_url, monkeypatch, shift, level):
    """Ours is put forward or back here."""
    now = module.time.time
    monkeypatch.setattr(module.time, "time", lambda: now() + shift)
    finding = (await check(db_url))["database clock"]
    assert finding.level is level
    assert ("behind" if shift > 0 else "ahead of") in finding.found or not shift
