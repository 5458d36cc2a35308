"""Presence as each node reads it, whatever happens to nodes and to the database."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from doubles import RecordingConnection, away
from query_plans import nodes, rows_read
from waiting import eventually

from att.core.pagination import Window
from att.db.engine import Engine, Statement
from att.errors import NoSuchUser
from att.realtime.presence import _CHUNK, PRESENT_IN_GROUP, SILENCE, Presence, PresenceReporter, UserPresence
from att.realtime.registry import Listener, Registry

NAME = f"{socket.gethostname()}:{os.getpid()}"
ROWS = "SELECT user_id, sockets FROM presence ORDER BY user_id"


class Node:
    """A node without its server: its sockets and its reporter."""

    def __init__(self, db: Engine) -> None:
        self.registry = Registry()
        self.reporter = PresenceReporter(db, self.registry)

    def connect(self, user_id: UUID) -> Listener:
        listener = Listener(user_id, uuid4(), RecordingConnection())
        self.registry.attach(listener)
        return listener


@pytest.fixture
def node(db):
    return Node(db)


@pytest.fixture
def other(db):
    return Node(db)


@pytest.fixture
def presence(db):
    return Presence(db)


@pytest.fixture
def silence(sql):
    """Have every node be silent for as long as that."""
    return lambda span=SILENCE: sql("UPDATE nodes SET seen_at = now() - %s - interval '1 second'", span)


async def read(presence, user_id):
    """Return the number of a user's sockets."""
    return (await presence.of_user(user_id)).sockets


# What is told


async def test_a_user(node, presence, ann_id, sql):
    """Connected once, twice, once, and no more; since the earliest socket that is still open."""
    await node.reporter.tick()
    assert await presence.of_user(ann_id) == UserPresence(ann_id, None, 0)
    before = sql("SELECT clock_timestamp()")[0][0]
    first = node.connect(ann_id)
    await node.reporter.tick()
    found = await presence.of_user(ann_id)
    assert found.sockets == 1
    after = sql("SELECT clock_timestamp()")[0][0]
    assert before - timedelta(seconds=1) <= found.since <= after + timedelta(seconds=1)  # two clocks have told it
    second = node.connect(ann_id)
    second.since = first.since + 1
    await node.reporter.tick()
    assert await presence.of_user(ann_id) == UserPresence(ann_id, found.since, 2)
    node.registry.detach(first)
    await node.reporter.tick()
    later = await presence.of_user(ann_id)
    assert (later.sockets, later.since) == (1, found.since + timedelta(seconds=1))
    node.registry.detach(second)
    await node.reporter.tick()
    assert await presence.of_user(ann_id) == UserPresence(ann_id, None, 0)
    assert sql(ROWS) == []


async def test_since_is_the_databases_time(node, presence, ann_id, sql):
    """A socket opened before the first write gets its age, by the database's clock."""
    listener = node.connect(ann_id)
    listener.since -= 3600
    await node.reporter.tick()
    hour_ago = sql("SELECT clock_timestamp()")[0][0] - timedelta(hours=1)
    assert abs((await presence.of_user(ann_id)).since - hour_ago) < timedelta(minutes=1)


async def test_two_nodes(node, other, presence, ann_id, sql):
    """Sockets on all nodes count together, since the earliest; each node's are listed."""
    node.connect(ann_id)
    early = other.connect(ann_id)
    early.since -= 60
    other.connect(ann_id)
    await node.reporter.tick()
    await other.reporter.tick()
    found = await presence.of_user(ann_id)
    assert found.sockets == 3
    stays = await presence.stays(ann_id)
    assert [(stay.node, stay.sockets) for stay in stays] == [(NAME, 2), (NAME, 1)]
    assert [stay.since for stay in stays] == sorted([found.since, stays[1].since])
    assert stays[0].since == found.since
    assert sql("SELECT count(*) FROM nodes") == [(2,)]


async def test_nobody(presence):
    """A user without an account has no presence."""
    with pytest.raises(NoSuchUser):
        await presence.of_user(uuid4())


async def test_a_group(node, other, presence, add_user, add_group, tea, ann_id, sql):
    """The connected members are listed once each, by their ids, and no other users."""
    people = {name: add_user(name).user_id for name in ("ben", "cat", "dan", "eve")}
    for name in ("ben", "cat", "dan"):
        sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", tea, people[name])
    add_group("coffee", people["eve"])
    for place, name in ((node, "ben"), (other, "ben"), (other, "cat"), (node, "eve")):
        place.connect(people[name])
    node.connect(ann_id)
    await node.reporter.tick()
    await other.reporter.tick()
    page = await presence.in_group(tea, Window())
    names = {ann_id: "ann"} | {user_id: name for name, user_id in people.items()}
    sockets = {ann_id: 1, people["ben"]: 2, people["cat"]: 1}
    assert [(one.user_id, one.login, one.sockets) for one in page.items] == [
        (user_id, names[user_id], sockets[user_id]) for user_id in sorted(sockets)
    ]
    assert page.next is None


