"""The log reader: does what the hub wants, on a real log, and finds unannounced events."""

import asyncio
from uuid import uuid4

import pytest
from doubles import RecordingConnection, away, bodies, drained, frames, received

from att.core import tasks
from att.errors import Busy, DatabaseUnavailable
from att.realtime import hub as hub_module, log_reader as module
from att.realtime.event_log import SLICE_BYTES, Publish
from att.realtime.log_reader import LogReader
from att.realtime.registry import Listener

# Writing and reading


async def test_slices(running_reader, spy_log, hub, listen, tea, ann_id, monkeypatch):
    """A message to very many is written to all of them, one slice at a time."""
    monkeypatch.setattr(hub_module, "SLICE", 2)
    listeners = [await listen() for _ in range(7)]
    outcomes = await spy_log.append([Publish(tea, ann_id, body) for body in bodies(1, 2)])
    for outcome in outcomes:
        hub.offer(outcome.event)
    assert len([listener for listener in listeners if listener.connection.frames]) < 7
    for listener in listeners:
        assert await received(listener.connection, 2) == frames(1, 2)


async def test_an_announcement(running_reader, hub, listen, append, tea):
    """Announced events are read, and delivered in order."""
    ann = await listen()
    *_, head = await append(tea, *range(300))
    hub.observe_head(tea, head)
    assert await received(ann.connection, 300) == frames(*range(300))


@pytest.mark.parametrize("error", [DatabaseUnavailable(), Busy()])
async def test_a_read_that_fails(running_reader, spy_log, hub, listen, append, tea, error):
    """It is repeated until the database answers."""
    ann = await listen()
    await append(tea, 1)
    spy_log.errors = [error, error]
    hub.observe_head(tea, 2)
    assert await received(ann.connection) == frames(1)
    assert spy_log.reads == [{tea: 1}] * 3


async def test_a_database_that_is_away(running_reader, hub, listen, append, tea, postgresql, spy_log):
    """Nothing is delivered while it is; then, all of it."""
    ann = await listen()
    await append(tea, 1, 2)
    with away(postgresql):
        async with spy_log.paused():
            hub.observe_head(tea, 3)
            await spy_log.called()
        with pytest.raises(DatabaseUnavailable):
            await spy_log.heads([tea])
        assert ann.connection.frames == []
    assert await received(ann.connection, 2) == frames(1, 2)


async def test_a_read_with_an_unexpected_error(running_reader, spy_log, hub, listen, append, tea, monkeypatch, caplog):
    """It is logged and repeated."""
    monkeypatch.setattr(tasks, "RESTART_PAUSE", 0.01)
    ann = await listen()
    await append(tea, 1)
    spy_log.errors = [KeyError("x")]
    hub.observe_head(tea, 2)
    assert await received(ann.connection) == frames(1)
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]


# Catching up


async def test_catch_up(log_reader, spy_log, hub, listen, append, tea):
    """A listener receives missed events page by page, each when it can take more, then new ones."""
    await append(tea, *range(5))
    spy_log.page = 2
    ann = await listen(resume={tea: 1})
    counts = []

    async def count():
        counts.append(len(ann.connection.frames))

    await log_reader.catch_up(ann, count, SLICE_BYTES)
    assert ann.connection.frames == frames(*range(5))
    assert counts == [0, 2, 4]
    assert [after for *_, after in spy_log.reads] == [1, 3, 5]
    hub.offer((await spy_log.append([Publish(tea, ann.user_id, b'{"n":5}')]))[0].event)
    assert ann.connection.frames == frames(*range(6))


async def test_catch_up_in_many_groups(log_reader, spy_log, listen, append, tea, add_group, ann_id):
    mate = add_group("mate", ann_id)
    await append(tea, 1, 2)
    await append(mate, 3)
    ann = await listen(resume={tea: 2, mate: 1})
    await log_reader.catch_up(ann, drained, SLICE_BYTES)
    assert sorted(ann.connection.frames) == frames(2, 3)


async def test_catch_up_waits_for_the_listener(log_reader, hub, spy_log, listen, append, tea):
    """Nothing is read for one that cannot take more, and nothing for one that has gone meanwhile."""
    await append(tea, *range(5))
    spy_log.page = 2
    ann, waits, goes_on = await listen(resume={tea: 1}), asyncio.Event(), asyncio.Event()

    async def wait():
        if ann.connection.frames:
            waits.set()
            await goes_on.wait()

    catching_up = asyncio.create_task(log_reader.catch_up(ann, wait, SLICE_BYTES))
    await asyncio.wait_for(waits.wait(), 5)
    assert len(spy_log.reads) == 1
    hub.detach(ann)
    goes_on.set()
    await asyncio.wait_for(catching_up, 5)
    assert ann.connection.frames == frames(0, 1)
    assert len(spy_log.reads) == 1


async def test_catch_up_ends_when_the_listener_goes_during_a_read(log_reader, spy_log, hub, listen, append, tea):
    """Nothing more is sent."""
    await append(tea, 1, 2)
    ann = await listen(resume={tea: 1})
    async with spy_log.paused():
        catching_up = asyncio.create_task(log_reader.catch_up(ann, drained, SLICE_BYTES))
        await spy_log.called()
        hub.detach(ann)
    await asyncio.wait_for(catching_up, 5)
    assert ann.connection.frames == []


async def test_catch_up_while_the_database_is_away(log_reader, spy_log, listen, append, tea):
    """It continues when the database is back."""
    await append(tea, 1)
    ann = await listen(resume={tea: 1})
    spy_log.errors = [DatabaseUnavailable(), Busy()]
    await asyncio.wait_for(log_reader.catch_up(ann, drained, SLICE_BYTES), 5)
    assert ann.connection.frames == frames(1)


