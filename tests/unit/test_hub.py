"""The hub: deliveries, wanted reads, and disconnects. test_hub_properties has its invariants."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from doubles import is_empty

from att.errors import ShuttingDown
from att.protocol.deflate import inflate
from att.protocol.frames import CloseCode, text_frame
from att.realtime import hub as hub_module
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import LogEvent, Position, Replay, Slice
from att.realtime.fanout import NOBODY, Delivered
from att.realtime.hub import Hub
from att.realtime.registry import Dialect, Encoding, Listener, Registry

ANN, BEN = UUID(int=1), UUID(int=2)
TEA, PIE = UUID(int=11), UUID(int=12)
SESSION, OTHER_SESSION = UUID(int=21), UUID(int=22)
EPOCH_FRAME = text_frame(b"the epoch")
BODY = b'{"a": 1}'


class Recording:
    """A ``Connection`` in memory, which keeps what it is given."""

    def __init__(self):
        self.frames = []
        self.codes = []
        self.reasons = []

    def send(self, frame):
        self.frames.append(frame)
        return True

    def send_if_room(self, frame):
        return self.send(frame)

    def replay(self, frame):
        self.send(frame)

    def close(self, code, reason=b""):
        self.codes.append(code)
        self.reasons.append(reason)


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


def message(seq, group_id=TEA, body=BODY):
    return LogEvent(group_id, "tea", seq, "message", ANN, datetime(2026, 11, 22, tzinfo=UTC), body)


def joined(seq, user_id=ANN):
    return message(seq)._replace(kind="joined", user_id=user_id, body=b"")


def left(seq, user_id=ANN):
    return joined(seq, user_id)._replace(kind="left")


def messages(first, last):
    return [message(seq) for seq in range(first, last + 1)]


def at(seq, group_id=TEA, *, is_member=True):
    """Where a user stands."""
    return Position(group_id, "tea", seq, is_member)


def page(events, head, *, was_member=True):
    return Replay(Slice(events, head), was_member, "tea")


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def calls():
    """Calls of the hub's collaborators, each with its group."""
    return []


@pytest.fixture
def hub(registry, calls):
    def note(what):
        return lambda *group_ids: calls.append((what, *group_ids))

    return Hub(registry, wake=note("wake"), subscribe=note("subscribe"), unsubscribe=note("unsubscribe"))


@pytest.fixture
def attach(hub):
    """Attach a user's listener without starting it."""

    def go(user_id, session_id=SESSION, connection=None, dialect=Dialect.V1, encoding=Encoding.PLAIN):
        listener = Listener(user_id, session_id, connection or Recording(), dialect, encoding)
        hub.attach(listener)
        return listener

    return go


@pytest.fixture
def listen(hub, attach):
    """Let a user in who stands there, and resumes."""

    def go(user_id, *positions, resume=None, **kwargs):
        listener = attach(user_id, **kwargs)
        hub.start(listener, positions, resume or {})
        return listener

    return go


def received(*listeners):
    """Return the seqs that each of these att.v1 listeners received, a gap as a pair."""
    return [[_seq(frame) for frame in listener.connection.frames] for listener in listeners]


def _seq(frame):
    frame = json.loads(frame[2 if frame[1] < 126 else 4 :])
    return frame["seq"] if "seq" in frame else (frame["from"], frame["to"])


def count(listeners):
    """Return the number of their frames."""
    return sum(len(listener.connection.frames) for listener in listeners)


def closed(code, *listeners):
    """Return True if each of the listeners was closed, once, with this code."""
    return all(listener.connection.codes == [code] for listener in listeners)


def is_open(*listeners):
    """Return True if none of the listeners was closed."""
    return all(listener.connection.codes == [] for listener in listeners)


def hub_is_empty(hub, registry):
    """Return True if nothing is left in any index."""
    return is_empty(registry) and not (hub.wanted() or hub._streams or hub._read_queue or hub._running)


# A message


def test_frames_are_built_once(hub, listen):
    """A message reaches each listener of the group, in each dialect as one and the same bytes object; nobody else."""
    plain = [listen(user_id, at(0), dialect=Dialect.PLAIN) for user_id in (ANN, ANN, BEN)]
    others = [listen(user_id, at(0)) for user_id in (ANN, BEN)]
    elsewhere = listen(BEN, at(0, PIE))
    hub.offer(message(1))
    assert hub.counts.of(message(1)) == Delivered(5, 0)
    assert received(*others, elsewhere) == [[1], [1], []]
    assert plain[0].connection.frames == [text_frame(BODY)]
    for group in (plain, others):
        assert all(listener.connection.frames[0] is group[0].connection.frames[0] for listener in group)


def test_a_message_is_compressed_once(hub, listen):
    """For all listeners that inflate it, in each dialect; the others get it as it is. So it is with an ephemeral."""
    body = b'{"text":"%s"}' % (b"tea " * 200)
    for dialect in Dialect:
        plain, *inflating = [
            listen(user_id, at(0), dialect=dialect, encoding=encoding)
            for user_id, encoding in [(ANN, Encoding.PLAIN), (ANN, Encoding.DEFLATED), (BEN, Encoding.DEFLATED)]
        ]
        hub.offer(message(1, body=body))
        hub.offer_ephemeral(Ephemeral(b"", TEA, ANN, 0, 1, body))
        frames = [each.connection.frames for each in inflating]
        assert len(frames[0]) == (2 if dialect is Dialect.V1 else 1)
        assert all(one is other for one, other in zip(*frames, strict=True))
        for one, other in zip(plain.connection.frames, frames[0], strict=True):
            assert (one[0], other[0]) == (0x81, 0xC1)
            assert inflate(other[2:], 10_000) == one[4:]
        for each in (plain, *inflating):
            hub.detach(each)


