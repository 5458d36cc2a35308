"""Subscriptions: a group with listeners here is subscribed to once, and lingers afterwards."""

import asyncio
import contextlib
from uuid import UUID

import pytest
from doubles import Clock
from hypothesis import given, strategies as st

from att.realtime.brokers import redis as redis_broker, subscriptions as module
from att.realtime.brokers.subscriptions import LINGER, SubscriptionChange, Subscriptions

TEA, PIE, NUT = (UUID(int=number) for number in range(1, 4))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def subscriptions(clock):
    return Subscriptions(clock)


def test_subscribe(subscriptions):
    """A group is subscribed to once, with a wake."""
    woken = []
    subscriptions.wake = lambda: woken.append(1)
    subscriptions.subscribe(TEA)
    subscriptions.subscribe(PIE)
    assert subscriptions.take(9) == SubscriptionChange([TEA, PIE], [])
    subscriptions.subscribe(TEA)
    assert subscriptions.take(9) == SubscriptionChange([], [])
    assert len(woken) == 2


def test_a_few_at_a_time(subscriptions):
    for group_id in (TEA, PIE, NUT):
        subscriptions.subscribe(group_id)
    assert [subscriptions.take(2).more, subscriptions.take(2).more] == [[TEA, PIE], [NUT]]


def test_out_before_it_was_asked_for(subscriptions):
    """Nothing is."""
    subscriptions.subscribe(TEA)
    subscriptions.unsubscribe(TEA)
    assert subscriptions.take(9) == SubscriptionChange([], [])


def test_unsubscribe(subscriptions, clock):
    """A group lingers before it is unsubscribed from."""
    subscriptions.subscribe(TEA)
    subscriptions.take(9)
    subscriptions.unsubscribe(TEA)
    clock.now += LINGER - 1
    assert subscriptions.take(9) == SubscriptionChange([], [])
    clock.now += 1
    assert subscriptions.take(9) == SubscriptionChange([], [TEA])
    assert subscriptions.take(9) == SubscriptionChange([], [])
    subscriptions.subscribe(TEA)
    assert subscriptions.take(9) == SubscriptionChange([TEA], [])


def test_subscribe_while_it_lingers(subscriptions, clock):
    """It stays subscribed to, and lingers anew after the next unsubscribe."""
    subscriptions.subscribe(TEA)
    subscriptions.take(9)
    subscriptions.unsubscribe(TEA)
    clock.now += LINGER - 1
    subscriptions.subscribe(TEA)
    clock.now += LINGER
    assert subscriptions.take(9) == SubscriptionChange([], [])
    subscriptions.unsubscribe(TEA)
    clock.now += LINGER - 1
    assert subscriptions.take(9) == SubscriptionChange([], [])


def test_too_many_linger(subscriptions, monkeypatch):
    """The oldest go at once."""
    monkeypatch.setattr(module, "LINGERING", 1)
    for group_id in (TEA, PIE, NUT):
        subscriptions.subscribe(group_id)
    subscriptions.take(9)
    for group_id in (PIE, NUT, TEA):
        subscriptions.unsubscribe(group_id)
    assert subscriptions.take(9) == SubscriptionChange([], [PIE, NUT])


def test_a_new_connection(subscriptions):
    """Exactly the wanted groups are subscribed to again."""
    for group_id in (TEA, PIE, NUT):
        subscriptions.subscribe(group_id)
    subscriptions.take(2)
    subscriptions.unsubscribe(TEA)
    subscriptions.begin()
    more, less = subscriptions.take(9)
    assert ({*more}, less) == ({PIE, NUT}, [])


@given(st.lists(st.tuples(st.sampled_from(["in", "out", "take", "begin", "wait"]), st.integers(0, 2))))
def test_anything(steps):
    """In the end exactly the wanted groups are subscribed to."""
    clock = Clock()
    subscriptions, groups, wanted, subscribed = Subscriptions(clock), (TEA, PIE, NUT), set(), set()

    def take(limit):
        more, less = subscriptions.take(limit)
        assert not subscribed & {*more}
        subscribed.update(more)
        assert subscribed >= {*less}
        subscribed.difference_update(less)
        assert not wanted & {*less}
        return more or less

    for step, number in steps:
        group_id = groups[number]
        if step == "in" and group_id not in wanted:
            wanted.add(group_id)
            subscriptions.subscribe(group_id)
        elif step == "out" and group_id in wanted:
            wanted.discard(group_id)
            subscriptions.unsubscribe(group_id)
        elif step == "take":
            take(1 + number)
        elif step == "begin":
            subscribed.clear()
            subscriptions.begin()
        elif step == "wait":
            clock.now += LINGER / 2
    clock.now += LINGER
    while take(2):
        pass
    assert subscribed == wanted


async def test_a_cancellation_that_is_dropped(monkeypatch):
    """The broker's task ends all the same."""
    monkeypatch.setattr(redis_broker, "_TICK", 0.01)
    is_sending = asyncio.Event()

    class Hearing:
        async def subscribe_sharded(self, _channels):
            is_sending.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        async def unsubscribe_sharded(self, _channels):
            pass

    broker = redis_broker.RedisBroker(None)
    broker.subscribe(TEA)
    task = asyncio.create_task(broker._update_subscriptions(Hearing()))
    await is_sending.wait()
    task.cancel()
    await asyncio.wait_for(task, 5)
