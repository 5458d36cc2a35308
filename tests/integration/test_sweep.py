"""The sweep: it finds what was not announced."""

import asyncio
import time
from functools import partial
from uuid import uuid4

import pytest
from doubles import RecordingConnection, SpyLog, bodies, closed, frames, received
from query_plans import nodes, rows_read

from att.errors import DatabaseUnavailable
from att.protocol.frames import CloseCode
from att.realtime import group_streams, log_reader as module
from att.realtime.event_log import READ_RECENT, Publish
from att.realtime.registry import Listener


@pytest.fixture(params=[module._CHUNK, 1], ids=["at once", "one by one"])
def chunk(request, monkeypatch):
    """Run with few and many items in one statement."""
    monkeypatch.setattr(module, "_CHUNK", request.param)


@pytest.fixture
def join(sql):
    return lambda group, user: sql(
        "INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", group, user
    )


@pytest.fixture
def leave(sql):
    return lambda group, user: sql("DELETE FROM members WHERE group_id = %s AND user_id = %s", group, user)


@pytest.fixture
def bob_id(add_user):
    return add_user("bob").user_id


async def test_events(*, chunk, running_reader, listen, append, tea, add_group, ann_id):
    """Messages are delivered in each group with listeners here."""
    mate = add_group("mate", ann_id)
    ann = await listen()
    await append(tea, 1)
    await append(mate, 2)
    await running_reader.sweep()
    assert sorted(await received(ann.connection, 2)) == frames(1, 2)


async def test_joinings(*, chunk, running_reader, listen, append, join, tea, add_group, ann_id, bob_id):
    """A user who has joined receives later messages, with or without other listeners."""
    mate = add_group("mate", ann_id)
    bob, zoe = await listen(bob_id), await listen(ann_id)
    await append(tea, 1)
    for group in (tea, mate):
        join(group, bob_id)
    await append(tea, 2)
    await append(mate, 3)
    await running_reader.sweep()
    assert sorted(await received(bob.connection, 2)) == frames(2, 3)
    assert sorted(await received(zoe.connection, 3)) == frames(1, 2, 3)


async def test_a_joining_elsewhere(running_reader, hub, listen, append, join, bob_id, tea):
    """The same in a group without listeners here."""
    bob = await listen(bob_id)
    assert hub.heads() == {}
    join(tea, bob_id)
    await append(tea, 1)
    await running_reader.sweep()
    assert await received(bob.connection) == frames(1)


async def test_joinings_again_and_again(*, running_reader, listen, append, join, leave, bob_id, tea):
    """A user who has joined several times receives the events of each membership, and no others."""
    bob = await listen(bob_id)
    for number in range(3):
        join(tea, bob_id)
        await append(tea, 2 * number)
        leave(tea, bob_id)
        await append(tea, 2 * number + 1)
    await running_reader.sweep()
    assert await received(bob.connection, 3) == frames(0, 2, 4)


async def test_a_joining_that_is_no_longer_kept(running_reader, listen, sql, append, join, bob_id, tea):
    """The user has to reconnect; nobody else does."""
    bob = await listen(bob_id)
    join(tea, bob_id)
    sql("DELETE FROM events WHERE actor_id = %s", bob_id)
    ann = await listen()
    await running_reader.sweep()
    assert await closed(bob.connection) == [CloseCode.RESYNC]
    assert ann.connection.codes == []


async def test_sessions_that_have_ended(chunk, running_reader, listen, live_sessions, tea, ann_id, bob_id):
    """Their sockets are closed, and no others; it is said whose they are."""
    first, second, other = await listen(), await listen(), await listen(bob_id)
    live_sessions.ids -= {first.session_id, second.session_id}
    await running_reader.sweep()
    assert [each.connection.codes for each in (first, second, other)] == [[CloseCode.SESSION_ENDED]] * 2 + [[]]
    assert live_sessions.owners == {first.session_id: ann_id, second.session_id: ann_id, other.session_id: bob_id}


async def test_nothing_to_find(running_reader, spy_log, listen, tea):
    """When everything was announced nothing is read, and nobody disconnected."""
    ann = await listen()
    await running_reader.sweep()
    assert (ann.connection.codes, spy_log.reads) == ([], [])


async def test_a_database_that_went_back_in_time(running_reader, hub, spy_log, listen, append, sql, tea):
    """After a restore from a backup, listeners that are ahead of it reconnect."""
    ann = await listen()
    await append(tea, 1)
    await running_reader.sweep()
    await received(ann.connection)
    sql("DELETE FROM events WHERE kind = 'message'")
    sql("UPDATE groups SET seq = 1")
    await running_reader.sweep()
    assert await closed(ann.connection) == [CloseCode.RESYNC]


# Recent events


@pytest.fixture
async def tail(log_reader):
    """A log reader that knows from when on it is to read."""
    assert not await log_reader.find_recent()
    return log_reader