@pytest.mark.parametrize("size", [125, 126, 65536])
def test_message_of_any_size(hub, listen, size):
    """The frame is that of the body, byte for byte."""
    listener = listen(ANN, at(0), dialect=Dialect.PLAIN)
    hub.offer(message(1, body=b"x" * size))
    assert listener.connection.frames == [text_frame(b"x" * size)]


def test_message_to_nobody(hub, registry):
    """Without listeners a message counts as delivered to none, and leaves nothing else behind."""
    hub.offer(message(1))
    assert hub.counts.of(message(1)) == NOBODY
    assert hub_is_empty(hub, registry)


def test_message_that_was_there_before(hub, listen):
    """A message older than all listeners counts as delivered to none, without a wait."""
    listener = listen(ANN, at(1))
    hub.offer(message(1))
    assert hub.counts.of(message(1)) == NOBODY
    assert received(listener) == [[]]


def test_refusals_are_dropped(hub, listen):
    """A connection that does not take the frame is counted as dropped; the others get it."""
    listen(ANN, at(0), connection=Refusing())
    ben = listen(BEN, at(0))
    listen(ANN, at(0), connection=Refusing(), dialect=Dialect.PLAIN)
    hub.offer(message(1))
    assert hub.counts.of(message(1)) == Delivered(1, 2)
    assert received(ben) == [[1]]


@pytest.mark.parametrize("leavers", [1, 2, 5])
def test_leaving_during_a_message(hub, registry, listen, leavers):
    """Listeners that go while a message is under way do not keep it from the others."""
    staying = [listen(ANN, at(0)) for _ in range(5)]
    leaving = [listen(BEN, at(0), connection=Leaving(hub)) for _ in range(leavers)]
    for listener in leaving:
        listener.connection.leavers = leaving
    staying += [listen(ANN, at(0)) for _ in range(5)]
    hub.offer(message(1))
    assert hub.counts.of(message(1)) == Delivered(10, leavers)
    assert received(*staying) == [[1]] * 10
    assert set(registry.everyone()) == set(staying)


def test_slices(hub, listen, calls, monkeypatch):
    """A long fan-out goes on a slice at a time; groups take turns, and each keeps its order."""
    monkeypatch.setattr(hub_module, "SLICE", 2)
    tea, pie = ([listen(ANN, at(0, group_id)) for _ in range(5)] for group_id in (TEA, PIE))
    for group_id in (TEA, PIE):
        hub.offer(message(1, group_id))
        hub.offer(message(2, group_id))
    assert ("wake",) in calls
    assert (count(tea), count(pie)) == (2, 0)
    steps = 1
    while hub.step():
        steps += 1
        assert abs(count(tea) - count(pie)) <= 6
    assert steps >= 9
    assert received(*tea, *pie) == [[1, 2]] * 10
    assert not hub.step()


def test_slices_of_large_frames(hub, listen):
    """A slice has few of them, since each takes as long as many small ones."""
    listeners = [listen(ANN, at(0)) for _ in range(20)]
    hub.offer(message(1, body=b'{"a": "%b"}' % (b"a" * 2**20)))
    assert 0 < count(listeners) < 10
    while hub.step():
        pass
    assert count(listeners) == 20


def test_leaving_between_slices(hub, listen, monkeypatch):
    """A user removed during the fan-out of a message gets it, and nothing after their leaving."""
    monkeypatch.setattr(hub_module, "SLICE", 1)
    listeners = [listen(user_id, at(0)) for user_id in (ANN, ANN, BEN, BEN)]
    for event in (message(1), left(2), message(3)):
        hub.offer(event)
    while hub.step():
        pass
    assert received(*listeners) == [[1, 2], [1, 2], [1, 2, 3], [1, 2, 3]]


# The order


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (2, 2, 1, 1, 3, 3)])
def test_whatever_comes_when(hub, listen, order):
    """Each event is delivered once, in order of seq; missing ones are read."""
    listener = listen(ANN, at(0))
    for seq in order:
        hub.offer(message(seq))
    for group_id, after in hub.wanted().items():
        hub.read(group_id, after, Slice(messages(after + 1, 3), 3))
    assert received(listener) == [[1, 2, 3]]
    assert hub.wanted() == {}


def test_observe_head(hub, listen):
    """A head alone causes reads up to it; one that comes late changes nothing."""
    listener = listen(ANN, at(0))
    hub.observe_head(PIE, 7)
    hub.observe_head(TEA, 5)
    hub.observe_head(TEA, 3)
    assert hub.wanted() == {TEA: 0}
    hub.read(TEA, 0, Slice(messages(1, 2), 6))
    assert hub.wanted() == {TEA: 2}
    hub.read(TEA, 2, Slice(messages(3, 6), 6))
    assert hub.wanted() == {}
    assert received(listener) == [[1, 2, 3, 4, 5, 6]]


