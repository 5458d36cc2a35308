"""The verdict of the chaos run: each way in which a promise can be broken is found, and nothing else is."""

import json
from dataclasses import replace
from uuid import UUID

import pytest

from chaos.evidence import (
    Change,
    Entry,
    Ephemeral,
    Evidence,
    Frame,
    Heard,
    ListenerRecord,
    Opening,
    PlainRecord,
    Position,
    Read,
    Redaction,
    Sending,
    Stored,
)
from chaos.plan import SHORT, STANDARD, Broadcast, make_plan
from chaos.verdict import Group, Rule, frame_of, judge

ANN, BEN, EVE = UUID(int=1), UUID(int=2), UUID(int=3)
TEA = UUID(int=11)
A, B, C, D = (f'{{"n": {number}}}' for number in range(4))

# Ann is there from the beginning to the end; Ben receives B and C, and D after he has come back.
LOG = [
    Entry(1, "joined", ANN, None, None, 1.0),
    Entry(2, "message", ANN, A, None, 2.0),
    Entry(3, "joined", BEN, None, None, 3.0),
    Entry(4, "message", ANN, B, "key", 4.0),
    Entry(5, "message", None, C, None, 5.0),
    Entry(6, "left", BEN, None, None, 6.0),
    Entry(7, "message", ANN, '{"n": "away"}', None, 7.0),
    Entry(8, "joined", BEN, None, None, 8.0),
    Entry(9, "message", BEN, D, None, 9.0),
]
OF_BEN = [3, 4, 5, 6, 8, 9]


def stored(log, members=frozenset({ANN, BEN}), epochs=frozenset()):
    return Stored({TEA: log}, {TEA: len(log)}, {TEA: {*members}}, epochs)


def acked(*seqs, epoch=""):
    return [Position(seq, epoch) for seq in seqs]


def frames(*seqs):
    return [frame_of(TEA, LOG[seq - 1]) for seq in seqs]


def evidence(**changes):
    """What a run without fault leaves behind, but for what is given."""
    whole = {
        "stored": stored(LOG),
        "records": [
            ListenerRecord("ann", ANN, {TEA: 1}, frames(*range(2, 10))),
            ListenerRecord("ben", BEN, {}, frames(*OF_BEN)),
        ],
        "plain_records": [PlainRecord("plain", BEN, 3.5, [B, C, D], is_open=True)],
        "sendings": [
            Sending(TEA, ANN, A, None, acked(2)),
            Sending(TEA, ANN, B, "key", acked(4, 4)),
            Sending(TEA, None, C, None),
            Sending(TEA, ANN, '{"n": "away"}', None, acked(7)),
            Sending(TEA, BEN, D, None, acked(9)),
            Sending(TEA, EVE, '{"n": "refused"}', None, is_refused=True),
        ],
        "changes": [Change(TEA, BEN, "joined"), Change(TEA, BEN, "left"), Change(TEA, BEN, "joined")],
    }
    return Evidence(**(whole | changes))


def rules(**changes):
    """By what the verdict is broken."""
    return {violation.rule for violation in judge(evidence(**changes))}


def ben(*seqs, **changes):
    return {"records": [replace(ListenerRecord("ben", BEN, {}, frames(*seqs)), **changes)]}


def plain(*bodies, opened_at=3.5, is_open=False):
    return {"plain_records": [PlainRecord("plain", BEN, opened_at, [*bodies], is_open=is_open)]}


def test_read_markers():
    """A marker goes back neither in a connection nor from one to the next, and is stored."""
    for reads, is_right in (
        ([Read(TEA, 2, True), Read(TEA, 4), Read(TEA, 5), Read(TEA, 5, True), Read(TEA, 3), Read(TEA, 9)], True),
        ([Read(TEA, 4), Read(TEA, 4)], True),
        ([Read(TEA, 4), Read(TEA, 3)], False),
        ([Read(TEA, 4), Read(TEA, 3, True)], False),
        ([Read(TEA, 10)], False),
    ):
        found = rules(stored=stored(LOG)._replace(markers={(BEN, TEA): 9}), **ben(*OF_BEN, reads=reads))
        assert found == (set() if is_right else {Rule.MARKER})


