"""The publisher: what it appends and in which order, and the outcomes."""

import asyncio
from uuid import uuid4

import pytest
from doubles import RecordingBroker, RecordingConnection, received
from metric_samples import counts, total

from att.errors import Busy, ConnectionLost, InvalidInput, KeyReused, NoSuchGroup, ShuttingDown
from att.protocol.frames import text_frame
from att.realtime import publish_queue, publisher as module
from att.realtime.event_log import Position, Publish
from att.realtime.fanout import NOBODY, Delivered
from att.realtime.publisher import Publisher
from att.realtime.registry import Listener


@pytest.fixture
def broker():
    return RecordingBroker()


@pytest.fixture
def publisher(spy_log, hub, broker):
    return Publisher(spy_log, hub, broker)


@pytest.fixture
async def running(publisher):
    async with publisher.running():
        yield publisher


@pytest.fixture
def listen(hub, ann_id, tea):
    """Let Ann listen to her group, from what follows this seq on."""

    def go(seq=1):
        connection = RecordingConnection()
        listener = Listener(ann_id, uuid4(), connection)
        hub.attach(listener)
        hub.start(listener, [Position(tea, "tea", seq, is_member=True)], {})
        return connection

    return go


@pytest.fixture
def item(tea, ann_id):
    """Ann's publishes to her group."""
    return lambda number, key=None: Publish(tea, ann_id, b'{"n":%d}' % number, key)


def bodies(*numbers):
    return [b'{"n":%d}' % number for number in numbers]


def send(publisher, publishes):
    """Have all of them appended; tasks, which have been submitted in this order."""
    return [asyncio.ensure_future(publisher.append(each)) for each in publishes]


async def test_appended_delivered_and_announced(running, hub, broker, listen, item, tea):
    """A publish is appended, resolved, delivered here and announced, in order."""
    connection = listen()
    appended = await asyncio.gather(*send(running, [item(number) for number in range(50)]))
    assert [event.seq for event, *_ in appended] == list(range(2, 52))
    assert await received(connection, 50) == [text_frame(body) for body in bodies(*range(50))]
    assert broker.heads == [(tea, seq) for seq in range(2, 52)]
    assert broker.sweeps == 0


async def test_a_batch_gathers(running, spy_log, item):
    """Publishes during a call form the next batch, in their order."""
    async with spy_log.paused():
        first = send(running, [item(0)])
        await spy_log.called()
        rest = send(running, [item(number) for number in range(1, 6)])
        await asyncio.sleep(0)
        assert running.waiting == 5
    appended = await asyncio.gather(*first, *rest)
    assert spy_log.appends == [bodies(0), bodies(1, 2, 3, 4, 5)]
    assert (running.waiting, total(running.batch_sizes), counts(running.batch_sizes)) == (0, 6, {(): 2})
    assert [event.seq for event, *_ in appended] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("limit", "value"), [("BATCH_ITEMS", 3), ("BATCH_BYTES", 3 * len(b'{"n":0}'))])
async def test_a_batch_is_bounded(publisher, spy_log, item, monkeypatch, limit, value):
    """One call has no more publishes, and hardly more bytes, than that."""
    monkeypatch.setattr(publish_queue, limit, value)
    waiting = send(publisher, [item(number) for number in range(7)])
    await asyncio.sleep(0)
    async with publisher.running():
        await asyncio.gather(*waiting)
    assert spy_log.appends == [bodies(0, 1, 2), bodies(3, 4, 5), bodies(6)]


@pytest.mark.parametrize(("limit", "value"), [("QUEUE_ITEMS", 3), ("_QUEUE_BYTES", 3 * len(b'{"n":0}'))])
async def test_the_queue_is_bounded(running, spy_log, item, monkeypatch, limit, value):
    """Publishes or bytes above the limit are refused at once; later there is room again."""
    monkeypatch.setattr(module, limit, value)
    for _ in range(2):
        async with spy_log.paused():
            under_way = send(running, [item(0)])
            await spy_log.called()
            waiting = send(running, [item(number) for number in range(1, 4)])
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                running.submit(item(4), pytest.fail)
        await asyncio.gather(*under_way, *waiting)


async def test_one_that_is_bad_fails_alone(running, spy_log, item, tea, ann_id):
    """Also when the database does not take its body, which fails the whole call."""
    async with spy_log.paused():
        under_way = send(running, [item(0)])
        await spy_log.called()
        publishes = [item(1), Publish(tea, ann_id, b"{"), item(2), Publish(uuid4(), ann_id, b"{}"), item(3)]
        waiting = send(running, publishes)
        await asyncio.sleep(0)
    await asyncio.gather(*under_way)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [InvalidInput, NoSuchGroup]
    assert [outcome.event.seq for outcome in outcomes if not isinstance(outcome, Exception)] == [3, 4, 5]
    assert [event.body for event in (await spy_log.read({tea: 1}))[tea].events] == bodies(0, 1, 2, 3)
    assert (total(running.appended), total(running.repeated)) == (4, 0)
    # All but what failed the call.
    assert counts(running.waits)[()] == total(running.batch_sizes) == counts(running.batch_sizes)[()] == 5


