"""Keyset pagination in the database."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import bindparam, select

from att.core.pagination import Order, Window
from att.db.keyset import Listing, MergedListing
from att.db.schema import groups

START = datetime(2026, 11, 22, tzinfo=UTC)
UPWARDS = Order("up", (datetime, UUID))
DOWNWARDS = Order("down", (datetime, UUID), is_descending=True)
BY_NAME = Order("name", (str,))

OPEN = select(groups.c.name).where(groups.c.join == "open")
CLOSED = select(groups.c.name).where(groups.c.join == "invite")
KEYS = (groups.c.created_at, groups.c.id)

LISTS = {
    "upwards": (Listing(select(groups.c.name), UPWARDS, *KEYS), "abcdefg"),
    "downwards": (Listing(select(groups.c.name), DOWNWARDS, *KEYS), "gfedcba"),
    "by one key": (Listing(select(groups.c.name), BY_NAME, groups.c.name_key), "abcdefg"),
    "a part": (Listing(OPEN, UPWARDS, *KEYS), "adg"),
    "merged": (MergedListing(UPWARDS, (OPEN, KEYS), (CLOSED, KEYS)), "abcdefg"),
    "merged downwards": (MergedListing(DOWNWARDS, (CLOSED, KEYS), (OPEN, KEYS)), "gfedcba"),
    "merged of one": (MergedListing(UPWARDS, (CLOSED, KEYS)), "bcef"),
}


@pytest.fixture
def rows(sql):
    """Seven groups, a to g; every third is open, and c, d and e have the same time."""
    query = 'INSERT INTO groups (id, name, name_key, "join", created_at) VALUES (%s, %s, %s, %s, %s)'
    for number, name in enumerate("abcdefg"):
        moment = START + timedelta(microseconds=3 if name in "cde" else number)
        sql(query, UUID(int=number), name, name, "invite" if number % 3 else "open", moment)


async def walk(db, listing, limit, **params):
    """Return the first columns of all pages."""
    pages, window = [], Window(limit)
    while len(pages) < 20:
        page = await listing.read(db, window, **params)
        pages.append("".join(row[0] for row in page.items))
        if page.next is None:
            break
        window = Window(limit, listing.order.parse(page.next))
    return pages


def cut(text, limit):
    """Split a text into parts of this length; an empty text is one part."""
    return [text[start : start + limit] for start in range(0, len(text), limit)] or [""]


async def test_walk(db, rows):
    """With pages of any size, each row is read once, in order; a full last page is known to be last."""
    for name, (listing, expected) in LISTS.items():
        for limit in range(1, 9):
            assert await walk(db, listing, limit) == cut(expected, limit), (name, limit)


async def test_nothing(db):
    """A list without rows is one empty page."""
    for name, (listing, _) in LISTS.items():
        assert await walk(db, listing, 1) == [""], name


async def test_columns(db, rows):
    """A row has the query's columns without the keys."""
    query = select(groups.c.id, groups.c.name)
    for listing in (Listing(query, UPWARDS, *KEYS), MergedListing(UPWARDS, (query, KEYS))):
        assert (await listing.read(db, Window(2))).items == [(UUID(int=0), "a"), (UUID(int=1), "b")]


async def test_parameters(db, rows):
    """The query's own parameters apply to every page."""
    query = select(groups.c.name).where(groups.c.name > bindparam("name"))
    for listing in (Listing(query, UPWARDS, *KEYS), MergedListing(UPWARDS, (query, KEYS))):
        assert await walk(db, listing, 2, name="b") == ["cd", "ef", "g"]


async def test_changes_meanwhile(db, sql, rows):
    """Rows added or removed before a cursor do not change later pages."""
    for name, (listing, _) in LISTS.items():
        first = await listing.read(db, Window(2))
        window = Window(200, listing.order.parse(first.next))
        before = (await listing.read(db, window)).items
        (last,) = first.items[-1]
        (at, ident) = sql("SELECT created_at, id FROM groups WHERE name = %s", last)[0]
        sql("UPDATE groups SET name = name || '-', name_key = '', created_at = 'epoch' WHERE id = %s", ident)
        if listing.order.is_descending:
            sql("UPDATE groups SET created_at = 'infinity' WHERE id = %s", ident)
        assert (await listing.read(db, window)).items == before, name
        sql("UPDATE groups SET name = %s, name_key = %s, created_at = %s WHERE id = %s", last, last, at, ident)


async def test_cursor_is_of_the_list(db, rows):
    """A cursor is invalid in another order."""
    cursor = (await LISTS["upwards"][0].read(db, Window(2))).next
    assert UPWARDS.parse(cursor) == (START + timedelta(microseconds=1), UUID(int=1))
    for order in (DOWNWARDS, BY_NAME):
        with pytest.raises(ValueError, match="is not a cursor of this list"):
            order.parse(cursor)
