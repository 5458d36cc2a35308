"""Search for users: results, orders and indexes."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from hypothesis import given, strategies as st

from att.accounts.user_search import ORDERS, UserFilters, UserSearch, grams_of, listing
from att.accounts.users import NewUser, row_of
from att.core.names import fold
from att.core.pagination import Window
from att.db import keyset
from att.db.engine import Statement
from att.errors import NoSuchUser

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
PEOPLE = (
    NewUser("zoë", None, "Zoë", "Straße"),
    NewUser("Bob", None, "Robert", "Tables", role="Admin"),
    NewUser("ann", None, "Ann", "strasser"),
    NewUser("cid_1", None, "", "%able", active=False),
    NewUser("dan", None, "Dan\\", "Tables"),
)


@pytest.fixture
def user_search(db):
    return UserSearch(db)


@pytest.fixture
def add(postgresql):
    """Add users, registered a day apart."""

    def go(people):
        for number, person in enumerate(people):
            row = row_of(person) | {"id": uuid4(), "at": EPOCH + timedelta(days=number)}
            postgresql.execute(
                "INSERT INTO users (id, login, login_key, first_name, last_name, last_name_key, active, search_text,"
                " registered_at, role_id) SELECT %(id)s, %(login)s, %(login_key)s, %(first_name)s, %(last_name)s,"
                " %(last_name_key)s, %(is_active)s, %(search_text)s, %(at)s, id FROM roles"
                " WHERE name_key = %(role_key)s",
                row,
            )
        postgresql.commit()

    return go


@pytest.fixture
def find(user_search):
    """Return the logins that match, read in pages of ``limit``."""

    async def go(order="registered_at", limit=200, **filters):
        found, window = [], Window(limit)
        while window is not None:
            page = await user_search.list(UserFilters(**filters), order, window)
            found += [user.login for user in page.items]
            window = None if page.next is None else Window(limit, ORDERS[order].parse(page.next))
        return found

    return go


async def test_find(user_search, add, postgresql):
    """A user is returned with the name of their role."""
    add(PEOPLE[1:2])
    ((user_id,),) = postgresql.execute("SELECT id FROM users").fetchall()
    assert await user_search.find(user_id) == (user_id, "Bob", "Robert", "Tables", None, EPOCH, "Admin", True)
    with pytest.raises(NoSuchUser):
        await user_search.find(uuid4())


async def test_orders(add, find):
    """Every order works both ways, whole and in pages: names by their keys, equal ones by id."""
    add(PEOPLE)
    expected = {
        "registered_at": ["zoë", "Bob", "ann", "cid_1", "dan"],
        "login": ["ann", "Bob", "cid_1", "dan", "zoë"],
    }
    for order, logins in expected.items():
        for limit in (1, 2, 5, 200):
            assert await find(order, limit) == logins
            assert await find(f"-{order}", limit) == logins[::-1]
    by_name = await find("last_name", 1)
    assert by_name[:3] == ["cid_1", "zoë", "ann"]
    assert set(by_name[3:]) == {"Bob", "dan"}
    assert await find("-last_name", 2) == by_name[::-1]


FILTERS = [
    ({"login": "ZOE\u0308"}, ["zoë"]),
    ({"login": "zo"}, []),
    ({"role": "admin"}, ["Bob"]),
    ({"role": "nobody's"}, []),
    ({"active": False}, ["cid_1"]),
    ({"active": True, "role": "USER"}, ["zoë", "ann", "dan"]),
    ({"q": "a"}, ["zoë", "Bob", "ann", "cid_1", "dan"]),
    ({"q": "Ab"}, ["Bob", "cid_1", "dan"]),
    ({"q": "TABLE"}, ["Bob", "dan"]),
    ({"q": "STRASSE"}, ["zoë", "ann"]),
    ({"q": "ß"}, ["zoë", "ann"]),
    ({"q": "%"}, ["cid_1"]),
    ({"q": "_"}, ["cid_1"]),
    ({"q": "\\"}, ["dan"]),
    ({"q": "'"}, []),
    ({"q": "bles"}, ["Bob", "dan"]),
    ({"q": "bobrob"}, []),
    ({"q": "annann"}, []),
    ({"q": "tablables"}, []),
    ({"q": "table", "active": True, "role": "User", "login": "DAN"}, ["dan"]),
    ({"registered_from": EPOCH + timedelta(days=3)}, ["cid_1", "dan"]),
    ({"registered_to": EPOCH + timedelta(days=1)}, ["zoë"]),
    ({"registered_from": EPOCH + timedelta(days=1), "registered_to": EPOCH + timedelta(days=2)}, ["Bob"]),
    ({"registered_from": EPOCH, "registered_to": EPOCH}, []),
]


@pytest.mark.parametrize("sifted", [0, 5_000])
async def test_filters(add, find, sifted, monkeypatch):
    """Each filter works alone and with others, in every order, with text found by scan or by index."""
    listing.cache_clear()
    monkeypatch.setattr(keyset, "MAX_SCANNED_ROWS", sifted)
    add(PEOPLE)
    for filters, logins in FILTERS:
        for order in ORDERS:
            assert sorted(await find(order, 2, **filters)) == sorted(logins), (filters, order)
        assert await find(**filters) == logins
    listing.cache_clear()


NAMES = st.text("abß é", max_size=8)


@given(NAMES, NAMES, NAMES)
def test_grams(before, part, after):
    """A text has all grams of its parts."""
    if fold(part):
        whole = fold(before) + fold(part) + fold(after)
        grams = {whole[start : start + size] for size in (1, 2, 3) for start in range(len(whole) - size + 1)}
        assert set(grams_of(fold(part))) <= grams


async def test_pages_are_stable(add, user_search, find):
    """A user added before the current position does not change later pages."""
    add(PEOPLE)
    first = await user_search.list(UserFilters(), "login", Window(2))
    add([NewUser("aaa"), NewUser("bzz")])
    second = await user_search.list(UserFilters(), "login", Window(2, ORDERS["login"].parse(first.next)))
    assert [user.login for user in (*first.items, *second.items)] == ["ann", "Bob", "bzz", "cid_1"]


async def test_long_names(add, find):
    """The longest names in any script can be paged."""
    people = [NewUser(chr(0x1F600 + n) * 64, None, "", chr(0x1F600 + n) * 64) for n in range(3)]
    people += [NewUser("\u1fb7" * 64, None, "", "\u1f82" * 64)]
    add(people)
    for order in ORDERS:
        assert len(await find(order, 1)) == 4


async def test_cursors_belong_to_their_order():
    """A cursor of another order or direction is invalid."""
    cursor = ORDERS["registered_at"].cursor((EPOCH, uuid4()))
    assert [name for name, order in ORDERS.items() if reads(order, cursor)] == ["registered_at"]


def reads(order, cursor):
    """Return True if the order reads this cursor."""
    try:
        order.parse(cursor)
    except ValueError:
        return False
    return True


# Plans

MANY = """
INSERT INTO users (login, login_key, first_name, last_name, last_name_key, search_text, role_id, active, registered_at)
SELECT 'user' || i, 'user' || i, 'Al' || i % 7, 'Ng' || i % 997, 'ng' || i % 997,
    'user' || i || E'\\nal' || i % 7 || E'\\nng' || i % 997,
    (SELECT id FROM roles WHERE name_key = CASE WHEN i % 5000 = 0 THEN 'admin' ELSE 'user' END),
    i % 4000 <> 0, '2026-01-01'::timestamptz + i * interval '1 minute'