def test_marking():
    """A marker that was acknowledged is stored."""
    reached = stored(LOG)._replace(markers={(BEN, TEA): 5})
    assert not rules(stored=reached, markings={(BEN, TEA): 5})
    assert rules(stored=reached, markings={(BEN, TEA): 6}) == {Rule.MARKER}


def ephemeral(sender=ANN, at=5.2, **changes):
    return replace(Ephemeral(TEA, sender, '{"e": 1}', at), **changes)


def heard(seq, sender=ANN, connection=1, at=7.7):
    return Heard(TEA, sender, '{"e": 1}', connection, Position(seq), at)


@pytest.mark.parametrize(
    ("sent", "heards", "rule"),
    [
        (ephemeral(), [heard(3), heard(5, connection=2)], None),
        (ephemeral(), [heard(3), heard(5)], Rule.DOUBLED),
        (ephemeral(), [heard(6)], Rule.OUTSIDER),
        (ephemeral(), [heard(2)], Rule.OUTSIDER),
        (ephemeral(EVE), [heard(5, EVE)], Rule.OUTSIDER),
        (ephemeral(is_refused=True), [heard(5)], Rule.OUTSIDER),
        (ephemeral(BEN), [heard(5)], Rule.ALTERED),
        (ephemeral(body='{"e": 2}'), [heard(5)], Rule.ALTERED),
        # His removal is acknowledged at 6.5, and he joins again at 8.
        (ephemeral(at=6.9), [heard(5)], None),
        (ephemeral(at=7.6), [heard(5)], Rule.OUTSIDER),
        (ephemeral(BEN, at=7.6), [heard(5, BEN)], Rule.OUTSIDER),
        (ephemeral(BEN, at=7.6), [heard(8, BEN, at=8.1)], None),
    ],
)
def test_ephemerals(sent, heards, rule):
    """Each comes as it was sent, once on a connection, from a member to members."""
    changes = [*evidence().changes[:1], Change(TEA, BEN, "left", 6.5)]
    assert rules(ephemerals=[sent], changes=changes, **ben(*OF_BEN, heard=heards)) == ({rule} if rule else set())


# Ann takes B back.
SHORTENED = [
    *(entry._replace(body=None) if entry.seq == 4 else entry for entry in LOG),
    Entry(10, "redacted", None, json.dumps({"by": str(ANN), "of": 4}), None, 10.0),
]
TAKEN_BACK = frame_of(TEA, SHORTENED[-1])


def ben_after_redaction(body, **changes):
    received = [frame._replace(body=body) if frame.seq == 4 else frame for frame in frames(*OF_BEN)]
    return {"records": [replace(ListenerRecord("ben", BEN, {}, [*received, TAKEN_BACK]), **changes)]}


def rules_of_redaction(log=SHORTENED, **changes):
    records = ben_after_redaction(B) | {"redactions": [Redaction(TEA, 4, 10.1)]}
    return rules(**{"stored": stored(log), **records, **changes})


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, None),
        (ben_after_redaction(None), None),
        (ben_after_redaction('{"n":1}', is_parsed=True), None),
        (plain(C, D), None),
        (plain(C, is_open=True), Rule.MISSING),
        (ben_after_redaction('{"n":1}'), Rule.ALTERED),
        (ben_after_redaction(C, is_parsed=True), Rule.ALTERED),
        (ben_after_redaction(B, openings=[Opening(0, 10.0), Opening(5, 11.0)]), None),
        (ben_after_redaction(B, openings=[Opening(0, 11.0)]), Rule.ALTERED),
        ({"redactions": [Redaction(TEA, 5, 10.1)]}, Rule.UNLOGGED),
        ({"log": [*LOG, SHORTENED[-1]]}, Rule.LOG),
        ({"log": [*SHORTENED[:-1], SHORTENED[-1]._replace(body='{"by": null, "of": 5}')]}, Rule.LOG),
        ({"log": [*SHORTENED[:-1], SHORTENED[-1]._replace(body=json.dumps({"by": str(BEN), "of": 4}))]}, Rule.LOG),
    ],
)
def test_redactions(changes, rule):
    """A body may be missing from when on it was taken back, for good by an event that the log has."""
    found = rules_of_redaction(**changes)
    assert rule in found if rule else not found


