"""The publisher when the database fails it: nothing is lost, doubled or left without an answer."""

import asyncio

import psycopg
import pytest
from databases import dsn_of
from doubles import RecordingBroker, RecordingConnection, append_together, away, received, seqs_of
from waiting import eventually

from att.errors import Busy, ConnectionLost, DatabaseUnavailable, InvalidInput, Unavailable
from att.protocol.frames import text_frame
from att.realtime import publisher as module
from att.realtime.event_log import Position, Publish, PublishResult
from att.realtime.publisher import Publisher
from att.realtime.registry import Listener

WAITING = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%att_append%'"
)


@pytest.fixture
def broker():
    return RecordingBroker()


@pytest.fixture
async def publisher(spy_log, hub, broker):
    publisher = Publisher(spy_log, hub, broker)
    async with publisher.running():
        yield publisher


@pytest.fixture
def item(tea, ann_id):
    """Ann's publishes to her group."""
    return lambda number, key=None: Publish(tea, ann_id, b'{"n":%d}' % number, key)


@pytest.fixture
def lock(postgresql):
    """Lock groups by name until the transaction of ``postgresql`` ends."""
    return lambda *names: postgresql.execute("SELECT FROM groups WHERE name = ANY (%s) FOR UPDATE", (list(names),))


@pytest.fixture
def kill_the_one_that_waits(postgresql):
    """Kill the connection of an append that waits for a lock, as soon as there is one."""

    async def probe():
        with psycopg.connect(dsn_of(postgresql), autocommit=True) as other:
            return other.execute(f"SELECT pg_terminate_backend(pid) FROM ({WAITING}) AS waiting").fetchone()

    return lambda: eventually(probe)


TRAP = """
    CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not here'; END $$;
    CREATE TRIGGER trap BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.key = 'trap') EXECUTE FUNCTION trap();
"""


async def test_what_the_database_refuses_for_reasons_of_its_own(publisher, spy_log, sql, item, caplog):
    """It fails alone, and the log says why."""
    sql(TRAP)
    tasks = await append_together(publisher, spy_log, item(0), [item(1), item(2, "trap"), item(3)])
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert type(outcomes[2]) is Unavailable
    assert seqs_of(outcomes[:2] + outcomes[3:]) == [2, 3, 4]
    assert "not here" in caplog.text


@pytest.mark.parametrize(("failures", "outcome"), [(module.ATTEMPTS - 1, PublishResult), (module.ATTEMPTS, Busy)])
async def test_a_database_that_is_busy(publisher, spy_log, item, failures, outcome):
    """A batch that fails without a locked group is tried some times, then refused."""
    spy_log.errors = [None, *(Busy() for _ in range(failures))]
    _, *tasks = await append_together(publisher, spy_log, item(0), [item(1), item(2)])
    assert {type(each) for each in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)} == {
        outcome
    }


async def test_a_database_that_is_busy_with_one(publisher, spy_log, item):
    """Of publishes tried one by one because one is bad, the busy one is refused alone."""
    spy_log.errors = [None, Unavailable(), None, Busy()]
    _, *tasks = await append_together(publisher, spy_log, item(0), [item(1), item(2), item(3)])
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert type(outcomes[1]) is Busy
    assert seqs_of(outcomes[::2]) == [3, 4]


async def test_what_has_waited_too_long(publisher, spy_log, item, monkeypatch):
    """While the database does not answer, old publishes of all batches are refused."""
    monkeypatch.setattr(module, "_RETRY_TIME", -1.0)  # the loop's clock is a coarse one
    monkeypatch.setattr("att.realtime.publish_queue.BATCH_ITEMS", 1)
    async with spy_log.paused():
        tasks = [asyncio.ensure_future(publisher.append(item(number))) for number in range(4)]
        await spy_log.called()
        spy_log.errors.append(DatabaseUnavailable())
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 4


