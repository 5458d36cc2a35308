"""A database that accepts no changes: a standby, or one that is read-only by a setting."""

import asyncio
import json
import os
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from aiohttp import DummyCookieJar
from databases import copy_data
from processes import postmaster_of
from route_requests import fill, request_for
from waiting import eventually

from att.api.docs import DOCS_ROUTES
from att.api.routes import ROUTES
from att.app import create_app
from att.core.permissions import Who
from att.db.embedded import EmbeddedPostgres, stop_postmaster
from att.db.migrate import bring_up_to_date
from att.sessions.store import hash_token

TOKEN = "t" * 43
NEEDS_A_DATABASE = [route for route in ROUTES if route not in DOCS_ROUTES]


class Site(NamedTuple):
    """A primary, and a standby with the same data: an administrator who is signed in and owns a group."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres
    user_id: str

    def dsn(self, *servers: EmbeddedPostgres, user: str = "postgres") -> str:
        return f"host={','.join(str(server.data_dir / 'postgresql') for server in servers)} user={user} dbname=postgres"


@pytest.fixture
def site(data_dir: Path):
    primary, standby = EmbeddedPostgres(data_dir), EmbeddedPostgres(data_dir.parent / "standby")
    dsn = primary.start()
    bring_up_to_date(dsn, migrate=True)
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE ROLE reader LOGIN; ALTER ROLE reader SET default_transaction_read_only = on")
        [(user_id,)] = connection.execute(
            "INSERT INTO users (login, login_key, search_text, role_id)"
            " SELECT 'ann', 'ann', 'ann', id FROM roles WHERE name = 'Admin' RETURNING id::text"
        )
        connection.execute(
            "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES (%s, %s, now() + interval '1 day')",
            (hash_token(TOKEN), user_id),
        )
        connection.execute("INSERT INTO groups (name, name_key) VALUES ('tea', 'tea')")
        connection.execute("INSERT INTO members SELECT id, %s, 'owner' FROM groups", (user_id,))
    primary.stop()
    copy_data(primary.data_dir, standby.data_dir)
    (standby.data_dir / "postgresql" / "standby.signal").touch()
    primary.start()
    standby.start()
    yield Site(primary, standby, user_id)
    standby.stop()
    primary.stop()


SERVE = ("--listen", "127.0.0.1:0")
COMMANDS = (SERVE, (*SERVE, "--migrate"), ("migrate",), ("create-admin", "eve"))


def test_a_start_on_it_is_refused_in_one_line(site, run_here):
    """Servers, ``check`` and each command say that the database accepts no changes, and what to do."""
    why = "accepts no changes: it is a standby, or default_transaction_read_only is on; name the primary"
    for dsn in (site.dsn(site.standby), site.dsn(site.primary, user="reader")):
        given = ("--db-url", f"{dsn} target_session_attrs=any")
        for command in COMMANDS:
            result = run_here(*command, *given, typed=b"correct horse\n" * 2)
            assert (result.returncode, result.stderr.count("\n")) == (1, 1), (command, result.stderr)
            assert why in result.stderr
        result = run_here("check", "--json", *given, *SERVE)
        [finding, *_] = json.loads(result.stdout)["checks"]
        assert (finding["name"], finding["level"]) == ("database", "fail")
        assert why in finding["found"]
        assert "--db-url" in finding["remedy"]


@pytest.fixture
async def client(site, settings, aiohttp_client):
    dsn = site.dsn(site.standby, site.primary)
    app = create_app(type(settings)(**{**vars(settings), "db_url": dsn}))
    return await aiohttp_client(app, cookie_jar=DummyCookieJar())


async def ask_all(client, site):
    """Return the status of a request to each route that needs the database."""
    statuses = {}
    for route in NEEDS_A_DATABASE:
        path = fill(route.path, user_id=site.user_id)
        headers = {} if route.who is Who.ANYONE else {"Authorization": f"Bearer {TOKEN}"}
        if route.upgrades:
            headers |= {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            }
        response = await client.request(
            route.method, path, headers=headers, **request_for(route.method, route.path, user_id=site.user_id)
        )
        statuses[f"{route.method} {route.path}"] = response.status
    return statuses


async def test_a_primary_that_is_gone_is_503_everywhere(site, client):
    """The primary is used though the standby is named first; without it no route answers from the standby."""
    response = await client.get("/groups/tea/presence", headers={"Authorization": f"Bearer {TOKEN}"})
    assert response.status == 200
    await asyncio.to_thread(stop_postmaster, postmaster_of(site.primary))
    await eventually(lambda: is_refused(client))
    assert set((await ask_all(client, site)).items()) == {
        (f"{route.method} {route.path}", 503) for route in NEEDS_A_DATABASE
    }
    await asyncio.to_thread(site.primary.start)
    await eventually(lambda: is_served(client))


async def is_refused(client):
    response = await client.get("/sessions", headers={"Authorization": f"Bearer {TOKEN}"})
    return response.status == 503


async def is_served(client):
    response = await client.get("/sessions", headers={"Authorization": f"Bearer {TOKEN}"})
    return response.status == 200


async def test_a_database_that_becomes_read_only(site, client):
    """On connections from before, reads are answered and changes are 503."""
    assert await is_served(client)
    with psycopg.connect(site.dsn(site.primary), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
    await eventually(lambda: refuses_changes(client))
    statuses = await ask_all(client, site)
    assert set(statuses.values()) <= {101, 200, 401, 404, 503}, statuses
    assert {statuses[name] for name in ("POST /signup", "POST /broadcast/{group}", "DELETE /groups/{group}")} == {503}


async def refuses_changes(client):
    response = await client.post(
        "/groups", json={"name": os.urandom(4).hex()}, headers={"Authorization": f"Bearer {TOKEN}"}
    )
    return response.status == 503 and "accepts no changes" in (await response.json())["detail"]
