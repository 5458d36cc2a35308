"""Fixtures between the log and its listeners: without sockets, on a real log."""

import asyncio
from uuid import uuid4

import pytest
from doubles import FakeLiveSessions, RecordingConnection, SpyLog, bodies

from att.realtime import log_reader as module
from att.realtime.event_log import Publish
from att.realtime.hub import Hub
from att.realtime.log_reader import LogReader
from att.realtime.registry import Listener, Registry


@pytest.fixture
def spy_log(db):
    """A log that records its reads, and fails on demand."""
    return SpyLog(db)


@pytest.fixture
def woken():
    """Set when the hub has something to do."""
    return asyncio.Event()


@pytest.fixture
def hub(woken):
    return Hub(Registry(), wake=woken.set)


@pytest.fixture
def live_sessions():
    return FakeLiveSessions()


@pytest.fixture
def log_reader(spy_log, hub, live_sessions, woken):
    return LogReader(spy_log, hub, live_sessions, woken)


@pytest.fixture
async def running_reader(log_reader, monkeypatch):
    """A running log reader, which sweeps on request only."""
    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 3600)
    async with log_reader.running():
        yield log_reader


@pytest.fixture
def listen(spy_log, hub, live_sessions, ann_id):
    """Start a listener with new events, or with events after the given seqs."""

    async def go(user_id=ann_id, resume=None):
        listener = Listener(user_id, uuid4(), RecordingConnection())
        live_sessions.ids.add(listener.session_id)
        hub.attach(listener)
        hub.start(listener, await spy_log.positions(user_id), resume or {})
        return listener

    return go


@pytest.fixture
def append(spy_log, ann_id):
    """Append messages of Ann's without announcing them. Return their seqs."""

    async def go(group, *numbers):
        outcomes = await spy_log.append([Publish(group, ann_id, body) for body in bodies(*numbers)])
        return [outcome.event.seq for outcome in outcomes]

    return go
