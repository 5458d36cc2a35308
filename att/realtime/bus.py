"""The doorbell between nodes: "this group is now at seq N". It may lose, repeat or reorder; the log is the truth."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import bindparam, func, select

from att.background import running
from att.db.channel import Channel
from att.db.engine import Engine, prepare
from att.errors import DatabaseUnavailable, Unavailable

CHANNEL = "att"
HEADS = 100  # groups in one payload, of which PostgreSQL takes less than 8,000 bytes
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
    """What a payload tells: heads of groups, who joined, which sessions ended; ``sweep``: more than it could hold."""

    groups: dict[UUID, int]
    joined: list[Joining]
    sessions: list[UUID]
    sweep: bool


class Ears(Protocol):
    """Who hears the bus."""

    def heard(self, ring: Ring) -> None:
        """Another node, this one, or a trigger of the database rang."""

    def connected(self) -> None:
        """Rings are heard from now on; what was rung before may have been missed."""

    def disconnected(self) -> None:
        """Rings are not heard from now on."""


class Bus(Protocol):
    """Rings and is heard on every node."""

    def ring(self, group_id: UUID, seq: int) -> None:
        """Tell every node that a group is at this seq: soon, and once for all that is rung meanwhile."""

    def ring_for_sweep(self) -> None:
        """Tell every node that something has happened of which it is not known what."""

    def running(self, ears: Ears) -> contextlib.AbstractAsyncContextManager[None]:
        """Ring and hear while the block runs."""


class PostgresBus:
    """A ``Bus`` by LISTEN and NOTIFY, outside of the transaction that it tells of: NOTIFY serialises commits."""

    def __init__(self, db: Engine, dsn: str) -> None:
        self._db = db
        self._channel = Channel(dsn, CHANNEL)
        self._heads: dict[UUID, int] = {}
        self._sweep = False
        self._rung = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def ring(self, group_id: UUID, seq: int) -> None:
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
        payload = {"groups": {str(group_id): seq for group_id, seq in taken.items()}, "sweep": is_sweep}
        try:
            await self._db.fetch_one(NOTIFY, payload=json.dumps(payload, separators=(",", ":")))
        except Unavailable:
            for group_id, seq in taken.items():
                self.ring(group_id, seq)
            self._sweep = self._sweep or is_sweep
            await asyncio.sleep(FIRST_PAUSE)

    async def _hear(self, ears: Ears) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._channel.listen() as payloads:
                    pause = FIRST_PAUSE
                    ears.connected()
                    async for payload in payloads:
                        for ring in _parse(payload):
                            ears.heard(ring)
            except DatabaseUnavailable as error:
                log.warning("the bus is disconnected, and tries again in %.1f s: %s", pause, error.detail)
            finally:
                ears.disconnected()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _parse(payload: str) -> Iterator[Ring]:
    """The ring, if the payload is one: anybody with an account on the database can announce anything."""
    try:
        told: dict[str, Any] = json.loads(payload)
        yield Ring(
            {UUID(group_id): _seq(seq) for group_id, seq in told.get("groups", {}).items()},
            [Joining(UUID(group_id), _seq(seq), UUID(user_id)) for group_id, seq, user_id in told.get("joined", ())],
            [UUID(session_id) for session_id in told.get("sessions", ())],
            bool(told.get("sweep")),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        log.warning("an announcement on the channel %s is not ours, and is ignored", CHANNEL)


def _seq(told: object) -> int:
    if not isinstance(told, int) or not 0 < told <= HIGHEST:
        raise ValueError(told)
    return told
