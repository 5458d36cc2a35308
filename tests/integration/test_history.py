"""The history: every change is recorded with its actor, and records cannot be removed."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
import pytest
from hashing_costs import CHEAPEST
from sqlalchemy import bindparam, update
from waiting import eventually

from att.accounts.history import HISTORY_OF_USER, HISTORY_ORDER, History, history_where
from att.app import create_app
from att.config.settings import Settings
from att.core.pagination import Window
from att.core.permissions import Actor
from att.db.engine import prepare
from att.db.schema import users

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "postgresql.md").read_text(encoding="utf-8")
GRANTS = re.search(r"^```sql\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]  # for a role that does not own the tables
RENAME = prepare(update(users).values(first_name=bindparam("first_name")))


@pytest.fixture
def sql(postgresql):
    """Run SQL as the owner of the tables, beside the application; return its rows, if any."""

    def run(query, *params):
        cursor = postgresql.execute(query, params or None)
        rows = cursor.fetchall() if cursor.description else None
        postgresql.commit()
        return rows

    return run


@pytest.fixture
def add_user(sql):
    """Add a user with the password hash "hash"; return their id."""
    query = (
        "INSERT INTO users (login, login_key, search_text, password_hash, role_id)"
        " SELECT %s, lower(%s), 'search for ' || %s, 'hash', id FROM roles WHERE name = 'User' RETURNING id"
    )
    return lambda login: sql(query, login, login, login)[0][0]


@pytest.fixture
def add_group(sql):
    """Add a group; return its id."""
    query = "INSERT INTO groups (name, name_key) VALUES (%s, lower(%s)) RETURNING id"
    return lambda name: sql(query, name, name)[0][0]


@pytest.fixture
def news(sql):
    """Return new records: table, operation, row, user, old and new."""
    columns = "id, table_name, operation, row_id, user_id, old, new"
    seen = [0]

    def read():
        rows = sql(f"SELECT {columns} FROM history WHERE id > %s ORDER BY id", max(seen))
        seen.extend(row[0] for row in rows)
        return [row[1:] for row in rows]

    return read


@pytest.fixture
def app_role(sql, db_url):
    """Return the DSN of a database role that owns nothing."""
    sql(GRANTS)
    yield db_url.replace("postgres@", "att_app@")
    sql("DROP OWNED BY att_app")
    sql("DROP ROLE att_app")


# What is recorded


def test_a_user(sql, add_user, news):
    """New and deleted rows are recorded in full, changed ones by their differences, unchanged ones not at all."""
    ann = add_user("ann")
    ((table, operation, row, whose, old, new),) = news()
    assert (table, operation, row, whose, old) == ("users", "INSERT", str(ann), ann, None)
    assert new.items() >= {"id": str(ann), "login": "ann", "first_name": "", "birth_date": None, "active": True}.items()
    shown = {"id", "login", "first_name", "last_name", "birth_date", "registered_at", "role_id", "active"}
    assert new.keys() == shown
    sql("UPDATE users SET last_name = 'Lee', last_name_key = 'lee', birth_date = '1990-02-03', login = login")
    change = ({"last_name": "", "birth_date": None}, {"last_name": "Lee", "birth_date": "1990-02-03"})
    assert news() == [("users", "UPDATE", str(ann), ann, *change)]
    sql("UPDATE users SET birth_date = NULL")
    assert news()[0][4:] == ({"birth_date": "1990-02-03"}, {"birth_date": None})
    sql("UPDATE users SET last_name = last_name, search_text = 'x', last_name_key = 'x'")
    assert news() == []
    sql("DELETE FROM users")
    assert news() == [("users", "DELETE", str(ann), ann, {**new, "last_name": "Lee"}, None)]


def test_passwords(sql, add_user, news):
    """A password is recorded as changed, or as rehashed if whoever changes it says so; no hash ever appears."""
    ann = add_user("ann")
    news()
    for value in ("'other'", "NULL", "'hash'"):
        sql(f"UPDATE users SET password_hash = {value}")
        assert news() == [("users", "UPDATE", str(ann), ann, {}, {"password": "changed"})]
    sql("UPDATE users SET password_hash = 'other', first_name = 'Ann'")
    assert news()[0][4:] == ({"first_name": ""}, {"first_name": "Ann", "password": "changed"})
    sql("UPDATE users SET password_hash = 'other'")
    assert news() == []
    sql("SELECT set_config('att.rehash', 'on', false)")
    sql("UPDATE users SET password_hash = 'again'")
    assert news()[0][4:] == ({}, {"password": "rehashed"})
    sql("UPDATE users SET password_hash = 'and again', first_name = ''")
    assert news()[0][4:] == ({"first_name": "Ann"}, {"first_name": "", "password": "rehashed"})
    for value in ("NULL", "'other'"):
        sql(f"UPDATE users SET password_hash = {value}")
        assert news()[0][4:] == ({}, {"password": "changed"})
    sql("SELECT set_config('att.rehash', '', false)")
    sql("UPDATE users SET password_hash = 'hash'")
    assert len(news()) == 1
    sql("DELETE FROM users")
    ((_, _, _, _, old, _),) = news()
    assert "password" not in old
    everything = str(sql("SELECT history::text FROM history"))
    assert "hash" not in everything.replace("rehashed", "")
    assert "search for" not in everything


def test_keys(sql, add_user, add_group, news):
    """A key, by which a row is found, is recorded unless it is, and was, its name in lower case."""
    ann, tea = add_user("Ann"), add_group("Tea")
    clerk = sql("INSERT INTO roles (name, name_key) VALUES ('Clerk', 'clerk') RETURNING id")[0][0]
    assert not any("_key" in str(record) for record in news())
    for table, row, column in [("users", ann, "login"), ("groups", tea, "name"), ("roles", clerk, "name")]:
        change = f"UPDATE {table} SET {column}_key = %s WHERE id = %s"
        [(name, key)] = sql(f"SELECT {column}, {column}_key FROM {table} WHERE id = %s", row)
        sql(change, "x", row)
        assert news()[0][4:] == ({f"{column}_key": key}, {f"{column}_key": "x"})
        sql(change, key, row)
        assert news()[0][4:] == ({f"{column}_key": "x"}, {f"{column}_key": key})
        sql(f"UPDATE {table} SET {column} = 'Cup', {column}_key = 'cup' WHERE id = %s", row)
        assert news()[0][4:] == ({column: name}, {column: "Cup"})
    add_user("Äpfel")
    sql("INSERT INTO groups (name, name_key) VALUES ('Kaffee', 'tee')")
    assert [record[5].get("login_key", record[5].get("name_key")) for record in news()] == ["äpfel", "tee"]


MANY = """
WITH one AS (SELECT id FROM roles WHERE name = 'User'), many AS (
    INSERT INTO users (login, login_key, search_text, role_id)
    SELECT 'u' || n, 'u' || n, '', one.id FROM generate_series(1, 1001) AS n, one RETURNING id
)
INSERT INTO members (group_id, user_id, role) SELECT %s, many.id, 'member' FROM many
"""


def test_nobody_else_is_blamed(sql, add_user, add_group, db_url):
    """The actor is believed only of roles that may make sessions: these could sign in as anybody anyway."""
    ann = add_user("ann")
    sql("CREATE ROLE clerk LOGIN; CREATE ROLE server; GRANT INSERT ON sessions TO server")
    sql("GRANT SELECT, UPDATE ON users TO clerk, server; GRANT server TO clerk WITH INHERIT FALSE")
    sql("GRANT SELECT, DELETE ON groups TO clerk")
    forge = "SELECT set_config('att.actor_id', %s, true), set_config('att.session_id', %s, true),"
    forge += " set_config('att.request_id', 'forged', true), set_config('role', %s, true)"
    try:
        with psycopg.connect(db_url.replace("postgres@", "clerk@"), autocommit=True) as connection:
            for number, role in enumerate(["none", "server"]):
                with connection.transaction():
                    connection.execute(forge, (str(ann), str(ann), role))
                    connection.execute("UPDATE users SET first_name = %s", (str(number),))
            # Its many members are removed by a server, later.
            sql(MANY, add_group("tea"))
            with connection.transaction():
                connection.execute(forge, (str(ann), str(ann), "none"))
                connection.execute("DELETE FROM groups")
        assert sql("SELECT actor_id, session_id, request_id FROM removals") == [(None, None, None)]
        claims = sql(
            "SELECT database_role, actor_id, session_id, request_id FROM history WHERE operation = 'UPDATE' ORDER BY id"
        )
        assert claims == [("clerk", None, None, None), ("clerk", ann, ann, "forged")]
    finally:
        sql("DROP OWNED BY clerk, server; DROP ROLE clerk, server")


def test_other_tables(sql, add_user, add_group, news):
    """Roles, groups and members are recorded too, also those deleted with a group or a user."""
    add_role = "INSERT INTO roles (name, name_key, permissions) VALUES ('Aid', 'aid', '{a,b}') RETURNING id"
    ((role,),) = sql(add_role)
    assert news()[-1] == (
        *("roles", "INSERT", str(role), None, None),
        {"id": str(role), "name": "Aid", "permissions": ["a", "b"]},
    )
    sql("UPDATE roles SET permissions = '{a}' WHERE id = %s", role)
    change = ({"permissions": ["a", "b"]}, {"permissions": ["a"]})
    assert news() == [("roles", "UPDATE", str(role), None, *change)]
    ann, tea, coffee = add_user("ann"), add_group("tea"), add_group("coffee")
    (*_, new) = news()[1]
    assert new.keys() == {"id", "name", "join", "post", "retention", "history", "created_at"}
    sql("INSERT INTO members (group_id, user_id, role) SELECT id, %s, 'member' FROM groups ORDER BY name DESC", ann)
    rows = [f"{group}/{ann}" for group in (tea, coffee)]
    recorded = news()
    assert [change[:5] for change in recorded] == [("members", "INSERT", row, ann, None) for row in rows]
    assert recorded[0][5].keys() == {"group_id", "user_id", "role", "joined_at"}
    sql("UPDATE members SET role = 'owner' WHERE group_id = %s", tea)
    assert news() == [("members", "UPDATE", rows[0], ann, {"role": "member"}, {"role": "owner"})]
    sql("UPDATE groups SET seq = 7 WHERE id = %s", tea)
    assert news() == []
    sql("UPDATE groups SET seq = 8, retention = 5 WHERE id = %s", tea)
    assert news() == [("groups", "UPDATE", str(tea), None, {"retention": 1000}, {"retention": 5})]
    sql("UPDATE groups SET history = 'all' WHERE id = %s", tea)
    assert news() == [("groups", "UPDATE", str(tea), None, {"history": "since_join"}, {"history": "all"})]
    sql("DELETE FROM groups WHERE id = %s", tea)
    gone = {change[:4] for change in news()}
    assert gone == {("groups", "DELETE", str(tea), None), ("members", "DELETE", rows[0], ann)}
    sql("DELETE FROM users")
    gone = {change[:4] for change in news()}
    assert gone == {("users", "DELETE", str(ann), ann), ("members", "DELETE", rows[1], ann)}
    assert not {"name_key", "login_key"} & set(str(sql("SELECT old, new FROM history")).split("'"))


# Who made it


async def test_a_thousand_changes(db, sql):
    """A thousand changes of one transaction have actor, session and request; later ones on the connection do not."""
    sql(
        "INSERT INTO users (login, login_key, search_text, role_id) SELECT n, n, n, roles.id"
        " FROM (SELECT generate_series(1, 1000)::text) AS s (n), roles WHERE name = 'User'"
    )
    sql("TRUNCATE history")
    actor = Actor(uuid4(), uuid4(), "request 1")
    async with db.transaction(actor) as transaction:
        assert await transaction.execute(RENAME, first_name="Ann") == 1000
    columns = "actor_id, session_id, request_id, database_role"
    query = f"SELECT {columns}, count(DISTINCT row_id) FROM history GROUP BY {columns}"
    assert sql(query) == [(actor.user_id, actor.session_id, "request 1", "postgres", 1000)]
    sql("TRUNCATE history")
    await db.execute(RENAME, first_name="Bob")
    assert sql(query) == [(None, None, None, "postgres", 1000)]
    sql("TRUNCATE history")
    async with db.transaction(Actor(actor.user_id, None, "request 2")) as transaction:
        await transaction.execute(RENAME, first_name="Cid")
    assert sql(query) == [(actor.user_id, None, "request 2", "postgres", 1000)]
    with pytest.raises(ZeroDivisionError):
        async with db.transaction(actor) as transaction:
            await transaction.execute(RENAME, first_name="Dan")
            raise ZeroDivisionError
    assert sql("SELECT count(*) FROM history") == [(1000,)]


def test_nothing_leads_it_astray(sql, add_user):
    """Neither a temporary table nor a search path redirects a record."""
    ann = add_user("ann")
    sql("CREATE TEMPORARY TABLE history (LIKE public.history INCLUDING ALL)")
    sql("CREATE SCHEMA astray; CREATE TABLE astray.history (LIKE public.history INCLUDING ALL)")
    forge = "CREATE FUNCTION astray.to_jsonb(public.users) RETURNS jsonb IMMUTABLE LANGUAGE sql AS "
    sql(forge + """'SELECT jsonb_build_object(''id'', gen_random_uuid())'""")
    sql("SET search_path = pg_temp, astray, public")
    sql("UPDATE users SET first_name = 'Ann'")
    assert sql("SELECT count(*) FROM pg_temp.history") == sql("SELECT count(*) FROM astray.history") == [(0,)]
    found = sql("SELECT row_id FROM public.history WHERE operation = 'UPDATE'")
    assert found == [(str(ann),)]


def test_in_any_schema(sql, add_user):
    """The record is in the schema of the changed table."""
    add_user("ann")
    schema = '"My ""own""\'s"'
    sql(f"CREATE SCHEMA {schema}")
    for table in ("users", "history"):
        sql(f"ALTER TABLE {table} SET SCHEMA {schema}")
    sql("CREATE TABLE public.history ()")
    sql(f"UPDATE {schema}.users SET first_name = 'Ann'")
    assert sql(f"SELECT new FROM {schema}.history WHERE operation = 'UPDATE'") == [({"first_name": "Ann"},)]


def test_times_in_utc(sql, add_user, news):
    """Times in a record are in UTC, whatever the time zone of the connection."""
    sql("SET timezone = 'Asia/Kathmandu'")
    add_user("ann")
    assert news()[0][5]["registered_at"].endswith("+00:00")
    assert sql("SHOW timezone") == [("Asia/Kathmandu",)]


# Nobody can wipe it out


def test_a_role_without_ownership(sql, add_user, news, app_role):
    """Changes have the name of the database role, which can neither change nor add records, nor leave one out."""
    add_user("ann")
    news()
    with psycopg.connect(app_role, autocommit=True) as connection:
        connection.execute("UPDATE users SET first_name = 'Ann'")
        connection.execute("SELECT set_config('role', 'att_app', false)")
        for statement in (
            "UPDATE history SET database_role = 'postgres'",
            "DELETE FROM history",
            "TRUNCATE history",
            "DROP TABLE history",
            "INSERT INTO history (table_name, operation, row_id) VALUES ('users', 'DELETE', 'x')",
            "ALTER TABLE users DISABLE TRIGGER att_record_history",
            "DROP TRIGGER att_record_history ON users",
            "TRUNCATE users CASCADE",
            "SET session_replication_role = 'replica'",
            "DROP FUNCTION att_record_history CASCADE",
            "SELECT att_record_history()",
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
                connection.execute(statement)
        with pytest.raises(psycopg.errors.CheckViolation):  # the history reads keys without a space before them
            connection.execute("UPDATE users SET login_key = ' ' || login_key")
        connection.execute("SELECT set_config('att.rehash', 'on', false)")
        connection.execute("UPDATE users SET password_hash = 'known'")
        connection.execute("UPDATE users SET login_key = 'somebody'")
        connection.execute("SELECT set_config('att.rehash', 'off', false)")
        connection.execute("UPDATE users SET password_hash = 'hash'")
    assert [record[4:] for record in news()] == [
        ({"first_name": ""}, {"first_name": "Ann"}),
        ({}, {"password": "rehashed"}),
        ({"login_key": "ann"}, {"login_key": "somebody"}),
        ({}, {"password": "changed"}),
    ]
    assert sql("SELECT DISTINCT database_role FROM history WHERE operation = 'UPDATE'") == [("att_app",)]


def test_the_trigger_is_not_for_borrowing(sql, app_role):
    """Others cannot attach the trigger to their tables, to write records or to run code as its owner."""
    sql("GRANT CREATE ON SCHEMA public TO att_app")
    with psycopg.connect(app_role, autocommit=True) as connection:
        for table in ("pg_temp.users", "public.pretended"):
            connection.execute(f"CREATE TABLE {table} (id text)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="att_record_history"):
                connection.execute(
                    f"CREATE TRIGGER x AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION att_record_history()"
                )


async def test_the_server_runs_as_such_a_role(app_role, aiohttp_client, sql):
    """All of the API works without ownership of the tables."""
    client = await aiohttp_client(create_app(Settings(db_url=app_role, hashing=CHEAPEST)))
    answer = await client.post("/signup", json={"login": "ann", "password": "correct horse"})
    assert answer.status == 201
    ann = (await answer.json())["user_id"]
    assert (await client.post("/groups", json={"name": "tea"}, headers={"Origin": origin(client)})).status == 201
    async with client.ws_connect(f"/listen/{ann}", headers={"Origin": origin(client)}) as socket:
        sent = await client.post("/broadcast/tea", json={"n": 1}, headers={"Origin": origin(client)})
        assert (await sent.json())["delivered"] == 1
        assert await socket.receive_json() == {"n": 1}
    seen = (await (await client.get("/users/me/history")).json())["items"]
    assert [(change["table"], change["actor_id"], change["database_role"]) for change in seen] == [
        ("members", ann, "att_app"),
        ("users", ann, "att_app"),
    ]
    assert (await client.delete("/groups/tea", headers={"Origin": origin(client)})).status == 204
    assert (await client.post("/logout", headers={"Origin": origin(client)})).status == 204
    assert sql("SELECT count(*) FROM sessions") == [(0,)]


def origin(client):
    """The client's own origin, required for requests signed in by cookie."""
    return f"http://{client.host}:{client.port}"


