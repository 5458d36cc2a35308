"""Fixtures of what stands between the log and those who listen: without sockets, on a real log."""

import asyncio
from uuid import uuid4

import pytest
from parts import LivingSessions, Recording, Watched, bodies

from att.realtime import log_reader as module
from att.realtime.event_log import Publish
from att.realtime.hub import Hub
from att.realtime.log_reader import LogReader
from att.realtime.registry import Listener, Registry


@pytest.fixture
def watched(db):
    """A log that tells what is read of it, and fails when it is to."""
    return Watched(db)


@pytest.fixture
def woken():
    """Set when the hub has something to do."""
    return asyncio.Event()


@pytest.fixture
def hub(woken):
    return Hub(Registry(), wake=woken.set)


@pytest.fixture
def living():
    return LivingSessions()


@pytest.fixture
def feed(watched, hub, living, woken):
    return LogReader(watched, hub, living, woken)


@pytest.fixture
async def feeding(feed, monkeypatch):
    """The feed; it runs, and sweeps only when it is told to."""
    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 3600)
    async with feed.running():
        yield feed


@pytest.fixture
def listen(watched, hub, living, ann_id):
    """Let somebody listen: from now on, or from what follows the seqs that they have."""

    async def go(user_id=ann_id, resume=None):
        listener = Listener(user_id, uuid4(), Recording())
        living.ids.add(listener.session_id)
        hub.attach(listener)
        hub.settle(listener, await watched.positions(user_id), resume or {})
        return listener

    return go


@pytest.fixture
def append(watched, ann_id):
    """Append messages of Ann's, of which nobody here is told; their seqs."""

    async def go(group, *numbers):
        outcomes = await watched.append([Publish(group, ann_id, body) for body in bodies(*numbers)])
        return [outcome.event.seq for outcome in outcomes]

    return go