FROM generate_series(1, 20000) AS i
"""
LATE = EPOCH + timedelta(minutes=19_990)


async def test_every_filter_and_sort_is_served_by_an_index(db, postgresql):
    """Each filter and order uses an index; no page reads all users, and orders alone do not sort."""
    postgresql.execute(MANY)
    postgresql.commit()
    postgresql.autocommit = True
    postgresql.execute("VACUUM ANALYZE users")
    (admin,), (user,) = postgresql.execute("SELECT id FROM roles ORDER BY name").fetchall()
    after = {"after_0": EPOCH + timedelta(days=5), "after_1": uuid4()}
    keys = {"registered_at": after, "login": {"after_0": "user5"}, "last_name": after | {"after_0": "ng5"}}
    for order in ORDERS:
        for plan in await plans(db, order, {}, keys[order.lstrip("-")]):
            assert "Sort" not in plan, plan
    filters = [
        {"login": "user77"},
        {"role": admin},
        {"role": user},
        {"active": False},
        {"active": True},
        {"registered_from": LATE},
        {"registered_to": EPOCH + timedelta(minutes=9)},
        {"q": "user12345", "grams": grams_of("user12345")},
        {"q": "zzz", "grams": ["zzz"]},
    ]
    for given_ in filters:
        for order in ORDERS:
            await plans(db, order, given_, keys[order.lstrip("-")])


async def test_parts_of_names_among_many(user_search, find, postgresql):
    """The share of a part changes how a page is read, not its contents."""
    postgresql.execute(MANY)
    postgresql.commit()
    for _ in ("before it is known", "after"):
        assert await find(q="user1234") == ["user1234", *(f"user1234{n}" for n in range(10))]
        assert await find(q="zzz") == []
        assert (await find("-login", q="USER"))[:3] == ["user9999", "user9998", "user9997"]
        assert len(await find("last_name", 150, q="ng7")) == sum(str(n % 997).startswith("7") for n in range(1, 20_001))
        postgresql.autocommit = True
        postgresql.execute("ANALYZE users")
        user_search._shares_expire_at = 0
    shares = await user_search._shares_of_grams()
    assert shares["use"] == 1
    assert shares.get("zzz", 0) == 0


async def plans(db, order, params, after):
    """Return the plans of the first page and a later one; assert that neither reads all users."""
    page = listing(order, frozenset(params) - {"grams"})
    found = []
    for statement in (*page._first, *page._rest):
        explain = Statement(f"EXPLAIN {statement.sql}", statement.defaults, True)
        rows = await db.fetch_all(explain, limit=51, **params, **after)
        found.append("\n".join(row[0] for row in rows))
        assert "Seq Scan on users" not in found[-1], found[-1]
        assert "users" in found[-1]
    return found


def test_orders_go_both_ways():
    """Each order and its reverse have their own names."""
    assert len({order.name for order in ORDERS.values()}) == len(ORDERS) == 6
    assert all(one.is_descending != other.is_descending for one, other in list(pairwise(ORDERS.values()))[::2])
