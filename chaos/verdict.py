"""Judges the evidence of a run. Pure: it defines the promises again, independently of att."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

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
    Redaction,
    Sending,
    Stored,
)

BELIEVED = 1.0  # seconds after the answer to a removal, for which a server may not know of it
# By group and user the times from and to which a user was certainly no member.
Absences = dict[tuple[UUID, UUID], list[tuple[float, float]]]


class Rule(StrEnum):
    """The ways in which a promise is broken."""

    MISSING = "missing"
    DOUBLED = "doubled"
    DISORDERED = "out of order"
    OUTSIDER = "not a member"
    UNLOGGED = "not in the log"
    ALTERED = "altered"
    REWIND = "wrong rewind"
    MARKER = "wrong read marker"
    LOG = "broken log"
    FAULT = "fault"


class Violation(NamedTuple):
    """A broken promise."""

    rule: Rule
    detail: str


class Group:
    """One group's log, with the times of each membership.

    ``redacted`` are the seqs of messages that were taken back, each with the bodies that it may have had. If there is
    only one, its entry has it again.
    """

    def __init__(self, entries: Iterable[Entry], sendings: Iterable[Sending] = ()) -> None:
        entries, sendings = [*entries], [*sendings]
        self.redacted = {
            entry.seq: _bodies(entry, sendings) for entry in entries if entry.kind == "message" and entry.body is None
        }
        only = {seq: next(iter(bodies)) for seq, bodies in self.redacted.items() if len(bodies) == 1}
        self.entries = {entry.seq: entry._replace(body=only.get(entry.seq, entry.body)) for entry in entries}
        self.of_body = {body: self.entries[seq] for seq, bodies in self.redacted.items() for body in bodies}
        self.of_body |= {entry.body: entry for entry in self.entries.values() if entry.kind == "message" and entry.body}
        self.stays: dict[UUID, list[tuple[int, float]]] = {}
        self.outsiders: list[Entry] = []  # who joined twice, or left without having joined
        for entry in self.entries.values():
            if entry.kind != "message" and entry.user_id is not None:
                self._change(entry, self.stays.setdefault(entry.user_id, []))

    def receives(self, user_id: UUID, seq: int) -> bool:
        """Return True if an event is for this user: from their join to their leave, both included."""
        return any(first <= seq <= last for first, last in self.stays.get(user_id, ()))

    def is_member(self, user_id: UUID, seq: int) -> bool:
        """Return True if the user is a member after this event."""
        return any(first <= seq < last for first, last in self.stays.get(user_id, ()))

    def fork(self, other: "Group") -> int:
        """Return the last seq up to which another log is the same."""
        pairs = zip(self.entries.values(), other.entries.values(), strict=False)
        return next(
            (mine.seq - 1 for mine, theirs in pairs if mine._replace(body=None) != theirs._replace(body=None)),
            min(len(self.entries), len(other.entries)),
        )

    def absence(self, user_id: UUID, removed_at: float) -> tuple[float, float]:
        """Return from when on a removal that was acknowledged then is certainly in force, and when the user joins."""
        theirs = [entry for entry in self.entries.values() if entry.user_id == user_id and entry.kind != "message"]
        left_at = max((entry.at for entry in theirs if entry.kind == "left" and entry.at <= removed_at), default=0.0)
        return removed_at + BELIEVED, min((entry.at for entry in theirs if entry.at > left_at), default=math.inf)

    def members(self) -> set[UUID]:
        """Return the members in the end."""
        return {user_id for user_id, stays in self.stays.items() if stays[-1:] and stays[-1][1] == math.inf}

    def _change(self, entry: Entry, stays: list[tuple[int, float]]) -> None:
        is_in = bool(stays) and stays[-1][1] == math.inf
        if is_in == (entry.kind == "joined"):
            self.outsiders.append(entry)
        elif entry.kind == "joined":
            stays.append((entry.seq, math.inf))
        else:
            stays[-1] = (stays[-1][0], entry.seq)


class Database:
    """The groups of a database, and the epochs that it knows."""

    def __init__(self, stored: Stored, sendings: Iterable[Sending]) -> None:
        self.stored = stored
        self.epochs = stored.epochs
        theirs: dict[UUID, list[Sending]] = {group_id: [] for group_id in stored.logs}
        for sending in sendings:
            theirs[sending.group_id].append(sending)
        self.groups = {group_id: Group(entries, theirs[group_id]) for group_id, entries in stored.logs.items()}


class Databases(NamedTuple):
    """The database, and the one that a standby replaced: the same one if none did."""

    present: Database
    lost: Database

    def of(self, epoch: str) -> dict[UUID, Group]:
        """Return the logs that positions of an epoch are of.

        The present one has the beginning of each epoch that both know, and the lost one all of it.
        """
        return (self.lost if epoch in self.lost.epochs else self.present).groups

    def is_redacted(self, group_id: UUID, seq: int) -> bool:
        """Return True if the message was taken back in one of them, before or after the other replaced it."""
        return any(seq in database.groups[group_id].redacted for database in self)


def judge(evidence: Evidence) -> list[Violation]:
    """Return every violation."""
    present = Database(evidence.stored, evidence.sendings)
    databases = Databases(present, present if evidence.lost is None else Database(evidence.lost, evidence.sendings))
    ephemerals = {ephemeral.body: ephemeral for ephemeral in evidence.ephemerals}
    absences: Absences = {}
    for change in evidence.changes:
        if change.kind == "left" and evidence.lost is None:  # else it may be lost
            absence = present.groups[change.group_id].absence(change.user_id, change.at)
            absences.setdefault((change.group_id, change.user_id), []).append(absence)
    found = [Violation(Rule.FAULT, fault) for fault in evidence.faults]
    for database in {*databases}:
        for group_id, group in database.groups.items():
            found += _judge_log(database.stored, group_id, group)
        found += _judge_bodies(database.groups, evidence.sendings)
    for record in evidence.records:
        found += _judge_record(databases, record)
        found += _judge_heard(databases, record, ephemerals, absences)
        if evidence.lost is None:  # else markers and redactions may be lost
            found += _judge_reads(evidence.stored, record)
            found += _judge_late_bodies(record, evidence.redactions)
    for plain in evidence.plain_records:
        is_of_lost = not plain.is_open and not [*_judge_plain(databases, databases.lost, plain)]  # before a promotion
        found += [] if is_of_lost else _judge_plain(databases, databases.present, plain)
    found += _judge_sendings(databases, evidence.sendings)
    found += _judge_redactions(databases, evidence.redactions)
    found += [] if evidence.lost else _judge_markings(evidence)
    found += _judge_changes(databases, evidence.changes)
    return found


def _judge_log(stored: Stored, group_id: UUID, group: Group) -> Iterator[Violation]:
    """Check that seqs run from 1 to the head, that members match, and that every sender was a member."""
    if [*group.entries] != [*range(1, stored.heads[group_id] + 1)]:
        yield Violation(Rule.LOG, f"{group_id} does not count from 1 to {stored.heads[group_id]}")
    if len(group.entries) != len(stored.logs[group_id]):
        yield Violation(Rule.LOG, f"{group_id} has a seq twice")
    if group.members() != stored.members.get(group_id, set()):
        yield Violation(Rule.LOG, f"{group_id} shows other members than the table")
    for entry in group.outsiders:
        yield Violation(Rule.LOG, f"{group_id} has a {entry.kind} at {entry.seq} of who already has")
    for entry in group.entries.values():
        if entry.kind == "message" and entry.user_id and not group.is_member(entry.user_id, entry.seq):
            yield Violation(Rule.OUTSIDER, f"{entry.user_id} sent {group_id}/{entry.seq}")
    yield from _judge_redacted(group_id, group)


def _judge_redacted(group_id: UUID, group: Group) -> Iterator[Violation]:
    """Check that every message without a body has one event that took it back, by its sender or by SQL."""
    redacted = []
    for entry in group.entries.values():
        if entry.kind == "redacted":
            facts = json.loads(entry.body or "{}")
            message = group.entries.get(facts["of"])
            redacted.append(facts["of"])
            if message is None or facts["of"] > entry.seq or facts["by"] not in (None, str(message.user_id)):
                yield Violation(Rule.LOG, f"{group_id}/{entry.seq} takes back what it may not")
    if sorted(redacted) != sorted(group.redacted):
        yield Violation(Rule.LOG, f"{group_id}: {sorted(redacted)} are taken back, {sorted(group.redacted)} are empty")


def _bodies(entry: Entry, sendings: Iterable[Sending]) -> set[str]:
    """Return the bodies that a message without one may have had: an acknowledgement tells, unless there was none."""
    theirs = [
        each for each in sendings if (each.user_id, each.key) == (entry.user_id, entry.key) and not each.is_refused
    ]
    acknowledged = {each.body for each in theirs if any(seq == entry.seq for seq, _ in each.acks)}
    return acknowledged or {each.body for each in theirs}


def _judge_record(databases: Databases, record: ListenerRecord) -> Iterator[Violation]:
    """Check that what it has not been told to forget is exactly the user's part of the log above the bases."""
    frames: dict[UUID, list[Frame]] = {group_id: [] for group_id in databases.present.groups}
    for frame in record.frames:
        frames.setdefault(frame.group_id, []).append(frame)
    for group_id, theirs in frames.items():
        if group_id in databases.present.groups:
            yield from _judge_group(databases, group_id, record, theirs)
        else:
            yield Violation(Rule.UNLOGGED, f"{record.name}: {group_id}")
    for group_id, (seq, epoch) in record.standings:
        group = databases.of(epoch).get(group_id)
        if group is None or not group.is_member(record.user_id, seq):
            yield Violation(Rule.OUTSIDER, f"{record.name}: greeted as a member of {group_id} at {seq}")


