"""Retention: what is deleted from the log, what is kept, and that nothing waits for it."""

import asyncio
from datetime import timedelta

import pytest
from hashing_costs import CHEAPEST
from waiting import eventually

from att.app import create_app
from att.config.settings import Settings
from att.db.engine import Engine
from att.realtime import retention as module
from att.realtime.event_log import EventLog, Publish
from att.realtime.retention import RetentionTask

MONTH = timedelta(days=30)


@pytest.fixture
def retention(db):
    return RetentionTask(db, MONTH)


@pytest.fixture
def fill(sql):
    """Make a group that retains so many events, and has had this many, so long ago; its id."""
    make = "INSERT INTO groups (name, name_key, retention, seq) VALUES (%s, %s, %s, %s) RETURNING id"
    write = (
        "INSERT INTO events (group_id, seq, kind, body, at)"
        " SELECT %s, seq, 'message', '{}', now() - %s::interval FROM generate_series(1, %s) AS seq"
    )

    def go(name, retained, count, ago="1h"):
        group = sql(make, name, name, retained, count)[0][0]
        sql(write, group, ago, count)
        return group

    return go


@pytest.fixture
def kept(sql):
    """Return the seqs in the log of a group."""
    query = "SELECT seq FROM events WHERE group_id = %s ORDER BY seq"
    return lambda group: [row[0] for row in sql(query, group)]


async def test_retention(retention, sql, fill, kept):
    """Each group keeps as many of its newest events as it says; the seqs continue."""
    tea, coffee, water, none = fill("tea", 3, 10), fill("coffee", 100, 10), fill("water", 0, 10), fill("none", 5, 0)
    await retention.trim()
    assert [kept(group) for group in (tea, coffee, water, none)] == [[8, 9, 10], list(range(1, 11)), [], []]
    await retention.trim()
    assert kept(tea) == [8, 9, 10]
    sql("UPDATE groups SET retention = 1")
    await retention.trim()
    assert [kept(group) for group in (tea, coffee)] == [[11], [11]]  # the event of that change
    assert sql("SELECT att_broadcast(%s, '{}')", water) == [(12,)]


async def test_grace(retention, sql, fill, kept):
    """An event of this minute is spared, however little is retained, or for however short a time."""
    tea = fill("tea", 0, 4, "59s")
    sql("UPDATE events SET at = now() - interval '61s' WHERE seq <= 2")
    await retention.trim()
    assert kept(tea) == [3, 4]


async def test_grace_of_age(db, fill, kept):
    tea, coffee = fill("tea", 100, 4, "50s"), fill("coffee", 100, 4, "70s")
    await RetentionTask(db, timedelta(seconds=1)).trim()
    assert [kept(tea), kept(coffee)] == [[1, 2, 3, 4], []]


async def test_age(retention, sql, fill, kept):
    """Events that are too old are deleted, whatever the retention."""
    tea, coffee = fill("tea", 100, 4, "29d"), fill("coffee", 100, 4, "29d")
    sql("UPDATE events SET at = now() - interval '31d' WHERE seq <= 3 AND group_id = %s", tea)
    await retention.trim()
    assert [kept(tea), kept(coffee)] == [[4], [1, 2, 3, 4]]


async def test_groups_that_are_gone(retention, sql, fill, kept, add_user):
    """Their log is kept whole for an hour, and then goes; that of a group that is there stays."""
    ann = add_user("ann").user_id
    tea, coffee, water = fill("tea", 5, 3, "61m"), fill("coffee", 5, 3, "61m"), fill("water", 5, 3, "61m")
    sql("INSERT INTO members SELECT id, %s, 'owner' FROM groups WHERE name = 'coffee'", ann)
    sql("DELETE FROM groups WHERE name <> 'water'")
    await retention.delete_logs()
    assert [kept(tea), kept(coffee), kept(water)] == [[], [1, 2, 3, 4, 5], [1, 2, 3]]
    sql("UPDATE events SET at = at - interval '1h'")
    await retention.delete_logs()
    assert [kept(tea), kept(coffee), kept(water)] == [[], [], [1, 2, 3]]


async def test_many(retention, monkeypatch, fill, kept):
    """More groups than a page has, and more events than one statement removes, are trimmed all the same."""
    for name, size in (("BATCH", 7), ("_PAGE", 2)):
        monkeypatch.setattr(module, name, size)
    groups = [fill(f"tea {place}", 5, 5 + place * 6) for place in range(7)]
    await retention.trim()
    for place, group in enumerate(groups):
        assert kept(group) == list(range(place * 6 + 1, place * 6 + 6))


async def test_very_many(retention, sql, monkeypatch, fill, kept):
    """With more groups than in one call, the next call continues; then it starts again."""
    for name, size in (("_PAGE", 2), ("PAGES", 2)):
        monkeypatch.setattr(module, name, size)
    groups = sorted(fill(f"tea {place}", 1, 3) for place in range(6))
    gone = sorted(fill(f"gone {place}", 3, 3, "2h") for place in range(6))
    sql("DELETE FROM groups WHERE name LIKE 'gone%%'")
    await retention.trim()
    await retention.delete_logs()
    assert [kept(group) for group in groups] == [[3]] * 4 + [[1, 2, 3]] * 2
    left = sum(len(kept(group)) for group in gone)
    assert left >= 6
    for _ in range(5):
        await retention.trim()
        await retention.delete_logs()
    assert [kept(group) for group in (*groups, *gone)] == [[3]] * 6 + [[]] * 6
    sql("UPDATE groups SET retention = 0")
    for _ in range(4):
        await retention.trim()
    assert [kept(group) for group in groups] == [[4]] * 6  # the event of that change, which is new


async def test_several_nodes(retention, db_url, fill, kept, monkeypatch):
    """Nodes that trim at once do not disturb each other."""
    monkeypatch.setattr(module, "BATCH", 5)
    groups = [fill(f"tea {place}", 2, 40) for place in range(10)]
    other = await Engine.connect(db_url)
    try:
        await asyncio.gather(retention.trim(), *(RetentionTask(other, MONTH).trim() for _ in range(3)))
    finally:
        await other.close()
    await retention.trim()
    assert [kept(group) for group in groups] == [[39, 40]] * 10


async def test_nobody_waits(retention, sql, postgresql, fill, db, kept, add_user):
    """Neither does an append wait for what is being trimmed, nor trimming for an append: they touch other rows."""
    tea, ann = fill("tea", 2, 5), add_user("ann")
    sql("INSERT INTO members SELECT id, %s, 'owner' FROM groups", ann.user_id)
    postgresql.execute("DELETE FROM events WHERE seq <= 4")  # and does not commit yet
    async with asyncio.timeout(5):
        (appended,) = await EventLog(db).append([Publish(tea, ann.user_id, b"{}", "k")])
    assert appended.event.seq == 7
    postgresql.rollback()
    postgresql.execute("SELECT FROM groups FOR UPDATE")
    async with asyncio.timeout(5):
        await retention.trim()
    assert kept(tea) == [6, 7]


async def test_the_server_trims(aiohttp_client, db_url, fill, kept):
    """As long as it runs, by the age that it was given."""
    tea = fill("tea", 5, 3, "61m")
    await aiohttp_client(create_app(Settings(db_url=db_url, hashing=CHEAPEST, retention_age=timedelta(hours=1))))

    async def is_trimmed():
        return kept(tea) == []

    await eventually(is_trimmed)