def test_early_events(hub, listen):
    """They wait for the missing ones, and only meanwhile the gap may fill without a read."""
    listener = listen(ANN, at(0))
    hub.observe_head(TEA, 2)
    assert not hub.may_fill_gap(TEA)
    hub.offer(message(2))
    assert hub.may_fill_gap(TEA)
    assert hub.wanted() == {TEA: 0}
    assert received(listener) == [[]]
    hub.offer(message(1))
    assert received(listener) == [[1, 2]]
    assert hub.wanted() == {}
    assert not hub.may_fill_gap(TEA)
    assert not hub.may_fill_gap(PIE)


def test_early_events_that_the_log_does_not_have(hub, listen):
    """They are dropped: the log was set back meanwhile, and differs."""
    listener = listen(ANN, at(0))
    hub.offer(message(2, body=b'{"a": 2}'))
    hub.read(TEA, 0, Slice(messages(1, 1), 1))
    hub.offer(message(2))
    assert received(listener) == [[1, 2]]
    assert listener.connection.frames[1].endswith(BODY + b"}")


def test_subscriptions(hub, listen, calls):
    """The hub subscribes to a group with its first listener, and unsubscribes after its last."""
    ann, ben = listen(ANN, at(0), at(0, PIE)), listen(BEN, at(0))
    assert calls == [("subscribe", TEA), ("subscribe", PIE)]
    hub.detach(ann)
    assert calls[2:] == [("unsubscribe", PIE)]
    hub.offer(left(1, BEN))
    assert calls[3:] == [("unsubscribe", TEA)]
    hub.detach(ben)
    assert len(calls) == 4


def test_heads_among(hub, listen):
    listen(ANN, at(3), at(4, PIE))
    assert hub.heads([PIE, UUID(int=99)]) == {PIE: 4}
    assert hub.heads() == {TEA: 3, PIE: 4}


def test_reads_are_bounded(hub, listen):
    """No more groups are wanted at once than one statement is to read."""
    groups = [UUID(int=100 + number) for number in range(5)]
    listen(ANN, *(at(0, group_id) for group_id in groups))
    for group_id in groups:
        hub.observe_head(group_id, 1)
    assert len(hub.wanted(3)) == 3


def test_a_head_that_the_log_does_not_have(hub, listen):
    """Announced events that are not in the log are not read forever."""
    listener = listen(ANN, at(4))
    hub.observe_head(TEA, 9)
    reads = 0
    while hub.wanted():
        hub.read(TEA, 4, Slice([], 4))
        reads += 1
    assert 1 < reads < 10
    hub.offer(message(5))
    assert received(listener) == [[5]]
    assert is_open(listener)


def test_what_retention_lost(hub, listen):
    """If the log no longer has the next event, the group's listeners reconnect; those of other groups stay."""
    ann, ben, elsewhere = listen(ANN, at(1)), listen(BEN, at(4)), listen(ANN, at(0, PIE))
    hub.observe_head(TEA, 9)
    hub.read(TEA, 1, Slice(messages(7, 9), 9))
    assert closed(CloseCode.RESYNC, ann, ben)
    assert is_open(elsewhere)
    assert received(ann, ben) == [[], []]


def test_a_joining_after_what_retention_lost(hub, registry, listen):
    """A user who joins after lost events is admitted all the same: found by the property test."""
    ann = listen(ANN)
    ben = listen(BEN, at(1))
    hub.joined(TEA, 8, ANN)
    hub.read(TEA, 1, Slice([*messages(6, 7), joined(8)], 9))
    hub.offer(message(9))
    assert closed(CloseCode.RESYNC, ben)
    assert received(ann) == [[8, 9]]
    hub.detach(ann)
    assert hub_is_empty(hub, registry)


def test_a_read_for_a_stream_that_is_gone(hub, listen):
    """The result of a read for former listeners disconnects nobody: found by the property test."""
    gone = listen(BEN, at(10))
    hub.observe_head(TEA, 12)
    assert hub.wanted() == {TEA: 10}
    hub.detach(gone)
    hub.read(TEA, 10, Slice(messages(11, 12), 12))
    ann = listen(ANN, at(3))
    hub.observe_head(TEA, 12)
    hub.read(TEA, 10, Slice(messages(11, 12), 12))
    assert is_open(ann)
    assert hub.wanted() == {TEA: 3}


# An epoch of the log


def begin_epoch(hub, **held):
    """Begin an epoch in which these seqs hold, and all else that is known."""
    everything = dict.fromkeys(hub.known_groups(), 2**63)
    hub.begin_epoch(EPOCH_FRAME, everything | {{"tea": TEA, "pie": PIE}[name]: seq for name, seq in held.items()})


def test_an_epoch_that_has_lost_nothing(hub, listen, attach):
    """Listeners of att.v1 are told, whatever their place, once they have begun; all go on where they were."""
    ann, ben, waiting = listen(ANN, at(4)), listen(BEN, at(4), resume={TEA: 2}), listen(ANN, at(6))
    plain, unstarted = listen(ANN, at(4), dialect=Dialect.PLAIN), attach(ANN)
    begin_epoch(hub, tea=6)
    assert [each.connection.frames for each in (ann, ben, waiting)] == [[EPOCH_FRAME]] * 3
    assert [each.connection.frames for each in (plain, unstarted)] == [[], []]
    hub.serve(ben, TEA, page(messages(3, 5), 5))
    hub.read(TEA, 4, Slice(messages(5, 7), 7))
    for each in (ann, ben, waiting):
        each.connection.frames.remove(EPOCH_FRAME)
    assert received(ann, ben, waiting) == [[5, 6, 7], [3, 4, 5, 6, 7], [7]]
    assert len(plain.connection.frames) == 3


