"""The bus: who rings is heard, by whoever is connected to the same database, and once more when that comes back."""

import asyncio
import json
from uuid import UUID, uuid4

import pytest
from parts import away

from att.db.engine import Engine
from att.errors import DatabaseUnavailable
from att.realtime import bus as module
from att.realtime.bus import Joining, PostgresBus, Ring

TEA, PIE = UUID(int=1), UUID(int=2)


class Ears:
    """Keeps what it hears."""

    def __init__(self):
        self.rings = []
        self.changes = []
        self.is_told = asyncio.Event()

    def heard(self, ring):
        self.rings.append(ring)
        self.is_told.set()

    def connected(self):
        self.changes.append("connected")
        self.is_told.set()

    def disconnected(self):
        self.changes.append("disconnected")
        self.is_told.set()

    async def until(self, probe, seconds=5):
        async with asyncio.timeout(seconds):
            while not probe():
                self.is_told.clear()
                await self.is_told.wait()

    @property
    def groups(self):
        """The highest seq that was heard of each group."""
        heads = {}
        for ring in self.rings:
            for group_id, seq in ring.groups.items():
                heads[group_id] = max(seq, heads.get(group_id, 0))
        return heads


class Slow:
    """An engine that holds up, or fails, what it is asked for."""

    def __init__(self, db):
        self.db = db
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.payloads = []

    async def fetch_one(self, statement, *, payload):
        self.payloads.append(json.loads(payload))
        self.begun.set()
        await self.gate.wait()
        return await self.db.fetch_one(statement, payload=payload)


@pytest.fixture
def slow(db):
    return Slow(db)


@pytest.fixture
def ears():
    return Ears()


@pytest.fixture
async def bus(db, db_url, ears):
    bus = PostgresBus(db, db_url)
    async with bus.running(ears):
        await ears.until(lambda: ears.changes)
        yield bus


@pytest.fixture
async def other(db_url):
    """What another node hears, and its bus."""
    db, ears = await Engine.connect(db_url), Ears()
    bus = PostgresBus(db, db_url)
    async with bus.running(ears):
        await ears.until(lambda: ears.changes)
        yield ears, bus
    await db.close()


@pytest.fixture
def notify(sql):
    return lambda payload: sql("SELECT pg_notify('att', %s)", payload)


async def test_a_ring_is_heard(bus, ears, other):
    """On each node, also on the one that has rung."""
    bus.ring(TEA, 7)
    for each in (ears, other[0]):
        await each.until(lambda each=each: each.rings)
        assert each.rings == [Ring({TEA: 7}, [], [], sweep=False)]
    other[1].ring_for_sweep()
    for each in (ears, other[0]):
        await each.until(lambda each=each: len(each.rings) > 1)
        assert each.rings[1:] == [Ring({}, [], [], sweep=True)]


async def test_rings_gather(slow, db_url, ears):
    """What is rung while a ring is under way becomes one, with the highest seq of each group."""
    bus = PostgresBus(slow, db_url)
    async with bus.running(ears):
        await ears.until(lambda: ears.changes)
        bus.ring(TEA, 1)
        await asyncio.wait_for(slow.begun.wait(), 5)
        for seq in (2, 9, 5):
            bus.ring(TEA, seq)
        bus.ring(PIE, 3)
        bus.ring_for_sweep()
        slow.gate.set()
        await ears.until(lambda: ears.groups.keys() == {TEA, PIE})
    assert [(payload["groups"], payload["sweep"]) for payload in slow.payloads] == [
        ({str(TEA): 1}, False),
        ({str(TEA): 9, str(PIE): 3}, True),
    ]


async def test_many_groups(bus, ears):
    """They go in several, none of which is too long for PostgreSQL, whatever their seq."""
    groups = {uuid4(): 2**63 - 1 - number for number in range(2 * module.HEADS + 1)}
    for group_id, seq in groups.items():
        bus.ring(group_id, seq)
    await ears.until(lambda: ears.groups == groups)
    assert [len(ring.groups) for ring in ears.rings] == [module.HEADS, module.HEADS, 1]


async def test_a_database_that_is_away(bus, ears, other, postgresql):
    """What was rung meanwhile is rung when it is back; each node is told when it heard nothing, and when it does."""
    others, _ = other
    with away(postgresql):
        bus.ring(TEA, 1)
        bus.ring_for_sweep()
        for each in (ears, others):
            await each.until(lambda each=each: each.changes[1:2] == ["disconnected"])
        bus.ring(TEA, 2)
    for each in (ears, others):
        await each.until(lambda each=each: each.changes[-1] == "connected", 10)
        assert set(each.changes[1:-1]) == {"disconnected"}
    # The ring may have come before they were connected again; that is why they look everything up then.
    bus.ring(PIE, 1)
    await others.until(lambda: others.groups.get(PIE) == 1)


