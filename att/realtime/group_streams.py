"""One group's log as far as it has been applied here, and who hears it. No loop, no socket, no database.

A listener has one place in a stream at most. In the *audience* it hears every event. *Waiting*, it has heard what comes
up to a seq that the stream has yet to reach. *Catching up*, it is behind, and is given from the log what it has missed.
"""

from collections import OrderedDict, deque
from typing import NamedTuple
from uuid import UUID

from att.realtime.event_log import LogEvent
from att.realtime.registry import Dialect, Listener, ListenerConnection

QUEUE_EVENTS = 1_000  # events that wait for their turn; what comes on top is read from the log again
_QUEUE_BYTES = 4 * 1024**2
EARLY = 64  # events behind a gap that are kept, for what is missing is often under way
EARLY_BYTES = 256 * 1024
RECENT = 256  # events kept while somebody catches up, so that the last step needs no further read
RECENT_BYTES = 64 * 1024  # and bytes of them: all are written in one go
LAST_KNOWN = 10_000  # groups of which it is remembered where they were
_EMPTY_READS = 3  # reads that find nothing of what was rung for


class StreamPosition(NamedTuple):
    """Up to which seq a listener has heard a group, and whether its user is a member there."""

    seq: int
    is_member: bool


class LastKnownSeqs:
    """Where groups that nobody hears here were last, so that whoever comes to hear one is not behind it.

    Of the many there may be only the latest are kept; of the others a sweep will tell.
    """

    def __init__(self) -> None:
        self._heads: OrderedDict[UUID, int] = OrderedDict()

    def note(self, group_id: UUID, seq: int) -> None:
        """A group has reached this seq."""
        self._heads[group_id] = max(seq, self._heads.pop(group_id, 0))
        if len(self._heads) > LAST_KNOWN:
            self._heads.popitem(last=False)

    def take(self, group_id: UUID) -> int:
        """The seq that a group is known to have reached, 0 when it is not; from now on others know."""
        return self._heads.pop(group_id, 0)


