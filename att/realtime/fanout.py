"""Frames of events for listeners, replay to one listener, and counts of deliveries."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple
from uuid import UUID

from prometheus_client import Counter

from att.protocol import messages
from att.protocol.frames import text_frame
from att.realtime.event_log import REDACTED, LogEvent
from att.realtime.group_streams import StreamPosition
from att.realtime.registry import Dialect, Listener

COUNTS = 10_000  # recent events whose deliveries are stored


class Delivered(NamedTuple):
    """Sockets of this node to which an event was written, and sockets that were closing."""

    delivered: int
    dropped: int


NOBODY = Delivered(0, 0)
DeliveryCallback = Callable[[Delivered], None]


class Counts:
    """Deliveries of each recent message and in total, and callbacks for the next ones."""

    def __init__(self) -> None:
        self.delivered = Counter("att_deliveries", "Messages written to sockets here.", registry=None)
        self.dropped = Counter(
            "att_deliveries_dropped", "Messages not written to a socket, since it is closing.", registry=None
        )
        self.ephemerals_delivered = Counter(
            "att_ephemeral_deliveries", "Ephemeral messages written to sockets here.", registry=None
        )
        self.ephemerals_dropped = Counter(
            "att_ephemeral_deliveries_dropped",
            "Ephemeral messages not written to a socket, since much waits there, or it is closing.",
            registry=None,
        )
        self._counts: OrderedDict[tuple[UUID, int], Delivered] = OrderedDict()
        self._waiting: dict[tuple[UUID, int], DeliveryCallback] = {}

    def add(self, event: LogEvent, delivered: Delivered) -> None:
        """Store a delivery, and call its callback."""
        if event.kind == "message":
            key = event.group_id, event.seq
            self._counts[key] = delivered
            self.delivered.inc(delivered.delivered)
            self.dropped.inc(delivered.dropped)
            if len(self._counts) > COUNTS:
                self._counts.popitem(last=False)
            if callback := self._waiting.pop(key, None):
                callback(delivered)

    def add_ephemeral(self, delivered: Delivered) -> None:
        """Count the delivery of an ephemeral."""
        self.ephemerals_delivered.inc(delivered.delivered)
        self.ephemerals_dropped.inc(delivered.dropped)

    def skip(self, event: LogEvent) -> None:
        """Store that an event has no listener here, unless it was delivered before."""
        if self.of(event) is None:
            self.add(event, NOBODY)

    def of(self, event: LogEvent) -> Delivered | None:
        """Return what was delivered; None if that is still to come, or too long ago."""
        return self._counts.get((event.group_id, event.seq))

    def expect(self, event: LogEvent, callback: DeliveryCallback) -> None:
        """Call back as soon as the event is delivered, or its group has no listener any more."""
        self._waiting[event.group_id, event.seq] = callback

    def forget(self, event: LogEvent) -> None:
        """Drop the callback for an event."""
        self._waiting.pop((event.group_id, event.seq), None)

    def clear(self) -> None:
        """Forget all deliveries, and call back for all events that were expected: other events get their seqs."""
        self._counts.clear()
        waiting, self._waiting = self._waiting, {}
        for callback in waiting.values():
            callback(NOBODY)

    def drop_group(self, group_id: UUID) -> None:
        """Call back for all events of a group that has no listener any more."""
        for key in [key for key in self._waiting if key[0] == group_id]:
            self._waiting.pop(key)(NOBODY)


def encode(event: LogEvent, dialect: Dialect, build: Callable[[bytes], bytes] = text_frame) -> bytes | None:
    """Return the event's frame, built once for all listeners; None if the dialect has no frame for it."""
    if dialect is Dialect.V1:
        return build(messages.event(event))
    return build(event.body) if event.kind == "message" and event.body != REDACTED else None


def replay(listener: Listener, position: StreamPosition, events: Iterable[LogEvent], all_to: int = 0) -> StreamPosition:
    """Send a listener the events during its user's membership, and all others up to the seq ``all_to``.

    Return the listener's new position.
    """
    seq, is_member = position
    for event in (event.seen_by(listener.user_id) for event in events):
        if (is_member or event.seq <= all_to) and event.seq > seq + 1:
            send_gap(listener, event.group_id, event.name, seq + 1, event.seq - 1)
        is_own = event.is_move_of(listener.user_id)
        is_member = is_member or (is_own and event.kind == "joined")
        frame = encode(event, listener.dialect) if is_member or event.seq <= all_to else None
        if frame is not None:
            listener.connection.replay(frame)
        is_member = is_member and not (is_own and event.kind == "left")
        seq = event.seq
    return StreamPosition(seq, is_member)


def send_gap(listener: Listener, group_id: UUID, name: str, first: int, last: int) -> None:
    """Send a listener a gap: seqs that the log no longer has."""
    if listener.dialect is Dialect.V1:
        listener.connection.replay(text_frame(messages.gap(group_id, name, first, last)))
