"""Groups and their members, and what their audience is told."""

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from att.db import engine
from att.db.engine import Engine
from att.errors import (
    Busy,
    DatabaseUnavailable,
    GroupNameTaken,
    LastOwner,
    NoSuchGroup,
    NoSuchMember,
    NoSuchUser,
)
from att.groups import Groups
from att.paging import START, Window
from att.permissions import Actor

DEADLINE = 5.0


class Recorder:
    """An audience that remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def joined(self, group_id: UUID, user_id: UUID) -> None:
        self.told.append(("joined", group_id, user_id))

    def left(self, group_id: UUID, user_id: UUID) -> None:
        self.told.append(("left", group_id, user_id))

    def dropped(self, group_id: UUID) -> None:
        self.told.append(("dropped", group_id))

    def uncertain(self, group_id: UUID, user_id: UUID | None) -> None:
        self.told.append(("uncertain", group_id, user_id))


@pytest.fixture
def audience():
    return Recorder()


@pytest.fixture
def groups(db, audience):
    return Groups(db, audience)


@pytest.fixture
def sql(postgresql):
    """Run SQL beside the application; its rows, if it has any."""

    def run(query, *params):
        cursor = postgresql.execute(query, params)
        rows = cursor.fetchall() if cursor.description else None
        postgresql.commit()
        return rows

    return run


@pytest.fixture
def add_user(sql) -> Callable[[str], Actor]:
    """Make a user, on whose behalf something can be done."""

    def add(login):
        query = "INSERT INTO users (login, login_key, password_hash) VALUES (%s, %s, '') RETURNING id"
        return Actor(sql(query, login, login)[0][0], uuid4(), "test")

    return add


@pytest.fixture
def ann(add_user):
    return add_user("ann")


@pytest.fixture
def bob(add_user):
    return add_user("bob")


@pytest.fixture
def members(sql):
    """Who is in the table of members."""
    return lambda: {row[0] for row in sql("SELECT user_id FROM members")}


async def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives, once it is true."""
    end = time.monotonic() + DEADLINE
    while not (result := condition()):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    return result


async def walk(read, limit):
    """All items of a list, page by page, and the sizes of the pages."""
    items, sizes, window = [], [], Window(limit, START)
    while window.after is not None:
        page = await read(window)
        items += page.items
        sizes.append(len(page.items))
        window = Window(limit, page.next)
    return items, sizes


# Groups


async def test_create(groups, audience, sql, ann):
    """A group has its maker as its owner, who is told of at once."""
    group = await groups.create("Tea", ann)
    assert (group.name, group.role) == ("Tea", "owner")
    assert sql("SELECT id, name, created_at FROM groups") == [group[:3]]
    assert sql("SELECT group_id, user_id, role FROM members") == [(group.id, ann.user_id, "owner")]
    assert audience.told == [("joined", group.id, ann.user_id)]


async def test_create_taken(groups, audience, sql, ann, bob):
    """A name is taken in any case and normal form; who comes second changes nothing, and nobody is told."""
    await groups.create("Café", ann)
    audience.told.clear()
    for name in ("Café", "CAFÉ", "cafe\u0301"):
        with pytest.raises(GroupNameTaken):
            await groups.create(name, bob)
    assert sql("SELECT count(*) FROM groups") == sql("SELECT count(*) FROM members") == [(1,)]
    assert audience.told == []