def ben_hears(frame):
    """That, besides what is his."""
    return {"records": [ListenerRecord("ben", BEN, {}, [*frames(*OF_BEN), frame])]}


def sent(*sendings):
    """Those, besides the others."""
    return {"sendings": [*evidence().sendings, *sendings]}


def test_a_run_without_fault():
    assert judge(evidence()) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (ben(3, 4, 6, 8, 9), Rule.MISSING),
        (ben(3, 4, 5, 6, 8), Rule.MISSING),
        (ben(4, 5, 6, 8, 9), Rule.MISSING),
        (ben_hears(Frame(TEA, 5, "gap", None, None)), Rule.MISSING),
        (ben(3, 4, 4, 5, 6, 8, 9), Rule.DOUBLED),
        (ben(3, 4, 5, 6, 8, 9, 4), Rule.DOUBLED),
        (ben(*OF_BEN, bases={TEA: 3}), Rule.DOUBLED),
        (ben(3, 5, 4, 6, 8, 9), Rule.DISORDERED),
        (ben(3, 4, 5, 6, 7, 8, 9), Rule.OUTSIDER),
        (ben(2, 3, 4, 5, 6, 8, 9), Rule.OUTSIDER),
        (ben(*OF_BEN, standings=[(TEA, Position(6))]), Rule.OUTSIDER),
        (
            {"records": [ListenerRecord("ben", BEN, {}, [*frames(*OF_BEN), Frame(TEA, 10, "message", ANN, "{}")])]},
            Rule.UNLOGGED,
        ),
        (
            {"records": [ListenerRecord("ben", BEN, {TEA: 5}, [*frames(6, 8), Frame(TEA, 9, "message", ANN, D)])]},
            Rule.ALTERED,
        ),
        (
            {"records": [ListenerRecord("ben", BEN, {TEA: 5}, [*frames(6, 8), Frame(TEA, 9, "message", BEN, A)])]},
            Rule.ALTERED,
        ),
    ],
)
def test_what_an_att_v1_listener_must_not_receive(changes, rule):
    assert rule in rules(**changes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (plain(B, D), Rule.MISSING),
        (plain(C, D), Rule.MISSING),
        (plain(B, C, is_open=True), Rule.MISSING),
        (plain(B, C, C), Rule.DOUBLED),
        (plain(C, B, opened_at=5.5), Rule.DISORDERED),
        (plain(B, C, '{"n": "away"}', D), Rule.OUTSIDER),
        (plain(B, C, '{"n": "who?"}', D), Rule.UNLOGGED),
    ],
)
def test_what_a_plain_listener_must_not_receive(changes, rule):
    assert rules(**changes) == {rule}


@pytest.mark.parametrize("bodies", [(), (B,), (B, C), (C,), (C, D)])
def test_a_plain_connection_may_end_at_any_moment(bodies):
    """And may begin at any: what was on its way then is received, or not."""
    assert not rules(**plain(*bodies, opened_at=4.5 if bodies[:1] == (C,) else 3.5))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (sent(Sending(TEA, ANN, '{"n": "lost"}', None, acked(10))), Rule.UNLOGGED),
        (sent(Sending(TEA, ANN, '{"n": "lost"}', None, acked(9))), Rule.UNLOGGED),
        ({"sendings": [*evidence().sendings[1:], Sending(TEA, ANN, A, "other key", acked(2))]}, Rule.UNLOGGED),
        ({"sendings": [*evidence().sendings[1:], Sending(TEA, ANN, A, None, is_refused=True)]}, Rule.LOG),
        ({"sendings": evidence().sendings[1:]}, Rule.LOG),
        ({"changes": [Change(TEA, BEN, "left"), Change(TEA, BEN, "left")]}, Rule.UNLOGGED),
    ],
)
def test_what_a_publisher_must_not_receive(changes, rule):
    assert rules(**changes) == {rule}


