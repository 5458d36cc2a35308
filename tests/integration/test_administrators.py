"""Changes to accounts by the operator: there is an administrator from the start, and only one is generated."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from hashing_costs import CHEAPEST
from people import PASSWORD

from att.accounts.administrators import AdministratorCredentials, Administrators
from att.accounts.passwords import Passwords
from att.accounts.roles import Roles
from att.accounts.service import Accounts
from att.app import create_app
from att.db.engine import Engine
from att.errors import AuthFailed, CannotStart, NoSuchUser
from att.realtime.hub import Hub
from att.realtime.registry import Registry
from att.server.gunicorn import GENERATED
from att.sessions.store import PostgresSessions

ROOT = AdministratorCredentials("Root", PASSWORD)


@pytest.fixture
def passwords():
    passwords = Passwords(CHEAPEST)
    yield passwords
    passwords.close()


@pytest.fixture
def administrators(db, passwords):
    return Administrators(db, passwords, PostgresSessions(db, timedelta(days=1)))


@pytest.fixture
def accounts(db, passwords):
    return Accounts(db, passwords, PostgresSessions(db, timedelta(days=1)), Hub(Registry()))


@pytest.fixture
def sql(postgresql):
    """Run a statement; return its rows, if any."""

    def run(statement, *params):
        cursor = postgresql.execute(statement, params)
        rows = cursor.fetchall() if cursor.description else None
        postgresql.commit()
        return rows

    return run


async def test_one_is_made_up(administrators, accounts, db, sql):
    """Of many processes that start on an empty database, one generates an administrator; later ones do not."""
    made_up = await asyncio.gather(*(administrators.ensure() for _ in range(8)))
    [credentials] = filter(None, made_up)
    assert credentials.login == "admin"
    assert len(credentials.password) >= 20
    assert await Roles(db).permissions_of((await accounts.authenticate(*credentials)).user_id) == {"*"}
    assert credentials.password not in repr(credentials)
    assert await administrators.ensure() is None
    # Somebody else who is an administrator by another role will do as well.
    sql("INSERT INTO roles (name, name_key, permissions) VALUES ('Chief', 'chief', '{users.read,*}')")
    sql("UPDATE users SET login = 'x', login_key = 'x', role_id = (SELECT id FROM roles WHERE name = 'Chief')")
    assert await administrators.ensure() is None
    sql("UPDATE users SET active = false")
    again = await administrators.ensure()
    assert again.password != credentials.password
    assert sql("SELECT login FROM users ORDER BY login") == [("admin",), ("x",)]


async def test_one_is_wanted(administrators, accounts, db, sql):
    """A requested administrator is created once, and keeps their password."""
    assert await asyncio.gather(*(administrators.ensure(ROOT) for _ in range(8))) == [None] * 8
    assert sql("SELECT login, active FROM users") == [("Root", True)]
    root = (await accounts.authenticate(*ROOT)).user_id
    assert await Roles(db).permissions_of(root) == {"*"}
    assert await administrators.ensure(AdministratorCredentials("ROOT", "another horse")) is None
    assert (await accounts.authenticate(*ROOT)).user_id == root


async def test_one_is_enough(administrators, accounts, sql):
    """While somebody is an administrator, none comes back and none is refused, whatever happens to the login."""
    await administrators.ensure(ROOT)
    sql("UPDATE users SET login = 'chief', login_key = 'chief'")
    await administrators.ensure(ROOT)
    assert sql("SELECT login FROM users") == [("chief",)]
    await accounts.sign_up("root", PASSWORD, "test")
    await administrators.ensure(ROOT)
    sql("UPDATE users SET active = false WHERE login = 'root'")
    await administrators.ensure(ROOT)
    sql("DELETE FROM users")
    await administrators.ensure(ROOT)
    assert sql("SELECT login FROM users") == [("Root",)]


async def test_the_login_is_somebodys(administrators, accounts, sql):
    """Without an administrator the start fails if the login is taken: no user becomes one by having it."""
    await accounts.sign_up("it's me", PASSWORD, "test")
    with pytest.raises(CannotStart, match=r"att-server create-admin 'it'\"'\"'s me'$"):
        await administrators.ensure(AdministratorCredentials("It's Me", PASSWORD))
    await accounts.sign_up("Admin", PASSWORD, "test")
    with pytest.raises(CannotStart, match=r"'Admin' is not an active administrator, .* att-server create-admin Admin$"):
        await administrators.ensure()
    await administrators.create(ROOT)
    sql("UPDATE users SET active = false WHERE login = 'Root'")
    with pytest.raises(CannotStart, match="not an active administrator"):
        await administrators.ensure(ROOT)
    assert sql("SELECT 1 FROM users JOIN roles ON role_id = roles.id WHERE name = 'Admin' AND active") == []


async def test_the_built_in_roles_come_back(administrators, sql):
    """Each start lets Admin permit everything, and leaves User unchanged."""
    sql("UPDATE roles SET permissions = '{users.read}'")
    await administrators.ensure()
    assert sql("SELECT name, permissions FROM roles ORDER BY name") == [("Admin", ["*"]), ("User", ["users.read"])]
    sql("DELETE FROM users")
    sql("DELETE FROM roles")
    await administrators.ensure()
    assert sql("SELECT name, permissions FROM roles ORDER BY name") == [("Admin", ["*"]), ("User", [])]
    before = sql("SELECT xmin::text, ctid::text FROM roles ORDER BY name")
    await administrators.ensure()
    assert [ctid for _, ctid in sql("SELECT xmin::text, ctid::text FROM roles ORDER BY name")] == [
        ctid for _, ctid in before
    ]


async def test_create(administrators, accounts, db, sql):
    """A new user is created; a known one becomes an active administrator with the same id, and loses their sessions."""
    assert await administrators.create(ROOT) is True
    ann, ben = [(await accounts.sign_up(login, PASSWORD, "test")).user_id for login in ("ann", "ben")]
    for user_id in (ann, ann, ben):
        sql(
            "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES (%s, %s, now() + '1 day')",
            uuid4().bytes,
            user_id,
        )
    sql("UPDATE users SET active = false WHERE id = %s", ann)
    assert await administrators.create(AdministratorCredentials("ANN", "another horse")) is False
    assert (await accounts.authenticate("ann", "another horse")).user_id == ann
    assert await Roles(db).permissions_of(ann) == {"*"}
    assert sql("SELECT user_id FROM sessions") == [(ben,)]
    assert sql("SELECT login FROM users ORDER BY login") == [("Root",), ("ann",), ("ben",)]


async def test_reset_password(administrators, accounts, sql):
    """The old password and the sessions end; an unknown login is an error."""
    ann = (await accounts.sign_up("ann", PASSWORD, "test")).user_id
    sql("INSERT INTO sessions (token_hash, user_id, expires_at) VALUES ('x', %s, now() + '1 day')", ann)
    await administrators.reset_password(AdministratorCredentials("Ann", "another horse"))
    with pytest.raises(AuthFailed):
        await accounts.authenticate("ann", PASSWORD)
    assert (await accounts.authenticate("ann", "another horse")).user_id == ann
    assert sql("SELECT name FROM users JOIN roles ON role_id = roles.id") == [("User",)]
    assert sql("SELECT 1 FROM sessions") == []
    with pytest.raises(NoSuchUser, match="'nobody'"):
        await administrators.reset_password(AdministratorCredentials("nobody", PASSWORD))


async def test_a_database_that_refuses(db_url, postgresql, passwords):
    """A database role without permissions gets one line, without our values."""
    postgresql.execute("CREATE ROLE poor LOGIN")
    postgresql.commit()
    db = await Engine.connect(db_url.replace("postgres@", "poor@"))
    poor = Administrators(db, passwords, PostgresSessions(db, timedelta(days=1)))
    try:
        for work in (poor.ensure(ROOT), poor.create(ROOT)):
            with pytest.raises(CannotStart, match=r"^the database refuses: permission denied for table roles$"):
                await work
    finally:
        await db.close()
        postgresql.execute("DROP ROLE poor")
        postgresql.commit()


async def test_the_application_sees_to_it(settings, aiohttp_client, sql):
    """At start there is an administrator: that of the settings, or a generated one."""
    wishes = [({"admin_login": "root", "admin_password": PASSWORD}, "root"), ({}, "admin")]
    for wanted, login in wishes:
        sql("DELETE FROM users")
        app = create_app(replace(settings, **wanted))
        client = await aiohttp_client(app)
        password = PASSWORD if wanted else app[GENERATED].password
        response = await client.post("/login", json={"login": login, "password": password})
        assert response.status == 200
        assert (await client.get("/roles")).status == 200  # signed in by the cookie
        assert (app[GENERATED] is None) is bool(wanted)
    assert PASSWORD not in repr(replace(settings, admin_password=PASSWORD))
