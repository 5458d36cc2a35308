"""Handling of broker events on a node."""

import contextlib
from uuid import UUID

import pytest
from brokers import EPOCH, message

from att.groups.read_markers import MarkerPosition
from att.realtime.broker_events import BrokerEvents
from att.realtime.brokers.base import Announcement, MemberJoined
from att.realtime.brokers.codec import epoch_tag

ANN, BOB, TEA, PIE, SESSION = (UUID(int=number) for number in range(1, 6))


class CallRecorder:
    """Records calls of its methods in a shared list."""

    def __init__(self, calls):
        self._calls = calls

    def __getattr__(self, name):
        return lambda *args, **options: self._calls.append((name, *args, *options.items()))


@pytest.fixture
def calls():
    return []


class FakeRevoker:
    """Records its users in the shared list."""

    def __init__(self, calls):
        self._calls = calls

    def check_users(self, user_ids):
        self._calls.extend(("departed", user_id) for user_id in user_ids)


class FakeBroker:
    """A ``Broker`` with a settable state."""

    def __init__(self, name, calls):
        self.name = name
        self.is_connected = False
        self._calls = calls

    @contextlib.asynccontextmanager
    async def running(self, _handler):
        self._calls.append((self.name, "runs"))
        yield
        self._calls.append((self.name, "ends"))


@pytest.fixture
def brokers(calls):
    return [FakeBroker("first", calls), FakeBroker("second", calls)]


@pytest.fixture
def log_reader(calls):
    return CallRecorder(calls)


@pytest.fixture
def events(calls, brokers, log_reader):
    recorder = CallRecorder(calls)
    return BrokerEvents(recorder, log_reader, recorder, FakeRevoker(calls), recorder, brokers)


def test_on_announcement(events, calls, log_reader):
    """Sessions end before deliveries, and joinings come before the group's head."""
    event, marker = message(7, TEA), MarkerPosition(ANN, TEA, "tea", 7)
    log_reader.epoch = EPOCH
    joined = [MemberJoined(TEA, 5, ANN), MemberJoined(TEA, 6, BOB)]
    events.on_announcement(
        Announcement(
            {TEA: 7, PIE: 8},
            joined,
            [SESSION],
            sweep=True,
            users=[BOB],
            events=[event],
            epoch_tag=epoch_tag(EPOCH),
            markers=[marker],
        )
    )
    assert calls == [
        ("session_ended", SESSION),
        ("departed", BOB),
        ("joined", TEA, 5, ANN),
        ("joined", TEA, 6, BOB),
        ("offer", event),
        ("observe_head", TEA, 7),
        ("observe_head", PIE, 8),
        ("marker_moved", marker),
        ("sweep_soon",),
        ("read_missed",),
    ]


@pytest.mark.parametrize("tag", [epoch_tag("another"), b""])
def test_events_of_another_epoch(events, calls, log_reader, tag):
    """Their seqs may be those of other events: the log is looked up, and decides."""
    log_reader.epoch = EPOCH
    events.on_announcement(Announcement({TEA: 7}, events=[message(7, TEA)], epoch_tag=tag))
    assert calls == [("look_up_soon", [TEA]), ("observe_head", TEA, 7)]


def test_an_empty_announcement(events, calls):
    """An empty announcement changes nothing."""
    events.on_announcement(Announcement({}))
    assert calls == []


def test_on_subscribed(events, calls):
    """Earlier announcements may have been missed, so the groups are looked up."""
    events.on_subscribed([TEA, PIE])
    assert calls == [("look_up_soon", [TEA, PIE])]


def test_on_connected(events, calls, brokers):
    """A sweep and a read of markers follow each connection; sessions are cached while all brokers are connected."""
    for broker in brokers:
        broker.is_connected = True
        events.on_connected()
    brokers[0].is_connected = False
    events.on_disconnected()
    assert calls == [
        ("trust", ("is_notified", False)),
        ("sweep_soon",),
        ("read_missed",),
        ("trust", ("is_notified", True)),
        ("sweep_soon",),
        ("read_missed",),
        ("trust", ("is_notified", False)),
        ("begin_outage",),
    ]


def test_on_malformed(events, calls):
    """What the payload may have announced is looked for."""
    events.on_malformed()
    assert calls == [("doubt",)]


async def test_running(events, calls, brokers, log_reader):
    """All brokers run, known to the log reader, and end in reverse order."""
    async with events.running():
        assert log_reader.brokers is brokers
        assert calls == [("first", "runs"), ("second", "runs")]
    assert calls[2:] == [("second", "ends"), ("first", "ends")]