async def test_recent_events(tail, spy_log, listen, append, tea, add_group, ann_id):
    """They are found by one read; a group is compared with its log only when it is new here."""
    mate = add_group("mate", ann_id)
    ann = await listen()
    async with tail.running():
        for number in range(0, 4, 2):
            await append(tea, number)
            await append(mate, number + 1)
            assert await tail.find_recent()
            assert sorted(await received(ann.connection, number + 2)) == frames(*range(number + 2))
        assert await tail.find_recent()
    assert (len(ann.connection.frames), [{*groups} for groups in spy_log.head_reads]) == (4, [{tea, mate}])


async def test_recent_joinings(tail, hub, listen, append, join, tea, bob_id):
    """A user who has joined, in a group without listeners here, receives later events."""
    bob = await listen(bob_id)
    await append(tea, 1)
    join(tea, bob_id)
    await append(tea, 2)
    async with tail.running():
        assert await tail.find_recent()
        assert await received(bob.connection) == frames(2)


@pytest.mark.parametrize("is_last", [True, False])
async def test_an_event_that_is_committed_late(is_last, *, tail, postgresql, listen, append, tea, add_group, ann_id):
    """It is found, though reads were made before, and perhaps later events were committed and found."""
    mate = add_group("mate", ann_id)
    ann = await listen()
    async with tail.running():
        postgresql.execute("SELECT att_broadcast(%s, '{\"n\":1}')", (tea,))
        moment = time.monotonic()
        if not is_last:
            await append(mate, 2)
        while time.monotonic() < moment + 1.1:  # noqa: ASYNC110 - the allowance for clocks, with which it is read
            await asyncio.sleep(0.05)
        for _ in range(2):
            assert await tail.find_recent()
        postgresql.commit()
        assert await tail.find_recent()
        assert sorted(await received(ann.connection, 2 - is_last)) == frames(*range(1, 3 - is_last))


async def test_very_many_recent_events(tail, append, listen, tea, monkeypatch):
    """They are not read: it is known that some may have been missed, and later ones are found."""
    monkeypatch.setattr(module, "_RECENT", 3)
    ann = await listen()
    await append(tea, 1, 2, 3)
    assert not await tail.find_recent()
    monkeypatch.setattr(module, "_RECENT", 100)
    async with tail.running():
        assert await tail.find_recent()
        assert await received(ann.connection, 3) == frames(1, 2, 3)


async def test_a_listener_that_starts_behind_recent_events(
    *, tail, hub, spy_log, append, sql, tea, ann_id, monkeypatch
):
    """It receives them, though they were found before it started, and nothing else remembers them."""
    monkeypatch.setattr(group_streams, "LAST_KNOWN", 0)
    grow_old = partial(sql, "UPDATE events SET at = at - interval '1 h'")
    grow_old()  # her joining, which would begin the group here
    ann = Listener(ann_id, uuid4(), RecordingConnection())
    hub.attach(ann)
    positions = await spy_log.positions(ann_id)
    await append(tea, 1)
    await tail.find_recent()
    grow_old()
    hub.start(ann, positions, {})
    async with tail.running():
        await tail.find_recent()
        assert await received(ann.connection) == frames(1)


async def test_recent_events_of_another_epoch(tail, sql, listen):
    """It is known that some may have been missed."""
    assert await tail.find_recent()
    sql("SELECT att_begin_epoch()")
    assert not await tail.find_recent()
    assert await tail.find_recent()


async def test_plan(db, sql, tea):
    """Of 20,000 events the recent ones alone are read."""
    sql(
        "INSERT INTO events (group_id, seq, kind, body, at)"
        " SELECT %s, i + 1, 'message', '{}', now() - i * interval '1 s' FROM generate_series(1, 20000) AS i",
        tea,
    )
    sql("ANALYZE events")
    ((since,),) = sql("SELECT now() - interval '5.5 s'")
    explained = READ_RECENT._replace(sql=f"EXPLAIN (ANALYZE, FORMAT JSON) {READ_RECENT.sql}")
    plan = (await db.fetch_one(explained, since=since, limit=1_000))[0][0]["Plan"]
    assert 1 <= max(rows_read(node) for node in nodes(plan) if node.get("Relation Name") == "events") <= 7, plan


# Regular looks


class Proven:
    """A ``Broker`` with a settable state."""

    is_connected, round_trip = True, 0.1


@pytest.fixture
def broker(log_reader, monkeypatch):
    """A log reader's only broker, which is proven. Looks are frequent, and sweeps without a doubt never come."""
    for name, value in {"_SWEEP_INTERVAL": 0.01, "RARE_SWEEP": 10**9, "WHOLE_SWEEP": 10**9}.items():
        monkeypatch.setattr(module, name, value)
    log_reader.brokers = [Proven()]
    return log_reader.brokers[0]


