"""Deletion of large groups, and of users in many groups: what is left to the background, and how it is done there."""

import asyncio
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors as sql_errors

from att.core.permissions import Actor
from att.groups.removal import REMOVE_MEMBERS, RemovalTask
from att.groups.service import Groups
from att.realtime.event_log import EventLog, Position

MANY = 1_001  # the smallest number that a deletion leaves to the background
AT_ONCE = 400

ADD_USERS = """
INSERT INTO users (login, login_key, search_text, role_id)
SELECT 'u' || n, 'u' || n, '', (SELECT id FROM roles WHERE name = 'User') FROM generate_series(1, %s) AS n
"""
ADD_GROUPS = "INSERT INTO groups (name, name_key) SELECT 'g' || n, 'g' || n FROM generate_series(1, %s) AS n"
JOIN_ALL = "INSERT INTO members (group_id, user_id, role) SELECT g.id, u.id, 'member' FROM groups AS g, users AS u"


class Heads:
    """A ``GroupListener`` that keeps the heads."""

    def __init__(self):
        self.heads = {}

    def observe_head(self, group_id, seq):
        self.heads[group_id] = seq

    def joined(self, group_id, seq, user_id):
        raise NotImplementedError


@pytest.fixture
def actor(sql, add_user):
    """A user who may delete groups."""
    actor = add_user("root")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Admin') WHERE id = %s", actor.user_id)
    return actor


@pytest.fixture
def crowd(sql, add_group, actor) -> UUID:
    """A group with more members than a deletion removes by itself, of which the actor is none."""
    sql(ADD_USERS, MANY)
    crowd = add_group("crowd")
    sql(f"{JOIN_ALL} WHERE u.id <> %s", actor.user_id)
    return crowd


@pytest.fixture
def remove(db):
    """Do what a node does in the background."""
    return RemovalTask(db, AT_ONCE).remove


def members_left(sql) -> int:
    """The number of rows of members."""
    return sql("SELECT count(*) FROM members")[0][0]


async def test_large_group(db, sql, crowd, actor, add_group, remove):
    """It is gone at once, by one event; its members' rows, their leaving and the history follow in batches."""
    assert sql("SELECT id, seq FROM groups") == [(crowd, MANY)]
    await Groups(db, listener := Heads()).delete(crowd, actor)
    assert listener.heads == {crowd: MANY + 1}
    assert sql("SELECT * FROM groups") == []
    assert sql("SELECT seq, kind, actor_id FROM events WHERE seq > %s", MANY) == [(MANY + 1, "left", crowd)]
    assert members_left(sql) == MANY
    add_group("crowd")  # its name is free

    await remove()
    assert members_left(sql) == 0
    assert sql("SELECT * FROM removals") == []
    last = sql("SELECT array_agg(seq ORDER BY seq), count(DISTINCT actor_id) FROM events WHERE seq > %s", MANY + 1)
    assert last == [([*range(MANY + 2, 2 * MANY + 2)], MANY)]
    assert sql(
        "SELECT table_name, actor_id, session_id, request_id, count(*) FROM history"
        " WHERE operation = 'DELETE' GROUP BY 1, 2, 3, 4 ORDER BY 1"
    ) == [
        (table, actor.user_id, actor.session_id, actor.request_id, count)
        for table, count in (("groups", 1), ("members", MANY))
    ]


async def test_node_that_dies(db, db_url, sql, crowd, actor, remove):
    """What one node has begun another one finishes. While one is at it, others leave it alone."""
    await Groups(db, Heads()).delete(crowd, actor)
    removal = {"removal_id": crowd, "batch": AT_ONCE}
    assert await db.fetch_one(REMOVE_MEMBERS, **removal) == (AT_ONCE,)
    with psycopg.connect(db_url) as other:
        assert other.execute(REMOVE_MEMBERS.sql, removal).fetchone() == (AT_ONCE,)
        assert await db.fetch_one(REMOVE_MEMBERS, **removal) == (0,)
        other.rollback()  # it is killed
    await remove()
    assert members_left(sql) == 0
    assert sql("SELECT array_agg(seq ORDER BY seq) FROM events") == [([*range(1, 2 * MANY + 2)],)]