@pytest.mark.parametrize(
    ("tea", "stay"),
    [(6, "ann ben late elsewhere"), (5, "ann late elsewhere"), (3, "late elsewhere"), (1, "elsewhere")],
)
def test_who_has_received_what_is_lost(hub, listen, tea, stay):
    """They connect again, in either dialect, wherever they are in the stream; the others stay."""
    everyone = {
        "ann": listen(ANN, at(4), dialect=Dialect.PLAIN),
        "ben": listen(BEN, at(6)),
        "late": listen(ANN, at(4), resume={TEA: 2}),
        "elsewhere": listen(ANN, at(9, PIE)),
    }
    begin_epoch(hub, tea=tea)
    assert {name for name, listener in everyone.items() if is_open(listener)} == {*stay.split()}


def test_who_has_left_by_what_is_lost(hub, listen):
    """They may be a member again: they connect again, too."""
    ann, ben = listen(ANN, at(4), at(0, PIE)), listen(BEN, at(4, is_member=False), at(0, PIE))
    hub.offer(left(5))
    assert hub.known_groups() == {TEA, PIE}
    begin_epoch(hub, tea=4)
    assert closed(CloseCode.RESYNC, ann)
    assert is_open(ben)


def test_who_starts_meanwhile(hub, listen, attach, monkeypatch):
    """They connect again if their positions were read before, and are not joined by an event that may be lost."""
    monkeypatch.setattr(hub_module, "SLICE", 1)
    listen(ANN, at(4))
    starting, unstarted = attach(ANN), attach(BEN)
    steps = hub.starting(starting, [at(0, PIE), at(4)], {})
    next(steps)
    hub.offer(joined(5, BEN))
    begin_epoch(hub, tea=4)
    assert closed(CloseCode.RESYNC, starting)
    assert [*steps] == []
    hub.start(unstarted, [at(4, is_member=False)], {})
    assert is_open(unstarted)
    assert hub.wanted() == {}


def test_seqs_of_an_epoch(hub, listen, calls):
    """An event of the new epoch is not taken for one that was seen, read, announced or counted in the one before."""
    gone, ann, other = listen(BEN, at(4)), listen(ANN, at(0, PIE)), UUID(int=99)
    for event in (message(5), message(7), message(1, PIE), message(9, other)):
        hub.offer(event)
    begin_epoch(hub, tea=4, pie=1)
    assert closed(CloseCode.RESYNC, gone)
    assert ("unsubscribe", TEA) in calls
    ben = listen(BEN, at(4), at(3, other))
    assert hub.wanted() == {}
    assert [hub.counts.of(event) for event in (message(5), message(1, PIE))] == [None, None]
    hub.offer(message(5))
    hub.offer(message(2, PIE))
    assert received(ben) == [[5]]
    assert is_open(ann, ben)


def test_a_leaving_that_is_lost_while_it_is_written(hub, listen, monkeypatch):
    """The sockets of the user who left connect again, also those that the stream has dismissed already."""
    monkeypatch.setattr(hub_module, "SLICE", 1)
    anns = [listen(ANN, at(5)) for _ in range(3)]
    hub.offer(left(6, ANN))
    hub.observe_head(TEA, 9)
    hub.read(TEA, 6, Slice([message(9)], 9))  # retention has removed what comes before
    while hub.step():
        pass
    assert closed(CloseCode.RESYNC, *anns)


def test_an_event_that_is_lost_while_it_is_written(hub, listen, monkeypatch):
    """Who has not been sent it yet never is, and another with its seq is sent to who comes then."""
    monkeypatch.setattr(hub_module, "SLICE", 1)
    before = [listen(ANN, at(0)) for _ in range(3)]
    hub.offer(message(1))
    begin_epoch(hub, tea=0)
    ann = listen(ANN, at(0))
    hub.offer(message(1)._replace(body=b'{"a": 2}'))
    while hub.step():
        pass
    assert received(ann) == [[1]]
    assert sum(map(len, received(*before))) == 1
    assert hub.counts.of(message(1)) == Delivered(1, 0)


def test_a_count_that_is_waited_for(hub, listen, monkeypatch):
    """Who waits for the deliveries of what is lost is answered."""
    counted = []
    listen(ANN, at(0))
    hub.counts.expect(message(2), counted.append)
    begin_epoch(hub, tea=0)
    assert counted == [NOBODY]


def test_compare(hub, listen):
    """A sweep finds unannounced events; a head below the known one means a restored database: all reconnect."""
    ann, ben = listen(ANN, at(4)), listen(BEN, at(4, PIE))
    assert hub.heads() == {TEA: 4, PIE: 4}
    hub.compare(TEA, 4, 6)
    hub.compare(PIE, 4, 3)
    hub.compare(UUID(int=99), 4, 3)
    assert hub.wanted() == {TEA: 4}
    assert is_open(ann)
    assert closed(CloseCode.RESYNC, ben)


# Membership


def test_joining_and_leaving(hub, listen):
    """A listener receives all from its user's joining to their leaving, and no message before or after."""
    ann, ben = listen(ANN), listen(BEN, at(0))
    hub.offer(message(1))
    for event in (joined(2), message(3), left(4), message(5)):
        hub.offer(event)
    assert received(ann, ben) == [[2, 3, 4], [1, 2, 3, 4, 5]]
    assert is_open(ann, ben)


