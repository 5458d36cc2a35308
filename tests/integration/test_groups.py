"""Groups and their members, and calls of the listener."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from databases import dsn_of
from waiting import eventually

from att.core.pagination import Window
from att.core.permissions import Actor
from att.core.quotas import Quota, Quotas
from att.errors import (
    GroupNameTaken,
    LastOwner,
    NoSuchGroup,
    NoSuchMember,
    NoSuchUser,
    NotAMember,
    NotAnOwner,
    QuotaExceeded,
)
from att.groups.service import Groups

DEADLINE = 20


class Recorder:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def joined(self, group_id: UUID, seq: int, user_id: UUID) -> None:
        self.told.append(("joined", group_id, seq, user_id))

    def observe_head(self, group_id: UUID, seq: int) -> None:
        self.told.append(("ring", group_id, seq))


@pytest.fixture
def listener():
    return Recorder()


@pytest.fixture
def groups(db, listener):
    return Groups(db, listener)


@pytest.fixture
def ann(add_user):
    return add_user("ann")


@pytest.fixture
def bob(add_user):
    return add_user("bob")


@pytest.fixture
def members(sql):
    """Return the rows of the table of members."""
    return lambda: {row[0] for row in sql("SELECT user_id FROM members")}


async def until(condition: Callable[[], Any]) -> Any:
    """Wait until the condition is true; return its value."""
    end = time.monotonic() + DEADLINE
    while not (result := condition()):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    return result


# Groups


async def test_create(groups, listener, sql, ann):
    """The creator of a group is its owner, and is announced at once."""
    group = await groups.create("Tea", ann)
    assert (group.name, group.role) == ("Tea", "owner")
    assert sql('SELECT id, name, "join", post, retention, history, created_at, seq FROM groups') == [group[:8]]
    assert (group.join, group.post) == ("invite", "members")
    assert sql("SELECT group_id, user_id, role FROM members") == [(group.id, ann.user_id, "owner")]
    assert listener.told == [("joined", group.id, 1, ann.user_id)]


async def test_rules(groups, listener, sql, ann, bob):
    """A group is created with its rules; a change sets the given values and no membership, and is an event."""
    tea = await groups.create("Tea", ann, join="open", post="owners", retention=7, history="all")
    assert (tea.join, tea.post, tea.retention, tea.history) == ("open", "owners", 7, "all")
    assert (await groups.create("Coffee", ann))[2:6] == ("invite", "members", 1000, "since_join")
    await groups.delete((await groups.find("Coffee", ann.user_id)).id, ann)
    listener.told.clear()
    expected = tea
    for change in (
        {},
        {"post": "members"},
        {"name": "TEA"},
        {"name": "Straße", "join": "invite"},
        {"retention": 0},
    ):
        expected = expected._replace(**change, seq=expected.seq + bool(change))
        assert await groups.change(tea.id, ann, **change) == expected
        assert await groups.find(str(tea.id), ann.user_id) == expected
        assert await groups.find(str(tea.id), bob.user_id) == expected._replace(role=None)
    assert await groups.find("STRASSE", ann.user_id) == expected
    with pytest.raises(NoSuchGroup):
        await groups.find("tea", ann.user_id)
    assert sql("SELECT count(*) FROM members") == [(1,)]
    assert listener.told == []


async def test_change_refused(groups, ann):
    """A taken name fails the whole change; a deleted group cannot be changed."""
    tea, coffee = await groups.create("tea", ann), await groups.create("coffee", ann)
    with pytest.raises(GroupNameTaken):
        await groups.change(coffee.id, ann, name="TEA", join="open")
    assert await groups.find("coffee", ann.user_id) == coffee
    await groups.delete(tea.id, ann)
    for change in ({}, {"name": "tea"}, {"join": "open"}):
        with pytest.raises(NoSuchGroup):
            await groups.change(tea.id, ann, **change)


async def test_rename_at_once(groups, ann):
    """Of five groups renamed to the same name at once, one succeeds."""
    made = [await groups.create(f"group {number}", ann) for number in range(5)]
    outcomes = await asyncio.gather(*(groups.change(one.id, ann, name="tea") for one in made), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(GroupNameTaken) == 4


async def test_create_taken(groups, listener, sql, ann, bob):
    """A name is taken in any case and normal form; the second creation changes and announces nothing."""
    await groups.create("Café", ann)
    listener.told.clear()
    for name in ("Café", "CAFÉ", "cafe\u0301"):
        with pytest.raises(GroupNameTaken):
            await groups.create(name, bob)
    assert sql("SELECT count(*) FROM groups") == sql("SELECT count(*) FROM members") == [(1,)]
    assert listener.told == []


async def test_create_at_once(groups, listener, ann):
    """Of ten concurrent creations with the same name, one succeeds."""
    outcomes = await asyncio.gather(*(groups.create("tea", ann) for _ in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(GroupNameTaken) == 9
    assert len(listener.told) == 1


async def test_create_by_unknown_user(groups, listener, sql):
    """A group is created with its owner or not at all."""
    with pytest.raises(NoSuchUser):
        await groups.create("tea", Actor(uuid4(), uuid4(), "test"))
    assert sql("SELECT * FROM groups") == []
    assert listener.told == []


async def test_delete(groups, listener, sql, ann):
    """A deletion removes the members, and its log says so; deleting an unknown group is an error."""
    tea = await groups.create("tea", ann)
    coffee = await groups.create("coffee", ann)
    listener.told.clear()
    await groups.delete(tea.id, ann)
    assert listener.told == [("ring", tea.id, 2)]
    with pytest.raises(NoSuchGroup):
        await groups.delete(tea.id, ann)
    assert listener.told == [("ring", tea.id, 2)]
    assert sql("SELECT seq, kind, actor_id FROM events WHERE group_id = %s ORDER BY seq", tea.id) == [
        (1, "joined", ann.user_id),
        (2, "left", ann.user_id),
    ]
    assert sql("SELECT group_id FROM members") == [(coffee.id,)]


# Members


async def test_add_and_remove(groups, listener, members, ann, bob):
    """Members are added and removed, each announced afterwards."""
    tea = await groups.create("tea", ann)
    listener.told.clear()
    member, is_new = await groups.add_member(tea.id, bob.user_id, ann)
    assert (member.user_id, member.login, member.role, is_new) == (bob.user_id, "bob", "member", True)
    assert await groups.add_member(tea.id, bob.user_id, ann) == (member, False)
    assert members() == {ann.user_id, bob.user_id}
    await groups.remove_member(tea.id, bob.user_id, ann)
    assert members() == {ann.user_id}
    assert listener.told == [("joined", tea.id, 2, bob.user_id), ("ring", tea.id, 3)]


async def test_nobody_there(groups, listener, members, ann, bob):
    """Unknown users and deleted groups raise the errors of their foreign keys, and announce nothing."""
    tea, coffee = await groups.create("tea", ann), await groups.create("coffee", ann)
    await groups.delete(coffee.id, ann)
    listener.told.clear()
    for group_id, user_id, error in [(tea.id, uuid4(), NoSuchUser), (coffee.id, bob.user_id, NoSuchGroup)]:
        with pytest.raises(error):
            await groups.add_member(group_id, user_id, ann)
    for group_id, user_id in [(tea.id, bob.user_id), (tea.id, uuid4()), (coffee.id, ann.user_id)]:
        with pytest.raises(NoSuchMember):
            await groups.remove_member(group_id, user_id, ann)
    assert members() == {ann.user_id}
    assert listener.told == []


async def test_last_owner(groups, listener, sql, ann, bob):
    """The last owner cannot leave; with another owner they can."""
    tea = await groups.create("tea", ann)
    await groups.add_member(tea.id, bob.user_id, ann)
    listener.told.clear()
    with pytest.raises(LastOwner):
        await groups.remove_member(tea.id, ann.user_id, ann)
    assert sql("SELECT count(*) FROM members") == [(2,)]
    assert listener.told == []
    sql("UPDATE members SET role = 'owner'")
    await groups.remove_member(tea.id, ann.user_id, ann)
    assert sql("SELECT user_id FROM members") == [(bob.user_id,)]


async def test_roles(groups, listener, sql, ann, bob):
    """A new member gets the given role or is a plain member; others keep theirs without one."""
    tea = await groups.create("tea", ann)
    for role, expected in (
        ("owner", "owner"),
        (None, "owner"),
        ("owner", "owner"),
        ("member", "member"),
        (None, "member"),
    ):
        member, _ = await groups.add_member(tea.id, bob.user_id, ann, role)
        assert member.role == expected
    await groups.remove_member(tea.id, bob.user_id, ann)
    listener.told.clear()
    for role in (None, "member", "owner"):
        member, is_new = await groups.add_member(tea.id, bob.user_id, ann, role)
        assert (member.role, is_new) == (role or "member", True)
        await groups.remove_member(tea.id, bob.user_id, ann)
    assert listener.told == [
        told for seq in (5, 7, 9) for told in (("joined", tea.id, seq, bob.user_id), ("ring", tea.id, seq + 1))
    ]


async def test_last_owner_is_not_demoted(groups, listener, ann, bob):
    """The last owner cannot be demoted, however many members there are; with another owner they can."""
    tea, coffee = await groups.create("tea", ann), await groups.create("coffee", bob)
    await groups.add_member(tea.id, bob.user_id, ann)
    await groups.add_member(coffee.id, ann.user_id, bob, "owner")
    listener.told.clear()
    with pytest.raises(LastOwner):
        await groups.add_member(tea.id, ann.user_id, ann, "member")
    assert listener.told == []
    assert (await groups.find("tea", ann.user_id)).role == "owner"
    await groups.add_member(tea.id, bob.user_id, ann, "owner")
    await groups.add_member(tea.id, ann.user_id, ann, "member")
    assert [(await groups.find("tea", who.user_id)).role for who in (ann, bob)] == ["member", "owner"]
    assert (await groups.find("coffee", ann.user_id)).role == "owner"


async def test_without_owner(groups, sql, add_user, ann, bob):
    """A group whose only owner is deleted has no owner, and can get a new one."""
    tea = await groups.create("tea", ann)
    await groups.add_member(tea.id, bob.user_id, ann)
    sql("DELETE FROM users WHERE id = %s", ann.user_id)
    admin = add_user("admin")
    sql("INSERT INTO roles (name, name_key, permissions) VALUES ('Groups', 'groups', '{groups.write}')")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Groups') WHERE id = %s", admin.user_id)
    member, is_new = await groups.add_member(tea.id, bob.user_id, admin, "owner")
    assert (member.role, is_new) == ("owner", False)
    with pytest.raises(LastOwner):
        await groups.remove_member(tea.id, bob.user_id, admin)


async def test_two_owners_demote_each_other(groups, db, sql, ann, bob):
    """Of two owners who demote each other at once one stays, on one node and on two."""
    nodes = (groups, groups), (groups, Groups(db, Recorder()))
    for number in range(10):
        tea = await groups.create(f"tea {number}", ann)
        await groups.add_member(tea.id, bob.user_id, ann, "owner")
        on_one, on_other = nodes[number % 2]
        outcomes = await asyncio.gather(
            on_one.add_member(tea.id, bob.user_id, ann, "member"),
            on_other.add_member(tea.id, ann.user_id, bob, "member"),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes].count(NotAnOwner) == 1
        assert sql("SELECT count(*) FROM members WHERE group_id = %s AND role = 'owner'", tea.id) == [(1,)]


@pytest.fixture
def many_connections(monkeypatch):
    """As many as a server has, for one user, as whom everything below HTTP counts."""
    monkeypatch.setattr("att.db.engine.POOL_SIZE", 10)
    monkeypatch.setattr("att.db.engine.USER_CONNECTIONS", 10)


@pytest.mark.usefixtures("many_connections")
async def test_who_is_removed_while_they_wait(groups, sql, postgresql, ann, bob):
    """A change that waited for the actor's removal fails, though it was allowed before."""
    tea = await groups.create("tea", ann)
    await groups.add_member(tea.id, bob.user_id, ann, "owner")

    async def wait(count):
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return sql(query) == [(count,)]

    with psycopg.connect(dsn_of(postgresql)) as holder:  # lets the removal be the first to get the group
        holder.execute("SELECT 1 FROM groups WHERE id = %s FOR UPDATE", [tea.id])
        removal = asyncio.create_task(groups.remove_member(tea.id, bob.user_id, ann))
        await eventually(lambda: wait(1))
        changes = asyncio.gather(
            groups.add_member(tea.id, bob.user_id, bob, "owner"),
            groups.add_members(tea.id, [bob.user_id], bob),
            groups.remove_member(tea.id, ann.user_id, bob),
            groups.change(tea.id, bob, name="mine"),
            groups.delete(tea.id, bob),
            return_exceptions=True,
        )
        await eventually(lambda: wait(6))
        holder.rollback()
    await removal
    assert [type(outcome) for outcome in await changes] == [NotAMember] * 5
    assert sql("SELECT user_id, role FROM members WHERE group_id = %s", tea.id) == [(ann.user_id, "owner")]


