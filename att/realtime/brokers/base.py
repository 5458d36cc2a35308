"""The doorbell between nodes: "this group is now at seq N". It may lose, repeat or reorder; the log is the truth."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from att.realtime.event_log import LogEvent

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to connect
STOP_TIMEOUT = 2.0  # seconds to ring what was not pending yet when the server stops


log = logging.getLogger("att")


class MemberJoined(NamedTuple):
    """A user joined a group by the event with this seq."""

    group_id: UUID
    seq: int
    user_id: UUID


class Announcement(NamedTuple):
    """What a payload tells: heads of groups, who joined, which sessions ended; ``sweep``: more than it could hold.

    ``users`` are those who were deleted or disabled, ``events`` messages that came along, so that nobody has to read
    them.
    """

    groups: dict[UUID, int]
    joined: Sequence[MemberJoined] = ()
    sessions: Sequence[UUID] = ()
    sweep: bool = False
    users: Sequence[UUID] = ()
    events: Sequence[LogEvent] = ()


SWEEP_ANNOUNCEMENT = Announcement({}, sweep=True)


class BrokerEventHandler(Protocol):
    """Who hears the bus."""

    def on_announcement(self, announcement: Announcement) -> None:
        """Another node, this one, or a trigger of the database rang."""

    def on_connected(self) -> None:
        """Rings are heard from now on; what was pending before may have been missed."""

    def on_subscribed(self, group_ids: Sequence[UUID]) -> None:
        """Of these groups too they are heard from now on, and may have been missed before."""

    def on_disconnected(self) -> None:
        """Rings are not heard from now on."""


class Broker(Protocol):
    """Carries announcements to every node, the announcing one included.

    ``is_connected`` is true while no announcement is missed. ``sent`` and ``received`` count payloads.
    ``round_trip`` is the time in seconds until this node's last payload came back, or since the oldest one that has
    not come back was sent; 0 before the first.
    """

    name: str
    sent: int
    received: int

    @property
    def is_connected(self) -> bool: ...

    @property
    def round_trip(self) -> float: ...

    def announce(self, event: LogEvent) -> None:
        """Tell every node of a message that is in the log: soon, and once for all that is pending meanwhile."""

    def announce_head(self, group_id: UUID, seq: int) -> None:
        """Tell every node that a group is at this seq."""

    def announce_sweep(self) -> None:
        """Tell every node that something has happened of which it is not known what."""

    def running(self, handler: BrokerEventHandler) -> contextlib.AbstractAsyncContextManager[None]:
        """Ring and hear while the block runs."""


class SubscribingBroker(Broker, Protocol):
    """A bus on which just those groups are heard that it was value of."""

    def subscribe(self, group_id: UUID) -> None:
        """It is heard here from now on, soon; then the ears are value."""

    def unsubscribe(self, group_id: UUID) -> None:
        """It is heard here no more."""


class RoundTrip:
    """Measures how long this node's payloads take to come back to it, by its own clock alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = 0.0
        self._awaited: float | None = None  # since when nothing has come back

    @property
    def seconds(self) -> float:
        """Of the last one, or of one that is awaited, if that is longer."""
        return self._last if self._awaited is None else max(self._last, self._clock() - self._awaited)

    def start(self) -> float:
        """One is on its way: its mark."""
        now = self._clock()
        self._awaited = now if self._awaited is None else self._awaited
        return now

    def finish(self, mark: float) -> None:
        """It has come back. Raises ValueError when it cannot have been on its way."""
        took = self._clock() - mark
        if not 0.0 <= took < math.inf:
            raise ValueError(mark)
        self._last = took
        if self._awaited is not None and mark >= self._awaited:
            self._awaited = None
