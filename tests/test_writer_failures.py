"""The writer when the database fails it: nothing is lost, doubled or left without an answer."""

import asyncio

import psycopg
import pytest
from conftest import dsn_of, eventually
from parts import Bell, Recording, away, given

from att.errors import Busy, ConnectionLost, DatabaseUnavailable, InvalidInput, ShuttingDown, Unavailable
from att.realtime import writer as module
from att.realtime.frames import text_frame
from att.realtime.log import Draft, Position
from att.realtime.registry import Listener
from att.realtime.writer import Writer

WAITING = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%att_append%'"
)


@pytest.fixture
def bell():
    return Bell()


@pytest.fixture
async def writer(watched, hub, bell):
    writer = Writer(watched, hub, bell)
    async with writer.running():
        yield writer


@pytest.fixture
def draft(tea, ann_id):
    """What Ann sends to her group."""
    return lambda number, key=None: Draft(tea, ann_id, b'{"n":%d}' % number, key)


@pytest.fixture
def hurry(sql):
    """Have the database wait for a group for a moment only."""
    sql("ALTER FUNCTION att_append SET lock_timeout = '100ms'")


@pytest.fixture
def hold(postgresql):
    """Lock groups by names, until the transaction of ``postgresql`` ends."""
    return lambda *names: postgresql.execute("SELECT FROM groups WHERE name = ANY (%s) FOR UPDATE", (list(names),))


@pytest.fixture
def kill_the_one_that_waits(postgresql):
    """Kill the connection of an append that waits for a lock, as soon as there is one."""

    async def probe():
        with psycopg.connect(dsn_of(postgresql), autocommit=True) as other:
            return other.execute(f"SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting").fetchone()

    return lambda: eventually(probe)


async def together(writer, watched, first, drafts):
    """Have ``first`` appended in a call, and meanwhile all the others submitted, which go out in the next one."""
    async with watched.held_up():
        tasks = [asyncio.ensure_future(writer.append(first))]
        await watched.called()
        tasks += [asyncio.ensure_future(writer.append(each)) for each in drafts]
        await asyncio.sleep(0)
    return tasks


@pytest.fixture
def mate(add_group, ann_id):
    """Another group of Ann's, and what she sends to it."""
    group = add_group("mate", ann_id)
    return lambda number: Draft(group, ann_id, b'{"mate":%d}' % number)


def seqs(outcomes):
    return [outcome.event.seq for outcome in outcomes]


