"""Applies the log to the listeners of this node. A pure state machine: what it wants read, others read.

Each group that somebody hears here has a stream, on which its events are applied strictly in the order of their seq,
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
    """The streams and the registry; a ``GroupListener`` and a ``SessionListener``.

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
        self._streams: dict[UUID, GroupStream] = {}
        self._read_queue = ReadQueue()
        self._running: deque[Iterator[None]] = deque()
        self._written = 0
        self._last_known = LastKnownSeqs()
        self.counts = Counts()
        self._is_closing = False

    # Listeners

    def attach(self, listener: Listener) -> None:
        """Let a listener in; it hears nothing before ``settle``. Raises ShuttingDown."""
        if self._is_closing:
            raise ShuttingDown
        self.registry.attach(listener)

    def start(self, listener: Listener, positions: Iterable[Position], resume: Mapping[UUID, int]) -> None:
        """Let it hear what follows its user's positions, which were read after it was attached.

        What it has missed since the seqs of ``resume`` it is given from the log: see ``missing``.
        """
        if listener not in self.registry:
            return
        joined, listener.joined, listener.is_started = listener.joined, {}, True
        for position in positions:
            group_id = position.group_id
            self._start_group(listener, position, resume.get(group_id, position.seq), joined.pop(group_id, None))
        for group_id, span in joined.items():
            before = Position(group_id, "", span.first - 1, is_member=False)
            self._start_group(listener, before, before.seq, span)

    def missing(self, listener: Listener) -> list[UUID]:
        """The groups in which it is to be given what it has missed."""
        return [group_id for group_id in listener.groups if self.served_up_to(listener, group_id) is not None]

    def served_up_to(self, listener: Listener, group_id: UUID) -> int | None:
        """Up to which seq a listener that catches up in this group was served; None when it does not."""
        stream = self._streams.get(group_id)
        return None if stream is None else stream.served_up_to(listener)

    def serve(self, listener: Listener, group_id: UUID, found: Replay) -> None:
        """Give a listener that catches up what is in the log above the seq up to which it was served."""
        after = self.served_up_to(listener, group_id)
        if after is None:
            return
        stream, place = self._streams[group_id], StreamPosition(after, found.was_member)
        end = (
            found.slice.head if found.slice.head > after else stream.known_head
        )  # nothing is left of a group that is gone
        first = found.slice.events[0].seq if found.slice.events else end + 1
        if first > after + 1:
            send_gap(listener, group_id, found.name, after + 1, first - 1)
            place = place._replace(seq=first - 1)
        place = replay(listener, place, found.slice.events)
        stream.serve(listener, replay(listener, place, stream.recent(place.seq)))
        self._schedule(stream)

    def detach(self, listener: Listener) -> None:
        """Let it go."""
        self.registry.detach(listener)
        for stream in [self._streams[group_id] for group_id in listener.groups]:
            stream.remove(listener)
            self._schedule(stream)

    def stop_admitting(self) -> tuple[Listener, ...]:
        """Let nobody in from now on. Who is here, to be sent away bit by bit."""
        self._is_closing = True
        return self.registry.everyone()

    def disconnect(self, listeners: Iterable[Listener], code: CloseCode, reason: bytes = b"") -> None:
        """Close the sockets of those who are still here."""
        self._close([listener for listener in listeners if listener in self.registry], code, reason)

    # The log

    def offer(self, event: LogEvent) -> None:
        """An event that is in the log. One that nobody hears here, or that was known_head before, is dropped."""
        stream = self._streams.get(event.group_id)
        if stream is None or (event.seq <= stream.seq and not stream.is_running):
            self._last_known.note(event.group_id, event.seq)
            self.counts.skip(event)
        else:
            stream.offer(event)
            self._schedule(stream)

    def observe_head(self, group_id: UUID, seq: int) -> None:
        """A group has reached this seq."""
        stream = self._streams.get(group_id)
        if stream is None:
            self._last_known.note(group_id, seq)
        else:
            stream.observe(seq)
            self._schedule(stream)

    def joined(self, group_id: UUID, seq: int, user_id: UUID) -> None:
        """A user has joined a group, by the event with this seq or a later one."""
        if not any(listener.is_new_to(group_id, seq) for listener in self.registry.of_user(user_id)):
            self.observe_head(group_id, seq)
            return
        stream = self._stream(group_id, seq - 1)
        stream.observe(seq)
        if seq <= stream.seq:  # what came since was told without them
            self._close(self._admit(stream, seq, user_id), CloseCode.RESYNC)
        self._schedule(stream)

    def wanted(self, limit: int = READS) -> dict[UUID, int]:
        """The groups to be read now, no more than that, and after which seq."""
        return self._read_queue.wanted(limit)

    def may_fill_gap(self, group_id: UUID) -> bool:
        """Whether what a group wants may come by itself: what is after it is here already."""
        stream = self._streams.get(group_id)
        return stream is not None and stream.has_early

    def read(self, group_id: UUID, after: int, found: Slice) -> None:
        """What is in a group's log above a seq: its first events, and where it ends."""
        stream = self._streams.get(group_id)
        if stream is None or after > stream.tail:  # it was wanted by a stream that is gone
            return
        first = found.events[0].seq if found.events else found.head + 1
        stream.forget_early()
        stream.observe(found.head)
        if first > stream.tail + 1 or found.head < after:
            self._skip_lost(stream, first - 1)
        elif not found.events:
            stream.on_empty_read()
        for event in found.events:
            stream.offer(event)
        self._schedule(stream)

    def heads(self, among: Iterable[UUID] | None = None) -> dict[UUID, int]:
        """The groups that somebody hears here, and which seq they are known to have reached."""
        streams = self._streams.values() if among is None else filter(None, map(self._streams.get, among))
        return {stream.group_id: stream.known_head for stream in streams}

    def compare(self, group_id: UUID, known_head: int, head: int) -> None:
        """A group was known to have reached ``known_head``, and its log then ended with ``head``."""
        stream = self._streams.get(group_id)
        if stream is not None and head < known_head:  # the database was restored from a backup: numbers are used again
            self._skip_lost(stream, head)
        else:
            self.observe_head(group_id, head)

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

    def user_state_unknown(self, user_id: UUID) -> None:
        """Have all sockets of the user connect again, which those can whose session is still there."""
        self._close(self.registry.of_user(user_id), CloseCode.RESYNC)

    # Within

    def _stream(self, group_id: UUID, seq: int) -> GroupStream:
        stream = self._streams.get(group_id)
        if stream is None:
            stream = self._streams[group_id] = GroupStream(group_id, seq)
            stream.observe(self._last_known.take(group_id))
            self._subscribe(group_id)
        return stream

    def _start_group(self, listener: Listener, position: Position, resumed: int, joined: Span | None) -> None:
        """Have it hear a group from there. Whether its user is a member is for the log to tell if they joined since."""
        group_id, _, seq, is_member = position
        if resumed >= seq and not is_member and joined is None:
            listener.left[group_id] = seq
            return
        stream = self._stream(group_id, seq)
        stream.observe(seq if joined is None else joined.last)
        if resumed < seq:
            stream.catch_up(listener, resumed)
        else:
            stream.place(listener, StreamPosition(seq, is_member))
        self._schedule(stream)

    def _schedule(self, stream: GroupStream) -> None:
        """See to what a stream needs after it has changed."""
        if stream.wants_read and self._read_queue.note(stream):
            self._wake()
        if stream.is_running:
            return
        if stream.has_next:
            stream.is_running = True
            self._running.append(self._run(stream))
            if len(self._running) > 1 or self.step():
                self._wake()
        elif stream.is_idle:
            self._drop(stream)

    def _drop(self, stream: GroupStream) -> None:
        if self._streams.pop(stream.group_id, None):
            self._unsubscribe(stream.group_id)
        self.counts.drop_group(stream.group_id)

    def _run(self, stream: GroupStream) -> Iterator[None]:
        """Apply what is in the queue, a slice at a time."""
        try:
            while (event := stream.pop()) is not None:
                yield from self._apply(stream, event)
        finally:  # a fault of ours in one event is no reason to keep back the next
            stream.is_running = False
        self._schedule(stream)

    def _apply(self, stream: GroupStream, event: LogEvent) -> Iterator[None]:
        audiences = self._audiences(stream, event)
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

    def _audiences(self, stream: GroupStream, event: LogEvent) -> list[tuple[Dialect, tuple[ListenerConnection, ...]]]:
        """Who hears the event whose turn it is: a user who joins by it, and one who leaves by it, too."""
        whose = self.registry.of_user(event.user_id) if event.user_id and event.kind != "message" else ()
        if event.kind == "joined" and event.user_id:
            self._admit(stream, event.seq, event.user_id)
        audiences = [(dialect, stream.audience(dialect)) for dialect in Dialect]
        if event.kind == "left":
            for listener in whose:
                stream.dismiss(listener)
        stream.promote()
        return [(dialect, connections) for dialect, connections in audiences if connections]

    def _admit(self, stream: GroupStream, seq: int, user_id: UUID) -> list[Listener]:
        """Have a user who joined by this event hear what follows. Those of their listeners who did not before."""
        admitted = []
        for listener in self.registry.of_user(user_id):
            if not listener.is_started:
                listener.joined[stream.group_id] = listener.joined.get(stream.group_id, Span(seq, seq)).widened(seq)
            elif stream.admit(listener, seq):
                admitted.append(listener)
        return admitted

    def _skip_lost(self, stream: GroupStream, seq: int) -> None:
        """The log holds nothing up to this seq: have its listeners connect again, and so be told what is lost."""
        self._close(stream.everyone(), CloseCode.RESYNC)
        stream.skip(seq)
        self._schedule(stream)

    def _close(self, listeners: Iterable[Listener], code: CloseCode, reason: bytes = b"") -> None:
        for listener in listeners:
            self.detach(listener)
            listener.connection.close(code, reason)