def test_an_announced_joining(hub, listen):
    """A joining of a group without listeners here delivers what follows it; other users' joinings change nothing."""
    ann = listen(ANN)
    hub.joined(TEA, 7, BEN)
    assert hub.heads() == hub.wanted() == {}
    hub.joined(TEA, 7, ANN)
    assert hub.wanted() == {TEA: 6}
    hub.read(TEA, 6, Slice([joined(7), message(8)], 8))
    hub.joined(TEA, 7, ANN)
    assert received(ann) == [[7, 8]]
    assert is_open(ann)


def test_a_joining_that_is_announced_late(hub, listen):
    """A listener whose stream is already beyond its user's joining has to reconnect.

    Found by the property test.
    """
    ann, ben = listen(ANN), listen(BEN, at(7))
    hub.joined(TEA, 5, ANN)
    hub.offer(message(8))
    assert closed(CloseCode.RESYNC, ann)
    assert (received(ann, ben), is_open(ben)) == ([[], [8]], True)


def test_a_late_announcement_after_leaving(hub, listen):
    """An old announcement neither readmits nor disconnects a user who has left."""
    ann, ben = listen(ANN), listen(BEN, at(4))
    for event in (joined(5), left(6)):
        hub.offer(event)
    hub.joined(TEA, 5, ANN)
    hub.offer(message(7))
    assert received(ann, ben) == [[5, 6], [5, 6, 7]]
    assert is_open(ann)


def test_a_deleted_group(hub, registry, listen):
    """When all have left, nothing is left behind."""
    listen(ANN, at(4))
    listen(BEN, at(4))
    for event in (left(5, ANN), left(6, BEN)):
        hub.offer(event)
    assert not hub._streams
    assert all(each.groups == set() for each in hub.registry.everyone())


def end(seq):
    """The event by which all members leave a deleted group."""
    return left(seq, TEA)


def test_the_end_of_a_group(hub, registry, listen, calls, monkeypatch):
    """Everyone hears their own leaving, a few at a time, and nothing is left behind; also of an old joining."""
    monkeypatch.setattr(hub_module, "SLICE", 2)
    people = [UUID(int=number) for number in range(100, 105)]
    listeners = [listen(person, at(4)) for person in people]
    plain = listen(ANN, at(4), dialect=Dialect.PLAIN)
    hub.offer(end(5))
    assert 0 < count([*listeners]) < len(listeners)
    while hub.step():
        pass
    frames = [json.loads(frame[2 if frame[1] < 126 else 4 :]) for one in listeners for frame in one.connection.frames]
    assert [(frame["type"], frame["seq"], frame["user"]) for frame in frames] == [
        ("left", 5, str(person)) for person in people
    ]
    assert plain.connection.frames == []
    hub.joined(TEA, 4, ANN)
    hub.joined(TEA, 3, people[0])
    assert count(listeners) == len(listeners)
    assert is_open(plain, *listeners)
    assert not hub._streams
    assert calls[-1] == ("unsubscribe", TEA)


@pytest.mark.parametrize("is_here", [True, False])
def test_resume_to_the_end_of_a_group(hub, listen, is_here):
    """Whoever was a member hears what they have missed, and their own leaving; others hear nothing."""
    if is_here:
        listen(UUID(int=3), at(4))
    ann, ben = (listen(who, at(6, is_member=False), resume={TEA: 4}) for who in (ANN, BEN))
    hub.serve(ann, TEA, page([message(5), end(6)], 6))
    hub.serve(ben, TEA, page([message(5), end(6)], 6, was_member=False))
    hub.read(TEA, 4, Slice([message(5), end(6)], 6))
    while hub.step():
        pass
    assert received(ann, ben) == [[5, 6], []]
    assert hub.registry.lacks(ANN, TEA)
    assert not hub._streams


def test_lacking_listeners(hub, listen, attach):
    """A user lacks a group if one of their started listeners is not placed in it."""
    listen(ANN, at(0), at(0, PIE))
    listen(ANN, at(0))
    listen(BEN, at(3), resume={TEA: 1})
    attach(BEN)
    attach(UUID(int=3))
    assert hub.registry.lacks(UUID(int=3), TEA)  # it must learn of joinings after its positions were read
    assert hub.registry.started_users() == [ANN, BEN]
    places = [(who, group) for who in (ANN, BEN) for group in (TEA, PIE)]
    assert [hub.registry.lacks(*place) for place in places] == [False, True, False, True]


# Settling


def test_nothing_is_delivered_before_the_start(hub, attach, listen):
    """After the start come the events since the attach, then new ones."""
    ben, ann = listen(BEN, at(0)), attach(ANN)
    hub.offer(message(1))
    hub.start(ann, [at(0)], {})
    assert received(ann) == [[]]
    assert hub.missing(ann) == [TEA]
    hub.serve(ann, TEA, page([message(1)], 1))
    hub.offer(message(2))
    assert received(ann, ben) == [[1, 2], [1, 2]]
    assert hub.missing(ann) == []


def test_a_position_ahead(hub, listen):
    """A listener ahead of the stream receives nothing twice, and the others miss nothing."""
    ben = listen(BEN, at(0))
    ann = listen(ANN, at(2))
    for event in messages(1, 3):
        hub.offer(event)
    assert received(ann, ben) == [[3], [1, 2, 3]]


