"""Publishes to groups that another transaction has locked: they wait aside, in order, for a limited time."""

import asyncio

import psycopg
import pytest
from databases import dsn_of
from doubles import RecordingBroker, append_together, seqs_of
from waiting import eventually

from att.errors import Busy, ConnectionLost, DatabaseUnavailable, InvalidInput, NoSuchGroup, ShuttingDown
from att.realtime import locked_groups as module, publisher as publisher_module
from att.realtime.event_log import Publish
from att.realtime.publisher import Publisher

MANY = 8
LOCK = "SELECT FROM groups WHERE name = ANY (%s) FOR UPDATE"
IS_WAITED_FOR = "SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


@pytest.fixture
async def publisher(spy_log, hub, hurry):
    publisher = Publisher(spy_log, hub, RecordingBroker())
    async with publisher.running():
        yield publisher


@pytest.fixture
def hurry(sql):
    """Let the database wait for a lock for a moment only."""
    sql("ALTER FUNCTION att_append SET lock_timeout = '100ms'")


@pytest.fixture
def lock(postgresql):
    """Lock groups by name until the transaction of ``postgresql`` ends."""
    return lambda *names: postgresql.execute(LOCK, ([*names],))


@pytest.fixture
def item(tea, ann_id):
    """Ann's publishes to her group."""
    return lambda number: Publish(tea, ann_id, b'{"n":%d}' % number)


@pytest.fixture
def mate(add_group, ann_id):
    """Another group of Ann's, and what she sends to it, by its id or by a name."""
    group = add_group("mate", ann_id)
    return lambda number, name=None: Publish(name or group, ann_id, b'{"mate":%d}' % number)


@pytest.fixture
def many(add_group, ann_id):
    """More groups of Ann's, which are called 0, 1, 2 …, and what she sends to each."""
    groups = [add_group(str(number), ann_id) for number in range(MANY)]
    return lambda number: [Publish(group, ann_id, b'{"many":%d}' % number) for group in groups]


@pytest.fixture
def wait_for_mate(publisher, spy_log, lock, item, mate):
    """Lock the group, and let these publishes to it wait. Return their tasks."""

    async def go(*numbers):
        lock("mate")
        first, *tasks = await append_together(publisher, spy_log, item(0), [mate(number) for number in numbers])
        await soon(first)
        await eventually(lambda: waits(publisher, len(numbers)))
        assert [] not in spy_log.appends
        return tasks

    return go


def send(publisher, *publishes):
    return [asyncio.ensure_future(publisher.append(each)) for each in publishes]


async def soon(*tasks):
    """Return the outcomes, within some time."""
    async with asyncio.timeout(5):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def waits(publisher, number):
    return publisher.waiting == len(publisher._locked.queue) == number


async def is_over(publisher):
    return not publisher._locked


async def test_a_locked_group(*, publisher, spy_log, lock, postgresql, item, mate, monkeypatch):
    """Publishes to it are refused after a while; others have been appended long before."""
    monkeypatch.setattr(module, "_MAX_WAIT", 60)
    lock("mate")
    mixed = [mate(0), item(1), mate(1), item(2), mate(2)]
    first, *tasks = await append_together(publisher, spy_log, item(0), mixed)
    assert seqs_of(await soon(first, tasks[1], tasks[3])) == [2, 3, 4]
    assert not any(task.done() for task in tasks[::2])
    monkeypatch.setattr(module, "_MAX_WAIT", 0)
    assert [type(outcome) for outcome in await soon(*tasks[::2])] == [Busy] * 3
    assert [type(outcome) for outcome in await soon(*send(publisher, mate(3)))] == [Busy]
    postgresql.rollback()
    await eventually(lambda: is_over(publisher))
    assert seqs_of(await soon(*send(publisher, mate(0)))) == [2]


async def test_a_group_that_is_locked_for_a_moment(*, publisher, spy_log, lock, postgresql, item, mate):
    """Publishes to it wait, and are appended in order after the unlock."""
    lock("mate")
    tasks = await append_together(publisher, spy_log, item(0), [mate(0), item(1), mate(1)])
    assert seqs_of(await soon(tasks[0], tasks[2])) == [2, 3]
    calls = len(spy_log.appends)
    later = send(publisher, mate(2), item(2), mate(3))
    assert seqs_of(await soon(later[1])) == [4]
    assert spy_log.appends[calls:] == [[item(2).body]]
    postgresql.rollback()
    assert seqs_of(await soon(tasks[1], tasks[3], later[0], later[2])) == [2, 3, 4, 5]
    await eventually(lambda: is_over(publisher))
    assert seqs_of(await soon(*send(publisher, mate(4), item(3)))) == [6, 5]


