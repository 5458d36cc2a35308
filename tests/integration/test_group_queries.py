"""Reads of groups and members, one by one and in pages."""

import json
from base64 import urlsafe_b64encode
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from query_plans import nodes, rows_read

from att.core.pagination import Window
from att.db.engine import Statement
from att.errors import NoSuchGroup, NoSuchUser
from att.groups import queries
from att.groups.queries import ALL_GROUPS, GROUPS_OF_USER, MEMBERS_OF_GROUP, VISIBLE_GROUPS
from att.groups.service import Groups
from att.realtime.hub import Hub
from att.realtime.registry import Registry

ORDER = VISIBLE_GROUPS.order


@pytest.fixture
def groups(db):
    return Groups(db, Hub(Registry()))


@pytest.fixture
def ann(add_user):
    return add_user("ann")


@pytest.fixture
def bob(add_user):
    return add_user("bob")


async def walk(read, order, limit):
    """Return all items of a list, page by page, and the sizes of the pages."""
    items, sizes, window = [], [], Window(limit)
    while len(sizes) < 20:
        page = await read(window)
        items += page.items
        sizes.append(len(page.items))
        if page.next is None:
            break
        window = Window(limit, order.parse(page.next))
    return items, sizes


# One


async def test_find(groups, ann, bob):
    """A group is found by id and by name in any case, with the role of the reader."""
    tea = await groups.create("Café Å", ann)
    for reference in (str(tea.id), str(tea.id).upper(), "Café Å", "CAFÉ å", "cafe\u0301 \u212b"):
        assert await groups.find(reference, ann.user_id) == tea
        assert await groups.find(reference, bob.user_id) == tea._replace(role=None)


async def test_find_nothing(groups, ann):
    """Unknown references are not found, with wildcards and unusual characters among them."""
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


# Pages


async def test_pages_of_groups(groups, add_user, ann, bob):
    """Pages of a user's groups have each once, longest membership first. An unknown user has no list."""
    zoe = add_user("zoe")
    made = [(await groups.create(f"group {number}", ann))._replace(unread=0) for number in range(7)]
    await groups.create("not theirs", zoe, join="open")
    for limit, expected in [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (6, [6, 1]), (7, [7]), (200, [7])]:
        items, sizes = await walk(lambda window: groups.of_user(ann.user_id, window), GROUPS_OF_USER.order, limit)
        assert items == made
        assert sizes == expected
    assert (await groups.of_user(bob.user_id, Window())).items == []
    with pytest.raises(NoSuchUser):
        await groups.of_user(uuid4(), Window())


async def test_pages_of_members(groups, sql, add_user, ann):
    """Pages of members have each once, also those who joined at the same moment."""
    tea = await groups.create("tea", ann)
    await groups.create("coffee", add_user("zoe"))
    guests = [add_user(f"guest {number}").user_id for number in range(6)]
    query = "INSERT INTO members (group_id, user_id, role) SELECT %s, unnest(%s::uuid[]), 'member'"
    sql(query, tea.id, guests)
    for limit, expected in [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (6, [6, 1]), (7, [7])]:
        items, sizes = await walk(lambda window: groups.members(tea.id, window), MEMBERS_OF_GROUP.order, limit)
        assert [member.user_id for member in items] == [ann.user_id, *sorted(guests)]
        assert sizes == expected


async def test_pages_while_the_list_changes(groups, ann, add_user):
    """A change between two pages neither skips nor repeats others."""
    tea = await groups.create("tea", ann)
    guests = [add_user(f"guest {number}").user_id for number in range(4)]
    for guest in guests[:3]:
        await groups.add_member(tea.id, guest, ann)
    first = await groups.members(tea.id, Window(2))
    await groups.remove_member(tea.id, guests[0], ann)
    await groups.add_member(tea.id, guests[3], ann)
    rest = await groups.members(tea.id, Window(10, MEMBERS_OF_GROUP.order.parse(first.next)))
    assert [member.user_id for member in [*first.items, *rest.items]] == [ann.user_id, *guests]


# The groups that one can see


@pytest.fixture(params=[0, 1_000], ids=["many", "few"])
def way(request, monkeypatch):
    """By all groups in their order, as for a user of very many, and by the user's."""
    monkeypatch.setattr(queries, "_FEW_GROUPS", request.param)


