"""A database that is shared with another program: its ``alembic_version``, and a schema of att's own."""

import contextlib
import json
from urllib.parse import quote
from uuid import UUID

import pytest
from aiohttp.test_utils import TestClient
from brokers import ANN, PIE, TEA, RecordingHandler
from people import PASSWORD, Person
from psycopg import sql

from att.app import create_app
from att.cli.doctor.checks import Level
from att.cli.doctor.database import check_database
from att.db.engine import Engine
from att.db.migrate import FOREIGN, bring_up_to_date
from att.errors import CannotStart
from att.realtime.brokers.postgres import PostgresBroker
from att.sessions.redis_store import announce_ended_sessions


@pytest.fixture
def shared_db_url(empty_db_url, empty_postgresql):
    """The DSN of a database in which another program has migrated its own tables."""
    empty_postgresql.autocommit = True
    empty_postgresql.execute(
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY); CREATE TABLE users (id int);"
        " INSERT INTO alembic_version VALUES ('0badc0ffee00')"
    )
    return empty_db_url


@pytest.mark.parametrize("migrate", [True, False])
def test_a_foreign_table_of_revisions_is_told_as_such(shared_db_url, migrate):
    """It is not said to be newer than this program, and the way out is given."""
    with pytest.raises(CannotStart, match=FOREIGN) as caught:
        bring_up_to_date(shared_db_url, migrate=migrate)
    assert "newer" not in caught.value.detail
    assert "options=-csearch_path%3Datt" in caught.value.detail


async def test_check_tells_it_too(shared_db_url):
    found = {finding.name: finding async for finding in check_database(shared_db_url)}
    assert found["schema"][1:3] == (Level.FAIL, FOREIGN)
    assert "CREATE SCHEMA att" in found["schema"].remedy


@pytest.mark.parametrize("migrate", [True, False])
def test_a_schema_that_is_missing(empty_db_url, migrate):
    """It is not taken for tables that are missing."""
    with pytest.raises(CannotStart, match="has no schema 'att' that this user may use; create it: CREATE SCHEMA"):
        bring_up_to_date(f"{empty_db_url}&options=-csearch_path%3Datt", migrate=migrate)


async def test_check_misses_the_schema(empty_db_url):
    url = f"{empty_db_url}&options=-csearch_path%3Datt"
    found = {finding.name: finding async for finding in check_database(url, migrate=True)}
    assert found["schema"][1:3] == (Level.FAIL, "no schema 'att' that this user may use")


async def test_a_schema_of_its_own(shared_db_url, empty_postgresql, settings, aiohttp_client):
    """Migrating, checking, serving, the history and the log work there, and nothing is put into other schemas."""
    sql = empty_postgresql.execute
    sql("CREATE SCHEMA att; CREATE SCHEMA closed; CREATE TABLE closed.alembic_version ()")
    url = f"{shared_db_url}&options=-csearch_path%3Datt"
    assert bring_up_to_date(url, migrate=True)
    assert bring_up_to_date(url, migrate=False) == []
    faults = [finding async for finding in check_database(url) if finding.level is Level.FAIL]
    assert faults == []
    client: TestClient = await aiohttp_client(create_app(type(settings)(**{**vars(settings), "db_url": url})))
    response = await client.post("/signup", json={"login": "ann", "password": PASSWORD})
    ann = Person(client, "ann", await response.json())
    await ann.make_group("tea")
    async with client.ws_connect(f"/listen/{ann.id}", headers=ann.headers) as listening:
        await ann.broadcast("tea", {"n": 1})
        assert await listening.receive_json(timeout=5) == {"n": 1}
    assert sql("SELECT table_name FROM att.history WHERE actor_id = %s ORDER BY id", (ann.id,)).fetchall() == [
        ("users",),
        ("groups",),
        ("members",),
    ]
    assert sql("SELECT kind FROM att.events ORDER BY seq").fetchall() == [("joined",), ("message",)]
    others = sql("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
    assert sorted(others.fetchall()) == [("alembic_version",), ("users",)]
    assert sql("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace").fetchone() == (0,)


async def test_two_schemas_of_one_database(empty_db_url, empty_postgresql):
    """Neither att hears what the other's servers and triggers announce; both hear a server of 0.2.0."""
    empty_postgresql.autocommit = True
    names, handlers = ('one "or" so', "two"), []
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            quoted = sql.Identifier(name).as_string()
            empty_postgresql.execute(f"CREATE SCHEMA {quoted}")
            url = f"{empty_db_url}&options={quote(f'-csearch_path={quoted}'.replace(' ', chr(92) + ' '))}"
            bring_up_to_date(url, migrate=True)
            db, handler = await Engine.connect(url), RecordingHandler()
            stack.push_async_callback(db.close)
            broker = PostgresBroker(db, url)
            await stack.enter_async_context(broker.running(handler))
            await handler.until(lambda handler=handler: handler.changes)
            handlers.append((handler, broker, db, quoted))
        for seq, (handler, broker, db, quoted) in enumerate(handlers, start=1):
            await announce_ended_sessions(db, [UUID(int=seq)])
            empty_postgresql.execute(
                f"INSERT INTO {quoted}.users (id, login, login_key, search_text, active, role_id)"
                f" SELECT %s, 'ann', 'ann', '', true, id FROM {quoted}.roles WHERE name = 'User'",
                [ANN],
            )
            empty_postgresql.execute(f"UPDATE {quoted}.users SET active = false")
            broker.announce_head(TEA, seq)
            await handler.until(lambda handler=handler: TEA in handler.groups)
        empty_postgresql.execute("SELECT pg_notify('att', %s)", [json.dumps({"groups": {str(PIE): 9}})])
        for seq, (handler, *_) in enumerate(handlers, start=1):
            await handler.until(lambda handler=handler: PIE in handler.groups)
            assert handler.groups == {TEA: seq, PIE: 9}
            assert [one.sessions for one in handler.announcements if one.sessions] == [[UUID(int=seq)]]
            assert [one.users for one in handler.announcements if one.users] == [(ANN,)]