async def test_a_group_that_is_held(*, writer, watched, hurry, hold, postgresql, draft, mate, monkeypatch):
    """Those who send to it are told to come again after a while; the others have been answered long before."""
    monkeypatch.setattr(module, "HELD_PATIENCE", 0.3)
    hold("mate")
    mates, others = [mate(number) for number in range(3)], [draft(number) for number in range(1, 3)]
    mixed = [mates[0], others[0], mates[1], others[1], mates[2]]
    first, *tasks = await together(writer, watched, draft(0), mixed)
    assert seqs(await asyncio.wait_for(asyncio.gather(first, tasks[1], tasks[3]), 5)) == [2, 3, 4]
    held = tasks[::2]
    assert not any(task.done() for task in held)
    outcomes = await asyncio.wait_for(asyncio.gather(*held, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [Busy] * 3
    postgresql.rollback()
    assert (await writer.append(mates[0])).event.seq == 2


async def test_a_group_that_is_held_for_a_moment(*, writer, watched, hurry, hold, postgresql, draft, mate, monkeypatch):
    """What is sent to it meanwhile waits beside the others, and is appended in its order when it is free."""
    monkeypatch.setattr(module, "HELD_PAUSE", 0.01)
    hold("mate")
    tasks = await together(writer, watched, draft(0), [mate(0), draft(1), mate(1)])
    assert seqs(await asyncio.wait_for(asyncio.gather(tasks[0], tasks[2]), 5)) == [2, 3]
    later = [asyncio.ensure_future(writer.append(each)) for each in (mate(2), draft(2), mate(3))]
    calls = len(watched.appends)
    assert (await asyncio.wait_for(later[1], 5)).event.seq == 4
    assert all(call == [draft(2).body] for call in watched.appends[calls:] if draft(2).body in call)  # never with those
    postgresql.rollback()
    assert seqs(await asyncio.gather(tasks[1], tasks[3], later[0], later[2])) == [2, 3, 4, 5]

    async def is_over():
        return not writer._held

    await eventually(is_over)
    assert seqs(await asyncio.gather(writer.append(mate(4)), writer.append(draft(3)))) == [6, 5]


async def test_a_bad_one_for_a_group_that_was_held(*, writer, watched, hurry, hold, postgresql, draft, mate):
    """It fails alone, and those behind it keep their order."""
    hold("mate")
    bad = mate(0)._replace(body=b"{")
    tasks = await together(writer, watched, draft(0), [mate(0), bad, mate(1)])
    await asyncio.wait_for(tasks[0], 5)

    async def is_held():
        return writer._held

    await eventually(is_held)
    postgresql.rollback()
    outcomes = await asyncio.gather(*tasks[1:], return_exceptions=True)
    assert isinstance(outcomes[1], InvalidInput)
    assert seqs(outcomes[::2]) == [2, 3]


async def test_the_order_in_a_group_that_is_held(*, writer, watched, hurry, hold, postgresql, draft, mate, monkeypatch):
    """What stood behind others in its batch is before what comes later, which waits beside the others as well."""
    monkeypatch.setattr("att.realtime.lanes.BATCH_ITEMS", 3)
    hold("mate")
    tasks = await together(writer, watched, draft(0), [mate(0), draft(1), mate(1), mate(2)])
    await asyncio.wait_for(asyncio.gather(tasks[0], tasks[2]), 5)
    postgresql.rollback()
    assert seqs(await asyncio.wait_for(asyncio.gather(tasks[1], tasks[3], tasks[4]), 5)) == [2, 3, 4]
    assert all(call[0] == mate(0).body for call in watched.appends if mate(2).body in call)


TRAP = """
    CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not here'; END $$;
    CREATE TRIGGER trap BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.key = 'trap') EXECUTE FUNCTION trap();
"""


async def test_what_the_database_refuses_for_reasons_of_its_own(writer, watched, sql, draft, caplog):
    """It fails alone, and the log says why."""
    sql(TRAP)
    tasks = await together(writer, watched, draft(0), [draft(1), draft(2, "trap"), draft(3)])
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert type(outcomes[2]) is Unavailable
    assert seqs(outcomes[:2] + outcomes[3:]) == [2, 3, 4]
    assert "not here" in caplog.text


async def test_what_has_waited_too_long(writer, watched, draft, monkeypatch):
    """While the database does not answer, whoever has waited for so long is told, and not only those of one batch."""
    monkeypatch.setattr(module, "PATIENCE", -1.0)  # the loop's clock is a coarse one
    monkeypatch.setattr("att.realtime.lanes.BATCH_ITEMS", 1)
    async with watched.held_up():
        tasks = [asyncio.ensure_future(writer.append(draft(number))) for number in range(4)]
        await watched.called()
        watched.errors.append(DatabaseUnavailable())
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 4


async def test_many_groups_that_are_held(
    *, writer, watched, hurry, hold, postgresql, add_group, ann_id, draft, monkeypatch
):
    """The time for which a batch waits is bounded: after so many groups in vain the rest is refused."""
    monkeypatch.setattr(module, "HELD_PATIENCE", 0.1)
    names = [f"group {number}" for number in range(module.HELD_GROUPS + 5)]
    groups = [add_group(name, ann_id) for name in names]
    hold(*names)
    drafts = [Draft(group, ann_id, b'{"group":%d}' % number) for number, group in enumerate(groups)]
    tasks = await together(writer, watched, draft(0), drafts)
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks[1:], return_exceptions=True), 5)
    assert {type(outcome) for outcome in outcomes} == {Busy}
    tried = {call[0] for call in watched.appends if len(call) == 1} - {draft(0).body}
    assert tried == {each.body for each in drafts[: module.HELD_GROUPS + 1]}
    assert (await asyncio.wait_for(writer.append(draft(1)), 5)).event.seq == 3
    postgresql.rollback()


async def test_the_end_while_a_group_is_held(*, watched, hub, bell, hold, draft, mate):
    """Whoever waits for it is told: what was under way may be in the log or not."""
    writer = Writer(watched, hub, bell)
    async with writer.running():
        hold("mate")
        tasks = await together(writer, watched, draft(0), [mate(0), mate(1)])
        await asyncio.wait_for(tasks[0], 5)

        async def is_held():
            return writer._held

        await eventually(is_held)
        tasks.append(asyncio.ensure_future(writer.append(mate(2))))
        await asyncio.sleep(0)
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks[1:], return_exceptions=True), 5)
    assert {type(outcome) for outcome in outcomes} <= {ConnectionLost, ShuttingDown}