def _judge_group(
    databases: Databases, group_id: UUID, record: ListenerRecord, frames: Iterable[Frame]
) -> Iterator[Violation]:
    """Check a group's frames: up to a rewind they are of the lost log, and what they leave is of the present one."""
    base, received = record.bases.get(group_id, 0), list[Frame]()
    for frame in frames:
        if frame.kind == "rewind":
            last = max([base, *(each.seq for each in received)])
            yield from _judge_frames(databases, databases.lost, record, group_id, received, base, last)
            if frame.seq >= last or frame.seq not in _rewinds(databases, record.user_id, frame):
                yield Violation(Rule.REWIND, f"{record.name}: {group_id} from {last} to {frame.seq}")
            base, received = min(base, frame.seq), [each for each in received if each.seq <= frame.seq]
        else:
            received.append(frame)
    yield from _judge_frames(databases, databases.present, record, group_id, received, base, math.inf)


def _rewinds(databases: Databases, user_id: UUID, rewind: Frame) -> set[int]:
    """Return the seqs to which a rewind may go: where the logs part, or 0 if the server cannot know that."""
    present, lost = (database.groups[rewind.group_id] for database in databases)
    if present is lost:
        return set()
    if rewind.body not in databases.present.epochs:
        return {0}
    fork = present.fork(lost)
    is_known = any(first <= fork for first, _ in present.stays.get(user_id, ()))
    return {fork} if is_known else {0, fork}


