"""The feed: what the hub wants done is done, with a real log; and what no ring has told is found."""

import asyncio
from uuid import uuid4

import pytest
from parts import Recording, away, bodies, drained, frames, given

from att.core import tasks
from att.errors import Busy, DatabaseUnavailable
from att.realtime import hub as hub_module
from att.realtime import log_reader as module
from att.realtime.event_log import SLICE_BYTES, Publish
from att.realtime.log_reader import LogReader
from att.realtime.registry import Listener

# Writing and reading


async def test_slices(feeding, watched, hub, listen, tea, ann_id, monkeypatch):
    """What is to be written to very many is written to all of them, a slice at a time."""
    monkeypatch.setattr(hub_module, "_SLICE", 2)
    listeners = [await listen() for _ in range(7)]
    outcomes = await watched.append([Publish(tea, ann_id, body) for body in bodies(1, 2)])
    for outcome in outcomes:
        hub.offer(outcome.event)
    assert len([listener for listener in listeners if listener.connection.frames]) < 7
    for listener in listeners:
        assert await given(listener.connection, 2) == frames(1, 2)


async def test_a_ring(feeding, hub, listen, append, tea):
    """What was rung for is read, and delivered in order, all of it."""
    ann = await listen()
    *_, head = await append(tea, *range(300))
    hub.ring(tea, head)
    assert await given(ann.connection, 300) == frames(*range(300))


@pytest.mark.parametrize("error", [DatabaseUnavailable(), Busy()])
async def test_a_read_that_fails(feeding, watched, hub, listen, append, tea, error):
    """It is repeated until the database answers."""
    ann = await listen()
    await append(tea, 1)
    watched.errors = [error, error]
    hub.ring(tea, 2)
    assert await given(ann.connection) == frames(1)
    assert watched.reads == [{tea: 1}] * 3


async def test_a_database_that_is_away(feeding, hub, listen, append, tea, postgresql, watched):
    """Nothing is delivered while it is; then, all of it."""
    ann = await listen()
    await append(tea, 1, 2)
    with away(postgresql):
        async with watched.held_up():
            hub.ring(tea, 3)
            await watched.called()
        with pytest.raises(DatabaseUnavailable):
            await watched.heads([tea])
        assert ann.connection.frames == []
    assert await given(ann.connection, 2) == frames(1, 2)


async def test_a_read_that_fails_by_a_fault_of_ours(feeding, watched, hub, listen, append, tea, monkeypatch, caplog):
    """It is logged, and done again."""
    monkeypatch.setattr(tasks, "RESTART_PAUSE", 0.01)
    ann = await listen()
    await append(tea, 1)
    watched.errors = [KeyError("x")]
    hub.ring(tea, 2)
    assert await given(ann.connection) == frames(1)
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]


# Catching up


async def test_catch_up(feed, watched, hub, listen, append, tea):
    """A listener is given what it has missed page by page, each when it can take more, and then hears what follows."""
    await append(tea, *range(5))
    watched.page = 2
    ann = await listen(resume={tea: 1})
    counts = []

    async def count():
        counts.append(len(ann.connection.frames))

    await feed.catch_up(ann, count, SLICE_BYTES)
    assert ann.connection.frames == frames(*range(5))
    assert counts == [0, 2, 4]
    assert [after for *_, after in watched.reads] == [1, 3, 5]
    hub.offer((await watched.append([Publish(tea, ann.user_id, b'{"n":5}')]))[0].event)
    assert ann.connection.frames == frames(*range(6))


async def test_catch_up_in_many_groups(feed, watched, listen, append, tea, add_group, ann_id):
    mate = add_group("mate", ann_id)
    await append(tea, 1, 2)
    await append(mate, 3)
    ann = await listen(resume={tea: 2, mate: 1})
    await feed.catch_up(ann, drained, SLICE_BYTES)
    assert sorted(ann.connection.frames) == frames(2, 3)


async def test_catch_up_waits_for_the_listener(feed, hub, watched, listen, append, tea):
    """Nothing is read for one that cannot take more, and nothing for one that has gone meanwhile."""
    await append(tea, *range(5))
    watched.page = 2
    ann, waits, goes_on = await listen(resume={tea: 1}), asyncio.Event(), asyncio.Event()

    async def wait():
        if ann.connection.frames:
            waits.set()
            await goes_on.wait()

    catching_up = asyncio.create_task(feed.catch_up(ann, wait, SLICE_BYTES))
    await asyncio.wait_for(waits.wait(), 5)
    assert len(watched.reads) == 1
    hub.detach(ann)
    goes_on.set()
    await asyncio.wait_for(catching_up, 5)
    assert ann.connection.frames == frames(0, 1)
    assert len(watched.reads) == 1


async def test_catch_up_ends_when_the_listener_goes_during_a_read(feed, watched, hub, listen, append, tea):
    """It is given nothing any more."""
    await append(tea, 1, 2)
    ann = await listen(resume={tea: 1})
    async with watched.held_up():
        catching_up = asyncio.create_task(feed.catch_up(ann, drained, SLICE_BYTES))
        await watched.called()
        hub.detach(ann)
    await asyncio.wait_for(catching_up, 5)
    assert ann.connection.frames == []