async def test_positions_and_replay(db, sql, crowd, actor, remove):
    """Members find the end of the log, and what they have missed before it; whether their rows are still there or not.

    Others find nothing.
    """
    log = EventLog(db)
    [(member,)] = sql("SELECT user_id FROM members ORDER BY user_id DESC LIMIT 1")
    sql("SELECT att_broadcast(%s, '{}')", crowd)
    sql("DELETE FROM events WHERE seq <= %s", MANY)  # by retention; that it has joined is not told any more
    await Groups(db, Heads()).delete(crowd, actor)
    for _ in range(2):
        assert await log.positions(member) == [Position(crowd, "", MANY + 2, is_member=False)]
        assert await log.positions(actor.user_id) == []
        found = await log.read_from(crowd, member, MANY)
        assert (found.was_member, found.slice.head) == (True, MANY + 2)
        assert [(event.seq, event.kind) for event in found.visible_to(member)] == [
            (MANY + 1, "message"),
            (MANY + 2, "left"),
        ]
        assert not (await log.read_from(crowd, actor.user_id, MANY)).was_member
        assert [event.seq for event in (await log.read({crowd: 0}))[crowd].events] == [MANY + 1, MANY + 2]
        assert await log.heads([crowd]) == {crowd: MANY + 2}
        assert [found async for found in log.joinings([member])] == []
        await remove()
    assert members_left(sql) == 0


@pytest.fixture
def busy(sql, add_user) -> Actor:
    """A user in more groups than a deletion leaves by itself."""
    busy = add_user("busy")
    sql(ADD_GROUPS, MANY)
    sql(JOIN_ALL)
    return busy


async def test_user_in_many_groups(db, db_url, sql, busy, remove):
    """They are gone at once, and leave their groups in batches. A group that others have locked has its turn later."""
    sql("DELETE FROM users WHERE id = %s", busy.user_id)
    assert members_left(sql) == MANY
    with psycopg.connect(db_url) as other:
        [locked] = other.execute("SELECT id FROM groups ORDER BY id LIMIT 1 FOR UPDATE").fetchone()
        await remove()
        assert sql("SELECT group_id FROM members") == [(locked,)]
    await remove()
    assert members_left(sql) == 0
    assert sql("SELECT * FROM removals") == []
    assert sql(
        "SELECT DISTINCT g.seq, e.kind FROM groups AS g JOIN events AS e ON e.group_id = g.id AND e.seq = 2"
    ) == [(2, "left")]


async def test_many_users(db, sql, crowd, actor, remove, monkeypatch):
    """The memberships of all users of one statement count together; each user leaves by themselves.

    One statement removes a user, and pauses come after as many members as with one large group.
    """
    pauses, sleep = [], asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: (pauses.append(seconds), sleep(0))[1])
    sql("DELETE FROM users WHERE id <> %s", actor.user_id)
    assert members_left(sql) == MANY
    [(first,)] = sql("SELECT id FROM removals ORDER BY at LIMIT 1")
    assert await db.fetch_one(REMOVE_MEMBERS, removal_id=first, batch=AT_ONCE) == (1,)
    assert sql("SELECT count(*) FROM removals") == [(MANY - 1,)]
    await remove()
    assert members_left(sql) == 0
    assert sql("SELECT * FROM removals") == []
    assert sql("SELECT seq FROM groups") == [(2 * MANY,)]
    assert len(pauses) == (MANY - 1) // AT_ONCE


async def test_user_and_group(db, sql, crowd, actor, remove):
    """A member of a large group that is being removed may be deleted, too."""
    [(member,)] = sql("SELECT user_id FROM members ORDER BY user_id DESC LIMIT 1")
    sql(ADD_GROUPS, MANY)
    sql(f"{JOIN_ALL} WHERE u.id = %s ON CONFLICT DO NOTHING", member)
    await Groups(db, Heads()).delete(crowd, actor)
    sql("DELETE FROM users WHERE id = %s", member)
    await remove()
    assert members_left(sql) == 0
    assert sql("SELECT * FROM removals") == []


async def test_one_snapshot(db, db_url, sql, tea, ann_id, add_group, remove):
    """A deletion that cannot see a membership which was added meanwhile leaves it to the background."""
    water = add_group("water")
    with psycopg.connect(db_url) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT FROM members")
        sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", water, ann_id)
        other.execute("DELETE FROM users WHERE id = %s", (ann_id,))
    await remove()
    assert members_left(sql) == 0


@pytest.mark.parametrize("what", ["groups", "users"])
def test_members_refer_to_what_exists(sql, postgresql, tea, ann_id, add_user, what):
    """As by foreign keys: nobody is a member of an unknown group, no unknown user is a member, and ids stay."""
    ids = {"groups": tea, "users": add_user("ben").user_id}
    unknown = ids | {what: uuid4()}
    with pytest.raises(sql_errors.ForeignKeyViolation) as caught:
        sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", *unknown.values())
    column = {"groups": "group_id", "users": "user_id"}[what]
    assert caught.value.diag.constraint_name == f"fk_members_{column}_{what}"
    postgresql.rollback()
    with pytest.raises(sql_errors.ForeignKeyViolation):
        sql(f"UPDATE members SET {column} = %s", uuid4())
    postgresql.rollback()
    with pytest.raises(sql_errors.ForeignKeyViolation):
        sql(f"UPDATE {what} SET id = %s WHERE id = ANY (%s)", uuid4(), [tea, ann_id])