async def test_few_catch_up_at_the_same_time(log_reader, spy_log, listen, append, tea, ann_id, add_user, sql):
    """The database is not asked for everything at once when all come back, and only half of it for one user."""
    ben_id = add_user("ben").user_id
    sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", tea, ben_id)
    await append(tea, 1)
    people = [ann_id] * module.READERS + [ben_id] * module.READERS
    listeners = [await listen(user_id, resume={tea: 2}) for user_id in people]
    async with spy_log.paused():
        tasks = [asyncio.create_task(log_reader.catch_up(listener, drained, SLICE_BYTES)) for listener in listeners]
        for _ in range(10):
            await asyncio.sleep(0)
        half = module.READERS // 2
        assert [user_id for _, user_id, _ in spy_log.reads] == [ann_id] * half + [ben_id] * half
    await asyncio.gather(*tasks)
    assert {tuple(listener.connection.frames) for listener in listeners} == {tuple(frames(1))}


# Groups of which rings were not heard


async def test_new_subscriptions(running_reader, spy_log, listen, append, tea, add_group, ann_id):
    """Earlier events are delivered, found by one statement for all groups."""
    mate = add_group("mate", ann_id)
    ann = await listen()
    await append(tea, 1)
    await append(mate, 2)
    async with spy_log.paused():
        running_reader.look_up_soon([tea])
        running_reader.look_up_soon([mate])
        await spy_log.called()
    assert sorted(await received(ann.connection, 2)) == frames(1, 2)
    assert [sorted(looked_up) for looked_up in spy_log.head_reads] == [sorted([tea, mate])]


async def test_a_new_subscription_during_a_lookup(running_reader, spy_log, listen, append, tea):
    """The group is looked up once more."""
    ann = await listen()
    async with spy_log.paused():
        running_reader.look_up_soon([tea])
        await spy_log.called()
        running_reader.look_up_soon([tea])
    async with asyncio.timeout(5):
        while len(spy_log.head_reads) < 2:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)
    await append(tea, 1)
    running_reader.look_up_soon([tea])
    assert await received(ann.connection) == frames(1)


async def test_a_group_without_listeners_yet(running_reader, spy_log, hub, append, tea, ann_id):
    """A listener that has read its positions before receives the events since."""
    ann = Listener(ann_id, uuid4(), RecordingConnection())
    hub.attach(ann)
    positions = await spy_log.positions(ann_id)
    await append(tea, 1)
    running_reader.look_up_soon([tea])
    async with asyncio.timeout(5):
        while not spy_log.head_reads:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)
    await spy_log.heads([tea])  # so that the other answer is there
    hub.start(ann, positions, {})
    assert await received(ann.connection) == frames(1)


async def test_a_lookup_while_the_database_is_away(running_reader, spy_log, listen, append, tea):
    """It is made when the database is back."""
    ann = await listen()
    await append(tea, 1)
    spy_log.errors = [DatabaseUnavailable(), Busy()]
    running_reader.look_up_soon([tea])
    assert await received(ann.connection) == frames(1)


# Gaps that may close by themselves


@pytest.fixture
async def patient(spy_log, hub, live_sessions, woken, monkeypatch):
    """A log reader that waits for events on their way."""
    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 3600)
    log_reader = LogReader(spy_log, hub, live_sessions, woken, gap_wait=0.2)
    async with log_reader.running():
        yield log_reader


async def offered(spy_log, group, user_id, *numbers):
    """Append messages, and return their events."""
    return [
        outcome.event for outcome in await spy_log.append([Publish(group, user_id, body) for body in bodies(*numbers)])
    ]


async def test_a_gap_that_closes(patient, spy_log, hub, listen, tea, ann_id):
    """Nothing is read for it."""
    ann = await listen()
    first, second, third = await offered(spy_log, tea, ann_id, 1, 2, 3)
    hub.offer(second)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    hub.offer(first)
    assert await received(ann.connection, 2) == frames(1, 2)
    hub.observe_head(tea, third.seq)
    assert await received(ann.connection, 3) == frames(1, 2, 3)
    assert spy_log.reads == [{tea: second.seq}]


async def test_a_gap_that_does_not_close(patient, spy_log, hub, listen, tea, ann_id):
    """It is read after a while; a closed gap before it is not."""
    ann = await listen()
    first, second, third, fourth = await offered(spy_log, tea, ann_id, 1, 2, 3, 4)
    hub.offer(second)
    assert await received(ann.connection, 4) == frames(1, 2, 3, 4)
    assert spy_log.reads == [{tea: first.seq - 1}]
    hub.offer(fourth)
    hub.offer(third)
    assert len(ann.connection.frames) == 4


async def test_events_that_cannot_come_by_themselves(patient, spy_log, hub, listen, tea, add_group, ann_id):
    """They are read at once, without waiting for a gap elsewhere."""
    mate = add_group("mate", ann_id)
    ann = await listen()
    (_, second), (other,) = (
        await offered(spy_log, tea, ann_id, 1, 2),
        await offered(spy_log, mate, ann_id, 3),
    )
    hub.offer(second)
    hub.observe_head(mate, other.seq)
    assert (await received(ann.connection))[:1] == frames(3)
    assert sorted(await received(ann.connection, 3)) == frames(1, 2, 3)
    assert spy_log.reads == [{mate: 1}, {tea: 1}]
