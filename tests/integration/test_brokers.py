"""What every broker does: what is rung on one node is heard on all, and when it could not be, they are told so."""

import asyncio
from uuid import uuid4

import pytest
from brokers import PIE, TEA, Postgres, RecordingHandler, Redis, message

from att.realtime.brokers import postgres, redis


async def eventually(is_so, seconds=5):
    """Wait for what nobody tells of."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - nobody does
            await asyncio.sleep(0.01)


@pytest.fixture(params=["postgresql", "redis", "cluster"])
def place(request):
    """Where the brokers of this test meet."""
    if request.param == "postgresql":
        return Postgres(request.getfixturevalue("postgresql"), request.getfixturevalue("db_url"))
    return Redis(request.getfixturevalue("valkey" if request.param == "redis" else "valkey_cluster"))


@pytest.fixture
async def node(place):
    """A broker that runs, hears the groups Tea and Pie, and whoever hears it."""
    handler = RecordingHandler()
    async with place.broker() as broker, broker.running(handler):
        await handler.until(lambda: handler.changes)
        await place.subscribe(broker, handler, TEA, PIE)
        yield broker, handler


@pytest.fixture
async def other(place):
    """Another one."""
    handler = RecordingHandler()
    async with place.broker() as broker, broker.running(handler):
        await handler.until(lambda: handler.changes)
        await place.subscribe(broker, handler, TEA, PIE)
        yield broker, handler


async def test_a_ring(node, other):
    """It is heard on each node, the one that has rung included."""
    node[0].announce(message(7))
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.groups == {TEA: 7})
    other[0].announce_head(PIE, 2**63 - 1)
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.groups == {TEA: 7, PIE: 2**63 - 1})
    assert node[1].events == []  # it has them already


async def test_a_ring_for_a_sweep(node, other):
    """It is heard on each node, the one that has rung included."""
    node[0].announce_sweep()
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.sweeps == 1)


async def test_many_rings(node, other):
    """However many are rung at once, of each group the head is heard, in few payloads."""
    broker, before = node[0], other[0].received
    for seq in range(1, 1001):
        broker.announce(message(seq))
        broker.announce(message(2 * seq, PIE))
    await other[1].until(lambda: other[1].groups == {TEA: 1000, PIE: 2000})
    assert other[0].received - before < 50


async def test_very_many_groups(place, node, other):
    """All of them are heard."""
    groups = {uuid4(): 2**63 - 1 - number for number in range(301)}
    await place.subscribe(*other, *groups)
    for group_id, seq in groups.items():
        node[0].announce_head(group_id, seq)
    await other[1].until(lambda: other[1].groups == groups)


async def test_sessions(place, node, other):
    """Those that were ended elsewhere are told."""
    session_id = uuid4()
    place.end_session(session_id)
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.sessions == [session_id])


async def test_what_is_no_ring(place, node, other, caplog):
    """It is ignored, with a line in the log, and what comes after it is heard."""
    count = place.garble()
    node[0].announce(message(1))
    await other[1].until(lambda: other[1].groups == {TEA: 1})
    node[0].announce_sweep()
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.sweeps)
        assert (handler.changes, handler.groups) == (["connected"], {TEA: 1})
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("WARNING", None)] * 2 * count


async def test_a_server_that_is_killed(place, node, other):
    """Each node is told when it hears nothing, and when it does; what was rung meanwhile is rung then."""
    with place.away():
        for broker, handler in (node, other):
            await handler.until(lambda handler=handler: handler.changes[1:2] == ["disconnected"])
            assert not broker.is_connected
        node[0].announce(message(1))
        node[0].announce_sweep()
    for broker, handler in (node, other):
        await handler.until(lambda handler=handler: handler.changes[-1] == "connected", 20)
        assert broker.is_connected
    await place.subscribe(*other, TEA)
    node[0].announce(message(2))
    await other[1].until(lambda: other[1].groups == {TEA: 2})


async def test_what_was_rung_while_the_server_was_away(place, node):
    """It is rung when it is back, without being rung again."""
    broker, handler = node
    with place.away():
        await handler.until(lambda: handler.changes[1:2] == ["disconnected"])
        broker.announce(message(1))
        sent = broker.sent
    await eventually(lambda: broker.sent == sent + 1, 20)


async def test_connections_that_are_cut(place, node, other, caplog):
    """They are made anew, and whoever hears is told so: something may have been missed."""
    place.cut()
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.changes[:3] == ["connected", "disconnected", "connected"])
        await handler.until(lambda handler=handler: handler.changes[-1] == "connected")
    await place.subscribe(*other, TEA)
    await place.subscribe(*node, TEA)
    node[0].announce(message(1))
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.groups == {TEA: 1})
    assert {(record.levelname, record.exc_info) for record in caplog.records} == {("WARNING", None)}


async def test_figures(node, other):
    """What was sent and heard is counted, and it is measured how long one's own ring takes."""
    broker, handler = node
    sent = broker.sent
    broker.announce(message(1))
    await handler.until(lambda: handler.groups)
    await other[1].until(lambda: other[1].groups)
    assert other[0].received >= 1
    await eventually(lambda: broker.sent == sent + 1)
    await eventually(lambda: 0 < broker.round_trip < 5)


async def test_the_lag_while_nothing_is_heard(place, node):
    """It grows."""
    broker, handler = node
    broker.announce(message(1))
    await handler.until(lambda: handler.groups)
    with place.away():
        await handler.until(lambda: handler.changes[1:2] == ["disconnected"])
        broker.announce(message(2))
        await eventually(lambda: broker.round_trip > 0.2)


# The end


async def test_what_was_not_rung_at_the_end_is_rung(place, other):
    """So that what was appended last is heard elsewhere, too, without waiting for a sweep."""
    async with place.broker() as broker, broker.running(RecordingHandler()):
        broker.announce(message(1))
    await other[1].until(lambda: other[1].groups == {TEA: 1})


async def test_the_end_does_not_wait_for_ever(place, monkeypatch):
    """What cannot be rung is given up."""
    for each in (postgres, redis):
        monkeypatch.setattr(each, "STOP_TIMEOUT", 0.01)
    handler = RecordingHandler()
    async with place.broker() as broker:
        with place.away():
            async with asyncio.timeout(10), broker.running(handler):
                broker.announce(message(1))
    assert handler.changes[-1] == "disconnected"


async def test_ears_that_fail(place, caplog):
    """A fault of ours is logged, and hearing is begun anew."""

    class Deaf(RecordingHandler):
        def on_announcement(self, announcement):
            super().on_announcement(announcement)
            raise KeyError(len(self.announcements))

    deaf = Deaf()
    async with place.broker() as broker, broker.running(deaf):
        await deaf.until(lambda: deaf.changes)
        broker.announce_sweep()
        await deaf.until(lambda: deaf.changes == ["connected", "disconnected", "connected"])
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]
