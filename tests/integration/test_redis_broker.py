"""The broker in Redis: its channels. test_brokers.py has what every broker does."""

import asyncio
import json
from uuid import UUID

import pytest
import redis
from brokers import EPOCH, PIE, TEA, RecordingHandler, message

from att.errors import RedisUnavailable
from att.realtime.brokers import buffer, redis as module, subscriptions
from att.realtime.brokers.redis import ALL, GROUP_CHANNEL, NODE, RedisBroker
from att.redis.client import RedisClient
from att.sessions.redis_scripts import ENDED_CHANNEL


async def eventually(is_so, seconds=5):
    """Poll for a state that has no event."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - nobody does
            await asyncio.sleep(0.01)


@pytest.fixture
async def make(valkey):
    """Make a running broker and its handler, which end with the test."""
    made = []

    async def go(url=valkey.url):
        redis_client, handler = await RedisClient.connect(url), RecordingHandler()
        broker = RedisBroker(redis_client)
        running = broker.running(handler)
        await running.__aenter__()
        made.append((redis_client, running))
        await handler.until(lambda: handler.changes)
        return broker, handler

    yield go
    for redis_client, running in made:
        await running.__aexit__(None, None, None)
        await redis_client.close()


async def subscribe(broker, handler, *group_ids):
    for group_id in group_ids:
        broker.subscribe(group_id)
    await handler.until(lambda: {*handler.subscribed} >= {*group_ids})


async def test_messages_come_along(make):
    """In order, byte for byte, those of one group in few payloads."""
    broker, _ = await make()
    other, handler = await make()
    await subscribe(other, handler, TEA)
    bodies = [b'{"a":1.0, "b":  "\xc3\xa9"}', b"{}", *(b'{"n":%d}' % number for number in range(500))]
    events = [message(seq, body=body) for seq, body in enumerate(bodies, 1)]
    before = other.received
    for event in events:
        broker.announce(event, EPOCH)
    await handler.until(lambda: len(handler.events) == len(events))
    assert handler.events == events
    assert other.received - before < 20


async def test_messages_that_are_too_long(make, monkeypatch):
    """Only their head is announced."""
    monkeypatch.setattr(buffer, "GROUP_BYTES", 100)
    broker, _ = await make()
    other, handler = await make()
    await subscribe(other, handler, TEA)
    broker.announce(message(1, body=b"{}"), EPOCH)
    broker.announce(message(2, body=b'{"a":"%b"}' % (b"x" * 100)), EPOCH)
    await handler.until(lambda: handler.groups == {TEA: 2})
    assert [event.seq for event in handler.events] == [1]


async def test_channels(make, valkey):
    """A node subscribes to the channel of all, its own, and those of its groups, which it leaves after a while."""
    broker, handler = await make()
    own = f"{NODE}{broker._id}".encode()
    assert {*valkey.ask("PUBSUB", "CHANNELS")} == {ALL.encode(), ENDED_CHANNEL.encode(), own}
    await subscribe(broker, handler, TEA, PIE)
    groups = {f"{GROUP_CHANNEL}{group_id}".encode() for group_id in (TEA, PIE)}
    assert {*valkey.ask("PUBSUB", "CHANNELS", f"{GROUP_CHANNEL}*")} == groups
    broker.unsubscribe(TEA)
    assert {*valkey.ask("PUBSUB", "CHANNELS", f"{GROUP_CHANNEL}*")} == groups


async def test_leaving(make, valkey, monkeypatch):
    """The channel is left after a while, and subscribed to again for the next listener."""
    monkeypatch.setattr(subscriptions, "LINGER", 0)
    monkeypatch.setattr(module, "_TICK", 0.01)
    broker, handler = await make()
    await subscribe(broker, handler, TEA, PIE)
    broker.unsubscribe(TEA)
    await eventually(
        lambda: valkey.ask("PUBSUB", "CHANNELS", f"{GROUP_CHANNEL}*") == [f"{GROUP_CHANNEL}{PIE}".encode()]
    )
    broker.subscribe(TEA)
    await handler.until(lambda: handler.subscribed.count(TEA) == 2)


async def test_very_many_groups(make, valkey):
    """All of them are subscribed to."""
    broker, handler = await make()
    groups = [UUID(int=number) for number in range(1, 12_001)]
    await subscribe(broker, handler, *groups)
    assert len(valkey.ask("PUBSUB", "CHANNELS", f"{GROUP_CHANNEL}*")) == len(groups)


async def test_no_connection_without_an_answer(make, monkeypatch, valkey):
    """A server that says nothing more is taken for one that has gone."""
    monkeypatch.setattr("att.redis.pubsub._SILENCE", 0.05)
    broker, handler = await make()
    valkey.ask("CLIENT", "PAUSE", 2_000)
    await handler.until(lambda: handler.changes[1:2] == ["disconnected"])
    assert not broker.is_connected
    await handler.until(lambda: handler.changes[-1] == "connected", 10)


async def test_payloads_on_the_channel_of_all(make, valkey):
    """A sweep is accepted; members and heads are not, since only the database announces them."""
    _, handler = await make()
    joined = {"joined": [[str(TEA), 1, str(PIE)]], "groups": {str(TEA): 9}}
    valkey.publish(ALL, json.dumps(joined))
    valkey.publish(ALL, json.dumps({"sweep": True}))
    await handler.until(lambda: handler.sweeps)
    assert (handler.groups, [joining for announcement in handler.announcements for joining in announcement.joined]) == (
        {},
        [],
    )


async def test_a_slot_that_moves(valkey_cluster, make):
    """Subscribing and publishing find the channel where it is then."""
    broker, handler = await make(valkey_cluster.url)
    other, others = await make(valkey_cluster.url)
    for each in ((broker, handler), (other, others)):
        await subscribe(*each, TEA)
    with redis.RedisCluster("127.0.0.1", valkey_cluster.servers[0].port, protocol=2) as client:
        slot = client.keyslot(f"{GROUP_CHANNEL}{TEA}")
        owner = client.get_node_from_key(f"{GROUP_CHANNEL}{TEA}").port
    source = next(server for server in valkey_cluster.servers if server.port == owner)
    target = next(server for server in valkey_cluster.servers if server.port != owner)
    node_id = target.ask("CLUSTER", "MYID").decode()
    for server in (target, source, *valkey_cluster.servers):
        server.ask("CLUSTER", "SETSLOT", slot, "NODE", node_id)
    for each in (handler, others):
        await each.until(lambda each=each: each.subscribed.count(TEA) >= 2, 20)
    broker.announce(message(1), EPOCH)
    await others.until(lambda: others.events == [message(1)], 20)


async def test_an_announcement_that_fails(make, monkeypatch):
    """Its head is sent again with newer ones; the messages are read then."""
    broker, _ = await make()
    other, handler = await make()
    await subscribe(other, handler, TEA)
    publish, errors = broker._pubsub.publish_sharded, [RedisUnavailable()]

    async def fail_once(payloads):
        if errors:
            if not handler.groups:
                broker.announce(message(5), EPOCH)
            raise errors.pop()
        await publish(payloads)

    monkeypatch.setattr(broker._pubsub, "publish_sharded", fail_once)
    broker.announce(message(4), EPOCH)
    broker.announce_sweep()
    await handler.until(lambda: handler.groups == {TEA: 5} and handler.sweeps)
    assert handler.events == [message(5)]
    errors.append(RedisUnavailable())
    broker.announce_head(TEA, 6)
    await handler.until(lambda: handler.groups == {TEA: 6})