async def test_a_ring_that_fails(slow, db_url, ears, monkeypatch):
    """It is rung again, with what has come meanwhile."""
    fetch_one, errors = slow.fetch_one, [DatabaseUnavailable()]

    async def fail_once(statement, *, payload):
        if errors:
            raise errors.pop()
        return await fetch_one(statement, payload=payload)

    monkeypatch.setattr(slow, "fetch_one", fail_once)
    slow.gate.set()
    bus = PostgresBus(slow, db_url)
    async with bus.running(ears):
        await ears.until(lambda: ears.changes)
        bus.ring(TEA, 4)
        bus.ring_for_sweep()
        await ears.until(lambda: ears.rings)
    assert ears.rings == [Ring({TEA: 4}, [], [], sweep=True)]


async def test_a_connection_that_is_killed(bus, ears, sql, caplog):
    """It is made anew, by itself, and whoever hears is told so: something may have been missed."""
    listening = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN att'"
    assert len(sql(f"{listening} AND datname = current_database()")) == 1
    await ears.until(lambda: ears.changes == ["connected", "disconnected", "connected"])
    bus.ring(TEA, 1)
    await ears.until(lambda: ears.rings)
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("WARNING", None)]


@pytest.mark.parametrize(
    "payload",
    [
        *("", "tea", "1", "null", "[]", '"x"', "{", "[" * 7_999),
        *('{"groups": null}', '{"groups": []}', '{"groups": {"tea": 1}}', f'{{"groups": {{"{TEA}": "x"}}}}'),
        *(f'{{"groups": {{"{TEA}": {seq}}}}}' for seq in (None, "1e999", -1, 0, 2**63, 1.5, '"1"')),
        *('{"joined": 1}', '{"joined": [[]]}', f'{{"joined": [["{TEA}", {2**63}, "{PIE}"]]}}'),
        *('{"sessions": 1}', '{"sessions": [1]}', '{"sessions": ["x"]}'),
    ],
)
async def test_what_others_announce_on_the_channel(bus, ears, notify, caplog, payload):
    """It is ignored, with a line in the log, and what comes after it is heard."""
    notify(payload)
    bus.ring(TEA, 1)
    await ears.until(lambda: ears.rings)
    assert ears.rings == [Ring({TEA: 1}, [], [], sweep=False)]
    assert ears.changes == ["connected"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_what_the_triggers_tell(bus, ears, sql, add_user, add_group):
    """Joinings, leavings, broadcasts by SQL and sessions that are deleted are heard as what they are."""
    ann, bob = add_user("ann").user_id, add_user("bob").user_id
    tea = add_group("tea", ann)
    sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", tea, bob)
    sql("DELETE FROM members WHERE user_id = %s", bob)
    sql("SELECT att_broadcast(%s, '{}')", tea)
    session = "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES ('x', %s, now() + '1 h') RETURNING id"
    ((session_id,),) = sql(session, ann)
    sql("DELETE FROM sessions")
    await ears.until(lambda: len(ears.rings) == 5)
    assert ears.rings == [
        Ring({tea: 1}, [Joining(tea, 1, ann)], [], sweep=False),
        Ring({tea: 2}, [Joining(tea, 2, bob)], [], sweep=False),
        Ring({tea: 3}, [], [], sweep=False),
        Ring({tea: 4}, [], [], sweep=False),
        Ring({}, [], [session_id], sweep=False),
    ]


async def test_very_many_joinings(bus, ears, sql, add_user):
    """They are told by a ring that says to look everything up."""
    ann = add_user("ann").user_id
    sql("INSERT INTO groups (name, name_key) SELECT n::text, n::text FROM generate_series(1, 1001) AS n")
    sql("INSERT INTO members (group_id, user_id, role) SELECT id, %s, 'member' FROM groups", ann)
    await ears.until(lambda: ears.rings)
    assert ears.rings == [Ring({}, [], [], sweep=True)]


# The end


async def test_what_was_not_rung_at_the_end_is_rung(db, db_url, ears, other):
    """So that what was appended last is heard elsewhere, too, without waiting for a sweep."""
    bus = PostgresBus(db, db_url)
    async with bus.running(ears):
        bus.ring(TEA, 1)
    await other[0].until(lambda: other[0].rings)


async def test_the_end_does_not_wait_for_ever(slow, db_url, ears, monkeypatch):
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.01)
    bus = PostgresBus(slow, db_url)
    async with asyncio.timeout(5), bus.running(ears):
        bus.ring(TEA, 1)
    assert ears.changes[-1] == "disconnected"


async def test_ears_that_fail(db, db_url, caplog):
    """A fault of ours is logged, and hearing is begun anew."""

    class Deaf(Ears):
        def heard(self, ring):
            super().heard(ring)
            raise KeyError(len(self.rings))

    deaf = Deaf()
    bus = PostgresBus(db, db_url)
    async with bus.running(deaf):
        await deaf.until(lambda: deaf.changes)
        bus.ring(TEA, 1)
        await deaf.until(lambda: deaf.changes == ["connected", "disconnected", "connected"])
    assert [record.exc_info[0] for record in caplog.records] == [KeyError]
