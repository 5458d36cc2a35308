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
STOP_TIMEOUT = 2.0  # seconds to ring what was not rung yet when the server stops


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

    def heard(self, ring: Announcement) -> None:
        """Another node, this one, or a trigger of the database rang."""

    def connected(self) -> None:
        """Rings are heard from now on; what was rung before may have been missed."""

    def tuned(self, group_ids: Sequence[UUID]) -> None:
        """Of these groups too they are heard from now on, and may have been missed before."""

    def disconnected(self) -> None:
        """Rings are not heard from now on."""


class Broker(Protocol):
    """Rings and is heard on every node, on this one too.

    ``is_connected`` tells whether all that is rung is heard. ``sent`` and ``heard`` count payloads. ``lag`` is how many
    seconds the last one of its own took to come back, or one that did not has been awaited; 0 before there was any.
    """

    name: str
    sent: int
    heard: int

    @property
    def is_connected(self) -> bool: ...

    @property
    def lag(self) -> float: ...

    def ring(self, event: LogEvent) -> None:
        """Tell every node of a message that is in the log: soon, and once for all that is rung meanwhile."""

    def ring_head(self, group_id: UUID, seq: int) -> None:
        """Tell every node that a group is at this seq."""

    def ring_for_sweep(self) -> None:
        """Tell every node that something has happened of which it is not known what."""

    def running(self, ears: BrokerEventHandler) -> contextlib.AbstractAsyncContextManager[None]:
        """Ring and hear while the block runs."""


class SubscribingBroker(Broker, Protocol):
    """A bus on which just those groups are heard that it was told of."""

    def tune_in(self, group_id: UUID) -> None:
        """It is heard here from now on, soon; then the ears are told."""

    def tune_out(self, group_id: UUID) -> None:
        """It is heard here no more."""


class RoundTrip:
    """How long what this node has rung takes to come back to it: by its own clock, which no other need agree with."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = 0.0
        self._awaited: float | None = None  # since when nothing has come back

    @property
    def seconds(self) -> float:
        """Of the last one, or of one that is awaited, if that is longer."""
        return self._last if self._awaited is None else max(self._last, self._clock() - self._awaited)

    def sent(self) -> float:
        """One is on its way: its mark."""
        now = self._clock()
        self._awaited = now if self._awaited is None else self._awaited
        return now

    def heard(self, mark: float) -> None:
        """It has come back. Raises ValueError when it cannot have been on its way."""
        took = self._clock() - mark
        if not 0.0 <= took < math.inf:
            raise ValueError(mark)
        self._last = took
        if self._awaited is not None and mark >= self._awaited:
            self._awaited = None