# Reading it


async def walk(history, filters, limit):
    """Return all matching changes, page by page."""
    items, page = [], await history.page(Window(limit), filters)
    while page.next is not None:
        assert len(page.items) == limit
        items += page.items
        page = await history.page(Window(limit, HISTORY_ORDER.parse(page.next)), filters)
    return [*items, *page.items]


async def test_filters(db, sql, add_user, add_group):
    """Each filter, and any combination, returns exactly the matches, newest first, with pages of any size."""
    history, boss = History(db), Actor(uuid4(), uuid4(), "request 1")
    ann, _bob, tea = add_user("ann"), add_user("bob"), add_group("tea")
    sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'owner')", tea, ann)
    async with db.transaction(boss) as transaction:
        await transaction.execute(RENAME, first_name="Ann")
    sql("DELETE FROM users WHERE login = 'bob'")
    everything = (await history.page(Window(200), {})).items
    assert [change.id for change in everything] == sorted((change.id for change in everything), reverse=True)
    assert len(everything) == 7
    middle = everything[3].at
    wanted = {
        "table": ("users", lambda change: change.table == "users"),
        "row": (str(ann), lambda change: change.row == str(ann)),
        "actor": (boss.user_id, lambda change: change.actor_id == boss.user_id),
        "operation": ("UPDATE", lambda change: change.operation == "UPDATE"),
        "since": (middle, lambda change: change.at >= middle),
        "until": (middle, lambda change: change.at < middle),
    }
    for first in wanted:
        for second in wanted:
            filters = {name: wanted[name][0] for name in (first, second)}
            expected = [change for change in everything if wanted[first][1](change) and wanted[second][1](change)]
            for limit in (1, 2, 200):
                assert await walk(history, filters, limit) == expected, filters
    assert (await history.page(Window(200), {"row": f"{tea}/{ann}"})).items[0].new["role"] == "owner"
    assert (await history.page(Window(200), {"since": everything[0].at + timedelta(microseconds=1)})).items == []


