"""Checks of the database: version, rights, schema, announcements, durability, connections and clock."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from uuid import uuid4

from sqlalchemy import bindparam, func, select, text

from att.cli.doctor.checks import Check, Finding, Verdict, compare_clocks, fail, ok, run_checks, warn
from att.db.dsn import describe
from att.db.engine import POOL_SIZE, DriverError, Engine, Statement, prepare
from att.db.migrate import FIND_REVISIONS, FOREIGN, OLDEST_POSTGRES, OWN_SCHEMA, lacking
from att.db.notifications import NotificationChannel
from att.db.rights import FUNCTIONS, RIGHTS
from att.errors import Busy

_CHANNEL = "attcheck"  # one of our own, to which no server listens
_UNREACHABLE = "start it, or correct --db-url; a standby does not do"
_ARRIVAL = 3.0  # seconds until an announcement must have come back
# Of one process: its pool, the log's writer, the broker, and one that finds out where the database is.
CONNECTIONS = POOL_SIZE + 3


def _reading(sql: str) -> Statement:
    return prepare(text(sql))._replace(is_read=True)


_NOTIFY = prepare(select(func.pg_notify(_CHANNEL, bindparam("payload"))))
SERVER = _reading("""
    SELECT current_setting('server_version'), CAST(current_setting('server_version_num') AS int) / 10000,
        current_setting('server_encoding')
""")
LACKING_RIGHTS = _reading("""
    SELECT w.name, w.wanted FROM unnest(CAST(:names AS text[]), CAST(:rights AS text[])) AS w (name, wanted)
    WHERE NOT has_table_privilege(to_regclass(w.name), w.wanted)
""")
LACKING_FUNCTIONS = _reading("""
    SELECT CAST(CAST(p.oid AS regprocedure) AS text), 'EXECUTE' FROM pg_proc AS p
    WHERE p.proname = ANY (CAST(:names AS text[])) AND pg_function_is_visible(p.oid)
        AND NOT has_function_privilege(p.oid, 'EXECUTE')
""")
CLOSED_SCHEMAS = _reading("""
    SELECT n.nspname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.proname = 'att_append' AND NOT has_schema_privilege(n.oid, 'USAGE')
""")
WHO = _reading("SELECT quote_ident(current_user)")
_PLACE = _reading("SELECT current_schema(), current_setting('search_path')")
_TABLE = _reading(FIND_REVISIONS)
REVISIONS = _reading("SELECT version_num FROM alembic_version")
DURABILITY = _reading("""
    SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')