def _judge_frames(
    databases: Databases,
    database: Database,
    record: ListenerRecord,
    group_id: UUID,
    frames: Sequence[Frame],
    base: int,
    last: float,
) -> Iterator[Violation]:
    """Check that these frames are the user's part of a log from above the base to the last."""
    group = database.groups[group_id]
    yield from _judge_order(frames, base, record.name)
    for frame in frames:
        yield from _judge_frame(databases, group, frame, record)
    missing = group.entries.keys() - {frame.seq for frame in frames if frame.kind != "gap"}
    for seq in sorted(missing):
        if base < seq <= last and group.receives(record.user_id, seq):
            yield Violation(Rule.MISSING, f"{record.name}: {group_id}/{seq}")


def _judge_reads(stored: Stored, record: ListenerRecord) -> Iterator[Violation]:
    """Check that no marker goes back, in a connection or from one to the next, and that each is stored."""
    told: dict[UUID, int] = {}
    highest: dict[UUID, int] = {}
    for group_id, seq, is_greeting in record.reads:
        if seq < (highest if is_greeting else told).get(group_id, 0):  # told again after an outage, it is the same
            yield Violation(Rule.MARKER, f"{record.name}: {group_id} goes back to {seq}")
        told[group_id] = 0 if is_greeting else seq
        highest[group_id] = max(seq, highest.get(group_id, 0))
    for group_id, seq in highest.items():
        if seq > stored.markers.get((record.user_id, group_id), 0):
            yield Violation(Rule.MARKER, f"{record.name}: {group_id} is not read up to {seq}")


def _judge_markings(evidence: Evidence) -> Iterator[Violation]:
    """Check that acknowledged markers are stored."""
    for (user_id, group_id), seq in evidence.markings.items():
        if seq > evidence.stored.markers.get((user_id, group_id), 0):
            yield Violation(Rule.MARKER, f"{user_id} has not read {group_id} up to {seq}, which was acknowledged")