async def test_of_a_user(db, sql, add_user, add_group):
    """A user's list has their own row and memberships only, also after their deletion."""
    history, (ann, bob) = History(db), (add_user("ann"), add_user("bob"))
    for name in ("tea", "coffee"):
        sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'owner')", add_group(name), ann)
    sql("DELETE FROM users WHERE id = %s", ann)
    found = (await history.of_user(ann, Window())).items
    assert {UUID((change.new or change.old).get("user_id") or change.row) for change in found} == {ann}
    assert [(change.table, change.operation) for change in reversed(found[-3:])] == [
        ("users", "INSERT"),
        ("members", "INSERT"),
        ("members", "INSERT"),
    ]
    assert len(found) == 6
    assert len((await history.of_user(bob, Window())).items) == 1
    assert (await history.of_user(uuid4(), Window())).items == []
    first = await history.of_user(ann, Window(4))
    rest = await history.of_user(ann, Window(4, HISTORY_OF_USER.order.parse(first.next)))
    assert [*first.items, *rest.items] == found


FILL = """
INSERT INTO history (at, table_name, operation, row_id, user_id, actor_id)
SELECT '2026-01-01'::timestamptz + n * interval '1 minute',
    CASE n % 100 WHEN 0 THEN 'roles' ELSE 'users' END,
    CASE n % 150 WHEN 0 THEN 'DELETE' ELSE 'UPDATE' END,
    md5((n % 2000)::text)::uuid::text, md5((n % 1000)::text)::uuid, md5((n % 100)::text)::uuid
FROM generate_series(1, 20000) AS n
"""


