"""What an event looks like to a listener, giving events to one alone, and counting what was given."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple
from uuid import UUID

from prometheus_client import Counter

from att.protocol import messages
from att.protocol.frames import text_frame
from att.realtime.event_log import LogEvent
from att.realtime.group_streams import StreamPosition
from att.realtime.registry import Dialect, Listener

COUNTS = 10_000  # events of which it is remembered to how many sockets they were written


class Delivered(NamedTuple):
    """To how many sockets here an event was written, and to how many it could not be, since they are closing."""

    delivered: int
    dropped: int


NOBODY = Delivered(0, 0)
DeliveryCallback = Callable[[Delivered], None]


class Counts:
    """What was delivered of each message, of all together, and who waits to be told."""

    def __init__(self) -> None:
        self.delivered = Counter("att_deliveries", "Messages written to sockets here.", registry=None)
        self.dropped = Counter(
            "att_deliveries_dropped", "Messages not written to a socket, since it is closing.", registry=None
        )
        self._counts: OrderedDict[tuple[UUID, int], Delivered] = OrderedDict()
        self._waiting: dict[tuple[UUID, int], DeliveryCallback] = {}

    def add(self, event: LogEvent, delivered: Delivered) -> None:
        """Remember it, and tell whoever waits."""
        if event.kind == "message":
            key = event.group_id, event.seq
            self._counts[key] = delivered
            self.delivered.inc(delivered.delivered)
            self.dropped.inc(delivered.dropped)
            if len(self._counts) > COUNTS:
                self._counts.popitem(last=False)
            if callback := self._waiting.pop(key, None):
                callback(delivered)

    def skip(self, event: LogEvent) -> None:
        """Nobody is to hear it, unless it was delivered before."""
        if self.of(event) is None:
            self.add(event, NOBODY)

    def of(self, event: LogEvent) -> Delivered | None:
        """What was delivered; None when nothing was yet, or it was too long ago."""
        return self._counts.get((event.group_id, event.seq))

    def expect(self, event: LogEvent, callback: DeliveryCallback) -> None:
        """Tell as soon as it is delivered, or nobody hears its group any more."""
        self._waiting[event.group_id, event.seq] = callback

    def forget(self, event: LogEvent) -> None:
        """Nobody waits any more."""
        self._waiting.pop((event.group_id, event.seq), None)

    def drop_group(self, group_id: UUID) -> None:
        """Nobody hears the group here any more."""
        for key in [key for key in self._waiting if key[0] == group_id]:
            self._waiting.pop(key)(NOBODY)


def encode(event: LogEvent, dialect: Dialect) -> bytes | None:
    """The frame that tells of it, to be built once for all; None when this dialect does not tell of it."""
    if dialect is Dialect.V1:
        return text_frame(messages.event(event))
    return text_frame(event.body) if event.kind == "message" else None


def replay(listener: Listener, place: StreamPosition, events: Iterable[LogEvent]) -> StreamPosition:
    """Give a listener what its user was a member for. Its place after that."""
    seq, is_member = place
    for event in events:
        if is_member and event.seq > seq + 1:
            send_gap(listener, event.group_id, event.name, seq + 1, event.seq - 1)
        is_own = event.kind != "message" and event.user_id == listener.user_id
        is_member = is_member or (is_own and event.kind == "joined")
        frame = encode(event, listener.dialect) if is_member else None
        if frame is not None:
            listener.connection.replay(frame)
        is_member = is_member and not (is_own and event.kind == "left")
        seq = event.seq
    return StreamPosition(seq, is_member)


def send_gap(listener: Listener, group_id: UUID, name: str, first: int, last: int) -> None:
    """Tell a listener which seqs the log no longer holds."""
    if listener.dialect is Dialect.V1:
        listener.connection.replay(text_frame(messages.gap(group_id, name, first, last)))