def _judge_late_bodies(record: ListenerRecord, redactions: Iterable[Redaction]) -> Iterator[Violation]:
    """Check that no connection that was opened after a redaction was acknowledged has brought the body."""
    redacted_at = {(redaction.group_id, redaction.seq): redaction.at for redaction in redactions}
    for opening, following in pairwise([*record.openings, Opening(len(record.frames), math.inf)]):
        for frame in record.frames[opening.frame : following.frame]:
            is_late = redacted_at.get((frame.group_id, frame.seq), math.inf) < opening.at
            if is_late and frame.kind == "message" and frame.body is not None:
                yield Violation(Rule.ALTERED, f"{record.name}: {frame.group_id}/{frame.seq} was taken back before")


def _judge_heard(
    databases: Databases,
    record: ListenerRecord,
    ephemerals: Mapping[str, Ephemeral],
    absences: Absences,
) -> Iterator[Violation]:
    """Check that each ephemeral message was sent so, came once on a connection, and from a member to a member.

    Both are members by what the listener has of the log. If a removal was acknowledged some time before the sending,
    it holds, whatever the listener has, unless the user had joined again when the message came.
    """
    counts = Counter((heard.body, heard.connection) for heard in record.heard)
    for (body, _), count in counts.items():
        if count > 1:
            yield Violation(Rule.DOUBLED, f"{record.name}: {count} times {body[:40]}")
    for heard in record.heard:
        where = f"{record.name}: {heard.group_id} {heard.body[:40]}"
        sent = ephemerals.get(heard.body)
        if sent is None or (sent.group_id, sent.user_id) != (heard.group_id, heard.user_id):
            yield Violation(Rule.ALTERED, where)
            continue
        if sent.is_refused:
            yield Violation(Rule.OUTSIDER, f"{where} was refused")
        yield from _judge_membership(databases, record, heard, where)
        for user_id in {record.user_id, heard.user_id}:
            away = absences.get((heard.group_id, user_id), ())
            if any(start <= sent.sent_at and heard.at < end for start, end in away):
                yield Violation(Rule.OUTSIDER, f"{where} was sent after the removal of {user_id} was acknowledged")


def _judge_membership(databases: Databases, record: ListenerRecord, heard: Heard, where: str) -> Iterator[Violation]:
    seq, epoch = heard.position
    group = databases.of(epoch)[heard.group_id]
    for user_id in {record.user_id, heard.user_id}:
        if not group.is_member(user_id, seq):
            yield Violation(Rule.OUTSIDER, f"{where} at {seq}: {user_id} is no member")


def _judge_order(frames: Iterable[Frame], base: int, name: str) -> Iterator[Violation]:
    seen, last = set(), base
    for frame in frames:
        if frame.seq in seen or frame.seq <= base:
            yield Violation(Rule.DOUBLED, f"{name}: {frame.group_id}/{frame.seq}")
        elif frame.seq < last:
            yield Violation(Rule.DISORDERED, f"{name}: {frame.group_id}/{frame.seq}")
        seen.add(frame.seq)
        last = max(last, frame.seq)


def _judge_frame(databases: Databases, group: Group, frame: Frame, record: ListenerRecord) -> Iterator[Violation]:
    where = f"{record.name}: {frame.kind} {frame.group_id}/{frame.seq}"
    entry = group.entries.get(frame.seq)
    if frame.kind == "gap":
        yield Violation(Rule.MISSING, where)
    elif entry is None:
        yield Violation(Rule.UNLOGGED, where)
    elif not _is_right(databases, group, frame, entry, is_parsed=record.is_parsed):
        yield Violation(Rule.ALTERED, where)
    elif not group.receives(record.user_id, frame.seq):
        yield Violation(Rule.OUTSIDER, where)


def _is_right(databases: Databases, group: Group, frame: Frame, entry: Entry, *, is_parsed: bool) -> bool:
    """Return True if the frame has the entry. One that was taken back may lack its body."""
    if frame._replace(body=None) != frame_of(frame.group_id, entry)._replace(body=None):
        return False
    if frame.kind != "message":
        return frame == frame_of(frame.group_id, entry)
    if frame.body is None:
        return databases.is_redacted(frame.group_id, frame.seq)
    bodies = group.redacted.get(entry.seq, {entry.body or ""})
    return json.loads(frame.body) in map(json.loads, bodies) if is_parsed else frame.body in bodies


