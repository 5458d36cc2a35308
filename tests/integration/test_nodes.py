"""Two nodes on one database and one Redis: messages of one reach the other, without another read."""

import asyncio
import contextlib
from uuid import uuid4

import pytest
from doubles import FakeLiveSessions, RecordingConnection, SpyLog, bodies, frames, received

from att.db.engine import Engine
from att.groups.read_markers import ReadMarkers
from att.protocol.frames import CloseCode
from att.realtime import log_reader as log_reader_module
from att.realtime.broker_events import BrokerEvents
from att.realtime.brokers import buffer
from att.realtime.brokers.postgres import PostgresBroker
from att.realtime.brokers.redis import GROUP_CHANNEL, RedisBroker
from att.realtime.event_log import Publish
from att.realtime.hub import Hub
from att.realtime.log_reader import LogReader
from att.realtime.marker_updates import MarkerUpdates
from att.realtime.publisher import Publisher
from att.realtime.registry import Listener, Registry
from att.redis.client import RedisClient
from att.sessions.cache import SessionCache
from att.sessions.revocation import SessionRevoker

PATIENCE = 3.0  # seconds for what is under way between two nodes on a machine that has other things to do


class Server:
    """A node without its HTTP."""

    def __init__(self, db, db_url, redis_client):
        self.log, self.broker, self.sessions, woken = (
            SpyLog(db),
            RedisBroker(redis_client),
            FakeLiveSessions(),
            asyncio.Event(),
        )
        self.hub = Hub(Registry(), wake=woken.set, subscribe=self.broker.subscribe, unsubscribe=self.broker.unsubscribe)
        self.log_reader = LogReader(self.log, self.hub, self.sessions, woken, PATIENCE)
        self.cache = SessionCache(self.sessions, self.hub)
        self.brokers = [PostgresBroker(db, db_url), self.broker]
        revoker = SessionRevoker(self.cache, self.cache)
        self.markers = MarkerUpdates(ReadMarkers(db), self.hub, self.broker)
        self.events = BrokerEvents(self.hub, self.log_reader, self.cache, revoker, self.markers, self.brokers)
        self.publisher = Publisher(self.log, self.hub, self.broker)
        self.subscribed = set()
        self.subscriptions_changed = asyncio.Event()
        self._on_subscribed, self.events.on_subscribed = self.events.on_subscribed, self._keep

    def _keep(self, group_ids):
        self._on_subscribed(group_ids)
        self.subscribed.update(group_ids)
        self.subscriptions_changed.set()

    @contextlib.asynccontextmanager
    async def running(self):
        async with self.log_reader.running(), self.events.running(), self.publisher.running():
            await until(lambda: all(broker.is_connected for broker in self.brokers))
            # Without listeners the sweep after connecting ends with its first read.
            await until(lambda: self.log.recent_found and len(self.log.recent_found) == len(self.log.recent_reads))
            yield self

    async def listen(self, user_id):
        listener = Listener(user_id, uuid4(), RecordingConnection())
        self.sessions.ids.add(listener.session_id)
        self.hub.attach(listener)
        self.hub.start(listener, await self.log.positions(user_id), {})
        return listener

    async def has_subscribed_to(self, *group_ids):
        """Wait until the groups are subscribed to and have been looked up."""
        async with asyncio.timeout(5):
            while not self.subscribed >= {*group_ids}:
                self.subscriptions_changed.clear()
                await self.subscriptions_changed.wait()
        await until(lambda: {*group_ids} <= {group for read in self.log.heads_found for group in read})
        # A read of heads that ends after an append finds it before the broker brings it: the event is then read.
        await until(lambda: len(self.log.heads_found) == len(self.log.head_reads))


