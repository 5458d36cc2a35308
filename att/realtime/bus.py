"""The doorbell between nodes: "this group is now at seq N". It may lose, repeat or reorder; the log is the truth."""

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

from sqlalchemy import bindparam, func, select

from att.background import running
from att.db.channel import Channel
from att.db.engine import Engine, Transaction, prepare
from att.errors import DatabaseUnavailable, Unavailable
from att.incidents import Outage
from att.realtime.log import Event

CHANNEL = "att"
HEADS, ENDINGS = 100, 150  # groups, and sessions, in one payload, of which PostgreSQL takes less than 8,000 bytes
HIGHEST = 2**63 - 1  # of what PostgreSQL counts
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to connect
STOP_TIMEOUT = 2.0  # seconds to ring what was not rung yet when the server stops

NOTIFY = prepare(select(func.pg_notify(CHANNEL, bindparam("payload"))))

log = logging.getLogger("att")


class Joining(NamedTuple):
    """A user joined a group by the event with this seq."""

    group_id: UUID
    seq: int
    user_id: UUID


class Ring(NamedTuple):
    """What a payload tells: heads of groups, who joined, which sessions ended; ``sweep``: more than it could hold.

    ``users`` are those who were deleted or disabled, ``events`` messages that came along, so that nobody has to read
    them.
    """

    groups: dict[UUID, int]
    joined: Sequence[Joining] = ()
    sessions: Sequence[UUID] = ()
    sweep: bool = False
    users: Sequence[UUID] = ()
    events: Sequence[Event] = ()


SWEEP = Ring({}, sweep=True)


class Ears(Protocol):
    """Who hears the bus."""

    def heard(self, ring: Ring) -> None:
        """Another node, this one, or a trigger of the database rang."""

    def connected(self) -> None:
        """Rings are heard from now on; what was rung before may have been missed."""

    def tuned(self, group_ids: Sequence[UUID]) -> None:
        """Of these groups too they are heard from now on, and may have been missed before."""

    def disconnected(self) -> None:
        """Rings are not heard from now on."""


class Bus(Protocol):
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

    def ring(self, event: Event) -> None:
        """Tell every node of a message that is in the log: soon, and once for all that is rung meanwhile."""

    def ring_head(self, group_id: UUID, seq: int) -> None:
        """Tell every node that a group is at this seq."""

    def ring_for_sweep(self) -> None:
        """Tell every node that something has happened of which it is not known what."""

    def running(self, ears: Ears) -> contextlib.AbstractAsyncContextManager[None]:
        """Ring and hear while the block runs."""


class TunedBus(Bus, Protocol):
    """A bus on which just those groups are heard that it was told of."""

    def tune_in(self, group_id: UUID) -> None:
        """It is heard here from now on, soon; then the ears are told."""

    def tune_out(self, group_id: UUID) -> None:
        """It is heard here no more."""


class Echo:
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


class PostgresBus:
    """A ``Bus`` by LISTEN and NOTIFY, outside of the transaction that it tells of: NOTIFY serialises commits.

    It tells heads alone, for PostgreSQL takes less than 8,000 bytes. If nobody rings it, it hears what triggers tell.
    """

    name = "postgresql"

    def __init__(self, db: Engine, dsn: str) -> None:
        self.is_connected = False
        self.sent = self.heard = 0
        self._db = db
        self._channel = Channel(dsn, CHANNEL)
        self._id = str(uuid4())
        self._echo = Echo()
        self._outage = Outage(f"the bus ({self.name})")
        self._heads: dict[UUID, int] = {}
        self._sweep = False
        self._rung = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def lag(self) -> float:
        return self._echo.seconds

    def ring(self, event: Event) -> None:
        self.ring_head(event.group_id, event.seq)

    def ring_head(self, group_id: UUID, seq: int) -> None:
        self._heads[group_id] = max(seq, self._heads.get(group_id, 0))
        self._wake()

    def ring_for_sweep(self) -> None:
        self._sweep = True
        self._wake()

    @contextlib.asynccontextmanager
    async def running(self, ears: Ears) -> AsyncIterator[None]:
        async with running("hearing of the bus", lambda: self._hear(ears)), running("ringing of the bus", self._ring):
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._idle.wait()

    def _wake(self) -> None:
        self._idle.clear()
        self._rung.set()

    async def _ring(self) -> None:
        while True:
            while self._heads or self._sweep:
                await self._notify()
            self._idle.set()
            await self._rung.wait()
            self._rung.clear()

    async def _notify(self) -> None:
        taken = {group_id: self._heads.pop(group_id) for group_id in [*self._heads][:HEADS]}
        is_sweep, self._sweep = self._sweep, False
        groups = {str(group_id): seq for group_id, seq in taken.items()}
        payload = {"groups": groups, "sweep": is_sweep, "from": self._id, "mark": self._echo.sent()}
        try:
            await self._db.fetch_one(NOTIFY, payload=json.dumps(payload, separators=(",", ":")))
            self.sent += 1
        except Unavailable:
            for group_id, seq in taken.items():
                self.ring_head(group_id, seq)
            self._sweep = self._sweep or is_sweep
            await asyncio.sleep(FIRST_PAUSE)

    async def _hear(self, ears: Ears) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._channel.listen() as payloads:
                    pause = FIRST_PAUSE
                    self._outage.end()
                    self.is_connected = True
                    ears.connected()
                    async for payload in payloads:
                        self._take(payload, ears)
            except DatabaseUnavailable as error:
                self._outage.begin(error.why)
            finally:
                self.is_connected = False
                ears.disconnected()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _take(self, payload: str, ears: Ears) -> None:
        try:
            told: dict[str, Any] = json.loads(payload)
            ring = _parse(told)
            if told.get("from") == self._id:
                self._echo.heard(float(told["mark"]))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError):
            log.warning("an announcement on the channel %s is not ours, and is ignored", CHANNEL)
            return
        self.heard += 1
        ears.heard(ring)


async def ring_endings(db: Engine | Transaction, session_ids: Sequence[UUID]) -> None:
    """Tell every node that these sessions have ended, if it can be told; in a transaction, when it is committed."""
    for first in range(0, len(session_ids), ENDINGS):
        told = {"sessions": [str(session_id) for session_id in session_ids[first : first + ENDINGS]]}
        with contextlib.suppress(Unavailable):
            await db.fetch_one(NOTIFY, payload=json.dumps(told))


def _parse(told: dict[str, Any]) -> Ring:
    """Raises what comes of anything else: anybody with an account on the database can announce anything."""
    return Ring(
        {UUID(group_id): _seq(seq) for group_id, seq in told.get("groups", {}).items()},
        [Joining(UUID(group_id), _seq(seq), UUID(user_id)) for group_id, seq, user_id in told.get("joined", ())],
        [UUID(session_id) for session_id in told.get("sessions", ())],
        bool(told.get("sweep")),
        tuple(UUID(user_id) for user_id in told.get("users", ())),
    )


def _seq(told: object) -> int:
    if not isinstance(told, int) or not 0 < told <= HIGHEST:
        raise ValueError(told)
    return told