async def test_a_connection_that_is_killed_before_the_commit(
    *, publisher, lock, broker, hub, sql, postgresql, tea, ann_id, kill_the_one_that_waits, item
):
    """Publishes with a key are appended once; others are refused, and may be logged.

    A sweep is announced, since nobody else would announce those.
    """
    connection = RecordingConnection()
    listener = Listener(ann_id, ann_id, connection)
    hub.attach(listener)
    hub.start(listener, [Position(tea, "tea", 1, is_member=True)], {})
    lock("tea")
    keyed = [asyncio.ensure_future(publisher.append(item(number, f"k{number}"))) for number in range(3)]
    unkeyed = asyncio.ensure_future(publisher.append(item(3)))
    await kill_the_one_that_waits()
    with pytest.raises(ConnectionLost):
        await unkeyed
    assert broker.sweeps >= 1
    postgresql.rollback()
    appended = await asyncio.gather(*keyed)
    assert [(event.seq, is_repeat) for event, is_repeat, _ in appended] == [(2, False), (3, False), (4, False)]
    assert sql("SELECT key FROM events WHERE kind = 'message' ORDER BY seq") == [("k0",), ("k1",), ("k2",)]
    assert await received(connection, 3) == [text_frame(item(number).body) for number in range(3)]


async def test_a_connection_that_is_lost_after_the_commit(publisher, spy_log, broker, hub, item, tea, monkeypatch):
    """Publishes with a key are found in the log, once, and announced; others are refused, though logged."""
    append = spy_log.append

    async def lose(publishes):
        monkeypatch.undo()
        await append(publishes)
        raise ConnectionLost

    monkeypatch.setattr(spy_log, "append", lose)
    keyed, unkeyed = (asyncio.ensure_future(publisher.append(item(*which))) for which in ((1, "k"), (2, None)))
    with pytest.raises(ConnectionLost):
        await unkeyed
    event, is_repeat, _ = await keyed
    assert (event.seq, is_repeat) == (2, True)
    assert [event.seq for event in (await spy_log.read({tea: 1}))[tea].events] == [2, 3]
    assert (broker.sweeps, broker.heads) == (1, [(tea, 2)])


async def test_the_order_is_kept_when_one_is_tried_again(publisher, spy_log, item, tea, ann_id):
    """One of a batch that is appended one by one loses its connection: those after it wait for it."""
    async with spy_log.paused():
        under_way = asyncio.ensure_future(publisher.append(item(0)))
        await spy_log.called()
        publishes = [item(1, "a"), Publish(tea, ann_id, b"{"), item(2, "b"), item(3)]
        tasks = [asyncio.ensure_future(publisher.append(each)) for each in publishes]
        await asyncio.sleep(0)
        spy_log.errors = [None, None, ConnectionLost()]
    outcomes = await asyncio.wait_for(asyncio.gather(under_way, *tasks, return_exceptions=True), 5)
    assert type(outcomes[2]) is InvalidInput
    assert [outcomes[place].event.seq for place in (0, 1, 3, 4)] == [2, 3, 4, 5]


async def test_a_database_that_is_away(publisher, spy_log, item, postgresql, sql, tea):
    """Publishes with a key are logged when it is back in time. Those that come meanwhile fail at once."""
    assert (await publisher.append(item(0))).event.seq == 2
    spy_log.errors = [ConnectionLost()]
    with away(postgresql):
        keyed = asyncio.ensure_future(publisher.append(item(1, "k")))
        for late in (item(2), item(3, "l")):  # the second surely by no connection that was there before
            with pytest.raises(DatabaseUnavailable):
                await asyncio.wait_for(publisher.append(late), 5)
        assert not keyed.done()
    assert (await asyncio.wait_for(keyed, 5)).event.seq == 3
    assert (await asyncio.wait_for(publisher.append(item(4)), 5)).event.seq == 4


async def test_a_database_that_does_not_come_back(publisher, spy_log, item, monkeypatch):
    """After some time the outcome of publishes with a key stays unknown."""
    monkeypatch.setattr(module, "_RETRY_TIME", 0.3)
    monkeypatch.setattr(module, "_PAUSE", 0.05)
    spy_log.errors = [ConnectionLost(), *(DatabaseUnavailable() for _ in range(100))]
    begun = asyncio.get_running_loop().time()
    with pytest.raises(DatabaseUnavailable):
        await asyncio.wait_for(publisher.append(item(0, "k")), 5)
    assert asyncio.get_running_loop().time() - begun >= 0.3
    assert 3 <= len(spy_log.appends) <= 8


async def test_an_unexpected_error(publisher, spy_log, item, caplog):
    """It is logged, the batch is refused, and the next batch is appended."""
    spy_log.errors = [KeyError("x"), KeyError("x")]
    with pytest.raises(Unavailable):
        await asyncio.wait_for(publisher.append(item(0)), 5)
    assert (await publisher.append(item(1))).event.seq == 2
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]