async def until(is_so, seconds=5):
    """Poll for a state that has no event."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - nobody does
            await asyncio.sleep(0.005)


@pytest.fixture(params=["redis", "cluster"])
def valkeys(request):
    return request.getfixturevalue("valkey" if request.param == "redis" else "valkey_cluster")


@pytest.fixture(autouse=True)
def no_sweep(monkeypatch):
    """Sweep on request only."""
    monkeypatch.setattr(log_reader_module, "_SWEEP_INTERVAL", 3600)


@pytest.fixture
async def servers(db_url, valkeys, tea):
    """Two nodes. The group exists already, so that its creation is not announced."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(2):
            db = await Engine.connect(db_url)
            stack.push_async_callback(db.close)
            redis_client = await RedisClient.connect(valkeys.url)
            stack.push_async_callback(redis_client.close)
            found.append(await stack.enter_async_context(Server(db, db_url, redis_client).running()))
        yield found


def publish_of(group, user_id, number):
    return Publish(group, user_id, bodies(number)[0])


@pytest.fixture
def mate(add_group, ann_id):
    return add_group("mate", ann_id)


async def test_in_step(mate, servers, tea, ann_id):
    """Broadcasts go from each node to the other, and nobody reads an event from the database.

    Also not when both send to one group at the same time, so that the later may be here before the earlier is.
    """
    anns = [await server.listen(ann_id) for server in servers]
    for server in servers:
        await server.has_subscribed_to(tea, mate)
    for number in range(0, 100, 4):
        await asyncio.gather(
            servers[0].publisher.append(publish_of(tea, ann_id, number)),
            servers[1].publisher.append(publish_of(tea, ann_id, number + 1)),
        )
        await servers[0].publisher.append(publish_of(mate, ann_id, number + 2))
        await servers[1].publisher.append(publish_of(mate, ann_id, number + 3))
        for ann in anns:
            await received(ann.connection, number + 4)
    for ann in anns:
        assert sorted(ann.connection.frames) == sorted(frames(*range(100)))
    assert [server.log.reads for server in servers] == [[], []]


async def test_many_at_once(servers, tea, ann_id):
    """They come in order, and each comes once."""
    ann = await servers[1].listen(ann_id)
    await servers[1].has_subscribed_to(tea)
    for number in range(2_000):
        servers[0].publisher.submit(publish_of(tea, ann_id, number), lambda _: None)
    assert await received(ann.connection, 2_000) == frames(*range(2_000))
    assert servers[1].log.reads == []


async def test_a_message_that_is_too_long_for_a_payload(servers, tea, ann_id, monkeypatch):
    """It is read, and delivered in its place."""
    monkeypatch.setattr(buffer, "GROUP_BYTES", 8)
    ann = await servers[1].listen(ann_id)
    await servers[1].has_subscribed_to(tea)
    for number in (1, 10**9, 2):
        await servers[0].publisher.append(publish_of(tea, ann_id, number))
    assert await received(ann.connection, 3) == frames(1, 10**9, 2)
    assert servers[1].log.reads


async def test_a_repeat(servers, tea, ann_id):
    """A message that nobody could announce is delivered on the other node by its repeat, once."""
    ann = await servers[1].listen(ann_id)
    await servers[1].has_subscribed_to(tea)
    await servers[0].log.append([Publish(tea, ann_id, bodies(1)[0], "k")])  # and nobody could ring
    assert (await servers[0].publisher.append(Publish(tea, ann_id, bodies(1)[0], "k"))).is_repeat
    assert await received(ann.connection) == frames(1)


async def test_no_listener_no_payload(mate, servers, valkeys, tea, ann_id, monkeypatch):
    """A node receives nothing of groups without listeners there."""
    ann = await servers[1].listen(ann_id)
    await servers[1].has_subscribed_to(tea, mate)
    assert _subscribers(valkeys, tea, mate) == {tea: 1, mate: 1}
    heard, published = [], servers[0].broker.published

    def keep(channel, payload):
        heard.append(channel)
        published(channel, payload)

    monkeypatch.setattr(servers[0].broker, "published", keep)
    await servers[1].publisher.append(publish_of(tea, ann_id, 1))
    await received(ann.connection)
    servers[1].broker.announce_sweep()
    await until(lambda: "att:all" in heard)
    assert not [channel for channel in heard if channel.startswith(GROUP_CHANNEL)]
    bob = await servers[0].listen(ann_id)
    await servers[0].has_subscribed_to(tea)
    assert _subscribers(valkeys, tea, mate) == {tea: 2, mate: 2}
    await servers[1].publisher.append(publish_of(tea, ann_id, 2))
    assert await received(bob.connection) == frames(2)
    assert f"{GROUP_CHANNEL}{tea}" in heard