async def looks(spy_log, count=5):
    """Wait for so many more looks."""
    goal = len(spy_log.recent_reads) + count
    async with asyncio.timeout(5):
        while len(spy_log.recent_reads) < goal:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)


def disconnect(broker, _reader):
    broker.is_connected = False


def lose_echo(broker, _reader):
    broker.round_trip = 5.1


def doubt(_broker, reader):
    reader.doubt()


def request(_broker, reader):
    reader.sweep_soon()


@pytest.mark.parametrize("begin_doubt", [disconnect, lose_echo, doubt, request])
async def test_sessions_in_doubt(begin_doubt, broker, log_reader, spy_log, live_sessions, listen, tea):
    """They are looked up when a broker may have lost their end, and only then."""
    ann = await listen()
    async with log_reader.running():
        await looks(spy_log)
        live_sessions.owners.clear()
        await looks(spy_log)
        assert live_sessions.owners == {}
        live_sessions.ids.clear()
        begin_doubt(broker, log_reader)
        assert await closed(ann.connection) == [CloseCode.SESSION_ENDED]


async def test_a_gap_is_a_doubt(broker, log_reader, spy_log, hub, live_sessions, listen, tea, ann_id):
    """If an earlier message has not come by the broker, the end of a session may not have come either."""
    ann = await listen()
    async with log_reader.running():
        await looks(spy_log)
        live_sessions.ids.clear()
        _, second = await spy_log.append([Publish(tea, ann_id, body) for body in bodies(1, 2)])
        hub.offer(second.event)
        assert await closed(ann.connection) == [CloseCode.SESSION_ENDED]


async def test_rare_sweeps(broker, log_reader, spy_log, live_sessions, listen, tea, monkeypatch):
    """Sessions are looked up now and then without any doubt."""
    ann = await listen()
    async with log_reader.running():
        await looks(spy_log)
        monkeypatch.setattr(module, "RARE_SWEEP", 7)
        live_sessions.ids.clear()
        assert await closed(ann.connection) == [CloseCode.SESSION_ENDED]


@pytest.mark.parametrize(("is_complete", "how_often"), [(False, "RARE_SWEEP"), (True, "WHOLE_SWEEP")])
async def test_what_recent_events_do_not_tell(
    is_complete,
    how_often,
    *,
    broker,
    log_reader,
    spy_log,
    listen,
    append,
    sql,
    join,
    tea,
    add_group,
    add_user,
    bob_id,
    monkeypatch,
):
    """When there are too many, all groups are compared at once and memberships soon; now and then without a reason."""
    mate = add_group("mate", add_user("zoe").user_id)
    ann, bob = await listen(), await listen(bob_id)

    async def recent_without_events(since, limit):
        found = await SpyLog.recent(spy_log, since, limit)
        return found._replace(number=0 if is_complete else limit, heads={}, joined=[])

    async with log_reader.running():
        await looks(spy_log)
        monkeypatch.setattr(spy_log, "recent", recent_without_events)
        monkeypatch.setattr(module, how_often, 7)
        await append(tea, 1)
        assert await received(ann.connection) == frames(1)
        join(mate, bob_id)
        sql("SELECT att_broadcast(%s, '{\"n\":2}')", mate)
        assert await received(bob.connection) == frames(2)


async def test_regularly(log_reader, listen, append, tea, monkeypatch):
    """It runs by itself."""
    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 0.02)
    ann = await listen()
    async with log_reader.running():
        for number in range(3):
            await append(tea, number)
            assert await received(ann.connection, number + 1) == frames(*range(number + 1))


async def test_soon(running_reader, spy_log, listen, append, tea):
    """On request it runs at once, and again until the database answers."""
    ann = await listen()
    for number in range(2):
        await append(tea, number)
        spy_log.errors = [DatabaseUnavailable(), DatabaseUnavailable()]
        running_reader.sweep_soon()
        assert await received(ann.connection, number + 1) == frames(*range(number + 1))


async def test_sessions_that_cannot_be_looked_up(
    log_reader, live_sessions, listen, append, join, tea, bob_id, monkeypatch
):
    """Their store may be away: events and joinings are found all the same, sessions when it is back."""
    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 0.02)
    ask, looks = live_sessions.living, []

    async def away(owners):
        looks.append(owners)
        raise DatabaseUnavailable

    monkeypatch.setattr(live_sessions, "living", away)
    bob = await listen(bob_id)
    async with log_reader.running():
        log_reader.sweep_soon()
        for number in range(3):
            if not number:
                join(tea, bob_id)
                log_reader.sweep_soon()
            await append(tea, number)
            assert await received(bob.connection, number + 1) == frames(*range(number + 1))
        assert looks
        monkeypatch.setattr(live_sessions, "living", ask)
        live_sessions.ids.clear()
        assert await closed(bob.connection) == [CloseCode.SESSION_ENDED]