""")
_ROOM = _reading("""
    SELECT
        CAST(current_setting('max_connections') AS int) - CAST(current_setting('superuser_reserved_connections') AS int)
            - CAST(coalesce(current_setting('reserved_connections', true), '0') AS int),
        (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
        (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
        count(*) FILTER (WHERE application_name <> 'att'), count(*) FILTER (WHERE application_name = 'att')
    FROM pg_stat_activity WHERE usesysid IS NOT NULL
""")
_HAS_LOG = _reading("SELECT to_regclass('events') IS NOT NULL AND to_regclass('members') IS NOT NULL")
BEYOND_HEAD = _reading("""
    SELECT g.id, g.seq + 1 FROM groups AS g
    WHERE EXISTS (SELECT FROM events AS e WHERE e.group_id = g.id AND e.seq > g.seq) LIMIT 1
""")
# A user who joins or leaves twice in turn, or whose last event is not what the table of members says.
UNLIKE_MEMBERS = _reading("""
    SELECT c.group_id, c.seq FROM (
        SELECT e.group_id, e.actor_id, e.seq, e.kind,
            lead(e.kind) OVER (PARTITION BY e.actor_id, e.group_id ORDER BY e.seq) AS next_kind
        FROM events AS e WHERE e.kind <> 'message'
    ) AS c
    JOIN groups AS g ON g.id = c.group_id
    LEFT JOIN members AS m ON m.group_id = c.group_id AND m.user_id = c.actor_id
    WHERE c.kind = c.next_kind OR c.next_kind IS NULL AND (c.kind = 'left') = (m.user_id IS NOT NULL)
    LIMIT 1
""")
NOW = _reading("SELECT extract(epoch FROM clock_timestamp())")


async def check_database(dsn: str, *, migrate: bool = False) -> AsyncIterator[Finding]:
    """Yield the findings for the database at this DSN. ``migrate`` is True if a server would migrate it."""
    async with contextlib.AsyncExitStack() as stack:
        opened: list[Engine] = []

        async def connect() -> Verdict:
            opened.append(await Engine.connect(dsn))
            stack.push_async_callback(opened[0].close)
            return judge_server(describe(dsn), *await opened[0].fetch_one(SERVER))

        async for finding in run_checks({"database": connect}, remedy=_UNREACHABLE):
            yield finding
        if opened:
            async for finding in run_checks(_checks(dsn, opened[0], migrate=migrate)):
                yield finding


def _checks(dsn: str, db: Engine, *, migrate: bool) -> dict[str, Check]:
    named: dict[str, Check] = {
        "database rights": partial(_rights, db),
        "schema": partial(_schema, db, migrate=migrate),
        "log": partial(_log, db),
        "listen and notify": partial(_announcements, dsn, db),
        "durability": partial(_durability, db),
        "connections": partial(_connections, db),
        "database clock": partial(_clock, db),
    }
    return {name: partial(_explained, check) for name, check in named.items()}


async def _explained(check: Check) -> Verdict:
    """Return what the check finds; if it lacks a right itself, what the database says."""
    try:
        return await check()
    except DriverError as error:
        return fail(" ".join(str(error).split()), "ask a superuser or the owner of the tables")


def judge_server(place: str, version: str, major: int, encoding: str) -> Verdict:
    """Return the verdict on a server by its row of ``SERVER``."""
    found = f"PostgreSQL {version}, {encoding}, {place}"
    if major < OLDEST_POSTGRES:
        return fail(found, f"PostgreSQL {OLDEST_POSTGRES} or later is needed: upgrade it")
    if encoding != "UTF8":
        return fail(found, "create a database with ENCODING 'UTF8' TEMPLATE template0, and move to it")
    return ok(found)


async def _rights(db: Engine) -> Verdict:
    (user,) = await db.fetch_one(WHO)
    if closed := [name for (name,) in await db.fetch_all(CLOSED_SCHEMAS)]:
        return fail(f"{user} may not use the schema {', '.join(closed)}", _grants("USAGE", f"SCHEMA {closed[0]}", user))
    wanted = [(name, right) for name, rights in RIGHTS.items() for right in rights]
    names, rights = (list(column) for column in zip(*wanted, strict=True))
    lacking_rights: dict[str, list[str]] = {}
    for name, right in await db.fetch_all(LACKING_RIGHTS, names=names, rights=rights):
        lacking_rights.setdefault(name, []).append(right)
    for name, right in await db.fetch_all(LACKING_FUNCTIONS, names=[*FUNCTIONS]):
        lacking_rights[f"FUNCTION {name}"] = [right]
    if lacking_rights:
        orders = [_grants(", ".join(rights), name, user) for name, rights in lacking_rights.items()]
        found = f"{user} lacks rights on {', '.join(name.removeprefix('FUNCTION ') for name in lacking_rights)}"
        return fail(found, " ".join(orders))
    return ok(f"{user} may do what a server does")


def _grants(rights: str, place: str, user: str) -> str:
    return f"GRANT {rights} ON {place} TO {user};"


async def _schema(db: Engine, *, migrate: bool) -> Verdict:
    schema, path = await db.fetch_one(_PLACE)
    if schema is None:
        return fail(f"no schema {path!r} that this user may use", "create it, by CREATE SCHEMA, or GRANT USAGE on it")
    table = await db.fetch_one(_TABLE)
    found = [revision for (revision,) in await db.fetch_all(REVISIONS)] if table else []
    missing = lacking(found)
    if missing is None and not table[0]:
        return fail(FOREIGN, OWN_SCHEMA)
    if missing is None:
        return fail("newer than this program", "upgrade att to the version that made it")
    if missing:
        behind = f"behind by {', '.join(missing)}"
        if migrate:
            return warn(behind, "a server brings it up to date when it starts")
        return fail(behind, "run att-server migrate, or start with --migrate")
    return ok(f"up to date, at {', '.join(found)}")


async def _log(db: Engine) -> Verdict:
    (is_there,) = await db.fetch_one(_HAS_LOG)
    if not is_there:
        return ok("there is none yet")
    for statement in (BEYOND_HEAD, UNLIKE_MEMBERS):
        try:
            fault = await db.fetch_one(statement)
        except Busy:
            return ok("too large to be looked through in a few seconds")
        if fault is not None:
            group_id, seq = fault
            remedy = (
                "restore it as docs/how-to/operations.md says, under Restore: pg_restore --data-only invents events"
            )
            return fail(f"that of the group {group_id} does not fit its members or its seq, at {seq}", remedy)
    return ok("fits the groups and their members")


async def _announcements(dsn: str, db: Engine) -> Verdict:
    word = uuid4().hex
    began = time.perf_counter()
    async with NotificationChannel(dsn, _CHANNEL).listen() as payloads:
        await db.fetch_one(_NOTIFY, payload=word)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ARRIVAL):
                while await anext(payloads) != word:
                    pass
                return ok(f"arrived after {(time.perf_counter() - began) * 1000:.0f} ms")
    return fail(
        f"nothing arrived within {_ARRIVAL:g} s",
        "connect directly, or through a pooler in session mode: not transaction or statement mode",
    )


async def _durability(db: Engine) -> Verdict:
    settings = dict(
        zip(("fsync", "full_page_writes", "synchronous_commit"), await db.fetch_one(DURABILITY), strict=True)
    )
    found = ", ".join(f"{name} {value}" for name, value in settings.items())
    if off := [name for name, value in settings.items() if value == "off"]:
        return warn(found, f"acknowledged writes may be lost when the machine stops: set {', '.join(off)} = on")
    return ok(found)


async def _connections(db: Engine) -> Verdict:
    *limits, others, ours = await db.fetch_one(_ROOM)
    limit = min(limit for limit in limits if limit is not None and limit >= 0)
    processes = max(limit - others, 0) // CONNECTIONS
    found = f"{limit} at most, {others} others', {ours} of att: room for {processes} processes of {CONNECTIONS}"
    if not processes:
        return fail(found, "raise max_connections, or the CONNECTION LIMIT of the database or the user")
    if processes == 1:
        return warn(found, "there is no room for a second process, as in a rolling restart: raise max_connections")
    return ok(found)


async def _clock(db: Engine) -> Verdict:
    began = time.time()
    (there,) = await db.fetch_one(NOW)
    ahead = float(there) - (began + time.time()) / 2
    return compare_clocks(ahead)
