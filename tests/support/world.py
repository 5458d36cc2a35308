"""A small world around the hub: logs in memory, listeners that check their frames, and all that is on its way.

Nothing happens by itself. The test chooses the next action: whether and when an announcement arrives, when a read is
made and when its result arrives. The work of the log reader is done here step by step, with all else that can happen
between its steps. An action's number selects one of the possible targets.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple
from uuid import UUID

from doubles import is_empty

from att.protocol.frames import CloseCode
from att.realtime import fanout, group_streams, hub
from att.realtime.event_log import LogEvent, Position, Replay, Slice
from att.realtime.hub import Hub
from att.realtime.registry import Dialect, Listener, Registry

USERS = [UUID(int=number) for number in range(1, 5)]
GROUPS = [UUID(int=number) for number in range(11, 14)]
SESSIONS = [UUID(int=number) for number in range(21, 24)]
AT = datetime(2026, 11, 22, tzinfo=UTC)
LIMIT = 3  # events of one group in an answer
OVERDUE = 40  # rings that are under way
LISTENERS = 7


class Stand(NamedTuple):
    """A group's log at one moment: where it ends, where it begins, whether it is gone, its members."""

    head: int
    first: int
    is_gone: bool
    members: frozenset


class Book:
    """A group's log, and the receivers of each event: members, a user who joins by it, a user who leaves by it."""

    def __init__(self, group_id):
        self.group_id = group_id
        self.events = []
        self.hearers = []
        self.now = Stand(0, 1, is_gone=False, members=frozenset())

    def append(self, kind, user_id):
        seq = self.now.head + 1
        body = json.dumps({"group": str(self.group_id), "seq": seq}).encode() if kind == "message" else b""
        event = LogEvent(self.group_id, "name", seq, kind, user_id, AT, body)
        before, own = self.now.members, frozenset([user_id])
        after = before | own if kind == "joined" else before - own if kind == "left" else before
        self.events.append(event)
        self.hearers.append(before | after)
        self.now = self.now._replace(head=seq, members=after)
        return event

    def trim(self, count):
        self.now = self.now._replace(first=min(self.now.first + count, self.now.head + 1))

    def delete(self):
        gone = [self.append("left", user_id) for user_id in sorted(self.now.members)]
        self.now = self.now._replace(is_gone=True)
        return gone

    def visible_to(self, user_id, after, until):
        """Return the seqs that the user is to receive, above ``after`` up to ``until``."""
        return [seq for seq in range(after + 1, until + 1) if user_id in self.hearers[seq - 1]]

    def stints(self, user_id):
        """For each joining of that user which was followed by their leaving: the seqs of both."""
        joined = None
        for event in self.events:
            if event.kind != "message" and event.user_id == user_id:
                if event.kind == "left":
                    yield joined, event.seq
                joined = event.seq

    # What the log in the database would answer at that moment

    def kept(self, stand):
        return self.events[stand.first - 1 : stand.head]

    def head(self, stand):
        return 0 if stand.is_gone and stand.first > stand.head else stand.head

    def slice(self, stand, after, limit):
        return Slice([event for event in self.kept(stand) if event.seq > after][:limit], self.head(stand))

    def traces(self, stand, user_id):
        return [event for event in self.kept(stand) if event.kind != "message" and event.user_id == user_id]

    def replay(self, stand, user_id, after, limit):
        traces = self.traces(stand, user_id)
        before = [event.kind == "joined" for event in traces if event.seq <= after]
        later = [event.kind == "left" for event in traces if event.seq > after]
        was_member = [*before[-1:], *later[:1], user_id in stand.members][0]
        return Replay(self.slice(stand, after, limit), was_member, "name")

    def position(self, stand, user_id):
        if user_id in stand.members:
            return Position(self.group_id, "name", stand.head, is_member=True)
        if self.traces(stand, user_id):
            return Position(self.group_id, "name", self.head(stand), is_member=False)
        return None

    def joined_since(self, stand, user_id):
        return max((event.seq for event in self.traces(stand, user_id) if event.kind == "joined"), default=None)