async def test_two_owners_leave(groups, sql, ann, bob):
    """Of two owners who leave at once one succeeds, in every try."""
    for number in range(10):
        tea = await groups.create(f"tea {number}", ann)
        await groups.add_member(tea.id, bob.user_id, ann)
        sql("UPDATE members SET role = 'owner'")
        outcomes = await asyncio.gather(
            *(groups.remove_member(tea.id, owner.user_id, owner) for owner in (ann, bob)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes if outcome] == [LastOwner]
        assert sql("SELECT count(*) FROM members WHERE group_id = %s", tea.id) == [(1,)]


SLOW_CHANGE = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN coalesce(NEW, OLD); END';
    CREATE TRIGGER wait BEFORE UPDATE OR DELETE ON members FOR EACH ROW EXECUTE FUNCTION wait();
"""


def leave(node, group_id, user_id, actor):
    return node.remove_member(group_id, user_id, actor)


def step_back(node, group_id, user_id, actor):
    return node.add_member(group_id, user_id, actor, "member")


@pytest.mark.parametrize(("anns_way", "bobs_way"), [(leave, leave), (step_back, step_back), (leave, step_back)])
async def test_two_owners_go_on_two_nodes(*, groups, db, postgresql, ann, bob, anns_way, bobs_way):
    """The same holds on two nodes, each stopped halfway."""
    tea = await groups.create("tea", ann)
    await groups.add_member(tea.id, bob.user_id, ann, "owner")
    postgresql.execute(SLOW_CHANGE)
    postgresql.commit()
    postgresql.execute("SELECT pg_advisory_lock(1)")
    leaving = [
        asyncio.create_task(anns_way(groups, tea.id, ann.user_id, ann)),
        asyncio.create_task(bobs_way(Groups(db, Recorder()), tea.id, bob.user_id, bob)),
    ]
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
    await until(lambda: postgresql.execute(waiting).fetchone() == (2,))
    postgresql.execute("SELECT pg_advisory_unlock(1)")
    outcomes = await asyncio.gather(*leaving, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(LastOwner) == 1
    assert postgresql.execute("SELECT count(*) FROM members WHERE role = 'owner'").fetchone() == (1,)


# Quotas


@pytest.fixture
def exempt(sql):
    """Give a user a role with this permission."""

    def go(user_id, permission="quotas.exempt"):
        sql("INSERT INTO roles (name, name_key, permissions) VALUES ('Big', 'big', %s)", [permission])
        sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Big') WHERE id = %s", user_id)

    return go


@pytest.fixture
def limited(db, listener):
    """Make groups with these quotas, on a node of their own."""
    return lambda **limits: Groups(db, listener, Quotas({Quota[name.upper()]: limit for name, limit in limits.items()}))


@contextlib.contextmanager
def exceeding(quota, index=None):
    """Expect that the block exceeds this quota."""
    with pytest.raises(QuotaExceeded) as caught:
        yield
    assert (caught.value.quota, caught.value.index) == (quota, index)


async def test_groups_owned(limited, sql, exempt, ann, bob):
    """A user owns so many groups, created or given; leaving one makes room, and what is above the quota stays."""
    groups = limited(groups_owned=2)
    tea, coffee = [await groups.create(name, ann) for name in ("tea", "coffee")]
    with exceeding("groups-owned"):
        await groups.create("milk", ann)
    milk = await groups.create("milk", bob)
    await groups.add_member(milk.id, ann.user_id, bob)  # as a plain member
    with exceeding("groups-owned"):
        await groups.add_member(milk.id, ann.user_id, bob, "owner")
    await groups.add_member(tea.id, ann.user_id, ann, "owner")  # as before
    await groups.delete(coffee.id, ann)
    await groups.add_member(milk.id, ann.user_id, bob, "owner")
    await limited(groups_owned=1).change(tea.id, ann, name="green tea")
    exempt(ann.user_id)
    await groups.create("coffee", ann)
    assert sql("SELECT count(*) FROM members WHERE user_id = %s", ann.user_id) == [(3,)]


async def test_groups_joined(limited, groups, add_user, exempt, ann, bob):
    """A user is in so many groups; the one of many whom the quota refuses is told, and none of them is added."""
    strict = limited(groups_joined=1)
    await strict.create("tea", ann)
    with exceeding("groups-joined"):
        await strict.create("coffee", ann)
    coffee = await strict.create("coffee", bob)
    with exceeding("groups-joined"):
        await strict.add_member(coffee.id, ann.user_id, bob)
    free = add_user("free").user_id
    with exceeding("groups-joined", 2):
        await strict.add_members(coffee.id, [free, bob.user_id, ann.user_id], bob)
    assert [member.user_id for member in (await groups.members(coffee.id, Window())).items] == [bob.user_id]
    await strict.add_members(coffee.id, [free, bob.user_id], bob)
    exempt(ann.user_id)  # whoever adds a user, the user's role counts
    await strict.add_members(coffee.id, [ann.user_id], bob)


async def test_who_exempts(limited, exempt, ann, bob):
    """An actor who is exempt may add users who are not."""
    strict = limited(groups_joined=1, members=1)
    await strict.create("tea", bob)
    coffee = await strict.create("coffee", ann)
    exempt(ann.user_id)
    await strict.add_members(coffee.id, [bob.user_id], ann)
    await strict.remove_member(coffee.id, bob.user_id, ann)
    await strict.add_member(coffee.id, bob.user_id, ann)


async def test_members(limited, add_user, ann, bob):
    """A group has so many members; those who are in it already do not count twice."""
    strict = limited(members=3)
    tea = await strict.create("tea", ann)
    guests = [add_user(f"guest {number}").user_id for number in range(3)]
    with exceeding("members"):
        await strict.add_members(tea.id, guests, ann)
    await strict.add_members(tea.id, [*guests[:2], guests[0], ann.user_id], ann)
    await strict.add_members(tea.id, guests[:2], ann)
    await strict.add_member(tea.id, guests[0], ann, "owner")
    with exceeding("members"):
        await strict.add_member(tea.id, bob.user_id, ann)
    await strict.remove_member(tea.id, guests[1], ann)
    await strict.add_member(tea.id, bob.user_id, ann)


@pytest.mark.parametrize("permission", ["groups.write", "quotas.exempt"])
async def test_retention(limited, exempt, ann, bob, permission):
    """Who may change every group sets a longer retention, which others may keep or lower."""
    strict = limited(retention=100)
    tea = await strict.create("tea", ann)
    assert tea.retention == 100  # the default, or the quota if that is less
    assert (await limited().create("coffee", ann)).retention == 1_000
    for change in (strict.create("milk", ann, retention=101), strict.change(tea.id, ann, retention=101)):
        with exceeding("retention"):
            await change
    exempt(bob.user_id, permission)
    await strict.create("milk", bob, retention=101)
    await strict.add_member(tea.id, bob.user_id, ann, "owner")
    await strict.change(tea.id, bob, retention=2_000)
    await strict.change(tea.id, ann, retention=2_000, name="green tea")
    assert (await strict.change(tea.id, ann, retention=1_500)).retention == 1_500
    with exceeding("retention"):
        await strict.change(tea.id, ann, retention=1_501)


@pytest.mark.parametrize("quota", ["groups_owned", "groups_joined"])
async def test_groups_at_once(limited, sql, ann, quota):
    """The quota of groups holds when a user creates many at once, on two nodes."""
    nodes = [limited(**{quota: 3}) for _ in range(2)]
    outcomes = await asyncio.gather(
        *(nodes[number % 2].create(f"tea {number}", ann) for number in range(8)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(QuotaExceeded) == 5
    assert sql("SELECT count(*) FROM groups") == [(3,)]


async def test_joining_at_once(limited, sql, add_user, ann, bob):
    """The quotas of members, and of groups joined, hold when many are added at once, on two nodes."""
    nodes = [limited(members=3, groups_joined=2) for _ in range(2)]
    made = [await nodes[0].create(f"tea {number}", add_user(f"owner {number}"), join="open") for number in range(4)]
    guests = [add_user(f"guest {number}") for number in range(4)]
    outcomes = await asyncio.gather(
        *(
            nodes[number % 2].add_member(group.id, guest.user_id, guest)
            for number, guest in enumerate(guests)
            for group in made
        ),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {tuple, QuotaExceeded}
    assert max(sql("SELECT count(*) FROM members GROUP BY group_id"))[0] == 3
    assert max(sql("SELECT count(*) FROM members GROUP BY user_id"))[0] == 2


# Many at once


async def test_add_many(groups, listener, add_user, ann, bob):
    """Members are returned in order without repetitions, present ones keep their role, and all are announced."""
    tea = await groups.create("tea", ann)
    guests = [add_user(f"guest {number}").user_id for number in range(5)]
    bobs, _ = await groups.add_member(tea.id, bob.user_id, ann)
    listener.told.clear()
    asked = [guests[3], ann.user_id, guests[0], guests[3], bob.user_id, guests[4], guests[0]]
    items = await groups.add_members(tea.id, asked, ann)
    assert [item.user_id for item in items] == [guests[3], ann.user_id, guests[0], bob.user_id, guests[4]]
    assert [item.role for item in items] == ["member", "owner", "member", "member", "member"]
    assert items[3] == bobs
    assert len({item.joined_at for item in items if item.user_id in guests}) == 1
    assert listener.told == [("joined", tea.id, 3, item.user_id) for item in items]
    listener.told.clear()
    await groups.add_members(tea.id, asked, ann)
    assert listener.told == []
    listed = (await groups.members(tea.id, Window())).items
    assert sorted(listed) == sorted(items)
    assert listed == sorted(items, key=lambda item: (item.joined_at, item.user_id))


async def test_add_very_many(groups, sql, ann):
    """One call adds a thousand members, and none to another group."""
    tea, coffee = await groups.create("tea", ann), await groups.create("coffee", ann)
    query = (
        "INSERT INTO users (login, login_key, search_text, role_id)"
        " SELECT n, n, n, roles.id FROM generate_series(1, 1000) n, roles WHERE name = 'User' RETURNING users.id"
    )
    guests = [row[0] for row in sql(query)]
    assert [item.user_id for item in await groups.add_members(tea.id, guests[::-1], ann)] == guests[::-1]
    assert sql("SELECT group_id, count(*) FROM members GROUP BY 1 ORDER BY 2") == [(coffee.id, 1), (tea.id, 1001)]


async def test_add_many_or_none(groups, listener, members, ann, bob):
    """One unknown user fails the whole call, with its index; so does a deleted group."""
    tea = await groups.create("tea", ann)
    listener.told.clear()
    unknown = uuid4()
    for asked, index in (
        ([unknown], 0),
        ([bob.user_id, unknown], 1),
        ([bob.user_id, ann.user_id, bob.user_id, unknown, uuid4()], 3),
    ):
        with pytest.raises(NoSuchUser) as caught:
            await groups.add_members(tea.id, asked, ann)
        assert caught.value.index == index
    with pytest.raises(NoSuchGroup):
        await groups.add_members(uuid4(), [bob.user_id], ann)
    assert members() == {ann.user_id}
    assert listener.told == []


async def test_a_user_goes_while_many_are_added(groups, postgresql, members, add_user, ann):
    """A user deleted meanwhile fails the whole call, with its index."""
    tea = await groups.create("tea", ann)
    ben, zoe = add_user("ben").user_id, add_user("zoe").user_id
    postgresql.execute("DELETE FROM users WHERE id = %s", (zoe,))
    adding = asyncio.create_task(groups.add_members(tea.id, [ben, zoe], ann))
    await until(lambda: blocked(postgresql))
    postgresql.commit()
    with pytest.raises(NoSuchUser) as caught:
        await adding
    assert caught.value.index == 1
    assert members() == {ann.user_id}


# The listener


async def test_what_is_announced_is_in_the_log(groups, listener, sql, ann, bob):
    """Under concurrent changes of the same member, each announced seq is that of its event in the log."""
    tea = await groups.create("tea", ann)
    changes = (groups.remove_member if number % 3 else groups.add_member for number in range(50))
    outcomes = await asyncio.gather(*(change(tea.id, bob.user_id, ann) for change in changes), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} <= {NoSuchMember}
    kinds = {"joined": "joined", "ring": "left"}
    told = sorted((seq, kinds[verb]) for verb, _, seq, *_ in listener.told)
    assert told == sql("SELECT seq, kind FROM events ORDER BY seq")


async def test_announced_after_commit(groups, listener, postgresql, ann, bob):
    """A change is announced after its commit, never before."""
    tea = await groups.create("tea", ann)
    listener.told.clear()
    postgresql.execute("SELECT FROM groups FOR UPDATE")
    change = asyncio.create_task(groups.add_member(tea.id, bob.user_id, ann))
    await until(lambda: blocked(postgresql))
    assert listener.told == []
    postgresql.commit()
    await change
    assert listener.told == [("joined", tea.id, 2, bob.user_id)]


async def test_a_change_and_those_who_refer_to_the_group(groups, postgresql, ann, bob):
    """A change does not wait for SQL that adds members and locks the group later; a deletion does."""
    tea = await groups.create("tea", ann)
    postgresql.execute("SELECT FROM groups FOR KEY SHARE")
    async with asyncio.timeout(DEADLINE):
        await groups.change(tea.id, ann, post="owners")
        await groups.add_member(tea.id, bob.user_id, ann)
        await groups.remove_member(tea.id, bob.user_id, ann)
    deletion = asyncio.create_task(groups.delete(tea.id, ann))
    await until(lambda: blocked(postgresql))
    postgresql.execute("INSERT INTO members SELECT id, %s, 'member' FROM groups", (bob.user_id,))
    postgresql.commit()
    await deletion


async def test_groups_do_not_wait_for_each_other(groups, postgresql, ann, bob):
    """A change that waits in one group does not block another group."""
    tea, coffee = await groups.create("tea", ann), await groups.create("coffee", ann)
    postgresql.execute("SELECT FROM groups WHERE id = %s FOR UPDATE", (tea.id,))
    change = asyncio.create_task(groups.add_member(tea.id, bob.user_id, ann))
    await until(lambda: blocked(postgresql))
    async with asyncio.timeout(DEADLINE):
        await groups.add_member(coffee.id, bob.user_id, ann)
    assert not change.done()
    postgresql.commit()
    await change


def blocked(postgresql) -> list[int]:
    """Return the backends that wait for this connection."""
    query = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    return [row[0] for row in postgresql.execute(query)]
