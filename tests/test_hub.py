"""The hub: what reaches whom, and who is sent away."""

from uuid import UUID

import pytest

from att.errors import ShuttingDown
from att.realtime.frames import CloseCode, text_frame
from att.realtime.hub import Hub
from att.realtime.registry import Listener, Registry

ANN, BEN = UUID(int=1), UUID(int=2)
TEA, PIE = UUID(int=11), UUID(int=12)
SESSION, OTHER_SESSION = UUID(int=21), UUID(int=22)
BODY = b'{"a": 1}'


class Recording:
    """A ``Connection`` in memory, which keeps what it is given."""

    def __init__(self):
        self.frames = []
        self.codes = []

    def send(self, frame):
        self.frames.append(frame)
        return True

    def close(self, code):
        self.codes.append(code)


class Refusing(Recording):
    """One that takes nothing any more."""

    def send(self, frame):
        super().send(frame)
        return False


class Leaving(Recording):
    """One that goes, and has others go, as soon as it is sent something."""

    def __init__(self, hub):
        super().__init__()
        self.hub = hub
        self.leavers = []

    def send(self, frame):
        super().send(frame)
        for listener in self.leavers:
            self.hub.detach(listener)
        return False


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def hub(registry):
    return Hub(registry)


@pytest.fixture
def listen(hub):
    """Let a user in, who hears these groups."""

    def go(user_id, *groups, session_id=SESSION, connection=None):
        listener = Listener(user_id, session_id, connection or Recording())
        hub.attach(listener)
        hub.settle(listener, groups)
        return listener

    return go


def test_broadcast(hub, listen):
    """A broadcast reaches each listener of the group, counted, as one and the same bytes object; nobody else."""
    listeners = [listen(user_id, TEA) for user_id in (ANN, ANN, BEN)]
    elsewhere = listen(BEN, PIE)
    assert hub.broadcast(TEA, BODY) == 3
    [first], *others = (listener.connection.frames for listener in listeners)
    assert first == text_frame(BODY)
    assert all(frames[0] is first and len(frames) == 1 for frames in others)
    assert elsewhere.connection.frames == []


@pytest.mark.parametrize("size", [125, 126, 65536])
def test_broadcast_of_any_size(hub, listen, size):
    """The frame is that of the body, byte for byte."""
    listener = listen(ANN, TEA)
    hub.broadcast(TEA, b"x" * size)
    assert listener.connection.frames == [text_frame(b"x" * size)]


def test_broadcasts_are_in_order(hub, listen):
    """What is sent first is heard first."""
    listener = listen(ANN, TEA)
    for number in range(10):
        hub.broadcast(TEA, b"%d" % number)
    assert listener.connection.frames == [text_frame(b"%d" % number) for number in range(10)]


def test_broadcast_to_nobody(hub, registry):
    """It is no error that nobody listens, and leaves nothing behind."""
    assert hub.broadcast(TEA, BODY) == 0
    assert not registry._groups


def test_refusal_is_not_counted(hub, listen):
    """A connection that does not take the frame is not counted; the others get it."""
    listen(ANN, TEA, connection=Refusing())
    ben = listen(BEN, TEA)
    listen(ANN, TEA, connection=Refusing())
    assert hub.broadcast(TEA, BODY) == 1
    assert ben.connection.frames == [text_frame(BODY)]


@pytest.mark.parametrize("leavers", [1, 2, 5])
def test_leaving_during_a_broadcast(hub, registry, listen, leavers):
    """Listeners that go while a broadcast is under way do not keep it from the others."""
    staying = [listen(ANN, TEA) for _ in range(5)]
    leaving = [listen(BEN, TEA, connection=Leaving(hub)) for _ in range(leavers)]
    for listener in leaving:
        listener.connection.leavers = leaving
    staying += [listen(ANN, TEA) for _ in range(5)]
    assert hub.broadcast(TEA, BODY) == 10
    assert all(listener.connection.frames == [text_frame(BODY)] for listener in staying)
    assert set(registry.everyone()) == set(staying)


def test_unsettled_hears_nothing(hub, listen):
    """Between attaching and settling nothing is heard, then everything."""
    listener = Listener(ANN, SESSION, Recording())
    hub.attach(listener)
    assert hub.broadcast(TEA, BODY) == 0
    hub.settle(listener, [TEA])
    assert hub.broadcast(TEA, BODY) == 1


def test_membership(hub, listen):
    """Membership is the subscription: from joining to leaving, and not after the group is gone."""
    ann, ben = listen(ANN), listen(BEN)
    assert hub.broadcast(TEA, BODY) == 0
    hub.joined(TEA, ANN)
    hub.joined(TEA, BEN)
    assert hub.broadcast(TEA, BODY) == 2
    hub.left(TEA, ANN)
    assert hub.broadcast(TEA, BODY) == 1
    hub.dropped(TEA)
    assert hub.broadcast(TEA, BODY) == 0
    assert (len(ann.connection.frames), len(ben.connection.frames)) == (1, 2)
    assert ann.connection.codes == ben.connection.codes == []


