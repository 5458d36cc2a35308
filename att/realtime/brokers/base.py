"""Interface of the brokers between nodes. They may lose, repeat or reorder announcements; the log is the truth."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from att.groups.read_markers import MarkerPosition
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import LogEvent

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to connect
ECHO_INTERVAL = 2.0  # seconds between payloads of a node to itself, by which it knows that it misses none
ECHO_TIMEOUT = 5.0  # seconds in which they must come back
STOP_TIMEOUT = 2.0  # seconds to send pending announcements when the server stops

log = logging.getLogger("att")


class MemberJoined(NamedTuple):
    """A user's joining of a group by the event with this seq."""

    group_id: UUID
    seq: int
    user_id: UUID


class Announcement(NamedTuple):
    """Content of one payload: group heads, joined members, ended sessions, deleted or disabled users, moved markers,
    ephemerals of other nodes.

    ``events`` are messages sent along, which need no read if the tag is that of the present epoch. ``sweep`` asks for a
    sweep, as not everything fitted in.
    """

    groups: dict[UUID, int]
    joined: Sequence[MemberJoined] = ()
    sessions: Sequence[UUID] = ()
    sweep: bool = False
    users: Sequence[UUID] = ()
    events: Sequence[LogEvent] = ()
    epoch_tag: bytes = b""
    markers: Sequence[MarkerPosition] = ()
    ephemerals: Sequence[Ephemeral] = ()


SWEEP_ANNOUNCEMENT = Announcement({}, sweep=True)


class BrokerEventHandler(Protocol):
    """Receiver of a broker's events."""

    def on_announcement(self, announcement: Announcement) -> None:
        """Handle an announcement of any node, this one included, or of a database trigger."""

    def on_connected(self) -> None:
        """Handle a new connection. Earlier announcements may have been missed."""

    def on_subscribed(self, group_ids: Sequence[UUID]) -> None:
        """Handle new subscriptions to these groups. Their earlier announcements may have been missed."""

    def on_disconnected(self) -> None:
        """Handle the loss of the connection. Announcements are missed from now on."""

    def on_malformed(self) -> None:
        """Handle a payload that cannot be read. It may have been an announcement."""


class Broker(Protocol):
    """Carries announcements to every node, the announcing one included.

    ``is_connected`` is true while no announcement is missed. ``sent`` and ``received`` count payloads. ``round_trip``
    is the time in seconds until this node's last payload came back, or since the oldest one that has not come back was
    sent; 0 before the first.
    """

    name: str
    sent: int
    received: int

    @property
    def is_connected(self) -> bool: ...

    @property
    def round_trip(self) -> float: ...

    def announce(self, event: LogEvent, epoch: str) -> None:
        """Announce a logged message of an epoch soon, together with whatever else is pending then."""

    def announce_head(self, group_id: UUID, seq: int) -> None:
        """Announce that a group has reached this seq."""

    def announce_marker(self, position: MarkerPosition) -> None:
        """Announce that a user's read marker has moved. This node has told its own sockets."""

    def announce_ephemeral(self, ephemeral: Ephemeral) -> None:
        """Send an ephemeral to the other nodes soon. It is dropped if too much is pending, or the broker is away."""

    def announce_sweep(self) -> None:
        """Ask every node for a sweep, because the outcome of a change is unknown."""

    def running(self, handler: BrokerEventHandler) -> contextlib.AbstractAsyncContextManager[None]:
        """Send and receive announcements while the block runs."""


def is_proven(broker: Broker) -> bool:
    """Return True if the broker has lately brought this node's payloads back to it."""
    return broker.is_connected and 0.0 < broker.round_trip < ECHO_TIMEOUT


class SubscribingBroker(Broker, Protocol):
    """A broker that receives announcements of subscribed groups only."""

    def subscribe(self, group_id: UUID) -> None:
        """Subscribe to a group soon; ``on_subscribed`` follows."""

    def unsubscribe(self, group_id: UUID) -> None:
        """Unsubscribe from a group."""


class RoundTrip:
    """Measures how long this node's payloads take to come back to it, by its own clock alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = 0.0
        self._awaited: float | None = None  # when the oldest outstanding payload was sent

    @property
    def seconds(self) -> float:
        """The last round trip, or the age of the oldest outstanding payload if that is longer."""
        return self._last if self._awaited is None else max(self._last, self._clock() - self._awaited)

    def start(self) -> float:
        """Start a measurement, and return its mark."""
        now = self._clock()
        self._awaited = now if self._awaited is None else self._awaited
        return now

    def finish(self, mark: float) -> None:
        """Finish the measurement with this mark. Raise ValueError if the mark cannot be genuine."""
        took = self._clock() - mark
        if not 0.0 <= took < math.inf:
            raise ValueError(mark)
        self._last = took
        if self._awaited is not None and mark >= self._awaited:
            self._awaited = None