def test_each_list_is_read_from_an_index(postgresql):
    """The first and later pages of each rare kind are adjacent in an index."""
    postgresql.execute(FILL)
    postgresql.execute("ANALYZE history")
    postgresql.execute("SET enable_bitmapscan = off")  # a row that changed ten times may well be sorted
    an_id = "'b6d767d2-f8ed-5d21-a44b-0e5886680cb9'"
    params = {"table": "'roles'", "row": an_id, "actor": an_id, "operation": "'DELETE'", "user_id": an_id}
    params |= {"since": "'2026-01-05'", "until": "'2026-01-09'"}
    params |= {"limit": "50", "after_0": "'2026-01-08'", "after_1": "10000"}
    filters = [set(), {"table"}, {"row"}, {"actor"}, {"operation"}, {"table", "operation"}]
    times = [set(), {"since"}, {"until"}, {"since", "until"}]
    listings = [history_where(frozenset(names | time)) for names in filters for time in times]
    for listing in (*listings, HISTORY_OF_USER):
        for statement in (*listing._first, *listing._rest):
            plan = "\n".join(row[0] for row in postgresql.execute(f"EXPLAIN {statement.sql % params}").fetchall())
            assert "Index Scan" in plan, (statement.sql, plan)
            for costly in ("Seq Scan", "Sort", "Filter"):
                assert costly not in plan, (statement.sql, plan)


