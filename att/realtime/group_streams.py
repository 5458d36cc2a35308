"""One group's log as far as this node has applied it, and its listeners. No loop, no socket, no database.

A listener has at most one place in a stream. In the *audience* it receives every event. *Waiting*, it already has
events that the stream has yet to reach. *Catching up*, it lags behind, and is sent missed events from the log.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import LogEvent
from att.realtime.registry import Dialect, Encoding, Listener, Recipients

QUEUE_EVENTS = 1_000  # queued events; further ones are read from the log later
_QUEUE_BYTES = 4 * 1024**2
EARLY = 64  # events kept behind a gap, since the missing ones are often on their way
EARLY_BYTES = 256 * 1024
RECENT = 256  # events kept while a listener catches up, so that its last step needs no read
RECENT_BYTES = 64 * 1024  # of them, as all are written at once
_RULES = ("left", "role", "changed")  # kinds of events that may change who may post
LAST_KNOWN = 10_000  # groups without listeners whose last seq is kept
HELD = 256  # ephemerals that wait for events; the oldest are dropped
LEAVINGS = 1_000  # users who have left, whose last leaving is kept
_EMPTY_READS = 3  # reads without the announced events, after which they are no longer expected


class StreamPosition(NamedTuple):
    """The last seq that a listener has of a group, and whether its user is a member."""

    seq: int
    is_member: bool


class Audience(NamedTuple):
    """Connections that get the same frames: those of one dialect and encoding."""

    dialect: Dialect
    encoding: Encoding
    connections: Recipients


class LastKnownSeqs:
    """Last known seqs of groups without listeners here, so that a new listener does not start behind them.

    Only the latest groups are kept; a sweep finds the others.
    """

    def __init__(self) -> None:
        self._heads: OrderedDict[UUID, int] = OrderedDict()

    def note(self, group_id: UUID, seq: int) -> None:
        """Store that a group has reached this seq."""
        self._heads[group_id] = max(seq, self._heads.pop(group_id, 0))
        if len(self._heads) > LAST_KNOWN:
            self._heads.popitem(last=False)

    def clear(self) -> None:
        """Forget all of them."""
        self._heads.clear()

    def take(self, group_id: UUID) -> int:
        """Remove and return a group's last known seq, 0 if there is none."""
        return self._heads.pop(group_id, 0)


