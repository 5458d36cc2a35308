"""Judges the evidence of a run. Pure: it defines the promises again, independently of att."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from chaos.evidence import Change, Entry, Evidence, Frame, ListenerRecord, PlainRecord, Sending, Stored


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
    """One group's log, with the times of each membership."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = {entry.seq: entry for entry in entries}
        self.of_body = {entry.body: entry for entry in self.entries.values() if entry.kind == "message"}
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
            (mine.seq - 1 for mine, theirs in pairs if mine != theirs), min(len(self.entries), len(other.entries))
        )

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

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.epochs = stored.epochs
        self.groups = {group_id: Group(entries) for group_id, entries in stored.logs.items()}


class Databases(NamedTuple):
    """The database, and the one that a standby replaced: the same one if none did."""

    present: Database
    lost: Database

    def of(self, epoch: str) -> dict[UUID, Group]:
        """Return the logs that positions of an epoch are of.

        The present one has the beginning of each epoch that both know, and the lost one all of it.
        """
        return (self.lost if epoch in self.lost.epochs else self.present).groups


def judge(evidence: Evidence) -> list[Violation]:
    """Return every violation."""
    present = Database(evidence.stored)
    databases = Databases(present, present if evidence.lost is None else Database(evidence.lost))
    found = [Violation(Rule.FAULT, fault) for fault in evidence.faults]
    for database in {*databases}:
        for group_id, group in database.groups.items():
            found += _judge_log(database.stored, group_id, group)
        found += _judge_bodies(database.groups, evidence.sendings)
    for record in evidence.records:
        found += _judge_record(databases, record)
        if evidence.lost is None:  # else markers may be lost
            found += _judge_reads(evidence.stored, record)
    for plain in evidence.plain_records:
        is_of_lost = not plain.is_open and not [*_judge_plain(databases.lost.groups, plain)]  # ended before a promotion
        found += [] if is_of_lost else _judge_plain(databases.present.groups, plain)
    found += _judge_sendings(databases, evidence.sendings)
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
            yield from _judge_frames(group_id, databases.lost.groups[group_id], record, received, base, last)
            if frame.seq >= last or frame.seq not in _rewinds(databases, record.user_id, frame):
                yield Violation(Rule.REWIND, f"{record.name}: {group_id} from {last} to {frame.seq}")
            base, received = min(base, frame.seq), [each for each in received if each.seq <= frame.seq]
        else:
            received.append(frame)
    yield from _judge_frames(group_id, databases.present.groups[group_id], record, received, base, math.inf)


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
    group_id: UUID, group: Group, record: ListenerRecord, frames: Sequence[Frame], base: int, last: float
) -> Iterator[Violation]:
    """Check that these frames are the user's part of a log from above the base to the last."""
    yield from _judge_order(frames, base, record.name)
    for frame in frames:
        yield from _judge_frame(group, frame, record)
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


def _judge_order(frames: Iterable[Frame], base: int, name: str) -> Iterator[Violation]:
    seen, last = set(), base
    for frame in frames:
        if frame.seq in seen or frame.seq <= base:
            yield Violation(Rule.DOUBLED, f"{name}: {frame.group_id}/{frame.seq}")
        elif frame.seq < last:
            yield Violation(Rule.DISORDERED, f"{name}: {frame.group_id}/{frame.seq}")
        seen.add(frame.seq)
        last = max(last, frame.seq)


def _judge_frame(group: Group, frame: Frame, record: ListenerRecord) -> Iterator[Violation]:
    where = f"{record.name}: {frame.kind} {frame.group_id}/{frame.seq}"
    entry = group.entries.get(frame.seq)
    if frame.kind == "gap":
        yield Violation(Rule.MISSING, where)
    elif entry is None:
        yield Violation(Rule.UNLOGGED, where)
    elif frame != frame_of(frame.group_id, entry):
        yield Violation(Rule.ALTERED, where)
    elif not group.receives(record.user_id, frame.seq):
        yield Violation(Rule.OUTSIDER, where)


def _judge_plain(groups: dict[UUID, Group], record: PlainRecord) -> Iterator[Violation]:
    """Check that messages are the user's, in order, and complete from its opening, or the first, to the last."""
    seqs: dict[UUID, list[int]] = {group_id: [] for group_id in groups}
    for body in record.bodies:
        found = [(group_id, group.of_body[body]) for group_id, group in groups.items() if body in group.of_body]
        if not found:
            yield Violation(Rule.UNLOGGED, f"{record.name}: {body[:80]}")
        seqs |= {group_id: [*seqs[group_id], entry.seq] for group_id, entry in found}
    for group_id, group in groups.items():
        yield from _judge_plain_group(group, record, f"{record.name}: {group_id}", seqs[group_id])


def _judge_plain_group(group: Group, record: PlainRecord, where: str, seqs: list[int]) -> Iterator[Violation]:
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
        is_due = (seq > first or entry.at > record.opened_at) and seq < last
        is_theirs = entry.kind == "message" and group.receives(record.user_id, seq)
        if is_due and is_theirs and seq not in seqs:
            yield Violation(Rule.MISSING, f"{where}/{seq}")


def _judge_bodies(groups: dict[UUID, Group], sendings: Iterable[Sending]) -> Iterator[Violation]:
    """Check that no message is in a log twice, and that each was sent."""
    counts = Counter(
        (group_id, entry.body)
        for group_id, group in groups.items()
        for entry in group.entries.values()
        if entry.kind == "message"
    )
    for sending in sendings:
        count = counts.pop((sending.group_id, sending.body), 0)
        if count > 1:
            yield Violation(Rule.DOUBLED, f"{_name(sending)}: {count} times in the log")
    for group_id, body in counts:
        yield Violation(Rule.LOG, f"{group_id}: nobody sent {(body or '')[:40]}")


def _judge_sendings(databases: Databases, sendings: Iterable[Sending]) -> Iterator[Violation]:
    """Check that acknowledged messages are in the log of their epoch at that seq, and refused ones are not."""
    for sending in sendings:
        if sending.is_refused and sending.body in databases.present.groups[sending.group_id].of_body:
            yield Violation(Rule.LOG, f"{_name(sending)}: in the log, though it was refused")
        for seq, epoch in sending.acks:
            entry = databases.of(epoch)[sending.group_id].entries.get(seq)
            if entry is None or entry[1:5] != ("message", sending.user_id, sending.body, sending.key):
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
    for change, count in Counter(changes).items():
        if count > counts[change]:
            yield Violation(Rule.UNLOGGED, f"{change.user_id} {change.kind} {change.group_id}")


def frame_of(group_id: UUID, entry: Entry) -> Frame:
    """Return the event as a listener must receive it."""
    body = entry.body
    if body and entry.kind != "message":
        body = json.dumps(json.loads(body), sort_keys=True)
    return Frame(group_id, entry.seq, entry.kind, entry.user_id, body)