# Over HTTP


@pytest.fixture
async def boss(sign_up, sql):
    """A user with history.read only."""
    person = await sign_up("boss")
    sql("INSERT INTO roles (name, name_key, permissions) VALUES ('Clerk', 'clerk', '{history.read}')")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Clerk') WHERE id = %s", person.id)
    return person


async def read(person, path):
    """Return the body of a 200 response."""
    response = await person.request("GET", path)
    assert response.status == 200, await response.text()
    return await response.json()


async def test_over_http(boss, sign_up, sql):
    """A change is shown with user, session and request."""
    ann = await sign_up("ann")
    tea = await ann.make_group("tea")
    response = await ann.request("PUT", f"/groups/tea/members/{boss.id}", headers={"X-Request-ID": "my-request"})
    assert response.status == 201
    row = f"{tea['id']}/{boss.id}"
    (change,) = (await read(boss, f"/history?table=members&row={row.upper()}&actor={ann.id}&operation=INSERT"))["items"]
    ((session, joined_at),) = sql(
        "SELECT id, joined_at FROM sessions, members WHERE sessions.user_id = %s AND role = 'member'", ann.id
    )
    assert change["at"].endswith("Z")
    recorded_at = change["new"]["joined_at"]
    assert datetime.fromisoformat(recorded_at) == joined_at
    new = {"group_id": tea["id"], "user_id": str(boss.id), "role": "member", "joined_at": recorded_at}
    assert change == {
        "id": change["id"],
        "at": change["at"],
        "table": "members",
        "operation": "INSERT",
        "row": row,
        "actor_id": str(ann.id),
        "session_id": str(session),
        "request_id": "my-request",
        "database_role": "postgres",
        "old": None,
        "new": new,
    }
    assert (await read(boss, "/users/me/history"))["items"][0] == change
    before = quote(change["at"])
    assert change not in (await read(boss, f"/history?to={before}"))["items"]
    assert (await read(boss, f"/history?from={before}"))["items"] == [change]
    moved = quote(change["at"].replace("Z", "+00:00").lower())
    assert (await read(boss, f"/history?from={moved}&to=9999-12-31T23:59:59%2B15:00"))["items"] == [change]
    (signed_up,) = (await read(boss, f"/history?row={ann.id}"))["items"]
    assert (signed_up["actor_id"], signed_up["session_id"]) == (str(ann.id), None)