@pytest.mark.parametrize(
    ("log", "rule"),
    [
        ([*LOG, Entry(10, "message", ANN, B, None, 10.0)], Rule.DOUBLED),
        ([*LOG, Entry(10, "message", EVE, "{}", None, 10.0)], Rule.OUTSIDER),
        ([*LOG[:6], LOG[6]._replace(user_id=BEN), *LOG[7:]], Rule.OUTSIDER),
        ([*LOG, Entry(11, "message", None, "{}", None, 10.0)], Rule.LOG),
        ([*LOG, LOG[-1]], Rule.LOG),
        ([*LOG, Entry(10, "joined", BEN, None, None, 10.0)], Rule.LOG),
        ([*LOG, Entry(10, "left", EVE, None, None, 10.0)], Rule.LOG),
        ([*LOG, Entry(10, "left", BEN, None, None, 10.0)], Rule.LOG),
    ],
)
def test_what_a_log_must_not_hold(log, rule):
    found = rules(stored=stored(log), records=[], plain_records=[])
    assert rule in found


# A standby replaces the database that has LOG. It has the log up to 7: Ben comes back by another event.
KEPT, OLD, NEW = 7, "the epoch of both", "the epoch of the standby"
E, F = '{"n": "new"}', '{"n": "newest"}'
PRESENT = [
    *LOG[:KEPT],
    Entry(8, "message", ANN, E, None, 10.0),
    Entry(9, "joined", BEN, None, None, 11.0),
    Entry(10, "message", BEN, F, None, 12.0),
]


def rewind(seq, epoch=OLD):
    return Frame(TEA, seq, "rewind", None, epoch)


def new(*seqs):
    return [frame_of(TEA, PRESENT[seq - 1]) for seq in seqs]


def ann(*received, base=7):
    return {"records": [ListenerRecord("ann", ANN, {TEA: base}, [*received])]}


def rules_of_failover(**changes):
    """By what the verdict is broken of a run with a failover, without fault but for what is given."""
    return rules(
        **{
            "stored": stored(PRESENT, epochs={OLD, NEW}),
            "lost": stored(LOG, epochs={OLD, "lost"}),
            "records": [
                ListenerRecord("ann", ANN, {TEA: 1}, [*frames(*range(2, 10)), rewind(7), *new(8, 9, 10)]),
                ListenerRecord("ben", BEN, {}, [*frames(*OF_BEN), rewind(7), *new(9, 10)], [(TEA, Position(8, OLD))]),
                ListenerRecord("away", ANN, {}, [*frames(*range(1, 8)), *new(8, 9, 10)], [(TEA, Position(8, NEW))]),
                ListenerRecord("at 9", BEN, {TEA: 9}, [rewind(7), *new(9, 10)]),
                ListenerRecord("all", BEN, {}, [*frames(*OF_BEN), rewind(0, "lost"), *frames(3, 4, 5, 6), *new(9, 10)]),
            ],
            "plain_records": [
                PlainRecord("before", BEN, 3.5, [B, C, D]),
                PlainRecord("after", BEN, 8.5, [F], is_open=True),
                PlainRecord("all the time", ANN, 6.5, ['{"n": "away"}', E, F], is_open=True),
            ],
            "sendings": [
                *evidence().sendings[:-2],
                Sending(TEA, BEN, D, None, acked(9, epoch=OLD)),
                Sending(TEA, ANN, E, None, acked(8, epoch=NEW)),
                Sending(TEA, BEN, F, None, acked(10, epoch=NEW)),
            ],
            "changes": [*evidence().changes, Change(TEA, BEN, "joined")],
        }
        | changes
    )


