"""Applies the log to this node's listeners. A pure state machine: it asks for reads, and does no I/O.

Each group with listeners here has a stream, which applies its events strictly in the order of their seq, even if
announcements are lost, repeated or reordered, events come twice, or reads are late. A listener is attached before its
user's positions are read from the database, then started with them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from uuid import UUID

from att.errors import ShuttingDown
from att.groups.read_markers import MarkerPosition
from att.protocol import messages
from att.protocol.deflate import deflated_frame
from att.protocol.frames import CloseCode, text_frame
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import LogEvent, Position, Replay, Slice
from att.realtime.fanout import Counts, Delivered, encode, replay, send_gap
from att.realtime.group_streams import Audience, GroupStream, LastKnownSeqs, ReadQueue, StreamPosition
from att.realtime.registry import Dialect, Encoding, Listener, Recipients, Registry, Span

SLICE = 500  # frames written, or groups of a listener begun or left, before other streams have their turn
READS = 100  # groups in one read
_FRAME = 8 * 1024  # bytes of a frame that are written in the time of another small frame
_BUILDERS = (text_frame, deflated_frame, text_frame)  # by ``Encoding``

SendToAll = Callable[[Recipients, bytes, slice], int]


def _send_to_each(connections: Recipients, frame: bytes, part: slice) -> int:
    return sum([connection.send(frame) for connection in connections[part]])


class Hub:
    """The streams and the registry; a ``GroupListener`` and a ``SessionListener``.

    ``registry`` holds the connected listeners, ``counts`` the deliveries. The hub calls ``wake`` when there is work:
    slices for ``step``, or reads in ``wanted``. It calls ``subscribe`` for a group's first listener on this node and
    ``unsubscribe`` after its last; announcements of other groups are not needed. It calls ``on_member`` with a
    group, a user, and the kind of the event by which the user has joined or left. ``send_to_all`` sends a frame to a
    part of an audience as ``send`` of each connection does, and returns to how many it was sent.
    """

    def __init__(  # noqa: PLR0913 - what it calls
        self,
        registry: Registry,
        *,
        wake: Callable[[], None] = lambda: None,
        subscribe: Callable[[UUID], None] = lambda _: None,
        unsubscribe: Callable[[UUID], None] = lambda _: None,
        on_member: Callable[[UUID, UUID, str], None] = lambda *_: None,
        send_to_all: SendToAll = _send_to_each,
    ) -> None:
        self.registry = registry
        self._wake = wake
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._on_member = on_member
        self._send_to_all = send_to_all
        self._streams: dict[UUID, GroupStream] = {}
        self._new_groups: set[UUID] = set()
        self._read_queue = ReadQueue()
        self._running: deque[Iterator[None]] = deque()
        self._written = 0
        self._last_known = LastKnownSeqs()
        self.counts = Counts()
        self._is_closing = False

    # Listeners

    def attach(self, listener: Listener) -> None:
        """Add a listener, which receives nothing before ``start``. Raise ShuttingDown."""
        if self._is_closing:
            raise ShuttingDown
        self.registry.attach(listener)

    def start(self, listener: Listener, positions: Iterable[Position], resume: Mapping[UUID, int]) -> None:
        """Deliver events after its user's positions, which were read after ``attach``.

        Events missed since the seqs of ``resume`` come from the log: see ``missing``.
        """
        for _ in self.starting(listener, positions, resume):
            pass

    def starting(self, listener: Listener, positions: Iterable[Position], resume: Mapping[UUID, int]) -> Iterator[None]:
        """Do the work of ``start`` step by step, so that very many groups keep nobody waiting."""
        for number, position in enumerate(positions):
            if number and number % SLICE == 0:
                yield
            if listener not in self.registry:
                return
            group_id = position.group_id
            joined = listener.joined.pop(group_id, None)
            if not listener.wants(group_id):
                continue
            self._start_group(listener, position, resume.get(group_id, position.seq), joined)
        if listener not in self.registry:
            return
        spans, listener.joined, listener.is_started = listener.joined, {}, True
        for marker in listener.markers.values():
            if listener.wants(marker.group_id):
                self._send_marker(listener, marker)
        for group_id, span in spans.items():
            if listener.is_new_to(group_id, span.last):  # by no position, and not since
                seq = max(span.first - 1, listener.left.get(group_id, 0))
                self._start_group(listener, Position(group_id, "", seq, is_member=False), seq, span)

    def missing(self, listener: Listener) -> list[UUID]:
        """Return the groups in which the listener has to catch up."""
        return [group_id for group_id in listener.groups if self.served_up_to(listener, group_id) is not None]

    def served_up_to(self, listener: Listener, group_id: UUID) -> int | None:
        """Return the last seq sent to a listener that catches up in this group, else None."""
        stream = self._streams.get(group_id)
        return None if stream is None else stream.served_up_to(listener)

    def behind(self, listener: Listener, position: Position) -> int | None:
        """Return the last seq sent to a listener that has not been sent all up to its user's position, else None."""
        stream, left = self._streams.get(position.group_id), listener.left.get(position.group_id, 0)
        if stream is not None and position.group_id in listener.groups:
            sent = stream.sent_up_to(listener)
        elif position.is_member:  # it has not heard of the joining yet
            sent = left
        else:
            sent = left - 1 if stream is not None and stream.is_running else position.seq
        return sent if sent < position.seq else None

    def serve(self, listener: Listener, group_id: UUID, found: Replay) -> None:
        """Send a listener that catches up the events above the seq up to which it was served."""
        after = self.served_up_to(listener, group_id)
        if after is None:
            return
        stream, position = self._streams[group_id], StreamPosition(after, found.was_member)
        end = found.slice.head if found.slice.head > after else stream.known_head  # a deleted group's log may be empty
        first = found.slice.events[0].seq if found.slice.events else end + 1
        if first > after + 1:
            send_gap(listener, group_id, found.name, after + 1, first - 1)
            position = position._replace(seq=first - 1)
        all_to = found.slice.head if found.reads_all else 0
        position = replay(listener, position, stream.without_redacted(found.slice.events), all_to)
        stream.serve(listener, replay(listener, position, stream.recent(position.seq), all_to))
        self._schedule(stream)

    def detach(self, listener: Listener) -> None:
        """Remove a listener, from very many groups step by step."""
        self.registry.detach(listener)
        leaving = self._leave(listener, [*listener.groups])
        if next(leaving, self) is not self:
            self._running.append(leaving)
            self._wake()

    def stop_admitting(self) -> tuple[Listener, ...]:
        """Refuse new listeners. Return those that are here, to be disconnected step by step."""
        self._is_closing = True
        return self.registry.everyone()

    def disconnect(self, listeners: Iterable[Listener], code: CloseCode, reason: bytes = b"") -> None:
        """Close the sockets of those that are still here."""
        self._close([listener for listener in listeners if listener in self.registry], code, reason)

    def marker_moved(self, position: MarkerPosition) -> None:
        """Tell the user's sockets of att.v1 that their read marker of a group has moved."""
        for listener in self.registry.of_user(position.user_id):
            known = listener.markers.get(position.group_id)
            if not listener.wants(position.group_id):
                continue
            if listener.dialect is Dialect.V1 and (known is None or known.seq < position.seq):
                listener.markers[position.group_id] = position
                if listener.is_started:
                    self._send_marker(listener, position)

    # The log

    def offer(self, event: LogEvent) -> None:
        """Apply a logged event. Drop one without listeners here, or one that was applied before."""
        stream = self._streams.get(event.group_id)
        if stream is None or (event.seq <= stream.seq and not stream.is_running):
            self._last_known.note(event.group_id, event.seq)
            self.counts.skip(event)
        else:
            stream.offer(event)
            self._schedule(stream)

    def offer_ephemeral(self, ephemeral: Ephemeral) -> None:
        """Deliver an ephemeral to the listeners of att.v1 here, after the events that its sender's node knew of."""
        stream = self._streams.get(ephemeral.group_id)
        if stream is not None and any(audience.dialect is Dialect.V1 for audience in stream.audiences()):
            stream.hold(ephemeral)
            self._schedule(stream)

    def still_permitted(self, group_id: UUID, user_id: UUID, seq: int) -> tuple[int, int] | None:
        """Return the last event by which a user may post who was permitted to by ``seq``, and the last one known.

        Return None if that is not known here.
        """
        stream = self._streams.get(group_id)
        if stream is None or not stream.permits(user_id, seq):
            return None
        return max(seq, stream.seq), max(seq, stream.known_head)

    def observe_head(self, group_id: UUID, seq: int) -> None:
        """Note that a group has reached this seq."""
        stream = self._streams.get(group_id)
        if stream is None:
            self._last_known.note(group_id, seq)
        else:
            stream.observe(seq)
            self._schedule(stream)

    def joined(self, group_id: UUID, seq: int, user_id: UUID) -> None:
        """Note that a user joined a group by the event with this seq, or a later one."""
        if not any(listener.is_new_to(group_id, seq) for listener in self.registry.of_user(user_id)):
            self.observe_head(group_id, seq)
            return
        stream = self._stream(group_id, seq - 1)
        stream.observe(seq)
        if seq <= stream.seq:  # later events were delivered without them
            self._close(self._admit(stream, seq, user_id), CloseCode.RESYNC)
        self._schedule(stream)

    def wanted(self, limit: int = READS) -> dict[UUID, int]:
        """Return up to ``limit`` groups to be read now, each with the seq to read after."""
        return self._read_queue.wanted(limit)

    def may_fill_gap(self, group_id: UUID) -> bool:
        """Return True if a group's gap may close without a read: events behind it are here."""
        stream = self._streams.get(group_id)
        return stream is not None and stream.has_early

    def read(self, group_id: UUID, after: int, found: Slice) -> None:
        """Apply the first events of a group's log above a seq, and its head."""
        stream = self._streams.get(group_id)
        if stream is None or after > stream.tail:  # the stream that wanted it is gone
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
        """Return the groups with listeners here, and the highest seq known of each."""
        streams = self._streams.values() if among is None else filter(None, map(self._streams.get, among))
        return {stream.group_id: stream.known_head for stream in streams}

    @property
    def group_count(self) -> int:
        """The number of groups with listeners here."""
        return len(self._streams)

    def take_new_groups(self) -> set[UUID]:
        """Return the groups that have got a first listener here since the last call."""
        taken, self._new_groups = self._new_groups, set()
        return taken

    def compare(self, group_id: UUID, known_head: int, head: int) -> None:
        """Compare the known head of a group with the head of its log, read later."""
        stream = self._streams.get(group_id)
        if stream is not None and head < known_head:  # after a restore from a backup seqs repeat
            self._skip_lost(stream, head)
        else:
            self.observe_head(group_id, head)

    def known_groups(self) -> set[UUID]:
        """Return the groups of which a seq is known here that decides what listeners receive."""
        return {*self._streams}.union(*(listener.left for listener in self.registry.everyone()))

    def begin_epoch(self, frame: bytes, held: Mapping[UUID, int]) -> None:
        """Begin an epoch of the log, given up to which seq what is known of each of ``known_groups`` holds.

        Listeners that know of more connect again. The others of att.v1 are sent the frame, which tells them the epoch.
        """
        self._last_known.clear()
        self.counts.clear()
        for listener in self.registry.everyone():
            is_starting = not listener.is_started and bool(listener.groups or listener.left)  # in very many groups
            if is_starting or any(seq > held[group_id] for group_id, seq in listener.left.items()):
                self._close([listener], CloseCode.RESYNC)
            elif not listener.is_started:
                listener.joined.clear()  # its positions will be read anew
        for group_id, stream in [*self._streams.items()]:
            self._close(stream.ahead_of(held[group_id]), CloseCode.RESYNC)
            stream.rewind(held[group_id])
            self._schedule(stream)
        for listener in self.registry.everyone():
            if listener.is_started and listener.dialect is Dialect.V1:
                listener.connection.send(frame)

    def step(self) -> bool:
        """Write one slice of frames. Return True if there is more to write."""
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
        """Have all sockets of the user reconnect; those whose session has ended will fail."""
        self._close(self.registry.of_user(user_id), CloseCode.RESYNC)

    # Internals

    @staticmethod
    def _send_marker(listener: Listener, position: MarkerPosition) -> None:
        listener.connection.send(text_frame(messages.read(position.group_id, position.name, position.seq)))

    def _stream(self, group_id: UUID, seq: int) -> GroupStream:
        stream = self._streams.get(group_id)
        if stream is None:
            stream = self._streams[group_id] = GroupStream(group_id, seq)
            stream.observe(self._last_known.take(group_id))
            self._new_groups.add(group_id)
            self._subscribe(group_id)
        return stream

    def _leave(self, listener: Listener, group_ids: Iterable[UUID]) -> Iterator[None]:
        for number, group_id in enumerate(group_ids, 1):
            if (stream := self._streams.get(group_id)) is not None:
                stream.remove(listener)
                self._schedule(stream)
            if number % SLICE == 0:
                yield

    def _start_group(self, listener: Listener, position: Position, resumed: int, joined: Span | None) -> None:
        """Start a listener in one group. Later joinings decide whether its user is a member."""
        group_id, _, seq, is_member, *_ = position
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
        """Queue a changed stream for reading or running, or drop it if it is idle."""
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
            self._new_groups.discard(stream.group_id)
            self._unsubscribe(stream.group_id)
        self.counts.drop_group(stream.group_id)

    def _run(self, stream: GroupStream) -> Iterator[None]:
        """Apply queued events and ephemerals, one slice at a time."""
        try:
            while stream.has_next:
                while (ephemeral := stream.pop_ephemeral()) is not None:
                    yield from self._deliver(stream, ephemeral)
                if (event := stream.pop()) is not None:
                    yield from self._apply(stream, event)
        finally:  # an error in one event must not keep back the next
            stream.is_running = False
        self._schedule(stream)

    def _apply(self, stream: GroupStream, event: LogEvent) -> Iterator[None]:
        if event.is_end:
            yield from self._end(stream, event)
            return
        audiences = self._audiences(stream, event)
        delivered = total = 0
        for dialect, encoding, connections in audiences:
            frame = encode(event, dialect, _BUILDERS[encoding])
            if frame is None:
                continue
            total += len(connections)
            send = _send_to_each if encoding is Encoding.EVENTS else self._send_to_all
            weight = _weight(frame)
            for part in _parts(len(connections), weight):
                delivered += send(connections, frame, part)
                self._written += (part.stop - part.start) * weight
                if self._written >= SLICE:
                    yield
                    if stream.seq != event.seq:  # the log has lost it
                        self._resync_leaving(event)
                        return
        self._written += 1
        self.counts.add(event, Delivered(delivered, total - delivered))

    def _resync_leaving(self, event: LogEvent) -> None:
        """Have listeners reconnect that left the stream by this event, and may not have been told."""
        leaving = self.registry.of_user(event.user_id) if event.kind == "left" and event.user_id else ()
        self._close([each for each in leaving if each.left.get(event.group_id) == event.seq], CloseCode.RESYNC)

    def _deliver(self, stream: GroupStream, ephemeral: Ephemeral) -> Iterator[None]:
        """Send an ephemeral. A connection on which much waits does not get it."""
        payload = messages.ephemeral(ephemeral.group_id, ephemeral.user_id, ephemeral.body)
        seq, sent, total = stream.seq, 0, 0
        self._written += 1
        for dialect, encoding, connections in stream.audiences():
            if dialect is not Dialect.V1:
                continue
            frame = _BUILDERS[encoding](payload)
            total += len(connections)
            weight = _weight(frame)
            for part in _parts(len(connections), weight):
                sent += sum([connection.send_if_room(frame) for connection in connections[part]])
                self._written += (part.stop - part.start) * weight
                if self._written >= SLICE:
                    yield
                    if stream.seq != seq:  # the log has lost it
                        return
        self.counts.add_ephemeral(Delivered(sent, total - sent))

    def _end(self, stream: GroupStream, event: LogEvent) -> Iterator[None]:
        """Dismiss everyone, as their group is deleted. Each gets their own leaving."""
        for listener in stream.everyone():
            if not stream.dismiss(listener):
                continue
            frame = encode(event.seen_by(listener.user_id), listener.dialect)
            if frame is not None:
                listener.connection.send(frame)
            self._written += 1
            if self._written >= SLICE:
                yield
        self.counts.skip(event)

    def _audiences(self, stream: GroupStream, event: LogEvent) -> tuple[Audience, ...]:
        """Return the receivers of the current event, including a user who joins or leaves by it."""
        whose = self.registry.of_user(event.user_id) if event.user_id and event.kind != "message" else ()
        if event.kind == "joined" and event.user_id:
            self._admit(stream, event.seq, event.user_id)
        if event.kind in ("joined", "left") and event.user_id:
            self._on_member(event.group_id, event.user_id, event.kind)
        audiences = stream.audiences()
        if event.kind == "left":
            for listener in whose:
                stream.dismiss(listener)
        stream.promote()
        return audiences

    def _admit(self, stream: GroupStream, seq: int, user_id: UUID) -> list[Listener]:
        """Add the listeners of a user who joined by this event. Return those that were not there before."""
        admitted = []
        for listener in self.registry.of_user(user_id):
            if not listener.wants(stream.group_id):
                continue
            if not listener.is_started:
                listener.joined[stream.group_id] = listener.joined.get(stream.group_id, Span(seq, seq)).widened(seq)
            elif stream.admit(listener, seq):
                admitted.append(listener)
        return admitted

    def _skip_lost(self, stream: GroupStream, seq: int) -> None:
        """Skip events that the log has lost. Their listeners reconnect, and are told of the gap."""
        self._close(stream.everyone(), CloseCode.RESYNC)
        stream.skip(seq)
        self._schedule(stream)

    def _close(self, listeners: Iterable[Listener], code: CloseCode, reason: bytes = b"") -> None:
        for listener in listeners:
            if listener not in self.registry:  # it is leaving its groups step by step
                continue
            self.detach(listener)
            listener.connection.close(code, reason)


def _weight(frame: bytes) -> int:
    """Return as how many frames of a slice a frame counts."""
    return 1 + len(frame) // _FRAME


def _parts(count: int, weight: int) -> Iterator[slice]:
    """Yield the parts in which as many connections are written to, of at most one slice each."""
    size = max(SLICE // weight, 1)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
