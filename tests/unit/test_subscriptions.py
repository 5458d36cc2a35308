"""Tuning: a group that is heard here is subscribed to, once, and for a while after."""

import asyncio
import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import Clock

from att.realtime.brokers import redis as redis_broker
from att.realtime.brokers import subscriptions as module
from att.realtime.brokers.subscriptions import LINGER, SubscriptionChange, Subscriptions

TEA, PIE, NUT = (UUID(int=number) for number in range(1, 4))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tuning(clock):
    return Subscriptions(clock)


def test_in(tuning):
    """It is asked for, once, and whoever asks is woken."""
    woken = []
    tuning.wake = lambda: woken.append(1)
    tuning.subscribe(TEA)
    tuning.subscribe(PIE)
    assert tuning.take(9) == SubscriptionChange([TEA, PIE], [])
    tuning.subscribe(TEA)
    assert tuning.take(9) == SubscriptionChange([], [])
    assert len(woken) == 2


def test_a_few_at_a_time(tuning):
    for group_id in (TEA, PIE, NUT):
        tuning.subscribe(group_id)
    assert [tuning.take(2).more, tuning.take(2).more] == [[TEA, PIE], [NUT]]


def test_out_before_it_was_asked_for(tuning):
    """Nothing is."""
    tuning.subscribe(TEA)
    tuning.unsubscribe(TEA)
    assert tuning.take(9) == SubscriptionChange([], [])


def test_out(tuning, clock):
    """It lingers before it is unsubscribed from."""
    tuning.subscribe(TEA)
    tuning.take(9)
    tuning.unsubscribe(TEA)
    clock.now += LINGER - 1
    assert tuning.take(9) == SubscriptionChange([], [])
    clock.now += 1
    assert tuning.take(9) == SubscriptionChange([], [TEA])
    assert tuning.take(9) == SubscriptionChange([], [])
    tuning.subscribe(TEA)
    assert tuning.take(9) == SubscriptionChange([TEA], [])


def test_in_again_while_it_lingers(tuning, clock):
    """It stays subscribed to, as if nothing had been; and lingers for as long when it goes again."""
    tuning.subscribe(TEA)
    tuning.take(9)
    tuning.unsubscribe(TEA)
    clock.now += LINGER - 1
    tuning.subscribe(TEA)
    clock.now += LINGER
    assert tuning.take(9) == SubscriptionChange([], [])
    tuning.unsubscribe(TEA)
    clock.now += LINGER - 1
    assert tuning.take(9) == SubscriptionChange([], [])


def test_too_many_linger(tuning, monkeypatch):
    """The oldest go at once."""
    monkeypatch.setattr(module, "LINGERING", 1)
    for group_id in (TEA, PIE, NUT):
        tuning.subscribe(group_id)
    tuning.take(9)
    for group_id in (PIE, NUT, TEA):
        tuning.unsubscribe(group_id)
    assert tuning.take(9) == SubscriptionChange([], [PIE, NUT])


def test_a_new_connection(tuning):
    """What is heard here is asked for anew, and nothing else."""
    for group_id in (TEA, PIE, NUT):
        tuning.subscribe(group_id)
    tuning.take(2)
    tuning.unsubscribe(TEA)
    tuning.begin()
    more, less = tuning.take(9)
    assert ({*more}, less) == ({PIE, NUT}, [])


@given(st.lists(st.tuples(st.sampled_from(["in", "out", "take", "begin", "wait"]), st.integers(0, 2))))
def test_anything(steps):
    """In the end just those are subscribed to that are heard here, whatever was before."""
    clock = Clock()
    tuning, groups, wanted, subscribed = Subscriptions(clock), (TEA, PIE, NUT), set(), set()

    def take(limit):
        more, less = tuning.take(limit)
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
            tuning.subscribe(group_id)
        elif step == "out" and group_id in wanted:
            wanted.discard(group_id)
            tuning.unsubscribe(group_id)
        elif step == "take":
            take(1 + number)
        elif step == "begin":
            subscribed.clear()
            tuning.begin()
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