@pytest.mark.parametrize("change", ["left", "dropped"])
def test_change_before_settling(hub, change):
    """A removal that was read too early is still a removal."""
    listener = Listener(ANN, SESSION, Recording())
    hub.attach(listener)
    hub.left(TEA, ANN) if change == "left" else hub.dropped(TEA)
    hub.settle(listener, [TEA])
    assert hub.broadcast(TEA, BODY) == 0


def test_detach(hub, registry, listen):
    """Whoever is let go hears nothing more, and is not closed by it; letting go twice is harmless."""
    listener = listen(ANN, TEA)
    hub.detach(listener)
    hub.detach(listener)
    assert hub.broadcast(TEA, BODY) == 0
    assert listener.connection.codes == []
    assert len(registry) == 0


def closed(code, *listeners):
    """Whether each of the listeners was closed, once, with this code."""
    return all(listener.connection.codes == [code] for listener in listeners)


def is_open(*listeners):
    """Whether none of the listeners was closed."""
    return all(listener.connection.codes == [] for listener in listeners)


def test_uncertain_user(hub, registry, listen):
    """When it is not known whether a user is a member, the user's sockets connect again; nobody else's."""
    inside, outside, ben = listen(ANN, TEA), listen(ANN), listen(BEN, TEA)
    unsettled = Listener(ANN, OTHER_SESSION, Recording())
    hub.attach(unsettled)
    hub.uncertain(TEA, ANN)
    assert closed(CloseCode.RESYNC, inside, outside, unsettled)
    assert is_open(ben)
    assert registry.everyone() == (ben,)


def test_uncertain_group(hub, registry, listen):
    """When it is not known whether a group still is, those who hear it connect again; nobody else."""
    ann, ben, elsewhere = listen(ANN, TEA), listen(BEN, TEA, PIE), listen(ANN, PIE)
    unsettled = Listener(BEN, OTHER_SESSION, Recording())  # it may have read that it is a member
    hub.attach(unsettled)
    hub.uncertain(TEA, None)
    assert closed(CloseCode.RESYNC, ann, ben, unsettled)
    assert is_open(elsewhere)
    assert registry.everyone() == (elsewhere,)


def test_session_ended(hub, registry, listen):
    """The sockets of that session are closed, and hear nothing from then on; the user's other session goes on."""
    ended = [listen(ANN, TEA), listen(ANN, TEA)]
    other = listen(ANN, TEA, session_id=OTHER_SESSION)
    unsettled = Listener(ANN, SESSION, Recording())
    hub.attach(unsettled)
    hub.session_ended(SESSION)
    hub.settle(unsettled, [TEA])
    assert closed(CloseCode.SESSION_ENDED, *ended, unsettled)
    assert is_open(other)
    assert hub.broadcast(TEA, BODY) == 1
    assert registry.everyone() == (other,)


@pytest.mark.parametrize(("change", "code"), [("user_ended", 4500), ("user_uncertain", 4001)])
def test_user_ended(hub, registry, listen, change, code):
    """All sockets of the user are closed, whatever their session, and hear nothing from then on; nobody else's."""
    anns = [listen(ANN, TEA), listen(ANN, PIE, session_id=OTHER_SESSION), Listener(ANN, SESSION, Recording())]
    hub.attach(anns[-1])
    ben = listen(BEN, TEA)
    getattr(hub, change)(ANN)
    hub.settle(anns[-1], [TEA])
    assert closed(code, *anns)
    assert is_open(ben)
    assert hub.broadcast(TEA, BODY) == 1
    assert registry.everyone() == (ben,)


def test_sockets(hub, listen):
    """The sockets of a session are counted from attaching on, settled or not."""
    listen(ANN, TEA)
    listen(ANN, session_id=OTHER_SESSION)
    unsettled = Listener(ANN, SESSION, Recording())
    hub.attach(unsettled)
    assert (hub.sockets(SESSION), hub.sockets(OTHER_SESSION), hub.sockets(UUID(int=23))) == (2, 1, 0)
    hub.detach(unsettled)
    hub.session_ended(OTHER_SESSION)
    assert (hub.sockets(SESSION), hub.sockets(OTHER_SESSION)) == (1, 0)


def test_ended_twice(hub, listen):
    """Ending what has ended closes nothing again."""
    listener = listen(ANN, TEA)
    hub.session_ended(SESSION)
    hub.session_ended(SESSION)
    hub.uncertain(TEA, ANN)
    hub.close()
    assert closed(CloseCode.SESSION_ENDED, listener)


def test_close(hub, registry, listen):
    """Closing sends everybody away, settled or not, and lets nobody in any more."""
    listeners = [listen(ANN, TEA), listen(BEN, PIE, session_id=OTHER_SESSION)]
    unsettled = Listener(ANN, SESSION, Recording())
    hub.attach(unsettled)
    hub.close()
    assert closed(CloseCode.GOING_AWAY, *listeners, unsettled)
    late = Listener(ANN, SESSION, Recording())
    with pytest.raises(ShuttingDown):
        hub.attach(late)
    hub.settle(late, [TEA])
    assert hub.broadcast(TEA, BODY) == 0
    assert len(registry) == 0
    assert not any(vars(registry).values())
    hub.detach(late)
    hub.close()
    assert closed(CloseCode.GOING_AWAY, *listeners, unsettled)