class ReadQueue:
    """Streams to be read from the log, in the order in which they asked."""

    def __init__(self) -> None:
        self._streams: dict[UUID, GroupStream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def note(self, stream: "GroupStream") -> bool:
        """Add a stream. Return True if it is new."""
        is_new = self._streams.get(stream.group_id) is not stream
        if is_new:
            self._streams[stream.group_id] = stream
        return is_new

    def wanted(self, limit: int) -> dict[UUID, int]:
        """Return up to ``limit`` groups to be read now, each with the seq to read after."""
        wanted: dict[UUID, int] = {}
        for group_id, stream in [*self._streams.items()]:
            if not stream.wants_read:
                del self._streams[group_id]
            elif len(wanted) < limit:
                wanted[group_id] = stream.tail
        return wanted


class GroupStream:
    """``seq`` is that of the last applied event, ``known_head`` the highest seq known of the group."""

    __slots__ = (
        "_audience",
        "_audiences",
        "_bytes",
        "_catching",
        "_early",
        "_empty_reads",
        "_ephemerals",
        "_left",
        "_queue",
        "_recent",
        "_recent_bytes",
        "_rules_at",
        "_waiting",
        "group_id",
        "is_running",
        "known_head",
        "seq",
    )

    def __init__(self, group_id: UUID, seq: int) -> None:
        self.group_id = group_id
        self.seq = self.known_head = seq
        self.is_running = False
        self._queue: deque[LogEvent] = deque()
        self._bytes = 0
        self._early: dict[int, LogEvent] = {}
        self._empty_reads = 0
        self._ephemerals: deque[Ephemeral] | None = None
        self._left: dict[UUID, int] | None = None  # seqs of the last leavings of users
        self._rules_at = seq  # since then all events that change who may post are known
        self._audience: tuple[set[Listener], ...] = tuple(set() for _ in Dialect)
        self._audiences: tuple[Audience, ...] | None = None  # None: to be built
        self._waiting: dict[Listener, int] = {}
        self._catching: dict[Listener, int] = {}
        self._recent: deque[LogEvent] | None = None
        self._recent_bytes = 0

    # The log

    @property
    def tail(self) -> int:
        """The seq of the last event that is here, applied or queued."""
        return self._queue[-1].seq if self._queue else self.seq

    @property
    def has_next(self) -> bool:
        """True if an event is queued, or an ephemeral is due."""
        return bool(self._queue) or (self._ephemerals is not None and self._ephemerals[0].head <= self.seq)

    @property
    def wants_read(self) -> bool:
        """True if events are known to be missing, and there is room for them."""
        return self.known_head > self.tail and len(self._queue) < QUEUE_EVENTS // 2 and self._bytes < _QUEUE_BYTES // 2

    @property
    def has_early(self) -> bool:
        """True if there is an event behind a gap."""
        return bool(self._early)

    @property
    def is_idle(self) -> bool:
        """True if the stream has no listener and expects no event."""
        return (
            not (any(self._audience) or self._waiting or self._catching or self._queue) and self.known_head <= self.seq
        )

    def observe(self, seq: int) -> None:
        """Note that the group has reached this seq, or a higher one."""
        self.known_head = max(self.known_head, seq)

    def offer(self, event: LogEvent) -> None:
        """Queue the next event. Drop one that was here before, and keep one behind a gap for later."""
        self.observe(event.seq)
        if event.seq == self.tail + 1:
            self._append(event)
            if self._early:
                self._append_early()
        elif event.seq > self.tail and self._has_room_for(event):
            self._early[event.seq] = event

    def forget_early(self) -> None:
        """Drop the events behind a gap: the log decides, and it may have been set back."""
        self._early.clear()

    def _append(self, event: LogEvent) -> None:
        if len(self._queue) < QUEUE_EVENTS and self._bytes < _QUEUE_BYTES:
            if (redacted := event.redacts) is not None:
                self._redact(redacted)
            self._queue.append(event)
            self._bytes += len(event.body)
            self._empty_reads = 0

    def _redact(self, seq: int) -> None:
        self._bytes -= _forget_body(self._queue, seq)
        if self._recent is not None:
            self._recent_bytes -= _forget_body(self._recent, seq)

    def _append_early(self) -> None:
        while (event := self._early.pop(self.tail + 1, None)) is not None:
            self._append(event)
        for seq in [seq for seq in self._early if seq <= self.tail]:
            del self._early[seq]

    def _has_room_for(self, event: LogEvent) -> bool:
        size = sum([len(early.body) for early in self._early.values()], len(event.body))
        return len(self._early) < EARLY and size <= EARLY_BYTES

    def on_empty_read(self) -> None:
        """Count a read without the expected events. After a restore from a backup they never come."""
        self._empty_reads += 1
        if self._empty_reads >= _EMPTY_READS:
            self._empty_reads, self.known_head = 0, self.tail
            self._ephemerals = None

    def pop(self) -> LogEvent | None:
        """Remove and return the next event; None if there is none."""
        if not self._queue:
            return None
        event = self._queue.popleft()
        self._bytes -= len(event.body)
        self.seq = event.seq
        if event.kind == "left" and event.user_id is not None and not event.is_end:
            self._note_leaving(event.user_id)
        elif event.kind in _RULES:
            self._rules_at = event.seq
        if self._recent is not None:
            self._keep(self._recent, event)
        return event

    def _keep(self, recent: deque[LogEvent], event: LogEvent) -> None:
        recent.append(event)
        self._recent_bytes += len(event.body)
        while len(recent) > RECENT or self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(recent.popleft().body)

    def skip(self, seq: int) -> None:
        """Continue after this seq, without the events before. The stream must have no listeners."""
        self.known_head = seq if seq < self.tail else self.known_head  # the log was set back
        self._move_to(seq)

    def rewind(self, seq: int) -> None:
        """Forget what is above this seq, and what is not applied yet. No listener may be ahead of it."""
        self.known_head = min(self.seq, seq)
        self._move_to(self.known_head)
        self._recent = None if self._recent is None else deque()
        self._recent_bytes = 0

    def _move_to(self, seq: int) -> None:
        self.seq = self._rules_at = seq
        self._queue.clear()
        self._early.clear()
        self._bytes = 0
        self._ephemerals = self._left = None

    # Ephemerals

    def hold(self, ephemeral: Ephemeral) -> None:
        """Queue an ephemeral until all events are applied that its sender's node knew of."""
        if self._ephemerals is None:
            self._ephemerals = deque(maxlen=HELD)
        self._ephemerals.append(ephemeral)
        self.observe(ephemeral.head)

    def pop_ephemeral(self) -> Ephemeral | None:
        """Remove and return the next ephemeral that is due, and whose sender may still post."""
        while self._ephemerals is not None and self._ephemerals[0].head <= self.seq:
            ephemeral = self._ephemerals.popleft()
            self._ephemerals = self._ephemerals or None
            if self.permits(ephemeral.user_id, ephemeral.seq):
                return ephemeral
        return None

    def permits(self, user_id: UUID, seq: int) -> bool:
        """Return True if a user who was permitted to post by this event still is by the last applied one."""
        return seq >= self._rules_at and (self._left is None or seq >= self._left.get(user_id, 0))

    def _note_leaving(self, user_id: UUID) -> None:
        if self._left is None or len(self._left) >= LEAVINGS:
            # Those that are forgotten count as a change of the rules: permissions are read again.
            self._left, self._rules_at = {}, self._rules_at if self._left is None else self.seq
        self._left[user_id] = self.seq

    # Listeners

    def audiences(self) -> tuple[Audience, ...]:
        """Return the connections that receive the current event."""
        if self._audiences is None:
            found = [
                Audience(dialect, encoding, Recipients(each.connection for each in part if each.encoding is encoding))
                for dialect, part in zip(Dialect, self._audience, strict=True)
                for encoding in Encoding
            ]
            self._audiences = tuple(audience for audience in found if audience.connections)
        return self._audiences

    def everyone(self) -> list[Listener]:
        """Return all listeners, wherever their place."""
        return [*self._waiting, *self._catching, *(listener for part in self._audience for listener in part)]

    def ahead_of(self, seq: int) -> list[Listener]:
        """Return the listeners that have received, or know of, events above this seq."""
        audience = [listener for part in self._audience for listener in part] if self.seq > seq else []
        others = [*self._waiting.items(), *self._catching.items()]
        return audience + [listener for listener, heard in others if heard > seq]

    def place(self, listener: Listener, position: StreamPosition) -> None:
        """Place a listener at its position, so that it receives the events that follow."""
        if position.seq < self.seq:
            self.catch_up(listener, position.seq)
        elif not position.is_member:
            listener.left[self.group_id] = position.seq
        elif position.seq > self.seq:
            self._waiting[listener] = position.seq
            self.observe(position.seq)
            listener.groups.add(self.group_id)
        else:
            self._enter(listener)

    def admit(self, listener: Listener, seq: int) -> bool:
        """Add a listener whose user joined by this event. Return False if its place covers the event already."""
        if self.group_id in listener.groups or seq <= listener.left.get(self.group_id, 0):
            return False
        self._enter(listener)
        return True

    def dismiss(self, listener: Listener) -> bool:
        """Remove a listener whose user left by the current event. Return False if it waits or catches up."""
        if listener not in self._audience[listener.dialect]:
            return False
        self.remove(listener)
        listener.left[self.group_id] = self.seq
        return True

    def promote(self) -> None:
        """Move the waiting listeners whose seq is reached to the audience."""
        if self._waiting:
            for listener in [listener for listener, seq in self._waiting.items() if seq <= self.seq]:
                del self._waiting[listener]
                self._enter(listener)

    def remove(self, listener: Listener) -> None:
        """Remove a listener from the stream."""
        if listener in self._audience[listener.dialect]:
            self._audience[listener.dialect].discard(listener)
            self._audiences = None
        self._waiting.pop(listener, None)
        self._stop_catching(listener)
        listener.groups.discard(self.group_id)

    def _enter(self, listener: Listener) -> None:
        self._audience[listener.dialect].add(listener)
        self._audiences = None
        listener.groups.add(self.group_id)

    # Catching up

    def catch_up(self, listener: Listener, seq: int) -> None:
        """Have a listener catch up with the events above ``seq``."""
        self._catching[listener] = seq
        self._recent = deque() if self._recent is None else self._recent
        listener.groups.add(self.group_id)

    def served_up_to(self, listener: Listener) -> int | None:
        """Return the last seq sent to a listener that catches up, else None."""
        return self._catching.get(listener)

    def sent_up_to(self, listener: Listener) -> int:
        """Return the seq up to which a listener in this stream has certainly been sent all events."""
        applied = self.seq - self.is_running  # the frames of the last one are perhaps still being written
        return self._catching.get(listener, self._waiting.get(listener, applied))

    def serve(self, listener: Listener, position: StreamPosition) -> None:
        """Note that a listener was sent events up to this position. At the stream's own seq it has caught up."""
        if position.seq < self.seq:
            self._catching[listener] = position.seq
        else:
            self.remove(listener)
            self.place(listener, position)

    def recent(self, seq: int) -> list[LogEvent]:
        """Return the events from ``seq`` + 1 to the last applied one if all are kept, else none."""
        kept = [event for event in self._recent or () if event.seq > seq]
        return kept if kept and kept[0].seq == seq + 1 else []

    def without_redacted(self, events: Iterable[LogEvent]) -> list[LogEvent]:
        """Return events that were read before, without the bodies of messages that have been redacted meanwhile."""
        redacted = {event.redacts for event in (*(self._recent or ()), *self._queue)}
        return [event.redacted() if event.seq in redacted else event for event in events]

    def _stop_catching(self, listener: Listener) -> None:
        self._catching.pop(listener, None)
        if not self._catching:
            self._recent, self._recent_bytes = None, 0


def _forget_body(events: deque[LogEvent], seq: int) -> int:
    """Forget the body of the message with this seq, if these consecutive events have it. Return its bytes."""
    place = seq - events[0].seq if events else -1
    if not 0 <= place < len(events):
        return 0
    event = events[place]
    events[place] = event.redacted()
    return len(event.body) - len(events[place].body)
