"""Every broker: announcements of one node reach all, and lost connections are reported."""

import asyncio
from uuid import uuid4

import pytest
from brokers import EPOCH, PIE, TEA, Postgres, RecordingHandler, Redis, message

from att.groups.read_markers import MarkerPosition
from att.protocol.messages import EPHEMERAL_LIMIT
from att.realtime.brokers import buffer, postgres, redis
from att.realtime.brokers.base import is_proven
from att.realtime.ephemerals import Ephemeral


async def eventually(is_so, seconds=5):
    """Poll for a state that has no event."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - nobody does
            await asyncio.sleep(0.01)


@pytest.fixture(params=["postgresql", "redis", "cluster"])
def place(request):
    """The common place of this test's brokers."""
    if request.param == "postgresql":
        return Postgres(request.getfixturevalue("postgresql"), request.getfixturevalue("db_url"))
    return Redis(request.getfixturevalue("valkey" if request.param == "redis" else "valkey_cluster"))


@pytest.fixture
async def node(place):
    """A running broker, subscribed to the groups Tea and Pie, and its handler."""
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


async def test_announce(node, other):
    """An announcement reaches each node, its own included."""
    node[0].announce(message(7), EPOCH)
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.groups == {TEA: 7})
    other[0].announce_head(PIE, 2**63 - 1)
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.groups == {TEA: 7, PIE: 2**63 - 1})
    assert node[1].events == []  # it has them already


async def test_announce_markers(node, other):
    """Moved markers reach the other nodes, each user's and group's highest; their own node has told its sockets."""
    told = [MarkerPosition(uuid4(), TEA, '"\U0001f375' * 40, 2**63 - 1 - number) for number in range(50)]
    for position in told:
        node[0].announce_marker(position._replace(seq=1))
        node[0].announce_marker(position)
        node[0].announce_marker(position._replace(seq=2))
    other[0].announce_marker(last := MarkerPosition(uuid4(), PIE, "pie", 1))
    await other[1].until(lambda: len(other[1].markers) == 50)
    assert {*other[1].markers} == {position._replace(name=position.name[:64]) for position in told}
    await node[1].until(lambda: node[1].markers)
    assert node[1].markers == [last]


async def test_announce_ephemerals(node, other, monkeypatch):
    """They reach the other nodes in order and byte for byte; their own node gets none. The oldest are dropped."""
    told = [
        Ephemeral(b"12345678", group_id, uuid4(), number, 2**63 - 1, body)
        for number, (group_id, body) in enumerate([(TEA, '{"x": "\\u00e9é🍵"}'.encode()), (PIE, b'{"n": 1.0}')] * 50)
    ]
    largest = told[0]._replace(seq=2**63 - 1, body=b'{"x":"' + b"y" * (EPHEMERAL_LIMIT - 8) + b'"}')
    for ephemeral in (largest, *told):
        node[0].announce_ephemeral(ephemeral)
    for group_id in (TEA, PIE):
        wanted = [each for each in (largest, *told) if each.group_id == group_id]
        await other[1].until(lambda wanted=wanted, group_id=group_id: other[1].ephemerals(group_id) == wanted)
    monkeypatch.setattr(buffer, "PENDING_EPHEMERALS", 1)
    other[0].announce_ephemeral(told[0])
    other[0].announce_ephemeral(told[2])
    await node[1].until(lambda: node[1].ephemerals(TEA))
    assert node[1].ephemerals(TEA) == [told[2]]


async def test_announce_many_ephemerals(node, other):
    """They arrive in order, also those that are the same, in many payloads."""
    same = Ephemeral(b"12345678", TEA, uuid4(), 1, 1, b'{"x":"' + b"y" * 1_000 + b'"}')
    for _ in range(1_000):
        node[0].announce_ephemeral(same)
    node[0].announce_ephemeral(same._replace(seq=2))
    await other[1].until(lambda: len(other[1].ephemerals(TEA)) == 1_001)
    assert other[1].ephemerals(TEA) == [same] * 1_000 + [same._replace(seq=2)]


async def test_announce_sweep(node, other):
    """An announced sweep reaches each node, its own included."""
    node[0].announce_sweep()
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.sweeps == 1)


async def test_many_announcements(node, other):
    """Announcements at the same time share few payloads, which have each group's head."""
    broker, before = node[0], other[0].received
    for seq in range(1, 1001):
        broker.announce(message(seq), EPOCH)
        broker.announce(message(2 * seq, PIE), EPOCH)
    await other[1].until(lambda: other[1].groups == {TEA: 1000, PIE: 2000})
    assert other[0].received - before < 50


async def test_very_many_groups(place, node, other):
    """All of very many heads are received."""
    groups = {uuid4(): 2**63 - 1 - number for number in range(301)}
    await place.subscribe(*other, *groups)
    for group_id, seq in groups.items():
        node[0].announce_head(group_id, seq)
    await other[1].until(lambda: other[1].groups == groups)


