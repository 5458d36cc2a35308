"""What every bus does: what is rung on one node is heard on all, and when it could not be, they are told so."""

import asyncio
from uuid import uuid4

import pytest
from buses import PIE, TEA, Ears, Postgres, Redis, message

from att.realtime.brokers import postgres, redis


async def eventually(is_so, seconds=5):
    """Wait for what nobody tells of."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - nobody does
            await asyncio.sleep(0.01)


@pytest.fixture(params=["postgresql", "redis", "cluster"])
def place(request):
    """Where the buses of this test meet."""
    if request.param == "postgresql":
        return Postgres(request.getfixturevalue("postgresql"), request.getfixturevalue("db_url"))
    return Redis(request.getfixturevalue("valkey" if request.param == "redis" else "valkey_cluster"))


@pytest.fixture
async def node(place):
    """A bus that runs, hears the groups Tea and Pie, and whoever hears it."""
    ears = Ears()
    async with place.bus() as bus, bus.running(ears):
        await ears.until(lambda: ears.changes)
        await place.tune(bus, ears, TEA, PIE)
        yield bus, ears


@pytest.fixture
async def other(place):
    """Another one."""
    ears = Ears()
    async with place.bus() as bus, bus.running(ears):
        await ears.until(lambda: ears.changes)
        await place.tune(bus, ears, TEA, PIE)
        yield bus, ears


async def test_a_ring(node, other):
    """It is heard on each node, the one that has rung included."""
    node[0].ring(message(7))
    for _, ears in (node, other):
        await ears.until(lambda ears=ears: ears.groups == {TEA: 7})
    other[0].ring_head(PIE, 2**63 - 1)
    for _, ears in (node, other):
        await ears.until(lambda ears=ears: ears.groups == {TEA: 7, PIE: 2**63 - 1})
    assert node[1].events == []  # it has them already


async def test_a_ring_for_a_sweep(node, other):
    """It is heard on each node, the one that has rung included."""
    node[0].ring_for_sweep()
    for _, ears in (node, other):
        await ears.until(lambda ears=ears: ears.sweeps == 1)


async def test_many_rings(node, other):
    """However many are rung at once, of each group the head is heard, in few payloads."""
    bus, before = node[0], other[0].heard
    for seq in range(1, 1001):
        bus.ring(message(seq))
        bus.ring(message(2 * seq, PIE))
    await other[1].until(lambda: other[1].groups == {TEA: 1000, PIE: 2000})
    assert other[0].heard - before < 50


async def test_very_many_groups(place, node, other):
    """All of them are heard."""
    groups = {uuid4(): 2**63 - 1 - number for number in range(301)}
    await place.tune(*other, *groups)
    for group_id, seq in groups.items():
        node[0].ring_head(group_id, seq)
    await other[1].until(lambda: other[1].groups == groups)


async def test_sessions(place, node, other):
    """Those that were ended elsewhere are told."""
    session_id = uuid4()
    place.end_session(session_id)
    for _, ears in (node, other):
        await ears.until(lambda ears=ears: ears.sessions == [session_id])


async def test_what_is_no_ring(place, node, other, caplog):
    """It is ignored, with a line in the log, and what comes after it is heard."""
    count = place.garble()
    node[0].ring(message(1))
    await other[1].until(lambda: other[1].groups == {TEA: 1})
    node[0].ring_for_sweep()
    for _, ears in (node, other):
        await ears.until(lambda ears=ears: ears.sweeps)
        assert (ears.changes, ears.groups) == (["connected"], {TEA: 1})
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("WARNING", None)] * 2 * count


async def test_a_server_that_is_killed(place, node, other):
    """Each node is told when it hears nothing, and when it does; what was rung meanwhile is rung then."""
    with place.away():
        for bus, ears in (node, other):
            await ears.until(lambda ears=ears: ears.changes[1:2] == ["disconnected"])
            assert not bus.is_connected
        node[0].ring(message(1))
        node[0].ring_for_sweep()
    for bus, ears in (node, other):
        await ears.until(lambda ears=ears: ears.changes[-1] == "connected", 20)
        assert bus.is_connected
    await place.tune(*other, TEA)
    node[0].ring(message(2))
    await other[1].until(lambda: other[1].groups == {TEA: 2})


async def test_what_was_rung_while_the_server_was_away(place, node):
    """It is rung when it is back, without being rung again."""
    bus, ears = node
    with place.away():
        await ears.until(lambda: ears.changes[1:2] == ["disconnected"])
        bus.ring(message(1))
        sent = bus.sent
    await eventually(lambda: bus.sent == sent + 1, 20)


async def test_connections_that_are_cut(place, node, other, caplog):
    """They are made anew, and whoever hears is told so: something may have been missed."""
    place.cut()
    for _, ears in (node, other):
        await ears.until(lambda ears=ears: ears.changes[:3] == ["connected", "disconnected", "connected"])
        await ears.until(lambda ears=ears: ears.changes[-1] == "connected")
    await place.tune(*other, TEA)
    await place.tune(*node, TEA)
    node[0].ring(message(1))
    for _, ears in (node, other):
        await ears.until(lambda ears=ears: ears.groups == {TEA: 1})
    assert {(record.levelname, record.exc_info) for record in caplog.records} == {("WARNING", None)}


async def test_figures(node, other):
    """What was sent and heard is counted, and it is measured how long one's own ring takes."""
    bus, ears = node
    sent = bus.sent
    bus.ring(message(1))
    await ears.until(lambda: ears.groups)
    await other[1].until(lambda: other[1].groups)
    assert other[0].heard >= 1
    await eventually(lambda: bus.sent == sent + 1)
    await eventually(lambda: 0 < bus.lag < 5)


async def test_the_lag_while_nothing_is_heard(place, node):
    """It grows."""
    bus, ears = node
    bus.ring(message(1))
    await ears.until(lambda: ears.groups)
    with place.away():
        await ears.until(lambda: ears.changes[1:2] == ["disconnected"])
        bus.ring(message(2))
        await eventually(lambda: bus.lag > 0.2)


# The end


async def test_what_was_not_rung_at_the_end_is_rung(place, other):
    """So that what was appended last is heard elsewhere, too, without waiting for a sweep."""
    async with place.bus() as bus, bus.running(Ears()):
        bus.ring(message(1))
    await other[1].until(lambda: other[1].groups == {TEA: 1})


async def test_the_end_does_not_wait_for_ever(place, monkeypatch):
    """What cannot be rung is given up."""
    for each in (postgres, redis):
        monkeypatch.setattr(each, "STOP_TIMEOUT", 0.01)
    ears = Ears()
    async with place.bus() as bus:
        with place.away():
            async with asyncio.timeout(10), bus.running(ears):
                bus.ring(message(1))
    assert ears.changes[-1] == "disconnected"


async def test_ears_that_fail(place, caplog):
    """A fault of ours is logged, and hearing is begun anew."""

    class Deaf(Ears):
        def heard(self, ring):
            super().heard(ring)
            raise KeyError(len(self.rings))

    deaf = Deaf()
    async with place.bus() as bus, bus.running(deaf):
        await deaf.until(lambda: deaf.changes)
        bus.ring_for_sweep()
        await deaf.until(lambda: deaf.changes == ["connected", "disconnected", "connected"])
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]
