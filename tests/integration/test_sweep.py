"""The sweep: it finds what was not announced."""

import pytest
from doubles import closed, frames, received

from att.errors import DatabaseUnavailable
from att.protocol.frames import CloseCode
from att.realtime import log_reader as module


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
