"""Profiles: who sees whom."""

from uuid import uuid4

import pytest

from att.accounts.profiles import Profiles
from att.realtime.event_log import EventLog, Publish, PublishResult


@pytest.fixture
def sees(db):
    """Return the logins of those of these users whom the viewer sees."""

    async def go(viewer, *users, reads_all=False):
        return [profile.login for profile in await Profiles(db).visible(viewer, users, reads_all=reads_all)]

    return go


@pytest.fixture
def send(db):
    """Send messages to a group."""

    async def go(group, user, count=1):
        for result in await EventLog(db).append([Publish(group, user, b"{}")] * count):
            assert isinstance(result, PublishResult), result

    return go


@pytest.fixture
def join(sql):
    return lambda group, *users: sql(
        "INSERT INTO members (group_id, user_id, role) SELECT %s, unnest(%s), 'member'", group, [*users]
    )


@pytest.fixture
def leave(sql):
    return lambda group, user: sql("DELETE FROM members WHERE group_id = %s AND user_id = %s", group, user)


@pytest.fixture
def people(add_user):
    return {login: add_user(login).user_id for login in ("bob", "zoe", "eve")}


@pytest.fixture
def service(add_user, sql):
    """A user who may send to any group, and is in none."""
    user_id = add_user("service").user_id
    sql(
        "WITH r AS (INSERT INTO roles (name, name_key, permissions) VALUES ('S', 's', '{broadcast.any}') RETURNING id)"
        " UPDATE users SET role_id = r.id FROM r WHERE users.id = %s",
        user_id,
    )
    return user_id


async def test_fellows(sees, tea, ann_id, people, join, leave, add_group, sql):
    """Members of one group see each other, in the order of asking, until they leave; everyone sees themselves alone."""
    bob, zoe, eve = people.values()
    join(tea, bob, zoe)
    join(add_group("milk"), zoe, eve)
    assert await sees(ann_id, zoe, uuid4(), eve, bob, ann_id, zoe) == ["zoe", "bob", "ann"]
    assert await sees(zoe, *people.values(), ann_id) == ["bob", "zoe", "eve", "ann"]
    assert await sees(eve, bob, ann_id, eve) == ["eve"]
    leave(tea, zoe)
    assert await sees(ann_id, zoe, bob) == ["bob"]
    sql("ALTER TABLE members DISABLE TRIGGER USER; DELETE FROM groups")  # a large one's rows outlive it
    assert await sees(ann_id, bob) == []


async def test_a_sender_who_has_left(sees, tea, ann_id, people, join, leave, send, sql):
    """They are seen by members who may read a message of theirs, and as long as the log has it."""
    bob, zoe, eve = people.values()
    join(tea, bob, eve)
    await send(tea, bob)
    leave(tea, bob)
    assert await sees(ann_id, bob) == await sees(eve, bob) == ["bob"]
    join(tea, zoe)
    assert await sees(zoe, bob) == []
    leave(tea, eve)
    assert await sees(eve, bob) == []
    join(tea, eve)
    assert await sees(eve, bob) == ["bob"]
    sql("UPDATE groups SET history = 'all'")
    assert await sees(zoe, bob) == ["bob"]
    leave(tea, zoe)
    assert await sees(zoe, bob) == []
    assert await sees(zoe, bob, reads_all=True) == ["bob"]
    sql("DELETE FROM events WHERE kind = 'message'")
    assert await sees(ann_id, bob) == await sees(zoe, bob, reads_all=True) == []


async def test_who_was_never_a_member(sees, tea, ann_id, people, join, send, service, sql):
    """They are seen by members who may read a message of theirs; a note of them is made once for a thousand events."""
    bob, zoe, eve = people.values()
    join(tea, bob)
    await send(tea, service, 2)
    notes = sql("SELECT user_id, group_id, seq FROM outside_senders")
    assert notes == [(service, tea, 1004)]
    assert await sees(ann_id, service) == ["service"]
    assert await sees(eve, service) == []
    join(tea, zoe)
    assert await sees(zoe, service) == []
    await send(tea, bob)
    await send(tea, service)
    assert sql("SELECT user_id, group_id, seq FROM outside_senders") == notes
    assert await sees(zoe, service) == ["service"]
    sql("UPDATE groups SET seq = 1004")
    join(tea, eve)
    await send(tea, service)
    assert sql("SELECT seq FROM outside_senders") == [(2006,)]
    assert await sees(eve, service) == ["service"]
    sql("DELETE FROM groups")
    assert sql("SELECT * FROM outside_senders") == []


async def test_who_has_sent_in_sql(sees, tea, ann_id, people, sql):
    """So is a user in whose name SQL has sent; a member needs no note, nor does nobody."""
    bob, zoe, _ = people.values()
    for actor in (str(bob), str(ann_id), ""):
        sql("SELECT set_config('att.actor_id', %s, true), att_broadcast(%s, '{}')", actor, tea)
    assert sql("SELECT user_id FROM outside_senders") == [(bob,)]
    assert await sees(ann_id, bob, zoe) == ["bob"]


async def test_a_member_makes_no_note(tea, ann_id, send, service, join, sql):
    """Neither does one who may also send to any group, if only owners send to this one."""
    await send(tea, ann_id)
    join(tea, service)
    sql("UPDATE groups SET post = 'owners'")
    await send(tea, service)
    assert sql("SELECT * FROM outside_senders") == []