class ReadQueue:
    """Tracks that want to be read, in the order in which they began to."""

    def __init__(self) -> None:
        self._streams: dict[UUID, GroupStream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def note(self, stream: "GroupStream") -> bool:
        """A stream wants to be read. Whether that is new."""
        is_new = self._streams.get(stream.group_id) is not stream
        if is_new:
            self._streams[stream.group_id] = stream
        return is_new

    def wanted(self, limit: int) -> dict[UUID, int]:
        """The groups to be read now, no more than that, and after which seq."""
        wanted: dict[UUID, int] = {}
        for group_id, stream in [*self._streams.items()]:
            if not stream.wants_read:
                del self._streams[group_id]
            elif len(wanted) < limit:
                wanted[group_id] = stream.tail
        return wanted


class GroupStream:
    """``seq`` is that of the event applied last, ``heard`` the highest that the group is known to have reached."""

    __slots__ = (
        "_audience",
        "_bytes",
        "_catching",
        "_connections",
        "_early",
        "_empty_reads",
        "_queue",
        "_recent",
        "_recent_bytes",
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
        self._audience: tuple[set[Listener], ...] = tuple(set() for _ in Dialect)
        self._connections: list[tuple[ListenerConnection, ...] | None] = [
            None for _ in Dialect
        ]  # None: to be made anew
        self._waiting: dict[Listener, int] = {}
        self._catching: dict[Listener, int] = {}
        self._recent: deque[LogEvent] | None = None
        self._recent_bytes = 0

    # The log

    @property
    def tail(self) -> int:
        """The seq of the last event that is here, applied or in the queue."""
        return self._queue[-1].seq if self._queue else self.seq

    @property
    def has_next(self) -> bool:
        """Whether an event waits for its turn."""
        return bool(self._queue)

    @property
    def wants_read(self) -> bool:
        """Whether events are known to be missing, and there is room for them."""
        return self.known_head > self.tail and len(self._queue) < QUEUE_EVENTS // 2 and self._bytes < _QUEUE_BYTES // 2

    @property
    def has_early(self) -> bool:
        """Whether an event is here that comes after a gap."""
        return bool(self._early)

    @property
    def is_idle(self) -> bool:
        """Whether nobody has a place in it and nothing is expected."""
        return (
            not (any(self._audience) or self._waiting or self._catching or self._queue) and self.known_head <= self.seq
        )

    def observe(self, seq: int) -> None:
        """The group has reached this seq, or more."""
        self.known_head = max(self.known_head, seq)

    def offer(self, event: LogEvent) -> None:
        """Queue it if it is next in line. One that was here before is dropped; one behind a gap is kept for later."""
        self.observe(event.seq)
        if event.seq == self.tail + 1:
            self._append(event)
            if self._early:
                self._append_early()
        elif event.seq > self.tail and self._has_room_for(event):
            self._early[event.seq] = event

    def forget_early(self) -> None:
        """Let what is behind a gap go: the log itself tells what is there, and it may have been set back."""
        self._early.clear()

    def _append(self, event: LogEvent) -> None:
        if len(self._queue) < QUEUE_EVENTS and self._bytes < _QUEUE_BYTES:
            self._queue.append(event)
            self._bytes += len(event.body)
            self._empty_reads = 0

    def _append_early(self) -> None:
        while (event := self._early.pop(self.tail + 1, None)) is not None:
            self._append(event)
        for seq in [seq for seq in self._early if seq <= self.tail]:
            del self._early[seq]

    def _has_room_for(self, event: LogEvent) -> bool:
        size = sum([len(early.body) for early in self._early.values()], len(event.body))
        return len(self._early) < EARLY and size <= EARLY_BYTES

    def on_empty_read(self) -> None:
        """The log did not have what was rung for. It never will if the database was restored from a backup."""
        self._empty_reads += 1
        if self._empty_reads >= _EMPTY_READS:
            self._empty_reads, self.known_head = 0, self.tail

    def pop(self) -> LogEvent | None:
        """The event whose turn it is now; None when there is none here."""
        if not self._queue:
            return None
        event = self._queue.popleft()
        self._bytes -= len(event.body)
        self.seq = event.seq
        if self._recent is not None:
            self._keep(self._recent, event)
        return event

    def _keep(self, recent: deque[LogEvent], event: LogEvent) -> None:
        recent.append(event)
        self._recent_bytes += len(event.body)
        while len(recent) > RECENT or self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(recent.popleft().body)

    def skip(self, seq: int) -> None:
        """Go on after this seq, whatever comes before. Nobody may have a place here."""
        self.known_head = seq if seq < self.tail else self.known_head  # the log was set back
        self.seq = seq
        self._queue.clear()
        self._early.clear()
        self._bytes = 0

    # Who hears it

    def audience(self, dialect: Dialect) -> tuple[ListenerConnection, ...]:
        """The connections of those who hear the event whose turn it is, in this dialect."""
        found = self._connections[dialect]
        if found is None:
            found = self._connections[dialect] = tuple(listener.connection for listener in self._audience[dialect])
        return found

    def everyone(self) -> list[Listener]:
        """Whoever has a place here."""
        return [*self._waiting, *self._catching, *(listener for part in self._audience for listener in part)]

    def place(self, listener: Listener, place: StreamPosition) -> None:
        """Have a listener that has heard the group up to a seq hear what follows."""
        if place.seq < self.seq:
            self.catch_up(listener, place.seq)
        elif not place.is_member:
            listener.left[self.group_id] = place.seq
        elif place.seq > self.seq:
            self._waiting[listener] = place.seq
            self.observe(place.seq)
            listener.groups.add(self.group_id)
        else:
            self._enter(listener)

    def admit(self, listener: Listener, seq: int) -> bool:
        """Its user joined by this event. False when that changes nothing: it knew of it, or will find it in the log."""
        if self.group_id in listener.groups or seq <= listener.left.get(self.group_id, 0):
            return False
        self._enter(listener)
        return True

    def dismiss(self, listener: Listener) -> None:
        """Its user left by the event whose turn it is. Nothing changes for one that waits or catches up."""
        if listener in self._audience[listener.dialect]:
            self.remove(listener)
            listener.left[self.group_id] = self.seq

    def promote(self) -> None:
        """Those whose seq is reached hear what follows."""
        if self._waiting:
            for listener in [listener for listener, seq in self._waiting.items() if seq <= self.seq]:
                del self._waiting[listener]
                self._enter(listener)

    def remove(self, listener: Listener) -> None:
        """It has no place here any more."""
        if listener in self._audience[listener.dialect]:
            self._audience[listener.dialect].discard(listener)
            self._connections[listener.dialect] = None
        self._waiting.pop(listener, None)
        self._stop_catching(listener)
        listener.groups.discard(self.group_id)

    def _enter(self, listener: Listener) -> None:
        self._audience[listener.dialect].add(listener)
        self._connections[listener.dialect] = None
        listener.groups.add(self.group_id)

    # Catching up

    def catch_up(self, listener: Listener, seq: int) -> None:
        """Have a listener given from the log what is above ``seq``."""
        self._catching[listener] = seq
        self._recent = deque() if self._recent is None else self._recent
        listener.groups.add(self.group_id)

    def served_up_to(self, listener: Listener) -> int | None:
        """Up to which seq a listener that catches up was served; None when it does not."""
        return self._catching.get(listener)

    def serve(self, listener: Listener, place: StreamPosition) -> None:
        """It was served up to here: it goes on catching up, or hears what follows."""
        if place.seq < self.seq:
            self._catching[listener] = place.seq
        else:
            self.remove(listener)
            self.place(listener, place)

    def recent(self, seq: int) -> list[LogEvent]:
        """The events from ``seq`` + 1 to the one applied last, if all of them are still at hand; else none."""
        kept = [event for event in self._recent or () if event.seq > seq]
        return kept if kept and kept[0].seq == seq + 1 else []

    def _stop_catching(self, listener: Listener) -> None:
        self._catching.pop(listener, None)
        if not self._catching:
            self._recent, self._recent_bytes = None, 0