async def test_a_connection_that_is_killed_before_the_commit(
    *, writer, hold, bell, hub, sql, postgresql, tea, ann_id, kill_the_one_that_waits, draft
):
    """What has a key is appended by another, and is in the log once; what has none is refused: it may be there.

    The bus is rung for a sweep, since nobody would be told of that.
    """
    connection = Recording()
    listener = Listener(ann_id, ann_id, connection)
    hub.attach(listener)
    hub.settle(listener, [Position(tea, "tea", 1, is_member=True)], {})
    hold("tea")
    keyed = [asyncio.ensure_future(writer.append(draft(number, f"k{number}"))) for number in range(3)]
    unkeyed = asyncio.ensure_future(writer.append(draft(3)))
    await kill_the_one_that_waits()
    with pytest.raises(ConnectionLost):
        await unkeyed
    assert bell.sweeps >= 1
    postgresql.rollback()
    appended = await asyncio.gather(*keyed)
    assert [(event.seq, is_repeat) for event, is_repeat in appended] == [(2, False), (3, False), (4, False)]
    assert sql("SELECT key FROM events WHERE kind = 'message' ORDER BY seq") == [("k0",), ("k1",), ("k2",)]
    assert await given(connection, 3) == [text_frame(draft(number).body) for number in range(3)]


async def test_a_connection_that_is_lost_after_the_commit(writer, watched, bell, hub, draft, tea, monkeypatch):
    """What has a key is found in the log, once, and rung for; what has none is refused, though it is there."""
    append = watched.append

    async def lose(drafts):
        monkeypatch.undo()
        await append(drafts)
        raise ConnectionLost

    monkeypatch.setattr(watched, "append", lose)
    keyed, unkeyed = (asyncio.ensure_future(writer.append(draft(*which))) for which in ((1, "k"), (2, None)))
    with pytest.raises(ConnectionLost):
        await unkeyed
    event, is_repeat = await keyed
    assert (event.seq, is_repeat) == (2, True)
    assert [event.seq for event in (await watched.read({tea: 1}))[tea].events] == [2, 3]
    assert (bell.sweeps, bell.rings) == (1, [(tea, 2)])


async def test_the_order_is_kept_when_one_is_tried_again(writer, watched, draft, tea, ann_id):
    """One of a batch that is appended one by one loses its connection: those after it wait for it."""
    async with watched.held_up():
        under_way = asyncio.ensure_future(writer.append(draft(0)))
        await watched.called()
        drafts = [draft(1, "a"), Draft(tea, ann_id, b"{"), draft(2, "b"), draft(3)]
        tasks = [asyncio.ensure_future(writer.append(each)) for each in drafts]
        await asyncio.sleep(0)
        watched.errors = [None, None, ConnectionLost()]
    outcomes = await asyncio.wait_for(asyncio.gather(under_way, *tasks, return_exceptions=True), 5)
    assert type(outcomes[2]) is InvalidInput
    assert [outcomes[place].event.seq for place in (0, 1, 3, 4)] == [2, 3, 4, 5]


async def test_a_database_that_is_away(writer, watched, draft, postgresql, sql, tea):
    """It comes back in time: what had a key is in the log. Whoever comes meanwhile is told at once."""
    assert (await writer.append(draft(0))).event.seq == 2
    watched.errors = [ConnectionLost()]
    with away(postgresql):
        keyed = asyncio.ensure_future(writer.append(draft(1, "k")))
        for late in (draft(2), draft(3, "l")):  # the second surely by no connection that was there before
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(writer.append(late), 5)
        assert not keyed.done()
    assert (await asyncio.wait_for(keyed, 5)).event.seq == 3
    assert (await asyncio.wait_for(writer.append(draft(4)), 5)).event.seq == 4


async def test_a_database_that_does_not_come_back(writer, watched, draft, monkeypatch):
    """Whoever has a key is told after some patience that it is not known."""
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    monkeypatch.setattr(module, "PAUSE", 0.05)
    watched.errors = [ConnectionLost(), *(DatabaseUnavailable() for _ in range(100))]
    begun = asyncio.get_running_loop().time()
    with pytest.raises(DatabaseUnavailable):
        await asyncio.wait_for(writer.append(draft(0, "k")), 5)
    assert asyncio.get_running_loop().time() - begun >= 0.3
    assert 3 <= len(watched.appends) <= 8


async def test_a_fault_of_ours(writer, watched, draft, caplog):
    """It is logged, those of the batch are told, and the next batch is appended."""
    watched.errors = [KeyError("x"), KeyError("x")]
    with pytest.raises(Unavailable):
        await asyncio.wait_for(writer.append(draft(0)), 5)
    assert (await writer.append(draft(1))).event.seq == 2
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]