async def test_many_locked_groups(*, publisher, spy_log, lock, postgresql, item, many):
    """One transaction locks them: other publishes are appended meanwhile, theirs when it ends.

    Only the first batch has tried the locked groups.
    """
    lock(*map(str, range(MANY)))
    first, *tasks = await append_together(publisher, spy_log, item(0), [*many(0), item(1), *many(1), item(2)])
    assert seqs_of(await soon(first, tasks[MANY], tasks[-1])) == [2, 3, 4]
    more = send(publisher, *many(2), item(3))
    assert seqs_of(await soon(more[-1])) == [5]
    held = [*tasks[:MANY], *tasks[MANY + 1 : -1], *more[:-1]]
    assert not any(task.done() for task in held)
    bodies = {each[0].body for each in map(many, range(3))}
    assert sum(not bodies.isdisjoint(call) for call in spy_log.appends) == 1
    postgresql.rollback()
    assert seqs_of(await soon(*held)) == [2] * MANY + [3] * MANY + [4] * MANY


async def test_one_locked_group_after_another(*, publisher, spy_log, lock, postgresql, wait_for_mate, item, many):
    """While one is locked, others are checked before an append: no batch waits for the next lock."""
    tasks = await wait_for_mate(0)
    lock("0", "1", "2")
    calls = len(spy_log.appends)
    for number in range(3):
        tasks += send(publisher, many(0)[number])
        assert seqs_of(await soon(*send(publisher, item(number)))) == [number + 3]
    assert spy_log.appends[calls:] == [[item(number).body] for number in range(3)]
    postgresql.rollback()
    assert seqs_of(await soon(*tasks)) == [2, 2, 2, 2]


async def test_a_locked_group_by_its_names(*, publisher, spy_log, lock, postgresql, item, mate):
    """Publishes by id and by name wait in one order; impossible names fail."""
    lock("mate")
    mates = [mate(0), mate(1, "mate"), mate(2, "Mate"), mate(3)]
    first, *tasks = await append_together(publisher, spy_log, item(0), [*mates, mate(4, "MATE\0")])
    tasks += send(publisher, mate(5, "MATE"), mate(6), mate(7, "\0"), mate(8, "tea"))
    outcomes = await soon(first, tasks[4], tasks[7], tasks[8])
    assert [type(outcome) for outcome in outcomes[1:3]] == [NoSuchGroup] * 2
    assert seqs_of(outcomes[::3]) == [2, 3]
    await eventually(lambda: waits(publisher, 6))
    postgresql.rollback()
    assert seqs_of(await soon(*tasks[:4], *tasks[5:7])) == [2, 3, 4, 5, 6, 7]


async def test_a_group_that_is_deleted_while_it_is_locked(*, publisher, postgresql, wait_for_mate):
    """Its waiting publishes fail with NoSuchGroup."""
    tasks = await wait_for_mate(0)
    postgresql.execute("DELETE FROM groups WHERE name = 'mate'")
    postgresql.commit()
    assert [type(outcome) for outcome in await soon(*tasks)] == [NoSuchGroup]
    await eventually(lambda: is_over(publisher))


async def test_a_lock_that_changes_hands(*, publisher, spy_log, postgresql, wait_for_mate, mate, item, many):
    """After a change of the holder an append waits in the database, in line."""
    tasks = await wait_for_mate(0)

    async def is_waited_for():
        return postgresql.execute(IS_WAITED_FOR).fetchall()

    async def is_tried():
        return any(mate(0).body in call for call in spy_log.appends[calls:])

    with psycopg.connect(dsn_of(postgresql)) as other:
        other.execute(LOCK, (["0"],))
        tasks += send(publisher, many(0)[0])
        await eventually(lambda: waits(publisher, 2))
        taking = asyncio.create_task(asyncio.to_thread(other.execute, LOCK, (["mate"],)))
        await eventually(is_waited_for)
        calls = len(spy_log.appends)
        postgresql.rollback()
        await soon(taking)
        await eventually(is_tried)
        await eventually(lambda: waits(publisher, 2))
        assert seqs_of(await soon(*send(publisher, item(1)))) == [3]
    assert seqs_of(await soon(*tasks)) == [2, 2]