async def test_create_at_once(groups, audience, ann):
    """Of ten who make a group of the same name at the same time, one does."""
    outcomes = await asyncio.gather(*(groups.create("tea", ann) for _ in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(GroupNameTaken) == 9
    assert len(audience.told) == 1


async def test_create_by_unknown_user(groups, audience, sql):
    """A group is made with its owner or not at all."""
    with pytest.raises(NoSuchUser):
        await groups.create("tea", Actor(uuid4(), uuid4(), "test"))
    assert sql("SELECT * FROM groups") == []
    assert audience.told == []


async def test_find(groups, ann, bob):
    """By id and name, in any case; the role is that of who asks."""
    tea = await groups.create("Café Å", ann)
    for reference in (str(tea.id), str(tea.id).upper(), "Café Å", "CAFÉ å", "cafe\u0301 \u212b"):
        assert await groups.find(reference, ann.user_id) == tea
        assert await groups.find(reference, bob.user_id) == tea._replace(role=None)


async def test_find_nothing(groups, ann):
    """What is neither is not found, wildcards and odd characters among it."""
    await groups.create("tea", ann)
    for reference in (
        "",
        "te",
        "tea ",
        "%",
        "te%",
        "t_a",
        "t\0a",
        "tea\0",
        "'",
        "\\",
        "{tea}",
        str(uuid4()),
        "n" * 5000,
    ):
        with pytest.raises(NoSuchGroup):
            await groups.find(reference, ann.user_id)


async def test_delete(groups, audience, sql, ann):
    """With a group go its members; deleting what is not there is refused, but told: it may be news to the audience."""
    tea = await groups.create("tea", ann)
    coffee = await groups.create("coffee", ann)
    audience.told.clear()
    await groups.delete(tea.id, ann)
    assert audience.told == [("dropped", tea.id)]
    with pytest.raises(NoSuchGroup):
        await groups.delete(tea.id, ann)
    assert audience.told == [("dropped", tea.id)] * 2
    assert sql("SELECT group_id FROM members") == [(coffee.id,)]


# Members


async def test_add_and_remove(groups, audience, members, ann, bob):
    """Who is added is a member until removed; each time the audience is told, after it is so."""
    tea = await groups.create("tea", ann)
    audience.told.clear()
    member, is_new = await groups.add_member(tea.id, bob.user_id, ann)
    assert (member.user_id, member.login, member.role, is_new) == (bob.user_id, "bob", "member", True)
    assert await groups.add_member(tea.id, bob.user_id, ann) == (member, False)
    assert members() == {ann.user_id, bob.user_id}
    assert await groups.ids_of_user(bob.user_id) == [tea.id]
    await groups.remove_member(tea.id, bob.user_id, ann)
    assert members() == {ann.user_id}
    assert await groups.ids_of_user(bob.user_id) == []
    assert {told[0] for told in audience.told[:-1]} == {"joined"}
    assert audience.told[-1] == ("left", tea.id, bob.user_id)


async def test_nobody_there(groups, audience, members, ann, bob):
    """Unknown users and groups that are gone are told by their foreign keys, and nobody is told of a joining.

    That somebody is no member is told all the same: an earlier removal may have been committed unseen.
    """
    tea, coffee = await groups.create("tea", ann), await groups.create("coffee", ann)
    await groups.delete(coffee.id, ann)
    audience.told.clear()
    for group_id, user_id, error in [(tea.id, uuid4(), NoSuchUser), (coffee.id, bob.user_id, NoSuchGroup)]:
        with pytest.raises(error):
            await groups.add_member(group_id, user_id, ann)
    for group_id, user_id in [(tea.id, bob.user_id), (tea.id, uuid4()), (coffee.id, ann.user_id)]:
        with pytest.raises(NoSuchMember):
            await groups.remove_member(group_id, user_id, ann)
    assert members() == {ann.user_id}
    assert {told[0] for told in audience.told} == {"left"}
    assert ("left", tea.id, bob.user_id) in audience.told


async def test_last_owner(groups, audience, sql, ann, bob):
    """The last owner cannot leave; once there is another owner they can."""
    tea = await groups.create("tea", ann)
    await groups.add_member(tea.id, bob.user_id, ann)
    audience.told.clear()
    with pytest.raises(LastOwner):
        await groups.remove_member(tea.id, ann.user_id, ann)
    assert sql("SELECT count(*) FROM members") == [(2,)]
    assert audience.told == []
    sql("UPDATE members SET role = 'owner'")
    await groups.remove_member(tea.id, ann.user_id, ann)
    assert sql("SELECT user_id FROM members") == [(bob.user_id,)]


async def test_two_owners_leave(groups, sql, ann, bob):
    """Of two owners who leave at the same time one succeeds, however often it is tried."""
    for number in range(10):
        tea = await groups.create(f"tea {number}", ann)
        await groups.add_member(tea.id, bob.user_id, ann)
        sql("UPDATE members SET role = 'owner'")
        outcomes = await asyncio.gather(
            *(groups.remove_member(tea.id, owner.user_id, owner) for owner in (ann, bob)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes if outcome] == [LastOwner]
        assert sql("SELECT count(*) FROM members WHERE group_id = %s", tea.id) == [(1,)]


SLOW_REMOVAL = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN OLD; END';
    CREATE TRIGGER wait BEFORE DELETE ON members FOR EACH ROW EXECUTE FUNCTION wait();
"""


async def test_two_owners_leave_on_two_nodes(groups, db, postgresql, ann, bob):
    """So it is between two nodes, which know of each other by the database alone, each stopped halfway."""
    tea = await groups.create("tea", ann)
    await groups.add_member(tea.id, bob.user_id, ann)
    postgresql.execute("UPDATE members SET role = 'owner'")
    postgresql.execute(SLOW_REMOVAL)
    postgresql.commit()
    postgresql.execute("SELECT pg_advisory_lock(1)")
    nodes = {groups: ann, Groups(db, Recorder()): bob}
    leaving = [asyncio.create_task(node.remove_member(tea.id, who.user_id, who)) for node, who in nodes.items()]
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
    await until(lambda: postgresql.execute(waiting).fetchone() == (2,))
    postgresql.execute("SELECT pg_advisory_unlock(1)")
    outcomes = await asyncio.gather(*leaving, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome] == [LastOwner]
    assert postgresql.execute("SELECT count(*) FROM members").fetchone() == (1,)


# Pages


async def test_pages_of_groups(groups, ann, bob):
    """A walk over the groups of a user meets each once, longest first, whatever the size of the pages."""
    made = [await groups.create(f"group {number}", ann) for number in range(7)]
    await groups.create("not theirs", bob)
    for limit, expected in [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (6, [6, 1]), (7, [7]), (200, [7])]:
        items, sizes = await walk(lambda window: groups.of_user(ann.user_id, window), limit)
        assert items == made
        assert sizes == expected


async def test_pages_of_members(groups, sql, add_user, ann):
    """A walk over the members meets each once, also those who joined in the same moment."""
    tea = await groups.create("tea", ann)
    await groups.create("coffee", add_user("zoe"))
    guests = [add_user(f"guest {number}").user_id for number in range(6)]
    query = "INSERT INTO members (group_id, user_id, role) SELECT %s, unnest(%s::uuid[]), 'member'"
    sql(query, tea.id, guests)
    for limit, expected in [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (6, [6, 1]), (7, [7])]:
        items, sizes = await walk(lambda window: groups.members(tea.id, window), limit)
        assert [member.user_id for member in items] == [ann.user_id, *sorted(guests)]
        assert sizes == expected


async def test_pages_while_the_list_changes(groups, ann, add_user):
    """Who leaves or joins between two pages makes nobody else be missed or met twice."""
    tea = await groups.create("tea", ann)
    guests = [add_user(f"guest {number}").user_id for number in range(4)]
    for guest in guests[:3]:
        await groups.add_member(tea.id, guest, ann)
    first = await groups.members(tea.id, Window(2))
    await groups.remove_member(tea.id, guests[0], ann)
    await groups.add_member(tea.id, guests[3], ann)
    rest = await groups.members(tea.id, Window(10, first.next))
    assert [member.user_id for member in [*first.items, *rest.items]] == [ann.user_id, *guests]


def opaque(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


ZERO = str(UUID(int=0))
BAD_QUERIES = (
    *({"limit": limit} for limit in ("0", "-1", "201", "x", "", "1.5", "1e2", "0x1", "nan", "\0", "9" * 5000)),
    *({"after": after} for after in ("x", "", "é", "\0", "A" * 5000, "null", "0", "=", "%", "-1", ZERO)),
    {"after": opaque(f"2026-01-02T03:04:05 {ZERO}")},
    {"after": opaque(f"2026-01-02T03:04:05+00:00 {ZERO} ")},
    {"after": opaque(f"2026-13-02T03:04:05+00:00 {ZERO}")},
    {"after": opaque("2026-01-02T03:04:05+00:00")},
    {"after": opaque("2026-01-02T03:04:05+00:00 x")},
    {"after": opaque(f"infinity {ZERO}")},
    {"after": opaque(f"2026-01-02T03:04:05+00:00 {ZERO}") + "="},
)


async def test_pages_over_http(client, sign_up):
    """A walk over HTTP by ``next`` meets each of 7 groups and 7 members once; what is no page of it is a 422."""
    ann = await sign_up("ann")
    made = [await ann.make_group(f"group {number}") for number in range(7)]
    for number in range(6):
        await ann.add("group 0", await sign_up(f"guest {number}"))
    lists = {f"/users/{ann.id}/groups": "id", "/groups/group 0/members": "user_id"}
    for path, key in lists.items():
        items, after = [], {}
        while after is not None:
            page = await (await ann.request("GET", path, params={"limit": "3"} | after)).json()
            items += page["items"]
            after = page["next"] and {"after": page["next"]}
        assert len(items) == len({item[key] for item in items}) == 7
        assert items == made or key == "user_id"
        for query in BAD_QUERIES:
            response = await ann.request("GET", path, params=query)
            assert response.status == 422, query
            assert [fault["field"] for fault in (await response.json())["errors"]] == list(query)
        for query in ({"limit": "1"}, {"limit": "200"}, {"after": opaque(f"0001-01-01T00:00:00+00:00 {ZERO}")}):
            assert (await ann.request("GET", path, params=query)).status == 200, query


async def test_cursor_of_another_zone(client, sign_up):
    """Our cursors are in UTC; what is not, is none of ours."""
    ann = await sign_up("ann")
    offsets = ("+23:59", "-16:00", "+02:00", "+00:00:00.000001", "+15:59:59")
    cursors = {offset: opaque(f"2026-01-02T03:04:05{offset} {ZERO}") for offset in offsets}
    path = f"/users/{ann.id}/groups"
    answers = {zone: (await ann.request("GET", path, params={"after": cursors[zone]})).status for zone in offsets}
    assert answers == dict.fromkeys(offsets, 422)


# Names in a path

NAMES = (
    *(
        "100%",
        "%41",
        "a%2Fb",
        "%00",
        "%s",
        "%(name)s",
        "it's",
        'say "tea"',
        "back\\slash",
        "\\",
        "--",
        "a;b",
        ":x",
        "$1",
    ),
    *("🍵", "👨‍👩‍👧", "Ünïcödé", "茶", "a b", "a+b", "a?b", "a#b", "a&b=c", "...", "~", "*", "@", "members"),
)


async def reachable_by_name(person, name: str) -> bool:
    """Whether a group of this name can be made, and found under its percent-encoded name."""
    group = await person.make_group(name)
    answers = [await person.request("GET", f"/groups/{quote(name, safe='')}{rest}") for rest in ("", "/members")]
    return [answer.status for answer in answers] == [200, 200] and await answers[0].json() == group


async def test_names_in_path(client, sign_up):
    """Whatever may be a name can stand in a path, percent-encoded, for exactly that group."""
    ann = await sign_up("ann")
    assert {name: await reachable_by_name(ann, name) for name in NAMES} == dict.fromkeys(NAMES, True)


async def test_braces_in_name(client, sign_up):
    """Braces may be part of a name too."""
    ann = await sign_up("ann")
    names = ("{tea}", "{", "a}b", "{group}")
    assert {name: await reachable_by_name(ann, name) for name in names} == dict.fromkeys(names, True)


async def test_no_names_in_path(client, sign_up):
    """What can be no name is a group that does not exist."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    for path in ("%00", "tea%00", "te%", "te%25", "t_a", "tea%20", "%20tea", "tea%2Fmembers", "tea%0A", "%FF", "te%5C"):
        response = await ann.request("GET", f"/groups/{path}")
        assert (response.status, (await response.json())["error"]) == (404, "no such group"), path


# The audience


async def test_a_change_does_not_wait_for_ever(*, groups, audience, monkeypatch, ann, bob):
    """Whoever stands too long behind others in the same group is told to come back."""
    monkeypatch.setattr("att.groups.CHANGE_TIMEOUT", 0.05)
    tea = await groups.create("tea", ann)
    audience.told.clear()
    async with groups._change(tea.id, None):
        with pytest.raises(Busy):
            await groups.add_member(tea.id, bob.user_id, ann)
    assert audience.told == []


async def test_told_in_order_of_commits(groups, audience, members, ann, bob):
    """However many add and remove the same member at once, what the audience hears last is how it is."""
    tea = await groups.create("tea", ann)
    for _ in range(3):
        audience.told.clear()
        changes = (groups.remove_member if number % 3 else groups.add_member for number in range(50))
        outcomes = await asyncio.gather(
            *(change(tea.id, bob.user_id, ann) for change in changes), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} <= {NoSuchMember}
        assert len(audience.told) == len(outcomes)
        last = "joined" if bob.user_id in members() else "left"
        assert audience.told[-1] == (last, tea.id, bob.user_id)


async def test_told_after_commit(groups, audience, postgresql, ann, bob):
    """Nothing is told before the change is committed; what is told has been."""
    tea = await groups.create("tea", ann)
    audience.told.clear()
    postgresql.execute("SELECT FROM groups FOR UPDATE")
    change = asyncio.create_task(groups.add_member(tea.id, bob.user_id, ann))
    await until(lambda: blocked(postgresql))
    assert audience.told == []
    postgresql.commit()
    await change
    assert audience.told == [("joined", tea.id, bob.user_id)]


async def test_groups_do_not_wait_for_each_other(groups, postgresql, ann, bob):
    """A change that waits in one group holds up none in another."""
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
    """The backends that wait for this connection."""
    query = "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    return [row[0] for row in postgresql.execute(query)]


@pytest.mark.parametrize("verb", ["add_member", "remove_member", "delete"])
async def test_uncertain(*, groups, audience, postgresql, ann, bob, verb):
    """When the connection is lost during a change, the audience is told that it may have happened, or not."""
    tea = await groups.create("tea", ann)
    user_id = None if verb == "delete" else bob.user_id
    audience.told.clear()
    postgresql.execute("SELECT FROM groups FOR UPDATE")
    arguments = [tea.id, ann] if verb == "delete" else [tea.id, bob.user_id, ann]
    change = asyncio.create_task(getattr(groups, verb)(*arguments))
    (backend,) = await until(lambda: blocked(postgresql))
    postgresql.execute("SELECT pg_terminate_backend(%s)", (backend,))
    with pytest.raises(DatabaseUnavailable):
        await change
    assert audience.told == [("uncertain", tea.id, user_id)]
    postgresql.commit()
    await groups.add_member(tea.id, bob.user_id, ann)
    assert audience.told[1:] == [("joined", tea.id, bob.user_id)]


SLOW_COMMIT = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER wait AFTER INSERT OR DELETE ON members
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
"""


async def test_uncertain_when_commit_takes_too_long(*, groups, db_url, audience, postgresql, monkeypatch, ann, bob):
    """A commit that nobody waited for may still happen, as it does here: that must not be missed."""
    tea = await groups.create("tea", ann)
    audience.told.clear()
    postgresql.execute(SLOW_COMMIT)
    postgresql.commit()
    postgresql.execute("SELECT pg_advisory_lock(1)")
    monkeypatch.setattr(engine, "QUERY_TIMEOUT", 1.0)
    db = await Engine.connect(db_url)
    with pytest.raises((Busy, DatabaseUnavailable)):
        await Groups(db, audience).add_member(tea.id, bob.user_id, ann)
    await db.close()
    postgresql.execute("SELECT pg_advisory_unlock(1)")
    postgresql.commit()
    await until(
        lambda: postgresql.execute("SELECT FROM members WHERE user_id = %s", (bob.user_id,)).fetchone() is not None
    )
    assert audience.told == [("uncertain", tea.id, bob.user_id)]