def _subscribers(valkeys, *group_ids):
    counts = dict.fromkeys(group_ids, 0)
    for server in getattr(valkeys, "servers", [valkeys]):
        command = "SHARDNUMSUB" if server is not valkeys else "NUMSUB"
        said = server.ask("PUBSUB", command, *(f"{GROUP_CHANNEL}{group_id}" for group_id in group_ids))
        for group_id, count in zip(group_ids, said[1::2], strict=True):
            counts[group_id] += count
    return counts


async def test_a_message_before_the_subscription(servers, tea, ann_id, monkeypatch):
    """A listener with earlier positions receives it after the subscription, without a sweep."""
    sent = asyncio.Event()
    subscribe = servers[1].broker._subscriptions.take
    monkeypatch.setattr(
        servers[1].broker._subscriptions, "take", lambda limit: subscribe(limit if sent.is_set() else 0)
    )
    ann = await servers[1].listen(ann_id)
    await servers[0].publisher.append(publish_of(tea, ann_id, 1))
    await until(lambda: servers[0].broker.sent == 1)
    assert ann.connection.frames == []
    sent.set()
    servers[1].broker._subscriptions.wake()
    assert await received(ann.connection) == frames(1)


async def test_sql(servers, tea, ann_id, sql, add_user):
    """Announcements of triggers arrive without a call of ours."""
    bob_id = add_user("bob").user_id
    bob, ann = await servers[0].listen(bob_id), await servers[1].listen(ann_id)
    sql("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", tea, bob_id)
    sql("SELECT att_broadcast(%s, %s)", tea, bodies(1)[0].decode())
    for listener in (bob, ann):
        assert await received(listener.connection) == frames(1)
    sql("DELETE FROM members WHERE user_id = %s", bob_id)
    await servers[1].publisher.append(publish_of(tea, ann_id, 2))
    assert await received(ann.connection, 2) == frames(1, 2)
    await until(lambda: not bob.groups)
    assert bob.connection.frames == frames(1)


async def test_a_session_that_was_ended_in_redis(servers, valkeys, ann_id, tea):
    """Its sockets are closed on each node."""
    ann = await servers[0].listen(ann_id)
    other = await servers[1].listen(ann_id)
    valkeys.publish("att:sessions", f'["{ann.session_id}", "{other.session_id}"]')
    for listener in (ann, other):
        await until(lambda listener=listener: listener.connection.codes)
        assert listener.connection.codes == [CloseCode.SESSION_ENDED]


async def test_a_redis_that_is_killed(servers, valkeys, tea, ann_id):
    """Messages of the meantime arrive when it is back, and later ones at once."""
    anns = [await server.listen(ann_id) for server in servers]
    for server in servers:
        await server.has_subscribed_to(tea)
    valkeys.kill()
    try:
        for server in servers:
            await until(lambda server=server: not server.broker.is_connected)
        for number in range(3):
            await servers[0].publisher.append(publish_of(tea, ann_id, number))
        assert anns[0].connection.frames == frames(0, 1, 2)
        assert anns[1].connection.frames == []
    finally:
        await asyncio.to_thread(valkeys.start)
    for ann in anns:
        assert await received(ann.connection, 3, 20) == frames(0, 1, 2)
    await servers[1].publisher.append(publish_of(tea, ann_id, 3))
    for ann in anns:
        assert await received(ann.connection, 4, 20) == frames(0, 1, 2, 3)


async def test_without_redis_the_sweep_finds_it(servers, valkeys, tea, ann_id, monkeypatch):
    """However long it is away."""
    ann = await servers[1].listen(ann_id)
    await servers[1].has_subscribed_to(tea)
    valkeys.kill()
    try:
        await until(lambda: not servers[1].broker.is_connected)
        await servers[0].publisher.append(publish_of(tea, ann_id, 1))
        await servers[1].log_reader.sweep()
        assert await received(ann.connection) == frames(1)
    finally:
        await asyncio.to_thread(valkeys.start)