async def test_a_bad_publish_to_a_locked_group(*, publisher, spy_log, lock, postgresql, item, mate):
    """It fails alone, and those behind it keep their order."""
    lock("mate")
    bad = mate(0)._replace(body=b"{")
    first, *tasks = await append_together(publisher, spy_log, item(0), [mate(0), bad, mate(1)])
    await soon(first)
    await eventually(lambda: waits(publisher, 3))
    postgresql.rollback()
    outcomes = await soon(*tasks)
    assert isinstance(outcomes[1], InvalidInput)
    assert seqs_of(outcomes[::2]) == [2, 3]


async def test_the_order_in_a_locked_group(*, publisher, spy_log, lock, postgresql, item, mate, monkeypatch):
    """Untried publishes come before those that arrive once the lock is known."""
    monkeypatch.setattr("att.realtime.publish_queue.BATCH_ITEMS", 2)
    lock("mate")
    later = []
    async with spy_log.paused():
        tasks = send(publisher, item(0))
        await spy_log.called()
        tasks += send(publisher, mate(0))
        await asyncio.sleep(0)
        publisher.submit(item(1), lambda _: later.extend(send(publisher, mate(2))))
        tasks += send(publisher, mate(1))
        await asyncio.sleep(0)
    await eventually(lambda: waits(publisher, 3))
    postgresql.rollback()
    assert seqs_of(await soon(*tasks, *later)) == [2, 2, 3, 4]


@pytest.mark.parametrize(("limit", "value"), [("QUEUE_ITEMS", 4), ("_QUEUE_BYTES", 4 * len(b'{"mate":0}'))])
async def test_the_share_of_locked_groups(*, publisher, wait_for_mate, item, mate, monkeypatch, limit, value):
    """Publishes to locked groups do not fill the queue: there is room for others."""
    monkeypatch.setattr(publisher_module, limit, value)
    await wait_for_mate(0, 1)
    with pytest.raises(Busy):
        publisher.submit(mate(2), pytest.fail)
    assert seqs_of(await soon(*send(publisher, item(1)))) == [3]


# When the database fails


async def test_a_database_that_is_away_while_a_group_is_locked(*, publisher, spy_log, wait_for_mate):
    """Waiting publishes are refused."""
    tasks = await wait_for_mate(0, 1)
    spy_log.errors = [DatabaseUnavailable()]
    spy_log.locks_error = DatabaseUnavailable()
    assert [type(outcome) for outcome in await soon(*tasks)] == [DatabaseUnavailable] * 2
    assert not publisher._locked


async def test_a_database_that_is_busy_while_a_group_is_locked(*, spy_log, wait_for_mate, monkeypatch, caplog):
    """The check is repeated; waiting publishes are refused after a while."""
    tasks = await wait_for_mate(0)
    spy_log.locks_error = Busy()
    looks = len(spy_log.lock_reads)

    async def is_looked_at_again():
        return len(spy_log.lock_reads) > looks + 1

    await eventually(is_looked_at_again)
    monkeypatch.setattr(module, "_MAX_WAIT", 0)
    assert [type(outcome) for outcome in await soon(*tasks)] == [Busy]
    assert not caplog.records


async def test_an_unexpected_error(*, publisher, spy_log, wait_for_mate, mate, caplog):
    """It is logged, and publishes to possibly locked groups are refused, each alone."""
    tasks = await wait_for_mate(0)
    spy_log.locks_error = KeyError("x")
    assert [type(outcome) for outcome in await soon(*tasks, *send(publisher, mate(1)))] == [Busy] * 2
    assert KeyError in [record.exc_info[0] for record in caplog.records]


async def test_the_end_while_a_group_is_locked(*, spy_log, hub, hurry, lock, item, mate):
    """Waiting publishes are refused; the outcome of those under way is unknown."""
    publisher = Publisher(spy_log, hub, RecordingBroker())
    async with publisher.running():
        lock("mate")
        first, *tasks = await append_together(publisher, spy_log, item(0), [mate(0), mate(1)])
        await soon(first)
        await eventually(lambda: waits(publisher, 2))
        tasks += send(publisher, mate(2))
        await asyncio.sleep(0)
    assert {type(outcome) for outcome in await soon(*tasks)} <= {ConnectionLost, ShuttingDown}
