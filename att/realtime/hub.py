"""Applies the log to the listeners of this node. A pure state machine: what it wants read, others read.

Each group that somebody hears here has a track, on which its events are applied strictly in the order of their seq,
whatever comes when: rings that were lost, repeated or overtaken, events twice, reads that are late. A listener comes in
by ``attach`` before it is read from the database where it stands, and hears what follows by ``settle``.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from uuid import UUID

from att.errors import ShuttingDown
from att.protocol.frames import CloseCode
from att.realtime.event_log import LogEvent, Position, Replay, Slice
from att.realtime.fanout import Counts, Delivered, encode, replay, send_gap
from att.realtime.group_streams import GroupStream, LastKnownSeqs, ReadQueue, StreamPosition
from att.realtime.registry import Dialect, Listener, ListenerConnection, Registry, Span

_SLICE = 500  # frames written before others have their turn
READS = 100  # groups that are read at once


class Hub:
    """The tracks and the registry. It is the ``Audience`` of groups and of sessions.

    ``registry`` tells who is connected, ``counts`` what was delivered. The hub calls ``wake`` when there is something
    to do: slices for ``step``, or reads that are ``wanted``. It calls ``subscribe`` when a group gets its first
    listener here, and ``unsubscribe`` when the last one has left: events of other groups need not come.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        wake: Callable[[], None] = lambda: None,
        subscribe: Callable[[UUID], None] = lambda _: None,
        unsubscribe: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        self.registry = registry
        self._wake = wake
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._tracks: dict[UUID, GroupStream] = {}
        self._behind = ReadQueue()
        self._running: deque[Iterator[None]] = deque()
        self._written = 0
        self._passed = LastKnownSeqs()
        self.counts = Counts()
        self._is_closing = False

    # Listeners

    def attach(self, listener: Listener) -> None:
        """Let a listener in; it hears nothing before ``settle``. Raises ShuttingDown."""
        if self._is_closing:
            raise ShuttingDown
        self.registry.attach(listener)

    def settle(self, listener: Listener, positions: Iterable[Position], resume: Mapping[UUID, int]) -> None:
        """Let it hear what follows its user's positions, which were read after it was attached.

        What it has missed since the seqs of ``resume`` it is given from the log: see ``missing``.
        """
        if listener not in self.registry:
            return
        joined, listener.joined, listener.is_settled = listener.joined, {}, True
        for position in positions:
            group_id = position.group_id
            self._start(listener, position, resume.get(group_id, position.seq), joined.pop(group_id, None))
        for group_id, span in joined.items():
            before = Position(group_id, "", span.first - 1, is_member=False)
            self._start(listener, before, before.seq, span)

    def missing(self, listener: Listener) -> list[UUID]:
        """The groups in which it is to be given what it has missed."""
        return [group_id for group_id in listener.groups if self.caught_up(listener, group_id) is not None]

    def caught_up(self, listener: Listener, group_id: UUID) -> int | None:
        """Up to which seq a listener that catches up in this group was served; None when it does not."""
        track = self._tracks.get(group_id)
        return None if track is None else track.caught_up(listener)

    def serve(self, listener: Listener, group_id: UUID, found: Replay) -> None:
        """Give a listener that catches up what is in the log above the seq up to which it was served."""
        after = self.caught_up(listener, group_id)
        if after is None:
            return
        track, place = self._tracks[group_id], StreamPosition(after, found.was_member)
        end = found.slice.head if found.slice.head > after else track.heard  # nothing is left of a group that is gone
        first = found.slice.events[0].seq if found.slice.events else end + 1
        if first > after + 1:
            send_gap(listener, group_id, found.name, after + 1, first - 1)
            place = place._replace(seq=first - 1)
        place = replay(listener, place, found.slice.events)
        track.serve(listener, replay(listener, place, track.recent(place.seq)))
        self._look(track)

    def detach(self, listener: Listener) -> None:
        """Let it go."""
        self.registry.detach(listener)
        for track in [self._tracks[group_id] for group_id in listener.groups]:
            track.remove(listener)
            self._look(track)

    def stop_admitting(self) -> tuple[Listener, ...]:
        """Let nobody in from now on. Who is here, to be sent away bit by bit."""
        self._is_closing = True
        return self.registry.everyone()

    def send_away(self, listeners: Iterable[Listener], code: CloseCode, reason: bytes = b"") -> None:
        """Close the sockets of those who are still here."""
        self._close([listener for listener in listeners if listener in self.registry], code, reason)

    # The log

    def offer(self, event: LogEvent) -> None:
        """An event that is in the log. One that nobody hears here, or that was heard before, is dropped."""
        track = self._tracks.get(event.group_id)
        if track is None or (event.seq <= track.seq and not track.is_running):
            self._passed.note(event.group_id, event.seq)
            self.counts.pass_over(event)
        else:
            track.offer(event)
            self._look(track)

    def ring(self, group_id: UUID, seq: int) -> None:
        """A group has reached this seq."""
        track = self._tracks.get(group_id)
        if track is None:
            self._passed.note(group_id, seq)
        else:
            track.hear(seq)
            self._look(track)

    def joined(self, group_id: UUID, seq: int, user_id: UUID) -> None:
        """A user has joined a group, by the event with this seq or a later one."""
        if not any(listener.is_new_to(group_id, seq) for listener in self.registry.of_user(user_id)):
            self.ring(group_id, seq)
            return
        track = self._track(group_id, seq - 1)
        track.hear(seq)
        if seq <= track.seq:  # what came since was told without them
            self._close(self._admit(track, seq, user_id), CloseCode.RESYNC)
        self._look(track)

    def wanted(self, limit: int = READS) -> dict[UUID, int]:
        """The groups to be read now, no more than that, and after which seq."""
        return self._behind.wanted(limit)

    def may_close(self, group_id: UUID) -> bool:
        """Whether what a group wants may come by itself: what is after it is here already."""
        track = self._tracks.get(group_id)
        return track is not None and track.has_early

    def read(self, group_id: UUID, after: int, found: Slice) -> None:
        """What is in a group's log above a seq: its first events, and where it ends."""
        track = self._tracks.get(group_id)
        if track is None or after > track.tail:  # it was wanted by a track that is gone
            return
        first = found.events[0].seq if found.events else found.head + 1
        track.forget_early()
        track.hear(found.head)
        if first > track.tail + 1 or found.head < after:
            self._give_up(track, first - 1)
        elif not found.events:
            track.read_in_vain()
        for event in found.events:
            track.offer(event)
        self._look(track)

    def heads(self, among: Iterable[UUID] | None = None) -> dict[UUID, int]:
        """The groups that somebody hears here, and which seq they are known to have reached."""
        tracks = self._tracks.values() if among is None else filter(None, map(self._tracks.get, among))
        return {track.group_id: track.heard for track in tracks}

    def compare(self, group_id: UUID, heard: int, head: int) -> None:
        """A group was known to have reached ``heard``, and its log then ended with ``head``."""
        track = self._tracks.get(group_id)
        if track is not None and head < heard:  # the database was restored from a backup: numbers are used again
            self._give_up(track, head)
        else:
            self.ring(group_id, head)

    def step(self) -> bool:
        """Write one slice of frames. Whether there is more to write."""
        if self._running:
            self._written = 0
            run = self._running.popleft()
            if next(run, self) is not self:
                self._running.append(run)
        return bool(self._running)

    # Sessions and users

    def session_ended(self, session_id: UUID) -> None:
        """Close the session's sockets."""
        self._close(self.registry.of_session(session_id), CloseCode.SESSION_ENDED)

    def user_ended(self, user_id: UUID) -> None:
        """Close all sockets of the user."""
        self._close(self.registry.of_user(user_id), CloseCode.SESSION_ENDED)

    def user_uncertain(self, user_id: UUID) -> None:
        """Have all sockets of the user connect again, which those can whose session is still there."""
        self._close(self.registry.of_user(user_id), CloseCode.RESYNC)

    # Within

    def _track(self, group_id: UUID, seq: int) -> GroupStream:
        track = self._tracks.get(group_id)
        if track is None:
            track = self._tracks[group_id] = GroupStream(group_id, seq)
            track.hear(self._passed.take(group_id))
            self._subscribe(group_id)
        return track

    def _start(self, listener: Listener, position: Position, resumed: int, joined: Span | None) -> None:
        """Have it hear a group from there. Whether its user is a member is for the log to tell if they joined since."""
        group_id, _, seq, is_member = position
        if resumed >= seq and not is_member and joined is None:
            listener.left[group_id] = seq
            return
        track = self._track(group_id, seq)
        track.hear(seq if joined is None else joined.last)
        if resumed < seq:
            track.catch_up(listener, resumed)
        else:
            track.place(listener, StreamPosition(seq, is_member))
        self._look(track)

    def _look(self, track: GroupStream) -> None:
        """See to what a track needs after it has changed."""
        if track.wants_read and self._behind.note(track):
            self._wake()
        if track.is_running:
            return
        if track.has_next:
            track.is_running = True
            self._running.append(self._run(track))
            if len(self._running) > 1 or self.step():
                self._wake()
        elif track.is_idle:
            self._drop(track)

    def _drop(self, track: GroupStream) -> None:
        if self._tracks.pop(track.group_id, None):
            self._unsubscribe(track.group_id)
        self.counts.give_up(track.group_id)

    def _run(self, track: GroupStream) -> Iterator[None]:
        """Apply what is in the queue, a slice at a time."""
        try:
            while (event := track.pop()) is not None:
                yield from self._apply(track, event)
        finally:  # a fault of ours in one event is no reason to keep back the next
            track.is_running = False
        self._look(track)

    def _apply(self, track: GroupStream, event: LogEvent) -> Iterator[None]:
        audiences = self._audiences(track, event)
        delivered = total = 0
        for dialect, connections in audiences:
            frame = encode(event, dialect)
            if frame is None:
                continue
            total += len(connections)
            for start in range(0, len(connections), _SLICE):
                part = connections[start : start + _SLICE]
                delivered += sum([connection.send(frame) for connection in part])
                self._written += len(part)
                if self._written >= _SLICE:
                    yield
        self._written += 1
        self.counts.add(event, Delivered(delivered, total - delivered))

    def _audiences(self, track: GroupStream, event: LogEvent) -> list[tuple[Dialect, tuple[ListenerConnection, ...]]]:
        """Who hears the event whose turn it is: a user who joins by it, and one who leaves by it, too."""
        whose = self.registry.of_user(event.user_id) if event.user_id and event.kind != "message" else ()
        if event.kind == "joined" and event.user_id:
            self._admit(track, event.seq, event.user_id)
        audiences = [(dialect, track.audience(dialect)) for dialect in Dialect]
        if event.kind == "left":
            for listener in whose:
                track.dismiss(listener)
        track.promote()
        return [(dialect, connections) for dialect, connections in audiences if connections]

    def _admit(self, track: GroupStream, seq: int, user_id: UUID) -> list[Listener]:
        """Have a user who joined by this event hear what follows. Those of their listeners who did not before."""
        admitted = []
        for listener in self.registry.of_user(user_id):
            if not listener.is_settled:
                listener.joined[track.group_id] = listener.joined.get(track.group_id, Span(seq, seq)).widened(seq)
            elif track.admit(listener, seq):
                admitted.append(listener)
        return admitted

    def _give_up(self, track: GroupStream, seq: int) -> None:
        """The log holds nothing up to this seq: have its listeners connect again, and so be told what is lost."""
        self._close(track.everyone(), CloseCode.RESYNC)
        track.skip(seq)
        self._look(track)

    def _close(self, listeners: Iterable[Listener], code: CloseCode, reason: bytes = b"") -> None:
        for listener in listeners:
            self.detach(listener)
            listener.connection.close(code, reason)