@pytest.mark.usefixtures("way")
async def test_visible(groups, sql, add_user, ann, bob):
    """The user's groups and the open ones are listed once each, oldest first, with the user's role."""
    made = []
    for number in range(12):
        owner, join = (ann, bob, bob)[number % 3], ("invite", "open")[number % 2]
        made.append(await groups.create(f"group {number}", owner, join=join))
    await groups.add_member(made[4].id, ann.user_id, bob)  # closed
    await groups.add_member(made[5].id, ann.user_id, bob)  # open
    roles = {0: "owner", 3: "owner", 6: "owner", 9: "owner", 4: "member", 5: "member"}
    made = [group._replace(seq=2 if number in {4, 5} else 1) for number, group in enumerate(made)]
    seen = [
        group._replace(role=roles.get(number), unread=0 if number in roles else None)
        for number, group in enumerate(made)
    ]
    open_or_own = [group for group in seen if group.join == "open" or group.role]
    assert len(open_or_own) == 9
    for limit, expected in [(1, [1] * 9), (2, [2, 2, 2, 2, 1]), (4, [4, 4, 1]), (8, [8, 1]), (9, [9]), (200, [9])]:
        assert await walk(lambda window: groups.visible_to(ann.user_id, window), ORDER, limit) == (
            open_or_own,
            expected,
        )
    for read, expected in [(groups.visible_to, [made[n] for n in (1, 3, 5, 7, 9, 11)]), (groups.all, made)]:
        stranger = uuid4()
        items, _ = await walk(lambda window, read=read, who=stranger: read(who, window), ORDER, 5)
        assert items == [group._replace(role=None) for group in expected]
    assert (await walk(lambda window: groups.all(ann.user_id, window), ORDER, 5))[0] == seen


@pytest.mark.usefixtures("way")
async def test_visible_of_one_moment(groups, sql, ann):
    """Groups of the same moment are ordered by id."""
    query = (
        'INSERT INTO groups (name, name_key, "join") SELECT n, n, %s FROM generate_series(%s::int, %s) n RETURNING id'
    )
    ids = [row[0] for row in [*sql(query, "open", 1, 5), *sql(query, "invite", 6, 10)]]
    sql("UPDATE groups SET created_at = now()")
    sql("INSERT INTO members (group_id, user_id, role) SELECT unnest(%s::uuid[]), %s, 'member'", ids[5:9], ann.user_id)
    items, _ = await walk(lambda window: groups.visible_to(ann.user_id, window), ORDER, 2)
    assert [group.id for group in items] == sorted(ids[:9])


MANY_GROUPS = """
    INSERT INTO groups (name, name_key, "join", created_at)
        SELECT n, n, CASE WHEN mod(n, 400) = 0 THEN 'open' ELSE 'invite' END, now() - n * interval '1 minute'
        FROM generate_series(1, 20000) n
"""
EVERY = """
    INSERT INTO members (group_id, user_id, role)
        SELECT id, %s, 'member' FROM groups WHERE mod(name::int, %s) = 0
"""


INDEXED = {"Index Scan", "Bitmap Heap Scan"}