@cache
def read_frame(frame):
    """Return group, first and last seq, and kind of a frame; a plain message has group and seq in its body."""
    told = json.loads(frame[2 if frame[1] < 126 else 4 :])
    if told.get("type") == "gap":
        return UUID(told["group"]), told["from"], told["to"], "gap"
    return UUID(told["group"]), told["seq"], told["seq"], told.get("type")


class CheckedConnection:
    """The connection of one listener, which knows the next event and fails on any other."""

    def __init__(self, world, user_id, dialect):
        self.world = world
        self.user_id = user_id
        self.dialect = dialect
        self.begins = {}  # the seq of each group after which events are due; earlier ones may come
        self.heard = None  # the last received seq of each group, once it is started
        self.is_open = True
        self.capacity = None  # frames that it still takes
        self.code = None
        self.late = set()  # joinings announced to the hub after a later one

    def expected(self, book, until):
        after = max(self.heard[book.group_id], self.begins.get(book.group_id, 0))
        seqs = book.visible_to(self.user_id, after, until)
        for joined, left in book.stints(self.user_id):
            if self.heard[book.group_id] < joined and left <= until and not self.is_known(book.group_id, joined):
                seqs = [seq for seq in seqs if not joined <= seq <= left]
        if self.dialect is Dialect.PLAIN:
            return [seq for seq in seqs if seq >= book.now.first and book.events[seq - 1].kind == "message"]
        return seqs

    def is_known(self, group_id, joined):
        """Return True if the hub could know of the joining in time. A sweep misses users who have left since."""
        is_kept = joined >= self.world.books[group_id].now.first
        return is_kept and (group_id, joined) in self.world.told and (group_id, joined) not in self.late

    def send(self, frame):
        if self.capacity is not None:
            self.capacity -= 1
            self.is_open = self.is_open and self.capacity > 0
        if self.is_open:
            self.take(*read_frame(frame))
        return self.is_open

    def replay(self, frame):
        self.send(frame)

    def take(self, group_id, first, last, kind):
        assert self.heard is not None, "received an event before its start"
        book, heard = self.world.books[group_id], self.heard[group_id]
        assert first > heard, f"received {kind} {first} of {group_id.int} after {heard}"
        missed = self.expected(book, first - 1)
        if kind == "gap":
            assert self.dialect is Dialect.V1
            assert first <= last < book.now.first, f"received a gap from {first} to {last}, which are not lost"
            assert not missed, f"missed {missed} of {group_id.int}"
        else:
            assert self.user_id in book.hearers[first - 1], f"received {first} of {group_id.int}, and was no member"
            assert not missed, f"not told {missed} of {group_id.int} before {first}"
            assert kind in {None, book.events[first - 1].kind}
        self.heard[group_id] = last
        self.world.deliveries += 1

    def close(self, code, reason=b""):
        assert (code, reason) == (CloseCode.RESYNC, b"")
        assert self.world.may_resync, "had to reconnect without need"
        assert self.code is None
        self.is_open, self.code = False, code

    def missing(self):
        """Return the events that are due and have not arrived."""
        if not self.is_open:
            return {}
        books = [book for book in self.world.books.values() if book.head(book.now)]  # the others may be empty
        behind = {book.group_id.int: self.expected(book, book.now.head) for book in books}
        return {group: seqs for group, seqs in behind.items() if seqs}


class Visit:
    """A listener from attach to detach, with all that is on its way for it."""

    def __init__(self, world, user_id, dialect):
        self.connection = CheckedConnection(world, user_id, dialect)
        self.listener = Listener(user_id, SESSIONS[user_id.int % len(SESSIONS)], self.connection, dialect)
        self.positions = self.stands = None
        self.starting = None  # the steps by which it starts
        self.todo = []  # groups in which it catches up
        self.page = None  # what it is about to be served: group, after, what was found