async def test_pages_over_http(boss, sign_up):
    """The Link to the next page keeps the filters; a cursor of another list is invalid."""
    for login in ("ann", "bob"):
        await sign_up(login)
    response = await boss.request("GET", "/history?limit=2&table=users&operation=INSERT")
    page, link = await response.json(), response.links["next"]["url"]
    assert [change["new"]["login"] for change in page["items"]] == ["bob", "ann"]
    rest = await read(boss, link.path_qs)
    assert [change["new"]["login"] for change in rest["items"]] == ["boss", "admin"]
    assert rest["next"] is None
    answer = await boss.request("GET", f"/users/me/history?after={page['next']}")
    assert (answer.status, (await answer.json())["errors"][0]["field"]) == (422, "after")


async def test_who_may_read(boss, sign_up, client, sql):
    """Without history.read users read their own history only; with it any user's, also a deleted one's."""
    ann, bob = await sign_up("ann"), await sign_up("bob")
    for path, error in (("/history", "not permitted"), (f"/users/{bob.id}/history", "not you")):
        response = await ann.request("GET", path)
        assert (response.status, (await response.json())["error"]) == (403, error)
        assert (await client.get(path, headers={"Authorization": "Bearer x"})).status == 401
    assert len((await read(ann, "/users/me/history"))["items"]) == 1
    sql("DELETE FROM users WHERE id = %s", ann.id)

    async def is_signed_out():
        return (await ann.request("GET", f"/users/{ann.id}/history")).status == 401

    await eventually(is_signed_out)
    assert [change["operation"] for change in (await read(boss, f"/users/{ann.id}/history"))["items"]] == [
        "DELETE",
        "INSERT",
    ]
    assert (await read(boss, f"/users/{uuid4()}/history")) == {"items": [], "next": None}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await boss.request(method, "/history")).status == 405
        assert (await boss.request(method, f"/users/{ann.id}/history")).status == 405