async def test_plans(db, sql, add_user):
    """Of 20,000 groups a page reads little more than it shows and one is a member of, by indexes, wherever it begins.

    It is so for who is in none of them, in some, and in the youngest alone, which a walk from the oldest finds last;
    and for who is in all of them, by such a walk.
    """
    sql(MANY_GROUPS)
    ann, bob, zoe = (add_user(login) for login in ("ann", "bob", "zoe"))
    owner = add_user("owner")
    sql(EVERY, owner.user_id, 1)
    sql(EVERY, ann.user_id, 1000)
    sql("INSERT INTO members SELECT id, %s, 'owner' FROM groups WHERE name = '1'", bob.user_id)
    sql("ANALYZE groups, members")
    keys = [(), *sql("SELECT created_at, id FROM groups WHERE name IN ('10000', '100')")]
    cases = [
        (listing, -1, who, key) for listing in (VISIBLE_GROUPS, ALL_GROUPS) for who in (ann, bob, zoe) for key in keys
    ]
    cases += [(VISIBLE_GROUPS, 0, owner, key) for key in keys]
    for listing, step, who, key in cases:
        statement = (listing._rest if key else listing._first)[step]
        explained = Statement(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", statement.defaults, is_read=True)
        after = {f"after_{place}": part for place, part in enumerate(key)}
        plan = (await db.fetch_one(explained, limit=51, user_id=who.user_id, **after))[0][0]["Plan"]
        assert {node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "groups"} <= INDEXED
        assert max(rows_read(node) for node in nodes(plan)) <= 99, plan  # of the last 99 groups all may be read


# Over HTTP

LISTS = {"/users/{}/groups": "groups of user", "/groups/group 0/members": "members", "/groups": "groups"}


def cursors(name):
    """Return invalid cursors of the list: random ones, broken ones, and those of other lists."""
    at, zero = "2026-01-02T03:04:05+00:00", str(UUID(int=0))
    yield from ("x", "", "é", "\0", "A" * 5000, "null", "0", "=", "%", "-1", zero)
    for key in (
        [],
        [at],
        [zero, at],
        [at, "x"],
        [at, zero, 1],
        ["2026-13-02T03:04:05+00:00", zero],
        ["infinity", zero],
    ):
        yield opaque([name, *key])
    for zone in ("", "+23:59", "-16:00", "+02:00", "+00:00:00.000001"):
        yield opaque([name, f"2026-01-02T03:04:05{zone}", zero])
    yield opaque([name, at, zero]) + "="
    yield from (opaque([other, at, zero]) for other in [*LISTS.values(), "users", ""] if other != name)


def opaque(parts):
    """Encode parts as a cursor does."""
    return urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


BAD_LIMITS = ("0", "-1", "201", "x", "", "1.5", "1e2", "0x1", "nan", "\0", "9" * 5000)


@pytest.fixture
async def crowd(sign_up):
    """Ann, who owns 7 groups; 6 guests are members of the first."""
    ann = await sign_up("ann")
    for number in range(7):
        await ann.make_group(f"group {number}")
    for number in range(6):
        await ann.add("group 0", await sign_up(f"guest {number}"))
    return ann


async def test_pages_over_http(client, crowd):
    """``next`` and the Link lead through all 7 once; the last page has neither."""
    for path in LISTS:
        items, links, url = [], [], client.make_url(path.format(crowd.id)).update_query(limit="3")
        while url is not None and len(links) < 9:
            response = await crowd.request("GET", str(url.relative()))
            page = await response.json()
            items += page["items"]
            follows = page["next"] and url.update_query(after=page["next"])
            links.append(len(page["items"]))
            link = response.links.get("next")
            assert (link and link["url"]) == follows
            url = follows
        assert links == [3, 3, 1]
        assert len({item.get("id") or item["user_id"] for item in items}) == 7


async def test_no_page(client, crowd):
    """A bad limit, an invalid or foreign cursor, and an unknown parameter are a 422 that names it."""
    for path, name in LISTS.items():
        bad = [*(("limit", limit) for limit in BAD_LIMITS), *(("after", cursor) for cursor in cursors(name))]
        for parameter, value in [*bad, ("offset", "1")]:
            response = await crowd.request("GET", path.format(crowd.id), params={parameter: value})
            assert response.status == 422, (path, parameter, value)
            assert [fault["field"] for fault in (await response.json())["errors"]] == [parameter]
        good = opaque([name, "0001-01-01T00:00:00+00:00", str(UUID(int=0))])
        for query in ({"limit": "1"}, {"limit": "200"}, {"after": good}):
            assert (await crowd.request("GET", path.format(crowd.id), params=query)).status == 200, query
        both = [("limit", "1"), ("limit", "2")]
        assert (await crowd.request("GET", path.format(crowd.id), params=both)).status == 422


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
    """Return True if a group of this name can be created, and found by its percent-encoded name."""
    group = await person.make_group(name)
    answers = [await person.request("GET", f"/groups/{quote(name, safe='')}{rest}") for rest in ("", "/members")]
    return [answer.status for answer in answers] == [200, 200] and await answers[0].json() == group


async def test_names_in_path(client, sign_up):
    """Any valid name works in a path, percent-encoded."""
    ann = await sign_up("ann")
    assert {name: await reachable_by_name(ann, name) for name in NAMES} == dict.fromkeys(NAMES, True)


async def test_braces_in_name(client, sign_up):
    """Braces may be part of a name."""
    ann = await sign_up("ann")
    names = ("{tea}", "{", "a}b", "{group}")
    assert {name: await reachable_by_name(ann, name) for name in names} == dict.fromkeys(names, True)


async def test_no_names_in_path(client, sign_up):
    """An invalid name is an unknown group."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    for path in ("%00", "tea%00", "te%", "te%25", "t_a", "tea%20", "%20tea", "tea%2Fmembers", "tea%0A", "%FF", "te%5C"):
        response = await ann.request("GET", f"/groups/{path}")
        assert (response.status, (await response.json())["error"]) == (404, "no such group"), path