async def test_repeats(running, hub, broker, listen, spy_log, item, tea):
    """A repeated key gives the seq and the time of the first message, and delivers nothing again.

    Its head is announced all the same: the first node may have died before it could.
    """
    connection = listen()
    first, again = await running.append(item(1, "k")), await running.append(item(1, "k"))
    with pytest.raises(KeyReused):
        await running.append(item(2, "k"))
    assert (first.is_repeat, again.is_repeat) == (False, True)
    assert (again.event.seq, again.event.at) == (first.event.seq, first.event.at)
    await running.append(item(3))
    assert await received(connection, 2) == [text_frame(body) for body in bodies(1, 3)]
    assert broker.heads == [(tea, 2), (tea, 2), (tea, 3)]
    assert [event.body for event in broker.events] == bodies(1, 3)
    assert hub.wanted() == {}
    assert (total(running.appended), total(running.repeated)) == (2, 1)


async def test_a_repeat_of_an_unannounced_message(running, hub, spy_log, listen, item, tea):
    """The first was appended elsewhere and not announced: now the log is read."""
    await spy_log.append([item(1, "k")])
    connection = listen()
    assert (await running.append(item(1, "k"))).is_repeat
    assert hub.wanted() == {tea: 1}
    assert connection.frames == []


async def test_publish(running, listen, item):
    """It returns the number of sockets here; so does a repeat."""
    assert (await running.publish(item(0)))[1] == NOBODY
    listen(2), listen(2)
    (event, is_repeat, _), delivered = await running.publish(item(1, "k"))
    assert (event.seq, is_repeat, delivered) == (3, False, Delivered(2, 0))
    (event, is_repeat, _), delivered = await running.publish(item(1, "k"))
    assert (event.seq, is_repeat, delivered) == (3, True, Delivered(2, 0))


async def test_publish_over_a_gap(running, spy_log, hub, woken, listen, item, tea):
    """Earlier events that were appended elsewhere are read first; then it is counted."""
    connection = listen()
    await spy_log.append([item(1), item(2)])
    publishing = asyncio.ensure_future(running.publish(item(3)))
    await asyncio.wait_for(woken.wait(), 5)
    assert hub.wanted() == {tea: 1}
    assert not publishing.done()
    hub.read(tea, 1, (await spy_log.read({tea: 1}))[tea])
    assert (await publishing)[1] == Delivered(1, 0)
    assert connection.frames == [text_frame(body) for body in bodies(1, 2, 3)]


async def test_publish_does_not_wait_for_ever(running, spy_log, listen, item, monkeypatch):
    """When what comes before it cannot be read the answer comes all the same: it is in the log."""
    monkeypatch.setattr(module, "DELIVERY_TIMEOUT", 0.01)
    listen()
    await spy_log.append([item(1)])
    (event, *_), delivered = await running.publish(item(2))
    assert (event.seq, delivered) == (3, NOBODY)


async def test_a_caller_that_is_cancelled(running, spy_log, item, caplog):
    """Its publish is appended, and the others of its batch are resolved."""
    async with spy_log.paused():
        tasks = send(running, [item(0)])
        await spy_log.called()
        tasks += send(running, [item(number) for number in range(1, 4)])
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.wait([tasks[0], tasks[2]])
    assert [(await tasks[place]).event.seq for place in (1, 3)] == [3, 5]
    assert (await running.append(item(4))).event.seq == 6
    assert not caplog.records


async def test_a_callback_that_fails(running, spy_log, item, caplog):
    """It fails alone."""
    async with spy_log.paused():
        under_way = send(running, [item(0)])
        await spy_log.called()
        running.submit(item(1), lambda _: {}["nobody"])
        waiting = send(running, [item(2)])
        await asyncio.sleep(0)
    appended = await asyncio.gather(*under_way, *waiting)
    assert [event.seq for event, *_ in appended] == [2, 4]
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]


# The end


async def test_what_waits_at_the_end_is_appended(publisher, spy_log, item):
    """Publishes before the end are resolved; later ones are refused at once."""
    ended = asyncio.Event()

    async def run():
        async with publisher.running():
            await ended.wait()

    async with spy_log.paused():
        task = asyncio.create_task(run())
        waiting = send(publisher, [item(0)])
        await spy_log.called()
        waiting += send(publisher, [item(number) for number in (1, 2)])
        await asyncio.sleep(0)
        ended.set()
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            publisher.submit(item(3), pytest.fail)
    appended = await asyncio.gather(*waiting)
    assert [event.seq for event, *_ in appended] == [2, 3, 4]
    await asyncio.wait_for(task, 5)
    with pytest.raises(ShuttingDown):
        await publisher.append(item(4))


async def test_what_cannot_be_appended_before_the_end_is_refused(publisher, spy_log, broker, item, monkeypatch):
    """Every publish is resolved: one under way may be logged, a waiting one is not.

    A sweep is announced, since nobody else would announce the former.
    """
    monkeypatch.setattr(module, "_STOP_TIMEOUT", 0.01)
    monkeypatch.setattr(publish_queue, "BATCH_ITEMS", 1)
    async with spy_log.paused(), asyncio.timeout(5):
        async with publisher.running():
            under_way, waiting = send(publisher, [item(0), item(1)])
            await spy_log.called()
        outcomes = await asyncio.gather(under_way, waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionLost, ShuttingDown]
    assert broker.sweeps == 1


async def test_a_block_that_fails(publisher, spy_log, item):
    """Nobody is left without an answer then, either."""
    async with spy_log.paused(), asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            async with publisher.running():
                under_way = send(publisher, [item(0)])
                await spy_log.called()
                waiting = send(publisher, [item(1)])
                await asyncio.sleep(0)
                raise ZeroDivisionError
        outcomes = await asyncio.gather(*under_way, *waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionLost, ShuttingDown]