@pytest.mark.parametrize("position", [[], [at(0, is_member=False)]])
def test_a_joining_before_settling(hub, attach, listen, position):
    """A joining that came after the position was read is not missed: found by the property test."""
    ann = attach(ANN)
    listen(BEN, at(0))
    for event in (joined(1), message(2)):
        hub.offer(event)
    hub.start(ann, position, {})
    assert hub.missing(ann) == [TEA]
    hub.serve(ann, TEA, page([joined(1), message(2)], 2, was_member=False))
    hub.offer(message(3))
    assert received(ann) == [[1, 2, 3]]


def test_joinings_before_the_start(hub, attach, listen):
    """The last of several joinings counts, even in a group without listeners: found by the property test."""
    ann, ben = attach(ANN), listen(BEN, at(0))
    for event in (joined(1), left(2), message(3), joined(4)):
        hub.offer(event)
    hub.detach(ben)
    hub.start(ann, [at(3, is_member=False)], {})
    assert hub.wanted() == {TEA: 3}
    hub.read(TEA, 3, Slice([joined(4), message(5)], 5))
    assert received(ann) == [[4, 5]]


@pytest.mark.parametrize("seq", [0, 1])
def test_a_leaving_before_settling(hub, attach, listen, seq):
    """A removal that was read too early is still a removal."""
    ann, ben = attach(ANN), listen(BEN, at(0))
    for event in (message(1), left(2), message(3)):
        hub.offer(event)
    hub.start(ann, [at(seq)], {})
    hub.serve(ann, TEA, page([message(1), left(2), message(3)][seq:], 3))
    hub.offer(message(4))
    assert received(ann, ben) == [[1, 2][seq:], [1, 2, 3, 4]]


def test_resume(hub, listen):
    """Missed events come from the log, page by page, then new ones; the order holds."""
    ann = listen(ANN, at(5), resume={TEA: 1, PIE: 3})
    assert hub.missing(ann) == [TEA]
    hub.serve(ann, TEA, page(messages(2, 3), 5))
    assert hub.served_up_to(ann, TEA) == 3
    hub.offer(message(6))
    hub.serve(ann, TEA, page(messages(4, 5), 5))
    hub.offer(message(7))
    assert received(ann) == [[2, 3, 4, 5, 6, 7]]
    assert hub.served_up_to(ann, TEA) is None
    hub.serve(ann, TEA, page(messages(4, 5), 5))
    assert received(ann) == [[2, 3, 4, 5, 6, 7]]


def test_resume_while_a_message_is_redacted(hub, listen):
    """A page that was read before does not give the body after others have been told to forget it."""
    ann, ben = listen(ANN, at(5), resume={TEA: 1}), listen(BEN, at(5))
    redaction = message(6, body=b'{"by": null, "of": 2}')._replace(kind="redacted", user_id=None)
    hub.offer(redaction)
    hub.serve(ann, TEA, page(messages(2, 5), 5))
    assert received(ann, ben) == [[2, 3, 4, 5, 6], [6]]
    assert [b'"data":null' in frame for frame in ann.connection.frames] == [True, False, False, False, False]


def test_resume_across_an_absence(hub, listen):
    """Events without membership are left out; the user's own leaving and joining mark them."""
    ann = listen(ANN, at(6), resume={TEA: 0})
    events = [message(1), left(2), message(3), message(4), joined(5), message(6)]
    hub.serve(ann, TEA, page(events, 6))
    assert received(ann) == [[1, 2, 5, 6]]


def test_resume_of_the_whole_history(hub, listen):
    """Who may read all is sent what was logged outside their times as a member, too, up to the head of the read."""
    ann = listen(ANN, at(5), resume={TEA: 0})
    hub.offer(left(6))
    hub.offer(message(7))
    events = [message(1), joined(2), left(3), message(4), joined(5)]
    hub.serve(ann, TEA, page(events, 5, was_member=False)._replace(reads_all=True))
    assert received(ann) == [[1, 2, 3, 4, 5, 6]]
    assert TEA not in ann.groups


def test_resume_of_the_whole_history_to_a_joining(hub, listen):
    """So it is with events that are known here, if the read was of a later moment."""
    ann = listen(ANN, at(5, is_member=False), resume={TEA: 3})
    for event in (message(6), joined(7)):
        hub.offer(event)
    hub.serve(ann, TEA, page(messages(4, 5), 7, was_member=False)._replace(reads_all=True))
    hub.offer(message(8))
    assert received(ann) == [[4, 5, 6, 7, 8]]


@pytest.mark.parametrize("seq", [5, 6, 2**63 - 1])
def test_resume_from_now_on(hub, listen, seq):
    """A listener that has everything, or claims to have more, receives new events."""
    ann = listen(ANN, at(5), resume={TEA: seq})
    assert hub.missing(ann) == []
    hub.offer(message(6))
    assert received(ann) == [[6]]


def test_gap(hub, listen):
    """Events that retention has removed are announced as a gap; the rest follows."""
    ann = listen(ANN, at(9), resume={TEA: 2})
    hub.serve(ann, TEA, page(messages(6, 9), 9))
    assert received(ann) == [[(3, 5), 6, 7, 8, 9]]


@pytest.mark.parametrize(("head", "lost"), [(9, (3, 9)), (0, (3, 9))])
def test_gap_to_the_end(hub, registry, listen, head, lost):
    """So it is if nothing is kept, also of a group that is gone, which is not read for ever.

    Found by the property test.
    """
    ann = listen(ANN, at(9, is_member=False), resume={TEA: 2})
    hub.serve(ann, TEA, page([], head, was_member=False))
    assert received(ann) == [[lost]]
    assert hub.missing(ann) == []
    assert not hub._streams


