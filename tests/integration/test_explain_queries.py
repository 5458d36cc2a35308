"""Why a user hears a group, or does not, as the database tells it."""

from datetime import timedelta
from uuid import uuid4

import pytest

from att.cli import explain_queries
from att.cli.explain_queries import ExplainedActor, ExplainedUser, Membership, explain
from att.errors import NoSuchGroup, NoSuchUser
from att.groups.service import Groups
from att.realtime.hub import Hub
from att.realtime.presence import Stay
from att.realtime.registry import Registry

AS_POSTGRES = ExplainedActor(None, None, "postgres")


@pytest.fixture
def groups(db):
    """Changes of groups, as the API makes them."""
    return Groups(db, Hub(Registry()))


@pytest.fixture
def ann(add_user):
    return add_user("ann")


@pytest.fixture
def ben(add_user):
    return add_user("ben")


@pytest.fixture
async def tea(groups, ann):
    """A group that Ann has made: the first event is her joining."""
    return (await groups.create("tea", ann)).id


def by(actor, login):
    """A change that this actor makes."""
    return ExplainedActor(actor.user_id, login, "postgres")


async def test_a_member(db, groups, ann, ben, tea, sql):
    """Since when, as what, and who has made them a member, by their ids and names in any case."""
    member, _ = await groups.add_member(tea, ben.user_id, ann)
    for user in ("ben", "BEN", str(ben.user_id)):
        for group in ("tea", "Tea", str(tea).upper()):
            found = await explain(db, user, group)
            assert found.user == ExplainedUser(ben.user_id, "ben", active=True)
            assert found.membership == Membership("member", member.joined_at, by(ann, "ann"))
            assert [(step.kind, step.role, step.seq, step.by) for step in found.steps] == [
                ("joined", "member", 2, by(ann, "ann"))
            ]
    ((at,),) = sql("SELECT at FROM events WHERE seq = 2")
    group = found.group
    assert (group.id, group.name, group.seq, group.retention, group.at, group.oldest) == (tea, "tea", 2, 1000, at, 1)
    assert (found.sockets, found.sessions) == ([], 0)


async def test_a_stranger(db, tea, ben):
    """No membership, and none before."""
    found = await explain(db, "ben", "tea")
    assert (found.membership, found.steps) == (None, [])


async def test_coming_and_going(db, groups, ann, ben, tea, sql):
    """Each step with its place in the log and who has made it, the newest first: themselves, others, SQL."""
    await groups.add_member(tea, ben.user_id, ann)
    await groups.remove_member(tea, ben.user_id, ben)
    sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", tea, ben.user_id)
    await groups.add_member(tea, ben.user_id, ann, "owner")
    found = await explain(db, "ben", "tea")
    assert [(step.kind, step.role, step.seq, step.by) for step in found.steps] == [
        ("changed", "owner", None, by(ann, "ann")),
        ("joined", "member", 4, AS_POSTGRES),
        ("left", None, 3, by(ben, "ben")),
        ("joined", "member", 2, by(ann, "ann")),
    ]
    assert (found.membership.role, found.membership.by) == ("owner", AS_POSTGRES)
    await groups.remove_member(tea, ben.user_id, ann)
    found = await explain(db, "ben", "tea")
    assert found.membership is None
    assert (found.steps[0].kind, found.steps[0].seq, found.steps[0].by) == ("left", 6, by(ann, "ann"))


async def test_what_the_log_has_lost(db, groups, ann, ben, tea, sql):
    """A step that the log no longer holds has no place, and takes that of no other; the history has it still."""
    await groups.add_member(tea, ben.user_id, ann)
    await groups.remove_member(tea, ben.user_id, ann)
    await groups.add_member(tea, ben.user_id, ann)
    sql("DELETE FROM events WHERE seq <= 3")
    found = await explain(db, "ben", "tea")
    assert [(step.kind, step.seq) for step in found.steps] == [("joined", 4), ("left", None), ("joined", None)]
    assert found.group.oldest == 4
    sql("DELETE FROM events")
    found = await explain(db, "ben", "tea")
    assert (found.group.seq, found.group.at, found.group.oldest) == (4, None, None)


async def test_who_is_gone(db, groups, ann, ben, tea, sql):
    """Of whoever has been deleted the id is left."""
    await groups.add_member(tea, ben.user_id, ann)
    sql("DELETE FROM users WHERE login = 'ann'")
    found = await explain(db, "ben", "tea")
    assert found.membership.by == by(ann, None)


async def test_many_steps(db, tea, ben, sql, monkeypatch):
    """The last ones are told, however many there were, and who has made them a member though that was before."""
    add = "INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')"
    sql(add, tea, ben.user_id)
    for role in ("owner", "member") * 6:
        sql("UPDATE members SET role = %s WHERE user_id = %s", role, ben.user_id)
    found = await explain(db, "ben", "tea")
    assert [step.role for step in found.steps] == ["member", "owner"] * 5
    assert found.membership.by == AS_POSTGRES
    monkeypatch.setattr(explain_queries, "CHANGES", 5)
    assert (await explain(db, "ben", "tea")).membership.by is None


async def test_sockets_and_sessions(db, tea, ben, sql):
    """Sockets on nodes that live, and sessions that have not expired."""
    node, dead = uuid4(), uuid4()
    sql("INSERT INTO nodes (id, name) VALUES (%s, 'one:1'), (%s, 'two:2')", node, dead)
    sql("UPDATE nodes SET seen_at = now() - interval '1 minute' WHERE name = 'two:2'")
    ((now,),) = sql("SELECT now()")
    for node_id in (node, dead):
        sql("INSERT INTO presence VALUES (%s, %s, %s, 3)", node_id, ben.user_id, now)
    session = "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES (%s, %s, %s)"
    for number, hours in enumerate((1, 2, -1)):
        sql(session, bytes([number]), ben.user_id, now + timedelta(hours=hours))
    found = await explain(db, "ben", "tea")
    assert (found.sockets, found.sessions) == ([Stay("one:1", now, 3)], 2)
    assert (await explain(db, "ben", "tea", has_sessions=False)).sessions is None


async def test_a_login_that_looks_like_an_id(db, tea, add_user):
    """Logins may look like ids; an id that there is comes first."""
    login = str(uuid4())
    odd = add_user(login)
    assert (await explain(db, login, "tea")).user.id == odd.user_id


@pytest.mark.parametrize("reference", ["nobody", "00000000-0000-4000-8000-000000000009"])
async def test_unknown(db, tea, ann, reference):
    """It is told which of the two there is not."""
    with pytest.raises(NoSuchUser, match=f"no user with the login or id '{reference}'"):
        await explain(db, reference, "tea")
    with pytest.raises(NoSuchGroup, match=f"no group with the name or id '{reference}'"):
        await explain(db, "ann", reference)