async def test_catch_up_while_the_database_is_away(feed, watched, listen, append, tea):
    """It goes on when it is back."""
    await append(tea, 1)
    ann = await listen(resume={tea: 1})
    watched.errors = [DatabaseUnavailable(), Busy()]
    await asyncio.wait_for(feed.catch_up(ann, drained, SLICE_BYTES), 5)
    assert ann.connection.frames == frames(1)


async def test_few_catch_up_at_the_same_time(feed, watched, listen, append, tea):
    """The database is not asked for everything at once when all come back."""
    await append(tea, 1)
    listeners = [await listen(resume={tea: 1}) for _ in range(module.READERS + 3)]
    async with watched.held_up():
        tasks = [asyncio.create_task(feed.catch_up(listener, drained, SLICE_BYTES)) for listener in listeners]
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(watched.reads) == module.READERS
    await asyncio.gather(*tasks)
    assert {tuple(listener.connection.frames) for listener in listeners} == {tuple(frames(1))}


# Groups of which rings were not heard


async def test_groups_that_are_heard_anew(feeding, watched, listen, append, tea, add_group, ann_id):
    """What was appended before is delivered, and one statement tells of all of them."""
    mate = add_group("mate", ann_id)
    ann = await listen()
    await append(tea, 1)
    await append(mate, 2)
    async with watched.held_up():
        feeding.look_up_soon([tea])
        feeding.look_up_soon([mate])
        await watched.called()
    assert sorted(await given(ann.connection, 2)) == frames(1, 2)
    assert [sorted(looked_up) for looked_up in watched.looks] == [sorted([tea, mate])]


async def test_a_group_that_is_heard_anew_during_a_look(feeding, watched, listen, append, tea):
    """It is looked up once more."""
    ann = await listen()
    async with watched.held_up():
        feeding.look_up_soon([tea])
        await watched.called()
        feeding.look_up_soon([tea])
    async with asyncio.timeout(5):
        while len(watched.looks) < 2:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)
    await append(tea, 1)
    feeding.look_up_soon([tea])
    assert await given(ann.connection) == frames(1)


async def test_a_group_that_nobody_hears_yet(feeding, watched, hub, append, tea, ann_id):
    """Whoever was about to, and had read where it stood before that, is given what has come since."""
    ann = Listener(ann_id, uuid4(), Recording())
    hub.attach(ann)
    positions = await watched.positions(ann_id)
    await append(tea, 1)
    feeding.look_up_soon([tea])
    async with asyncio.timeout(5):
        while not watched.looks:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.005)
    await watched.heads([tea])  # so that the other answer is there
    hub.settle(ann, positions, {})
    assert await given(ann.connection) == frames(1)


async def test_looking_while_the_database_is_away(feeding, watched, listen, append, tea):
    """It is looked when it is back."""
    ann = await listen()
    await append(tea, 1)
    watched.errors = [DatabaseUnavailable(), Busy()]
    feeding.look_up_soon([tea])
    assert await given(ann.connection) == frames(1)


# Gaps that may close by themselves


@pytest.fixture
async def patient(watched, hub, living, woken, monkeypatch):
    """A feed that waits for what is under way."""
    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 3600)
    feed = LogReader(watched, hub, living, woken, patience=0.2)
    async with feed.running():
        yield feed


async def offered(watched, group, user_id, *numbers):
    """Messages that are in the log."""
    return [
        outcome.event for outcome in await watched.append([Publish(group, user_id, body) for body in bodies(*numbers)])
    ]


async def test_a_gap_that_closes(patient, watched, hub, listen, tea, ann_id):
    """Nothing is read for it."""
    ann = await listen()
    first, second, third = await offered(watched, tea, ann_id, 1, 2, 3)
    hub.offer(second)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    hub.offer(first)
    assert await given(ann.connection, 2) == frames(1, 2)
    hub.ring(tea, third.seq)
    assert await given(ann.connection, 3) == frames(1, 2, 3)
    assert watched.reads == [{tea: second.seq}]


async def test_a_gap_that_does_not_close(patient, watched, hub, listen, tea, ann_id):
    """It is read after a while, and what was before the gap is none."""
    ann = await listen()
    first, second, third, fourth = await offered(watched, tea, ann_id, 1, 2, 3, 4)
    hub.offer(second)
    assert await given(ann.connection, 4) == frames(1, 2, 3, 4)
    assert watched.reads == [{tea: first.seq - 1}]
    hub.offer(fourth)
    hub.offer(third)
    assert len(ann.connection.frames) == 4


async def test_what_cannot_come_by_itself(patient, watched, hub, listen, tea, add_group, ann_id):
    """It is read at once, and does not wait for a gap elsewhere."""
    mate = add_group("mate", ann_id)
    ann = await listen()
    (_, second), (other,) = await offered(watched, tea, ann_id, 1, 2), await offered(watched, mate, ann_id, 3)
    hub.offer(second)
    hub.ring(mate, other.seq)
    assert (await given(ann.connection))[:1] == frames(3)
    assert sorted(await given(ann.connection, 3)) == frames(1, 2, 3)
    assert watched.reads == [{mate: 1}, {tea: 1}]