class World:
    """``go_on`` makes something happen, ``rest`` finishes all that is on its way, ``leave`` detaches everyone."""

    def __init__(self, *, has_trims):
        self.hub = Hub(Registry(), subscribe=self._subscribe, unsubscribe=self._unsubscribe)
        self.subscribed = set()
        self.books = {group_id: Book(group_id) for group_id in GROUPS}
        self.has_trims = has_trims
        self.may_resync = has_trims
        self.visits = []
        self.announcements = []  # announcements on their way to the hub
        self.reads = []  # what the hub wanted to be read, each with what was found
        self.sweep = None
        self.told = set()  # the joinings of which the hub was told, by group and seq
        self.deliveries = 0

    def _subscribe(self, group_id):
        assert group_id not in self.subscribed
        self.subscribed.add(group_id)

    def _unsubscribe(self, group_id):
        self.subscribed.remove(group_id)

    # What happens in the database

    def living(self):
        return [book for book in self.books.values() if not book.now.is_gone]

    def _pick_book(self, number):
        living = self.living() or [*self.books.values()]
        return living[number % len(living)]

    def _announce(self, *events):
        for event in events:
            self.announcements += [("offer", event), ("observe_head", event.group_id, event.seq)]
            if event.kind == "joined":
                self.announcements.append(("joined", event.group_id, event.seq, event.user_id))
        del self.announcements[:-OVERDUE]

    def message(self, number):
        book = self._pick_book(number)
        if not book.now.is_gone:
            self._announce(book.append("message", USERS[number % len(USERS)]))

    def move(self, number):
        """Have a user join, or leave if they are a member."""
        book, user_id = self._pick_book(number), USERS[number // 7 % len(USERS)]
        if not book.now.is_gone:
            self._announce(book.append("left" if user_id in book.now.members else "joined", user_id))

    def delete(self, number):
        self._announce(*self._pick_book(number).delete())

    def trim(self, number):
        self.books[GROUPS[number % len(GROUPS)]].trim(1 + number // 3 % 6)

    def stands(self):
        return {group_id: book.now for group_id, book in self.books.items()}

    # What comes from the bus and the writer

    def announce(self, number):
        """Deliver an announcement, which may come again and out of order."""
        name, *told = self.announcements[number % len(self.announcements)]
        if number % 3:
            del self.announcements[number % len(self.announcements)]
        if name == "joined":
            self.joined(*told)
        else:
            getattr(self.hub, name)(*told)

    def announce_newest(self, number):
        """Deliver the latest announcement, as usual when nothing goes wrong."""
        self.announce(len(self.announcements) * 3 - 1 - number % min(3, len(self.announcements)))

    def joined(self, group_id, seq, user_id):
        if (group_id, seq) not in self.told:
            self.told.add((group_id, seq))
            for visit in self.visits:
                if group_id in visit.listener.groups or seq <= visit.listener.left.get(group_id, 0):
                    visit.connection.late.add((group_id, seq))
        before, self.may_resync = self.may_resync, True  # when the stream is beyond it
        self.hub.joined(group_id, seq, user_id)
        self.may_resync = before

    # What Feed does

    def step(self, _number):
        self.hub.step()

    def want(self, _number):
        if wanted := self.hub.wanted():
            self.reads.append([wanted, None])

    def look(self, number):
        """Make a read, whose result is still on its way."""
        read = self.reads[number % len(self.reads)]
        read[1] = read[1] or self.stands()

    def answer(self, number):
        wanted, stands = self.reads.pop(number % len(self.reads))
        for group_id, after in wanted.items():
            book = self.books[group_id]
            self.hub.read(group_id, after, book.slice((stands or self.stands())[group_id], after, LIMIT))

    def fail(self, number):
        self.reads.pop(number % len(self.reads))

    def sweep_on(self, _number):
        """One step of a sweep, which begins if none is under way."""
        self.sweep = self.sweep or self._sweep()
        if next(self.sweep, self) is self:
            self.sweep = None

    def _sweep(self) -> Iterator[None]:
        """Sweep, at times including groups without listeners, as after a new subscription."""
        heads = self.hub.heads() if self.deliveries % 2 else dict.fromkeys(GROUPS, 0) | self.hub.heads(GROUPS)
        yield
        stands = self.stands()
        yield
        for group_id, heard in heads.items():
            self.hub.compare(group_id, heard, self.books[group_id].head(stands[group_id]))
        users = self.hub.registry.started_users()
        yield
        members = {group_id: stand.members for group_id, stand in self.stands().items()}
        found = [
            (user, group_id, self.books[group_id].joined_since(stand, user))
            for user in users
            for group_id, stand in self.stands().items()
        ]
        yield
        for user, group_id, seq in found:
            yield
            if not self.hub.registry.lacks(user, group_id):
                continue
            if seq is not None:
                self.joined(group_id, seq, user)
            elif user in members[group_id]:
                self.hub.user_state_unknown(user)

    # What listeners do

    def attach(self, number):
        visit = Visit(self, USERS[number % len(USERS)], Dialect(number // 5 % 2))
        self.visits.append(visit)
        self.hub.attach(visit.listener)

    def _among(self, number, condition):
        """Return a visit for which the condition holds, or None."""
        possible = [visit for visit in self.visits if condition(visit)]
        return possible[number % len(possible)] if possible else None

    def read_positions(self, number):
        if visit := self._among(number, lambda visit: visit.positions is None):
            self._read_positions(visit)

    def _read_positions(self, visit):
        visit.stands = self.stands()
        found = (book.position(book.now, visit.connection.user_id) for book in self.books.values())
        visit.positions = [position for position in found if position]

    def start(self, number):
        if visit := self._among(number, lambda visit: visit.positions is not None and visit.connection.heard is None):
            self._start(visit, number)

    def _start(self, visit, number):
        """Start a listener; in att.v1 it resumes some groups anywhere."""
        resume = {}
        if visit.connection.dialect is Dialect.V1:
            for place, group_id in enumerate(GROUPS):
                if number >> place & 1:
                    resume[group_id] = number // 8 % (visit.stands[group_id].head + 2)
        known = {position.group_id: position for position in visit.positions}
        visit.connection.heard = {group_id: stand.head for group_id, stand in visit.stands.items()}
        for group_id, stand in visit.stands.items():
            if group_id not in known and stand.first > 1:  # its traces may be lost, and yet under way to the hub
                visit.connection.heard[group_id], visit.connection.begins[group_id] = 0, stand.head
        for group_id in known.keys() & resume.keys():
            visit.connection.heard[group_id] = min(resume[group_id], visit.stands[group_id].head)
        visit.starting = self.hub.starting(visit.listener, visit.positions, resume)
        self._go_on_starting(visit)

    def go_on_starting(self, number):
        if visit := self._among(number, lambda visit: visit.starting is not None):
            self._go_on_starting(visit)

    def _go_on_starting(self, visit):
        if next(visit.starting, self) is self:
            visit.starting, visit.todo = None, self.hub.missing(visit.listener)

    def want_page(self, number):
        if visit := self._among(number, lambda visit: visit.todo and visit.page is None):
            self._want_page(visit, 1 + number % LIMIT)

    def _want_page(self, visit, limit):
        group_id = visit.todo[0]
        after = self.hub.served_up_to(visit.listener, group_id)
        if after is None:
            visit.todo.pop(0)
        else:
            book = self.books[group_id]
            visit.page = group_id, after, book.replay(book.now, visit.connection.user_id, after, limit)

    def serve(self, number):
        if visit := self._among(number, lambda visit: visit.page is not None):
            self._serve(visit)

    def _serve(self, visit):
        (group_id, after, found), visit.page = visit.page, None
        if self.hub.served_up_to(visit.listener, group_id) == after:
            self.hub.serve(visit.listener, group_id, found)

    def refuse(self, number):
        """Let a connection take only a few frames more."""
        visit = self.visits[number % len(self.visits)]
        visit.connection.capacity = 1 + number // 7 % 3

    def detach(self, number):
        closed = [place for place, visit in enumerate(self.visits) if visit.connection.code]
        self._detach(self.visits.pop(closed[0] if closed else number % len(self.visits)))

    def _detach(self, visit):
        visit.connection.is_open = False
        self.hub.detach(visit.listener)

    def go_on(self, choice, number):
        """One of the things that can happen now, happens. What it was."""
        actions = self._actions()
        choice %= sum(actions.values())
        for action, weight in actions.items():
            choice -= weight
            if choice < 0:
                action(number)
                assert self.subscribed == self.hub._streams.keys(), "subscribed to groups without a stream"
                return action.__name__
        raise AssertionError

    def _actions(self):
        """Return the possible actions with their weights."""
        actions = {self.message: 12, self.move: 6, self.step: 10, self.want: 6, self.sweep_on: 6}
        if self.has_trims:
            actions[self.trim] = 3
        if self.announcements:
            actions |= {self.announce_newest: 14, self.announce: 10}
        if len(self.visits) < LISTENERS:
            actions[self.attach] = 6
        if self.visits:
            actions |= {self.read_positions: 6, self.start: 6, self.go_on_starting: 6, self.want_page: 5, self.serve: 5}
            actions |= {self.detach: 2, self.refuse: 1, self.delete: 1}
        if self.reads:
            actions |= {self.answer: 6, self.look: 3, self.fail: 2}
        return actions

    # The end

    def rest(self):
        """Finish all that is on its way, like the log reader; then nothing is due."""
        self.announcements.clear()
        while self.sweep:
            self.sweep_on(0)
        while self.reads:
            self.answer(0)
        for visit in self.visits:
            if visit.positions is None:
                self._read_positions(visit)
            if visit.connection.heard is None:
                self._start(visit, 0)
            while visit.starting is not None:
                self._go_on_starting(visit)
        for _ in range(4):
            self._come_to_rest()
            self.sweep_on(0)
            while self.sweep:
                self.sweep_on(0)
        self._come_to_rest()
        missing = {place: missing for place, visit in enumerate(self.visits) if (missing := visit.connection.missing())}
        assert not missing, f"never told: {missing}"

    def _come_to_rest(self):
        for _ in range(10_000):
            busy = self.hub.step()
            for visit in self.visits:
                if visit.page:
                    self._serve(visit)
                elif visit.todo:
                    self._want_page(visit, LIMIT)
                busy = busy or bool(visit.page or visit.todo)
            self.want(0)
            busy = busy or bool(self.reads)
            while self.reads:
                self.answer(0)
            if not busy:
                return
        raise AssertionError("it never comes to rest")

    def leave(self):
        """All go, and leave nothing behind."""
        while self.visits:
            self._detach(self.visits.pop())
        self._come_to_rest()
        assert not self.hub._streams
        assert not self.subscribed
        assert not self.hub._read_queue
        assert not self.hub._running
        assert not self.hub.counts._waiting
        self.hub.registry.take_changed()
        assert is_empty(self.hub.registry)


def make_narrow(monkeypatch):
    """Bounds so small that all of them are met."""
    monkeypatch.setattr(hub, "SLICE", 2)
    monkeypatch.setattr(hub, "READS", 2)
    monkeypatch.setattr(group_streams, "QUEUE_EVENTS", 4)
    monkeypatch.setattr(group_streams, "RECENT", 2)
    monkeypatch.setattr(fanout, "COUNTS", 5)