async def test_pages(node, presence, add_user, tea, sql):
    """Paging lists each user once, also when one leaves in between."""
    people = [add_user(f"user {number}").user_id for number in range(7)]
    for user_id in people:
        sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", tea, user_id)
    listeners = {user_id: node.connect(user_id) for user_id in people}
    await node.reporter.tick()
    first = await presence.in_group(tea, Window(3))
    node.registry.detach(listeners[first.items[0].user_id])
    await node.reporter.tick()
    second = await presence.in_group(tea, Window(3, PRESENT_IN_GROUP.order.parse(first.next)))
    third = await presence.in_group(tea, Window(3, PRESENT_IN_GROUP.order.parse(second.next)))
    told = [one.user_id for page in (first, second, third) for one in page.items]
    assert (told, third.next) == (sorted(people), None)


MANY_MEMBERS = """
WITH made AS (
    INSERT INTO users (login, login_key, search_text, role_id)
    SELECT n, n, '', (SELECT id FROM roles WHERE name = 'User') FROM generate_series(1, 20000) AS n RETURNING id
) INSERT INTO members (group_id, user_id, role) SELECT %s, id, 'member' FROM made
"""


@pytest.mark.parametrize("is_analysed", [False, True])
async def test_plan(*, node, db, tea, sql, is_analysed):
    """Only the connected members of a large group are read, by indexes, on each page."""
    sql(MANY_MEMBERS, tea)
    people = [row[0] for row in sql("SELECT user_id FROM members ORDER BY user_id LIMIT 20000 OFFSET 50")][::200]
    for user_id in people:
        node.connect(user_id)
    await node.reporter.tick()
    sql("ANALYZE members, users" + ", presence, nodes" * is_analysed)
    for [statement], key in ((PRESENT_IN_GROUP._first, {}), (PRESENT_IN_GROUP._rest, {"after_0": people[60]})):
        explained = Statement(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", statement.defaults, is_read=True)
        plan = (await db.fetch_one(explained, limit=51, group_id=tea, **key))[0][0]["Plan"]
        assert max(rows_read(part) for part in nodes(plan)) <= len(people), plan


# What is written


async def test_many_at_once(node, add_user, sql, monkeypatch):
    """Ten thousand who connect at once are written a thousand at a time, and forgotten likewise."""
    statements = count_statements(monkeypatch)
    listeners = [node.connect(uuid4()) for _ in range(10 * _CHUNK)]
    await node.reporter.tick()
    assert sql("SELECT count(*), sum(sockets) FROM presence") == [(10 * _CHUNK, 10 * _CHUNK)]
    for listener in listeners:
        node.registry.detach(listener)
    await node.reporter.tick()
    assert sql("SELECT count(*) FROM presence") == [(0,)]
    assert len(statements) <= 25


async def test_nothing_is_written_when_nothing_changes(node, ann_id, monkeypatch):
    """Unchanged users cost nothing, and neither does one who came and left."""
    node.connect(ann_id)
    await node.reporter.tick()
    statements = count_statements(monkeypatch)
    await node.reporter.tick()
    assert statements == []


def count_statements(monkeypatch):
    """Record statements from now on."""
    statements, execute = [], Engine.execute

    async def count(self, statement, **params):
        statements.append(statement)
        return await execute(self, statement, **params)

    monkeypatch.setattr(Engine, "execute", count)
    return statements


# When nodes die


async def test_a_silent_node(*, node, other, presence, ann_id, tea, add_user, sql, silence):
    """A node that gives no sign of life is passed over, and removed by the others with all that it wrote."""
    ben_id = add_user("ben").user_id
    node.connect(ann_id)
    await node.reporter.tick()
    silence(timedelta(seconds=6))
    assert await read(presence, ann_id) == len((await presence.in_group(tea, Window())).items) == 1
    silence()
    assert await read(presence, ann_id) == 0
    assert await presence.stays(ann_id) == []
    assert (await presence.in_group(tea, Window())).items == []
    other.connect(ben_id)
    await other.reporter.tick()
    assert sql(ROWS) == [(ben_id, 1)]
    assert sql("SELECT count(*) FROM nodes") == [(1,)]


async def test_a_node_that_was_taken_for_dead(node, other, presence, ann_id, silence):
    """It writes everything again after its next sign of life."""
    node.connect(ann_id)
    await node.reporter.tick()
    since = (await presence.of_user(ann_id)).since
    silence()
    await other.reporter.tick()
    assert await read(presence, ann_id) == 0
    node.reporter._next_sign = time.monotonic()
    await node.reporter.tick()
    found = await presence.of_user(ann_id)
    assert found.sockets == 1
    assert abs(found.since - since) < timedelta(seconds=1)


async def test_a_node_that_was_taken_for_dead_writes(node, other, presence, ann_id, add_user, sql, silence):
    """It also notices by a failed write, and leaves no half of it."""
    ben_id = add_user("ben").user_id
    node.connect(ann_id)
    await node.reporter.tick()
    silence()
    await other.reporter.tick()
    node.connect(ben_id)
    await node.reporter.tick()
    assert sql(ROWS) == []
    await node.reporter.tick()
    assert sql(ROWS) == sorted([(ann_id, 1), (ben_id, 1)])


async def test_a_node_that_is_taken_for_dead_while_it_writes(*, node, ann_id, add_user, sql, postgresql):
    """The delete waits for the write, and the node notices without an error."""
    ben_id = add_user("ben").user_id
    node.connect(ann_id)
    await node.reporter.tick()
    node.connect(ben_id)
    postgresql.execute("DELETE FROM nodes")
    writing = asyncio.create_task(node.reporter.tick())
    await eventually(lambda: is_waited_for(postgresql))
    postgresql.commit()
    async with asyncio.timeout(5):
        await writing
        await node.reporter.tick()
    assert sql(ROWS) == sorted([(ann_id, 1), (ben_id, 1)])


async def is_waited_for(postgresql):
    return postgresql.execute(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    ).fetchone()


async def test_a_node_that_writes_is_not_removed(node, other, ann_id, postgresql, silence, db_url):
    """A sweep skips a node that is just being written, and does not wait."""
    node.connect(ann_id)
    await node.reporter.tick()
    silence()
    postgresql.execute("SELECT id FROM nodes FOR KEY SHARE")
    async with asyncio.timeout(2):
        await other.reporter.tick()
    postgresql.commit()
    assert postgresql.execute("SELECT count(*) FROM presence").fetchone() == (1,)
    postgresql.commit()
    other.reporter._next_sign = time.monotonic()
    await other.reporter.tick()
    assert postgresql.execute("SELECT count(*) FROM presence").fetchone() == (0,)
    postgresql.commit()


async def test_the_database_loses_the_tables(node, ann_id, sql):
    """As it does with unlogged ones after a crash: all is written anew."""
    node.connect(ann_id)
    await node.reporter.tick()
    sql("TRUNCATE nodes, presence")
    node.reporter._next_sign = time.monotonic()
    await node.reporter.tick()
    assert sql(ROWS) == [(ann_id, 1)]


def test_the_tables_are_unlogged(sql):
    """They cost no write-ahead log, and are empty after a crash."""
    query = "SELECT relname, relpersistence FROM pg_class WHERE relname IN ('nodes', 'presence') ORDER BY relname"
    assert sql(query) == [("nodes", "u"), ("presence", "u")]


# While a server runs


async def test_running(node, ann_id, sql):
    """It reports by itself, and deletes its rows when it stops."""
    async with node.reporter.running():
        listener = node.connect(ann_id)
        await eventually(lambda: found(sql, [(ann_id, 1)]))
        node.registry.detach(listener)
        await eventually(lambda: found(sql, []))
        node.connect(ann_id)
        await eventually(lambda: found(sql, [(ann_id, 1)]))
        ((seen_at,),) = sql("SELECT seen_at FROM nodes")
        await eventually(lambda: beaten(sql, seen_at))
        ((name, started_at),) = sql("SELECT name, started_at FROM nodes")
        assert name == NAME
        assert started_at < datetime.now(UTC)
    assert sql(ROWS) == []
    assert sql("SELECT * FROM nodes") == []


async def found(sql, rows):
    return sql(ROWS) == rows


async def beaten(sql, seen_at):
    return sql("SELECT seen_at FROM nodes") > [(seen_at,)]


async def test_the_database_is_away(node, ann_id, add_user, sql, postgresql, caplog):
    """It warns once; when the database is back, the rows are right again."""
    ben_id = add_user("ben").user_id
    async with node.reporter.running():
        listener = node.connect(ann_id)
        await eventually(lambda: found(sql, [(ann_id, 1)]))
        with caplog.at_level(logging.WARNING, "att"):
            postgresql.commit()
            with away(postgresql):
                node.registry.detach(listener)
                node.connect(ben_id)
                await eventually(lambda: has_failed(node))
                await node.reporter.tick()
        await eventually(lambda: found(sql, [(ben_id, 1)]), 15)
    warnings = [record for record in caplog.records if "presence on this node" in record.getMessage()]
    assert len(warnings) == 1


async def has_failed(node):
    return node.reporter._has_failed


async def test_stopping_while_the_database_is_away(node, ann_id, sql, postgresql):
    """It stops soon, without an error."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(node.reporter.running())
        node.connect(ann_id)
        await eventually(lambda: found(sql, [(ann_id, 1)]))
        postgresql.commit()
        with away(postgresql):
            async with asyncio.timeout(10):
                await stack.aclose()


async def test_other_nodes(db, silence):
    """A node learns how many others are alive, and when that was asked for."""
    counts, moments = [], []
    reporter = PresenceReporter(
        db, Registry(), lambda others, asked_at: (counts.append(others), moments.append(asked_at))
    )
    async with Node(db).reporter.running(), reporter.running():
        before = time.monotonic()
        await reporter._give_sign_of_life()
        assert counts == [1]
        assert before <= moments[0] <= time.monotonic()
        silence()
        await reporter._give_sign_of_life()
        assert counts[-1] == 0
