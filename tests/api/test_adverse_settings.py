"""Settings that a role or a database carries (``ALTER ROLE … SET``), and that would break a server or its promises."""

import asyncio
from functools import partial

import psycopg
import pytest
from waiting import eventually

from att.app import create_app
from att.db.dsn import connect_blocking
from att.db.engine import Engine, Statement
from att.db.migrate import bring_up_to_date
from att.db.notifications import NotificationChannel
from att.errors import DatabaseUnavailable

ADVERSE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "session_replication_role": "replica",
    "statement_timeout": "2s",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "500ms",
    "transaction_timeout": "3s",
    "exit_on_error": "on",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "gin_fuzzy_search_limit": "1",
    "TimeZone": "Pacific/Chatham",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "client_encoding": "LATIN1",
    "row_security": "off",
    "jit": "on",
}
# They change nothing for our statements, or the driver knows how to quote with them.
KEPT = {"default_transaction_deferrable", "row_security", "standard_conforming_strings"}
SHOWN = Statement("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%(names)s)", {}, is_read=True)


@pytest.fixture
def adverse(postgresql):
    """A role that carries all of them."""
    with psycopg.connect(postgresql.info.dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE adverse SUPERUSER LOGIN")
        for name, value in ADVERSE.items():
            connection.execute(f"ALTER ROLE adverse SET {name} = '{value}'")
        yield lambda url: url.replace("postgres@", "adverse@")
        connection.execute("REASSIGN OWNED BY adverse TO postgres")
        connection.execute("DROP ROLE adverse")


def still_adverse(rows):
    return {name for name, value in rows if value.lower() == ADVERSE[name].lower()} - KEPT


async def test_none_is_left(adverse, db_url, sql):
    """Neither on the connections of a server nor on that of a migration."""
    db = await Engine.connect(adverse(db_url))
    rows = await db.fetch_all(SHOWN, names=[*ADVERSE])
    await db.close()
    assert len(rows) == len(ADVERSE)
    assert still_adverse(rows) == set()
    connection = connect_blocking(adverse(db_url))
    with connection.cursor() as cursor:
        cursor.execute(SHOWN.sql, {"names": [*ADVERSE]})
        assert still_adverse(cursor.fetchall()) == {"jit"}
    connection.close()
    async with NotificationChannel(adverse(db_url), "att").listen() as payloads:
        await eventually(partial(is_idle, sql))
        sql("NOTIFY att, 'here'")
        assert await anext(payloads) == "here"


async def is_idle(sql):
    """Whether the listening connection is there beyond idle_session_timeout."""
    query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %%' AND now() - state_change > interval '600 ms'"
    return sql(query)


async def test_a_server_works_with_them(*, adverse, settings, db_url, sign_up, aiohttp_client, sql, client):
    """The log and the history are written, texts and times are as usual, and concurrent changes are not refused."""
    app = create_app(type(settings)(**{**vars(settings), "db_url": adverse(db_url)}))
    server = await aiohttp_client(app)
    ann = await sign_up("ann")
    ann.client = server
    people = [await sign_up(f"ben {number}") for number in range(8)]
    await ann.make_group("tea \\ 茶 'n")
    [(group_id,)] = sql("SELECT id FROM groups")
    for method, status in (("PUT", 201), ("DELETE", 204)):
        responses = await asyncio.gather(
            *(ann.request(method, f"/groups/{group_id}/members/{ben.id}") for ben in people)
        )
        assert [response.status for response in responses] == [status] * len(people)
    assert await ann.broadcast(str(group_id), {"n": 1}) == 0
    page = await (await ann.request("GET", f"/groups/{group_id}/events")).json()
    assert [event["seq"] for event in page["items"]] == list(range(1, 2 * len(people) + 3))
    for path in (f"/users/{ann.id}", f"/users/{ann.id}/history", f"/groups/{group_id}", "/sessions"):
        shown = [await (await sender.get(path, headers=ann.headers)).text() for sender in (server, client)]
        assert shown[0] == shown[1]
        assert len(shown[0]) > 100
    taken = await server.post("/signup", json={"login": "ann", "password": "correct horse"})
    assert taken.status == 409


def test_a_setting_that_cannot_be_changed(adverse, db_url, sql):
    """Without triggers there is no log: a role that may not switch them on gets one line, and no server starts."""
    sql("ALTER ROLE adverse NOSUPERUSER")
    sql("ALTER ROLE adverse RESET exit_on_error")
    with pytest.raises(DatabaseUnavailable, match=r'RESET.*: permission denied to set parameter "session_repl'):
        bring_up_to_date(adverse(db_url), migrate=False)


def test_a_migration_works_with_them(adverse, empty_db_url, empty_postgresql):
    bring_up_to_date(adverse(empty_db_url), migrate=True)
    empty_postgresql.execute("INSERT INTO groups (name, name_key) VALUES ('tea', 'tea')")
    assert empty_postgresql.execute("SELECT count(*) FROM history").fetchone() == (1,)
    empty_postgresql.execute("REASSIGN OWNED BY adverse TO postgres")
    empty_postgresql.commit()
