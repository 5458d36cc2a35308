"""The log of PostgreSQL, which has the text of each statement that failed: none holds a hash or a token."""

import asyncio
import re

import psycopg
import pytest
from people import PASSWORD
from waiting import eventually

from att.accounts.administrators import AdministratorCredentials, Administrators
from att.accounts.passwords import Passwords
from att.errors import AuthFailed, LoginTaken
from att.sessions.store import ClientInfo, PostgresSessions, Verified

SECRET = re.compile(r"\$argon2|token_hash.{0,400}\\x[0-9a-f]{64}|[A-Za-z0-9_-]{43}'", re.DOTALL)
CLIENT = ClientInfo("127.0.0.1", None)


@pytest.fixture
def database_log(embedded, sql):
    """Return the lines that the database has logged in this test. Its last line is known to have arrived."""
    path = embedded.data_dir / "postgresql" / "log"
    begin = path.stat().st_size

    async def read():
        sql("DO $$ BEGIN RAISE LOG 'end of this test'; END $$")

        async def is_complete():
            text = path.read_bytes()[begin:].decode()
            return text if "end of this test" in text else None

        return await eventually(is_complete)

    return read


@pytest.fixture
async def ann(sign_up, sql):
    """An administrator."""
    person = await sign_up("ann")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Admin') WHERE login = 'ann'")
    return person


async def test_the_log_has_statements_that_fail(sql, postgresql, database_log):
    """The tests below can fail."""
    with pytest.raises(psycopg.Error):
        sql("INSERT INTO users (login, password_hash) VALUES ('x', '$argon2id$')")
    postgresql.rollback()
    assert SECRET.search(await database_log())


async def test_a_login_that_is_taken_is_no_error_of_the_database(client, ann, sign_up, database_log, settings):
    """Signing up, creating and changing users, one and many, and ``create-admin``."""
    ben = await sign_up("ben")
    login = {"login": "BEN", "password": PASSWORD}
    for method, path, body in (
        ("POST", "/signup", login),
        ("POST", "/users", login),
        ("POST", "/users", [{"login": "carl", "password": PASSWORD}, login]),
        ("POST", "/users", [{"login": "carl", "password": PASSWORD}, {"login": "Carl", "password": PASSWORD}]),
        ("PATCH", f"/users/{ann.id}", {"login": "ben"}),
        ("PATCH", f"/users/{ann.id}", {"login": "ben", "password": PASSWORD, "current_password": PASSWORD}),
        ("PATCH", "/users", [{"id": str(ann.id), "login": "ben"}]),
    ):
        response = await ann.request(method, path, json=body)
        assert (response.status, (await response.json())["error"]) == (409, "login taken"), (method, path)
    response = await ann.request("POST", "/users", json={**login, "login": "dora", "role": "none"})
    assert response.status == 404
    response = await ann.request("PATCH", f"/users/{ben.id}", json={"login": "Ben", "password": PASSWORD + "!"})
    assert response.status == 200
    assert "ERROR" not in await database_log()


async def test_logins_that_are_taken_at_the_same_time(*, client, ann, postgresql, database_log, db, settings):
    """Another transaction is first, and no statement with a hash fails."""
    passwords = Passwords(settings.hashing)
    administrators = Administrators(db, passwords, PostgresSessions(db, settings.session_ttl))
    requests = {
        "e0": lambda: ann.request("POST", "/signup", json={"login": "e0", "password": PASSWORD}),
        "e1": lambda: ann.request("POST", "/users", json={"login": "e1", "password": PASSWORD}),
        "e2": lambda: ann.request("POST", "/users", json=[{"login": "e2", "password": PASSWORD}]),
        "e3": lambda: administrators.create(AdministratorCredentials("e3", PASSWORD)),
        "e4": lambda: ann.request(
            "PATCH", f"/users/{ann.id}", json={"login": "e4", "password": PASSWORD, "current_password": PASSWORD}
        ),
    }
    for login, request in requests.items():
        postgresql.execute(
            "INSERT INTO users (login, login_key, search_text, role_id)"
            " SELECT %s, %s, '', id FROM roles WHERE name = 'User'",
            (login, login),
        )
        asking = asyncio.create_task(request())
        await eventually(lambda: is_waiting(postgresql))
        postgresql.commit()
        try:
            assert (await asking).status == 409
        except LoginTaken:
            assert login == "e3"
    passwords.close()
    assert not SECRET.search(await database_log())


async def is_waiting(connection):
    return connection.execute("SELECT pid FROM pg_locks WHERE NOT granted").fetchall()


async def test_a_session_of_a_user_who_is_deleted_at_the_same_time(*, ann, sql, postgresql, database_log, db, settings):
    """The deletion is first, and the statement with the token does not fail."""
    sql("UPDATE users SET password_hash = '$argon2id$stored'")
    postgresql.execute("DELETE FROM users")
    store = PostgresSessions(db, settings.session_ttl)
    asking = asyncio.create_task(store.create(Verified(ann.id, "$argon2id$stored"), CLIENT))
    await eventually(lambda: is_waiting(postgresql))
    postgresql.commit()
    with pytest.raises(AuthFailed):
        await asking
    assert "ERROR" not in await database_log()


async def test_a_role_that_is_missing(client, sql, database_log):
    """Somebody has removed the role of new users; the statement with the hash does not fail."""
    sql("DELETE FROM roles WHERE name = 'User'")
    response = await client.post("/signup", json={"login": "ben", "password": PASSWORD})
    assert (response.status, (await response.json())["error"]) == (404, "no such role")
    assert "ERROR" not in await database_log()