async def test_sessions(place, node, other):
    """The end of a session is received."""
    session_id = uuid4()
    place.end_session(session_id)
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.sessions == [session_id])


async def test_malformed_payloads(place, node, other, caplog):
    """A malformed payload is logged and told, and later ones are received."""
    count = place.garble()
    node[0].announce(message(1), EPOCH)
    await other[1].until(lambda: other[1].groups == {TEA: 1})
    node[0].announce_sweep()
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.sweeps)
        assert (handler.changes, handler.groups, handler.malformed) == (["connected"], {TEA: 1}, count)
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("WARNING", None)] * 2 * count


async def test_a_server_that_is_killed(place, node, other):
    """Each node notices the loss and the return; pending announcements are sent then."""
    with place.away():
        for broker, handler in (node, other):
            await handler.until(lambda handler=handler: handler.changes[1:2] == ["disconnected"])
            assert not broker.is_connected
        node[0].announce(message(1), EPOCH)
        node[0].announce_sweep()
    for broker, handler in (node, other):
        await handler.until(lambda handler=handler: handler.changes[-1] == "connected", 20)
        assert broker.is_connected
    await place.subscribe(*other, TEA)
    node[0].announce(message(2), EPOCH)
    await other[1].until(lambda: other[1].groups == {TEA: 2})


async def test_announcements_while_the_server_is_away(place, node):
    """They are sent once it is back, without a second call."""
    broker, handler = node
    with place.away():
        await handler.until(lambda: handler.changes[1:2] == ["disconnected"])
        broker.announce(message(1), EPOCH)
        sent = broker.sent
    await eventually(lambda: broker.sent == sent + 1, 20)


async def test_connections_that_are_cut(place, node, other, caplog):
    """They are made anew, and handlers learn that announcements may have been missed."""
    place.cut()
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.changes[:3] == ["connected", "disconnected", "connected"])
        await handler.until(lambda handler=handler: handler.changes[-1] == "connected")
    await place.subscribe(*other, TEA)
    await place.subscribe(*node, TEA)
    node[0].announce(message(1), EPOCH)
    for _, handler in (node, other):
        await handler.until(lambda handler=handler: handler.groups == {TEA: 1})
    assert {(record.levelname, record.exc_info) for record in caplog.records} == {("WARNING", None)}


async def test_figures(node, other):
    """Sent and received payloads are counted, and the round trip is measured."""
    broker, handler = node
    sent = broker.sent
    broker.announce(message(1), EPOCH)
    await handler.until(lambda: handler.groups)
    await other[1].until(lambda: other[1].groups)
    assert other[0].received >= 1
    await eventually(lambda: broker.sent == sent + 1)
    await eventually(lambda: 0 < broker.round_trip < 5)


async def test_the_round_trip_while_nothing_is_received(place, node):
    """It grows."""
    broker, handler = node
    broker.announce(message(1), EPOCH)
    await handler.until(lambda: handler.groups)
    with place.away():
        await handler.until(lambda: handler.changes[1:2] == ["disconnected"])
        broker.announce(message(2), EPOCH)
        await eventually(lambda: broker.round_trip > 0.2)


async def test_proof(place, monkeypatch):
    """While nothing is announced a node's own payloads prove that it misses nothing; without them it is not known."""
    for each in (postgres, redis):
        monkeypatch.setattr(each, "ECHO_INTERVAL", 0.01)
    handler = RecordingHandler()
    async with place.broker() as broker, broker.running(handler):
        assert not is_proven(broker)
        await eventually(lambda: is_proven(broker))
        with place.away():
            await eventually(lambda: not is_proven(broker), 15)
        await eventually(lambda: is_proven(broker), 15)
    assert handler.announcements == []


# The end


async def test_pending_announcements_at_the_end(place, other):
    """They are sent, so that other nodes need not wait for a sweep."""
    async with place.broker() as broker, broker.running(RecordingHandler()):
        broker.announce(message(1), EPOCH)
    await other[1].until(lambda: other[1].groups == {TEA: 1})


async def test_the_end_does_not_wait_for_ever(place, monkeypatch):
    """Announcements that cannot be sent are given up."""
    for each in (postgres, redis):
        monkeypatch.setattr(each, "STOP_TIMEOUT", 0.01)
    handler = RecordingHandler()
    async with place.broker() as broker:
        with place.away():
            async with asyncio.timeout(10), broker.running(handler):
                broker.announce(message(1), EPOCH)
    assert handler.changes[-1] == "disconnected"


async def test_a_handler_that_fails(place, caplog):
    """The error is logged, and receiving starts again."""

    class Failing(RecordingHandler):
        def on_announcement(self, announcement):
            super().on_announcement(announcement)
            raise KeyError(len(self.announcements))

    failing = Failing()
    async with place.broker() as broker, broker.running(failing):
        await failing.until(lambda: failing.changes)
        broker.announce_sweep()
        await failing.until(lambda: failing.changes == ["connected", "disconnected", "connected"])
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]