def test_a_failover_without_fault():
    """What the old database has acknowledged and lost is not missing, if its listeners are told to forget it."""
    assert not rules_of_failover()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (ann(*frames(8, 9), *new(8, 9, 10)), Rule.DOUBLED),
        (ann(*frames(8, 9), *new(10)), Rule.ALTERED),
        (ann(*frames(8, 9), rewind(7), *new(9, 10)), Rule.MISSING),
        (ann(*frames(9), rewind(7), *new(8, 9, 10)), Rule.MISSING),
        (ann(*frames(8, 9), rewind(8), *new(9, 10)), Rule.REWIND),
        (ann(*frames(8, 9), rewind(6), *frames(7), *new(8, 9, 10)), Rule.REWIND),
        (ann(*frames(8, 9), rewind(0), *frames(*range(1, 8)), *new(8, 9, 10)), Rule.REWIND),
        (ann(rewind(7), *new(8, 9, 10)), Rule.REWIND),
        (ann(*frames(8, 9), rewind(7, "lost"), *new(8, 9, 10)), Rule.REWIND),
        (ann(*frames(8), rewind(7), rewind(7), *new(8, 9, 10)), Rule.REWIND),
        (ann(*new(8), rewind(7), *new(8, 9, 10)), Rule.ALTERED),
        ({"records": [ListenerRecord("ben", BEN, {TEA: 9}, [], [(TEA, Position(8, NEW))])]}, Rule.OUTSIDER),
        (plain(B, C, D, F, is_open=True), Rule.UNLOGGED),
        (plain(D, F), Rule.UNLOGGED),
        (sent(Sending(TEA, ANN, E, None, acked(8, epoch=OLD))), Rule.UNLOGGED),
        (sent(Sending(TEA, BEN, D, None, acked(9, epoch=NEW))), Rule.UNLOGGED),
        ({"changes": [*evidence().changes, *[Change(TEA, BEN, "joined")] * 2]}, Rule.UNLOGGED),
    ],
)
def test_what_a_failover_must_not_do(changes, rule):
    assert rule in rules_of_failover(**changes)


def test_a_redaction_that_is_lost():
    """Its listeners have no body of what the present database has."""
    lost = [*LOG[:3], LOG[3]._replace(body=None), *LOG[4:], SHORTENED[-1]]
    nulled = [frame._replace(body=None) if frame.seq == 4 else frame for frame in frames(*range(2, 10))]
    received = [*nulled, TAKEN_BACK, rewind(7), *new(8, 9, 10)]
    changes = {"lost": stored(lost, epochs={OLD, "lost"}), **ann(*received, base=1)}
    assert not rules_of_failover(**changes)
    assert rules_of_failover(**ann(*nulled, rewind(7), *new(8, 9, 10), base=1)) == {Rule.ALTERED}


def test_a_rewind_without_a_failover():
    """Nothing that is confirmed is lost when the database is killed."""
    assert rules(**ann(*frames(8, 9), rewind(7), *frames(8, 9))) == {Rule.REWIND}


def test_faults_are_violations():
    assert rules(faults=["it has tracebacks"]) == {Rule.FAULT}


def test_who_receives_what():
    """Both of one's own joining and leaving, and what is between them."""
    group = Group(LOG)
    assert [seq for seq in range(12) if group.receives(BEN, seq)] == [*OF_BEN, 10, 11]
    assert [seq for seq in range(1, 10) if group.is_member(BEN, seq)] == [3, 4, 5, 8, 9]
    assert group.members() == {ANN, BEN}


def test_the_seed_decides():
    """The same plan for the same seed, another for another, and each body once."""
    assert make_plan(7, SHORT) == make_plan(7, SHORT) != make_plan(8, SHORT)
    bodies = [step.action.body for step in make_plan(7, STANDARD).steps if isinstance(step.action, Broadcast)]
    assert len(bodies) == len({*bodies}) == STANDARD.broadcasts * STANDARD.seconds