def _judge_plain(databases: Databases, database: Database, record: PlainRecord) -> Iterator[Violation]:
    """Check that messages are the user's, in order, and complete from its opening, or the first, to the last."""
    groups = database.groups
    seqs: dict[UUID, list[int]] = {group_id: [] for group_id in groups}
    for body in record.bodies:
        found = [(group_id, group.of_body[body]) for group_id, group in groups.items() if body in group.of_body]
        if not found:
            yield Violation(Rule.UNLOGGED, f"{record.name}: {body[:80]}")
        seqs |= {group_id: [*seqs[group_id], entry.seq] for group_id, entry in found}
    for group_id, group in groups.items():
        may_lack = {seq for seq in group.entries if databases.is_redacted(group_id, seq)}
        yield from _judge_plain_group(group, record, f"{record.name}: {group_id}", seqs[group_id], may_lack)


def _judge_plain_group(
    group: Group, record: PlainRecord, where: str, seqs: list[int], may_lack: set[int]
) -> Iterator[Violation]:
    for seq, count in Counter(seqs).items():
        if count > 1:
            yield Violation(Rule.DOUBLED, f"{where}/{seq}")
        if not group.receives(record.user_id, seq):
            yield Violation(Rule.OUTSIDER, f"{where}/{seq}")
    for before, after in pairwise(seqs):
        if after < before:
            yield Violation(Rule.DISORDERED, f"{where}/{after}")
    first = min(seqs, default=math.inf)
    last = math.inf if record.is_open else max(seqs, default=0)
    for seq, entry in group.entries.items():
        is_due = (seq > first or entry.at > record.opened_at) and seq < last and seq not in may_lack
        is_theirs = entry.kind == "message" and group.receives(record.user_id, seq)
        if is_due and is_theirs and seq not in seqs:
            yield Violation(Rule.MISSING, f"{where}/{seq}")


def _judge_bodies(groups: dict[UUID, Group], sendings: Iterable[Sending]) -> Iterator[Violation]:
    """Check that no message is in a log twice, and that each was sent."""
    counts = Counter(
        (group_id, entry.body)
        for group_id, group in groups.items()
        for entry in group.entries.values()
        if entry.kind == "message" and entry.body is not None
    )
    for sending in sendings:
        count = counts.pop((sending.group_id, sending.body), 0)
        if count > 1:
            yield Violation(Rule.DOUBLED, f"{_name(sending)}: {count} times in the log")
    for group_id, body in counts:
        yield Violation(Rule.LOG, f"{group_id}: nobody sent {body[:40]}")


def _judge_sendings(databases: Databases, sendings: Iterable[Sending]) -> Iterator[Violation]:
    """Check that acknowledged messages are in the log of their epoch at that seq, and refused ones are not."""
    for sending in sendings:
        if sending.is_refused and sending.body in databases.present.groups[sending.group_id].of_body:
            yield Violation(Rule.LOG, f"{_name(sending)}: in the log, though it was refused")
        for seq, epoch in sending.acks:
            group = databases.of(epoch)[sending.group_id]
            entry = group.entries.get(seq)
            is_theirs = entry is not None and entry[1:3] == ("message", sending.user_id) and entry.key == sending.key
            if entry is None or not is_theirs or sending.body not in group.redacted.get(seq, {entry.body}):
                yield Violation(Rule.UNLOGGED, f"{_name(sending)}: acknowledged as {seq}")


def _name(sending: Sending) -> str:
    return f"{sending.group_id}: {sending.body[:40]} (key {sending.key})"


def _judge_changes(databases: Databases, changes: Iterable[Change]) -> Iterator[Violation]:
    """Check that every acknowledged change of members is in a log."""
    entries = {
        (group_id, entry)
        for database in databases
        for group_id, group in database.groups.items()
        for entry in group.entries.values()
    }
    counts = Counter((group_id, entry.user_id, entry.kind) for group_id, entry in entries)
    for (group_id, user_id, kind), count in Counter(change[:3] for change in changes).items():
        if count > counts[group_id, user_id, kind]:
            yield Violation(Rule.UNLOGGED, f"{user_id} {kind} {group_id}")


def _judge_redactions(databases: Databases, redactions: Iterable[Redaction]) -> Iterator[Violation]:
    """Check that what was taken back is without a body."""
    for redaction in redactions:
        if not databases.is_redacted(redaction.group_id, redaction.seq):
            yield Violation(Rule.UNLOGGED, f"{redaction.group_id}/{redaction.seq} is not taken back")


def frame_of(group_id: UUID, entry: Entry) -> Frame:
    """Return the event as a listener must receive it."""
    body = entry.body
    if body and entry.kind != "message":
        body = json.dumps(json.loads(body), sort_keys=True)
    return Frame(group_id, entry.seq, entry.kind, entry.user_id, body)