def test_detached_before_the_start(hub, registry, attach):
    """A listener detached before its start leaves nothing behind."""
    ann = attach(ANN)
    hub.detach(ann)
    hub.start(ann, [at(3)], {TEA: 1})
    hub.serve(ann, TEA, page(messages(2, 3), 3))
    assert hub_is_empty(hub, registry)
    assert received(ann) == [[]]


# Going


@pytest.mark.parametrize("resume", [{}, {TEA: 1}])
def test_detach(hub, registry, listen, resume):
    """A detached listener receives nothing and is not closed; detaching twice is harmless."""
    listener = listen(ANN, at(3), at(0, PIE), resume=resume)
    hub.observe_head(PIE, 2)
    hub.detach(listener)
    hub.detach(listener)
    hub.offer(message(4))
    hub.read(PIE, 0, Slice([message(1, PIE), message(2, PIE)], 2))
    assert received(listener) == [[]]
    assert is_open(listener)
    assert hub_is_empty(hub, registry)


def test_callbacks_after_the_last_listener(hub, listen):
    """A callback for a delivery is called when the group's last listener is gone."""
    listener, counts = listen(ANN, at(0)), []
    hub.counts.expect(message(5), counts.append)
    hub.detach(listener)
    assert counts == [NOBODY]


def test_session_ended(hub, registry, listen, attach):
    """The session's sockets are closed and receive nothing; the user's other session stays."""
    ended = [listen(ANN, at(0)), listen(ANN, at(0)), attach(ANN)]
    other = listen(ANN, at(0), session_id=OTHER_SESSION)
    hub.session_ended(SESSION)
    hub.start(ended[-1], [at(0)], {})
    hub.offer(message(1))
    assert closed(CloseCode.SESSION_ENDED, *ended)
    assert received(*ended, other) == [[], [], [], [1]]
    assert is_open(other)
    assert registry.everyone() == (other,)


@pytest.mark.parametrize(("change", "code"), [("user_ended", 4500), ("user_state_unknown", 4001)])
def test_user_ended(hub, registry, listen, attach, change, code):
    """All of the user's sockets are closed and receive nothing; other users' stay."""
    anns = [listen(ANN, at(0)), listen(ANN, at(0, PIE), session_id=OTHER_SESSION), attach(ANN)]
    ben = listen(BEN, at(0))
    getattr(hub, change)(ANN)
    hub.start(anns[-1], [at(0)], {})
    hub.offer(message(1))
    assert closed(code, *anns)
    assert received(*anns, ben) == [[], [], [], [1]]
    assert is_open(ben)
    assert registry.everyone() == (ben,)


def test_sockets(hub, listen, attach):
    """A session's sockets count from the attach on, started or not."""
    listen(ANN, at(0))
    listen(ANN, session_id=OTHER_SESSION)
    unsettled = attach(ANN)

    def sockets():
        return [len(hub.registry.of_session(session_id)) for session_id in (SESSION, OTHER_SESSION, UUID(int=23))]

    assert sockets() == [2, 1, 0]
    assert set(hub.registry.sessions()) == {SESSION, OTHER_SESSION}
    hub.detach(unsettled)
    hub.session_ended(OTHER_SESSION)
    assert sockets() == [1, 0, 0]


def test_ended_twice(hub, listen):
    """Ending what has ended closes nothing again."""
    listener = listen(ANN, at(0))
    hub.session_ended(SESSION)
    hub.session_ended(SESSION)
    hub.user_state_unknown(ANN)
    hub.disconnect([listener], CloseCode.RESTART)
    assert closed(CloseCode.SESSION_ENDED, listener)


def test_disconnect(hub, registry, listen, attach):
    """New listeners are refused; those here receive events until they are disconnected, started or not."""
    ann = listen(ANN, at(0))
    others = [listen(BEN, at(3, PIE), resume={PIE: 1}, session_id=OTHER_SESSION), attach(ANN)]
    listeners = [ann, *others]
    assert set(hub.stop_admitting()) == set(listeners)
    late = Listener(ANN, SESSION, Recording())
    with pytest.raises(ShuttingDown):
        hub.attach(late)
    hub.start(late, [at(0)], {})
    hub.disconnect(others, CloseCode.RESTART, b"why")
    assert closed(CloseCode.RESTART, *others)
    assert is_open(ann)
    hub.offer(message(1))
    assert received(ann, *others, late) == [[1], [], [], []]
    hub.disconnect([*listeners, late], CloseCode.GOING_AWAY)
    assert closed(CloseCode.GOING_AWAY, ann)
    assert closed(CloseCode.RESTART, *others)
    assert [listener.connection.reasons for listener in listeners] == [[b""], [b"why"], [b"why"]]
    assert hub_is_empty(hub, registry)
    hub.detach(late)


# Ephemerals


def ephemeral(seq, head, user_id=ANN):
    return Ephemeral(b"tag", TEA, user_id, seq, head, BODY)


def ephemerals(listener):
    """The number of ephemerals that a listener has received."""
    return sum(b'"ephemeral"' in frame for frame in listener.connection.frames)


def test_ephemeral(hub, listen):
    """All listeners of att.v1 get it at once; plain ones and other groups' do not."""
    ann, ben, plain = listen(ANN, at(5)), listen(BEN, at(5)), listen(BEN, at(5), dialect=Dialect.PLAIN)
    cat = listen(UUID(int=3), at(5, PIE))
    hub.offer_ephemeral(ephemeral(5, 5))
    assert [ephemerals(each) for each in (ann, ben, plain, cat)] == [1, 1, 0, 0]


