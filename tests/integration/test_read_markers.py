"""Read markers: where they stand, and what is unread above them."""

import asyncio

import pytest

from att.core.pagination import Window
from att.errors import NoSuchGroup, NotAMember
from att.groups.queries import GroupQueries
from att.groups.read_markers import ReadMarkers
from att.realtime import event_log
from att.realtime.event_log import EventLog, Publish


@pytest.fixture
def markers(db):
    return ReadMarkers(db)


@pytest.fixture
def log(db):
    return EventLog(db)


@pytest.fixture
def bob(add_user):
    return add_user("bob").user_id


@pytest.fixture
def join(sql):
    """Let a user join a group."""
    return lambda group, user: sql("INSERT INTO members VALUES (%s, %s, 'member')", group, user)


@pytest.fixture
def leave(sql):
    """Let a user leave a group."""
    return lambda group, user: sql("DELETE FROM members WHERE group_id = %s AND user_id = %s", group, user)


@pytest.fixture
def send(log):
    """Append so many messages."""

    async def go(group, user, count=1):
        await log.append([Publish(group, user, b"{}") for _ in range(count)])

    return go


@pytest.fixture
def unread(db, log):
    """Return marker and unread messages of a group, as hello and lists have them, which must agree."""

    async def go(group, user):
        [position] = [each for each in await log.positions(user, counts=True) if each.group_id == group]
        for page in (GroupQueries(db).of_user, GroupQueries(db).visible_to, GroupQueries(db).all):
            [view] = [each for each in (await page(user, Window(100, None))).items if each.id == group]
            assert (position.read, position.unread) == (view.read, view.unread)
        return position.read, position.unread

    return go


async def test_moving(sql, markers, tea, ann_id, bob, join, send, unread):
    """A marker never goes back, nor beyond the log's head. What is above it counts, but one's own."""
    join(tea, bob)
    await send(tea, bob, 3)
    await send(tea, ann_id, 2)
    assert await unread(tea, ann_id) == (0, 3)
    for seq, expected in ((4, (4, 1, True)), (3, (4, 1, False)), (4, (4, 1, False)), (0, (4, 1, False))):
        position, count, has_moved = await markers.move(tea, ann_id, seq)
        assert (position.seq, count, has_moved) == expected
        assert await unread(tea, ann_id) == expected[:2]
    marker = await markers.move("TEA", ann_id, 2**63 - 1)
    assert (marker.position, marker.unread) == ((ann_id, tea, "tea", 7), 0)
    assert await unread(tea, ann_id) == (7, 0)
    assert await unread(tea, bob) == (0, 2)
    assert (await markers.move(tea, bob, 0)).position.seq == 0
    assert sql("SELECT user_id, seq FROM read_markers") == [(ann_id, 7)]
    assert max(await asyncio.gather(*(markers.move(tea, bob, seq) for seq in range(1, 6)))).position.seq == 5
    assert sql("SELECT seq FROM read_markers WHERE user_id = %s", bob) == [(5,)]


async def test_members_only(markers, tea, bob):
    """Nobody else has a marker, and none is of a group that is not there."""
    with pytest.raises(NotAMember):
        await markers.move(tea, bob, 1)
    for group in (bob, "coffee"):
        with pytest.raises(NoSuchGroup):
            await markers.move(group, bob, 1)


async def test_what_may_be_read(sql, tea, ann_id, bob, join, leave, send, unread, markers):
    """What was logged while one was no member counts only where the group shows all. The marker outlives a leaving."""
    await send(tea, ann_id, 2)
    join(tea, bob)
    await send(tea, ann_id, 3)
    assert await unread(tea, bob) == (0, 3)
    await markers.move(tea, bob, 6)
    leave(tea, bob)
    await send(tea, ann_id, 4)
    join(tea, bob)
    await send(tea, ann_id, 1)
    assert await unread(tea, bob) == (6, 2)
    sql("UPDATE groups SET history = 'all'")
    assert await unread(tea, bob) == (6, 6)
    sql("UPDATE groups SET history = 'since_join'; DELETE FROM events WHERE seq <= 8")  # with the leaving
    assert await unread(tea, bob) == (6, 1)
    sql("DELETE FROM events WHERE seq <= 13")  # and with the joining
    assert await unread(tea, bob) == (6, 1)


async def test_bounds(sql, tea, ann_id, bob, join, send, unread):
    """A hundred are counted, among the newest thousand events. What was taken back does not count."""
    join(tea, bob)
    await send(tea, ann_id, 101)
    assert await unread(tea, bob) == (0, 100)
    sql("UPDATE events SET body = 'null' WHERE seq > 53")
    assert await unread(tea, bob) == (0, 51)
    await send(tea, bob, 990)
    assert await unread(tea, bob) == (0, 0)


async def test_very_many_groups(tea, add_group, ann_id, bob, join, send, log, markers, monkeypatch):
    """Of a user in very many groups only what is known without counting is told."""
    monkeypatch.setattr(event_log, "COUNTED", 2)
    others = [add_group(name, bob) for name in ("one", "two")]
    for group in others:
        join(group, ann_id)
        await send(group, bob)
    await markers.move(others[0], ann_id, 3)
    found = {each.group_id: (each.read, each.unread) for each in await log.positions(ann_id, counts=True)}
    assert found == {tea: (0, None), others[0]: (3, 0), others[1]: (0, None)}


async def test_forgetting(sql, tea, add_group, ann_id, bob, join, markers):
    """Markers end with their user, and with their group."""
    join(tea, bob)
    pie = add_group("pie", bob)
    for group, user in ((tea, ann_id), (tea, bob), (pie, bob)):
        await markers.move(group, user, 1)
    sql("DELETE FROM groups WHERE id = %s", pie)
    assert sql("SELECT user_id, group_id FROM read_markers ORDER BY at") == [(ann_id, tea), (bob, tea)]
    sql("DELETE FROM users WHERE id = %s", bob)
    assert sql("SELECT user_id FROM read_markers") == [(ann_id,)]


async def test_moved_since(sql, tea, ann_id, bob, join, markers):
    """After an outage the markers are found that have moved meanwhile."""
    join(tea, bob)
    await markers.move(tea, ann_id, 1)
    sql("UPDATE read_markers SET at = at - interval '1 minute'")
    await markers.move(tea, bob, 2)
    assert await markers.moved_since([ann_id, bob], 30) == [(bob, tea, "tea", 2)]
    assert len(await markers.moved_since([ann_id, bob], 90)) == 2
    assert await markers.moved_since([ann_id], 30) == []