NO_TIMES = (
    "",
    "now",
    "1767225600",
    "2026-01-01",
    "2026-01-01T00:00:00",
    "2026-01-01 00:00:00Z",
    "2026-01-01T00:00:00 02:00",
    "2026-01-01T00:00Z",
    "2026-01-01T00:00:00+2",
    "2026-01-01T00:00:00+99:00",
    "2026-02-30T00:00:00Z",
    "2026-01-01T25:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:59-01:00",
    "2026-01-01T00:00:00Z\n",
    "\uff12026-01-01T00:00:00Z",
)
FAULTS = {
    "table": ("", "sessions", "history", "USERS", "users\0"),
    "operation": ("", "insert", "TRUNCATE"),
    "actor": ("", "me", "x", "0" * 32, "\0"),
    "row": ("", "x", f"{uuid4()}/", f"/{uuid4()}", f"{uuid4()}/{uuid4()}/{uuid4()}", f"{uuid4()}\0", "0" * 32),
    "from": NO_TIMES,
    "to": NO_TIMES,
    "limit": ("0", "201", "x", "-1"),
    "after": ("", "x", "A" * 2000),
    "since": ("2026-01-01T00:00:00Z",),
    "user": (str(uuid4()),),
}


async def test_bad_input(boss):
    """An invalid, repeated or unknown filter is a 422 that names it."""
    for name, values in FAULTS.items():
        for value in values:
            response = await boss.request("GET", "/history", params={name: value})
            body = await response.json()
            assert (response.status, body["error"]) == (422, "invalid input"), (name, value)
            assert [fault["field"] for fault in body["errors"]] == [name], (name, value, body)
    for name, value in (("table", "users"), ("actor", str(uuid4())), ("from", "2026-01-01T00:00:00Z")):
        response = await boss.request("GET", f"/history?{name}={value}&{name}={value}")
        assert (response.status, json.loads(await response.text())["errors"][0]["field"]) == (422, name)
    for value in ("2026-01-01T00:00:00+23:59", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999z"):
        assert (await boss.request("GET", "/history", params={"from": value, "to": value})).status == 200, value