def test_ephemeral_after_the_events_that_its_sender_knew_of(hub, listen):
    """A member who left by one of them does not get it; who remains gets it after them."""
    ann, ben = listen(ANN, at(5)), listen(BEN, at(5))
    hub.offer_ephemeral(ephemeral(5, 7))
    assert hub.wanted() == {TEA: 5}
    hub.read(TEA, 5, Slice([message(6), left(7, BEN)], 7))
    assert [ephemerals(each) for each in (ann, ben)] == [1, 0]
    assert [b'"left"' in frame for frame in ann.connection.frames] == [False, True, False]


@pytest.mark.parametrize("end", [left(6), message(6)._replace(kind="changed", user_id=None, body=b'{"by":null}')])
def test_ephemeral_of_a_sender_whose_permission_has_ended(hub, listen, end):
    """What was permitted before a leaving of theirs or a change of the rules is dropped; what was after it is not."""
    ann, ben = listen(ANN, at(5)), listen(BEN, at(5))
    hub.offer(end)
    hub.offer_ephemeral(ephemeral(5, 5))
    hub.offer_ephemeral(ephemeral(5, 6))
    assert (ephemerals(ann), ephemerals(ben)) == (0, 0)
    hub.offer_ephemeral(ephemeral(6, 6))
    assert ephemerals(ben) == 1
    assert hub.still_permitted(TEA, ANN, 5) is None
    assert hub.still_permitted(TEA, ANN, 6) == (6, 6)


def test_others_leavings_end_no_permission(hub, listen, monkeypatch):
    """But when too many have left to remember them all permissions are read again."""
    monkeypatch.setattr("att.realtime.group_streams.LEAVINGS", 2)
    listen(ANN, at(5))
    for seq in (6, 7):
        hub.offer(left(seq, UUID(int=seq)))
        assert hub.still_permitted(TEA, ANN, 5) == (seq, seq)
    hub.offer(left(8, UUID(int=8)))
    assert hub.still_permitted(TEA, ANN, 7) is None
    assert hub.still_permitted(TEA, ANN, 8) == (8, 8)


def test_permission_before_the_stream_began(hub, listen):
    """Nothing is known of what happened before, nor of groups without a stream, nor after the log was set back."""
    listen(ANN, at(5))
    assert hub.still_permitted(TEA, ANN, 4) is None
    assert hub.still_permitted(PIE, ANN, 9) is None
    hub.offer(message(6))
    hub.begin_epoch(EPOCH_FRAME, {TEA: 5})
    assert hub.still_permitted(TEA, ANN, 4) is None


def test_ephemeral_whose_events_never_come(hub, listen):
    """It is dropped as soon as the events are not expected any more, and keeps none back."""
    ann = listen(ANN, at(5))
    hub.offer_ephemeral(ephemeral(5, 2**40))
    hub.offer_ephemeral(ephemeral(5, 5))
    for _ in range(3):
        hub.read(TEA, 5, Slice([], 5))
    hub.offer_ephemeral(ephemeral(5, 5))
    assert ephemerals(ann) == 1
    assert hub.wanted() == {}


def test_a_large_group_gets_an_ephemeral_in_slices(hub, listen, monkeypatch):
    monkeypatch.setattr(hub_module, "SLICE", 2)
    listeners = [listen(UUID(int=100 + number), at(5)) for number in range(5)]
    hub.offer_ephemeral(ephemeral(5, 5))
    assert sum(map(ephemerals, listeners)) == 2
    while hub.step():
        pass
    assert [ephemerals(each) for each in listeners] == [1] * 5


def test_what_a_listener_has_been_sent(hub, listen, monkeypatch):
    """It is behind while its positions are ahead of it, and while the frames of an event are being written."""
    monkeypatch.setattr(hub_module, "SLICE", 1)
    ann, ben = listen(ANN, at(5)), listen(BEN, at(5))
    assert [hub.behind(ann, at(seq)) for seq in (4, 5, 6)] == [None, None, 5]
    hub.offer(message(6))  # only one of them has got it
    assert [hub.behind(each, at(6)) for each in (ann, ben)] == [5, 5]
    while hub.step():
        pass
    assert [hub.behind(each, at(6)) for each in (ann, ben)] == [None, None]
    hub.offer(message(8))  # behind a gap
    assert hub.behind(ann, at(8)) == 6


def test_what_a_listener_has_been_sent_elsewhere(hub, listen, monkeypatch):
    """Of groups in which it catches up, or has no place: as a member it is behind, after its leaving it is not."""
    ann, ben, zoe = listen(ANN, at(5), resume={TEA: 2}), listen(BEN, at(5)), listen(UUID(int=3), at(5))
    assert hub.behind(ann, at(5)) == 2
    assert [hub.behind(ann, at(9, PIE, is_member=each)) for each in (True, False)] == [0, None]
    hub.offer(left(6, BEN))
    assert hub.behind(ben, at(6, is_member=False)) is None
    assert hub.behind(ben, at(9)) == 6
    monkeypatch.setattr(hub_module, "SLICE", 1)
    listen(ANN, at(6))
    hub.offer(left(7, UUID(int=3)))
    assert hub.behind(zoe, at(7, is_member=False)) == 6
    while hub.step():
        pass
    assert hub.behind(zoe, at(7, is_member=False)) is None
