"""The broker on PostgreSQL: LISTEN and NOTIFY."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any
from uuid import UUID, uuid4

from msgspec import DecodeError, Meta, Raw, Struct
from msgspec.json import Decoder, encode

from att.core import json_text
from att.core.log_limits import OutageLog
from att.core.tasks import supervise
from att.db.engine import Engine
from att.db.notifications import CHANNEL, NOTIFY, NOTIFY_ALL, NotificationChannel
from att.errors import DatabaseUnavailable, Unavailable
from att.groups.read_markers import MarkerPosition
from att.realtime.brokers.base import (
    ECHO_INTERVAL,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    STOP_TIMEOUT,
    Announcement,
    BrokerEventHandler,
    MemberJoined,
    RoundTrip,
    log,
)
from att.realtime.brokers.buffer import PendingEphemerals, PendingMarkers, decode_markers, encode_markers
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import LogEvent
from att.realtime.neighbours import Neighbours

_HEADS = 100  # groups in one payload, which must have less than 8,000 bytes
_EPHEMERAL_BYTES = 7_400  # of ephemerals in one payload, likewise, beside the name of a schema
_EPHEMERAL_OVERHEAD = 140  # bytes of an ephemeral in a payload beside its body
_EPHEMERALS = '"ephemerals_by":"'  # near the beginning of their payloads, before the id of their node
_BEGINNING = 500
_EPHEMERAL_PAYLOADS = 64  # in one statement, since a busy event loop has few of them in a second
_ECHO = frozenset(("from", "mark", "schema"))  # members of a payload by which a node measures the round trip alone
HIGHEST = 2**63 - 1  # of a bigint in PostgreSQL
_Seq = Annotated[int, Meta(ge=0, le=HIGHEST)]


class _EphemeralPayload(Struct):
    ephemerals_by: str
    ephemerals: list[tuple[str, UUID, UUID, _Seq, _Seq, Raw]]
    schema: str | None = None


_DECODER = Decoder(_EphemeralPayload)


class PostgresBroker:
    """A ``Broker`` by LISTEN and NOTIFY.

    NOTIFY runs outside the announced transaction, since it serialises commits. Payloads carry heads alone: PostgreSQL
    limits them to 8,000 bytes. Database triggers announce on the same channel.

    To a node that is known to be alone nothing but a sweep is announced. A node that begins to listen tells the others.
    """

    name = "postgresql"

    def __init__(self, db: Engine, dsn: str, neighbours: Neighbours | None = None) -> None:
        self.is_connected = False
        self.sent = self.received = 0
        self._db = db
        self._channel = NotificationChannel(dsn, CHANNEL)
        self._id = str(uuid4())
        self._neighbours = neighbours or Neighbours()
        self._neighbours.on_found = self.announce_sweep
        self._round_trip = RoundTrip()
        self._outage = OutageLog(f"the broker ({self.name})")
        self._heads: dict[UUID, int] = {}
        self._markers = PendingMarkers()
        self._ephemerals = PendingEphemerals()
        self._sweep = False
        self._is_echo_due = False  # it also tells the others that this node listens
        self._has_pending = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def round_trip(self) -> float:
        return self._round_trip.seconds

    def announce(self, event: LogEvent, epoch: str) -> None:  # noqa: ARG002 - a head says only to read the log
        self.announce_head(event.group_id, event.seq)

    def announce_head(self, group_id: UUID, seq: int) -> None:
        if self._neighbours.are_possible:
            self._heads[group_id] = max(seq, self._heads.get(group_id, 0))
            self._wake()

    def announce_marker(self, position: MarkerPosition) -> None:
        if self._neighbours.are_possible:
            self._markers.add(position)
            self._wake()

    def announce_ephemeral(self, ephemeral: Ephemeral) -> None:
        if self._neighbours.are_possible:
            self._ephemerals.add(ephemeral)
            self._wake()

    def announce_sweep(self) -> None:
        self._sweep = True
        self._wake()

    @contextlib.asynccontextmanager
    async def running(self, handler: BrokerEventHandler) -> AsyncIterator[None]:
        async with (
            supervise("receiving of announcements", lambda: self._receive(handler)),
            supervise("sending of announcements", self._announce_pending),
            supervise("measuring of the round trip", self._measure),
        ):
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._idle.wait()

    def _wake(self) -> None:
        self._idle.clear()
        self._has_pending.set()

    async def _announce_pending(self) -> None:
        while True:
            while self._is_echo_due or self._heads or self._markers or self._ephemerals or self._sweep:
                if self._is_echo_due:
                    await self._notify_of_itself()
                if self._heads or self._sweep:
                    await self._notify()
                if self._markers:
                    await self._notify_of_markers()
                if self._ephemerals:
                    await self._notify_of_ephemerals()
            self._idle.set()
            await self._has_pending.wait()
            self._has_pending.clear()

    async def _notify(self) -> None:
        taken = {group_id: self._heads.pop(group_id) for group_id in [*self._heads][:_HEADS]}
        is_sweep, self._sweep = self._sweep, False
        groups = {str(group_id): seq for group_id, seq in taken.items()}
        payload = {"groups": groups, "sweep": is_sweep, "from": self._id, "mark": self._round_trip.start()}
        try:
            await self._db.fetch_one(NOTIFY, payload=json.dumps(payload, separators=(",", ":")))
            self.sent += 1
        except Unavailable:
            for group_id, seq in taken.items():
                self.announce_head(group_id, seq)
            self._sweep = self._sweep or is_sweep
            await asyncio.sleep(FIRST_PAUSE)

    async def _notify_of_itself(self) -> None:
        self._is_echo_due = False
        payload = {"from": self._id, "mark": self._round_trip.start()}
        try:
            await self._db.fetch_one(NOTIFY, payload=json.dumps(payload, separators=(",", ":")))
        except Unavailable:
            self._is_echo_due = True
            await asyncio.sleep(FIRST_PAUSE)

    async def _notify_of_markers(self) -> None:
        taken = self._markers.take()
        try:
            await self._db.fetch_one(NOTIFY, payload=encode_markers(taken, self._id))
            self.sent += 1
        except Unavailable:
            for position in taken:
                self._markers.add(position)
            await asyncio.sleep(FIRST_PAUSE)
        self._sweep, self._markers.is_full = self._sweep or self._markers.is_full, False

    async def _notify_of_ephemerals(self) -> None:
        payloads: list[str] = []
        while self._ephemerals and len(payloads) < _EPHEMERAL_PAYLOADS:
            taken = self._ephemerals.take(_EPHEMERAL_BYTES, _EPHEMERAL_OVERHEAD)
            payloads.append(_encode_ephemerals(taken, self._id, len(payloads)))
        with contextlib.suppress(Unavailable):  # they are not kept
            await self._db.fetch_all(NOTIFY_ALL, payloads=payloads)
            self.sent += len(payloads)

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(ECHO_INTERVAL)
            if self.is_connected:
                self._is_echo_due = True
                self._wake()

    async def _receive(self, handler: BrokerEventHandler) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._channel.listen() as payloads:
                    pause = FIRST_PAUSE
                    self._outage.end()
                    self.is_connected = True
                    self._neighbours.listening()
                    handler.on_connected()
                    self._is_echo_due = True
                    self._wake()
                    async for payload in payloads:
                        self._take(payload, handler)
            except DatabaseUnavailable as error:
                self._outage.begin(error.why)
            finally:
                self.is_connected = False
                handler.on_disconnected()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _take(self, payload: str, handler: BrokerEventHandler) -> None:
        try:
            if _EPHEMERALS in payload[:_BEGINNING]:
                self._take_ephemerals(payload, handler)
                return
            value: dict[str, Any] = json.loads(payload)
            if value.get("schema") not in (None, self._channel.schema):
                return
            announcement = _parse(value)._replace(markers=decode_markers(value, own=self._id))
            if value.get("from", self._id) != self._id:
                self._neighbours.heard()
            if value.get("from") == self._id and "mark" in value:
                self._round_trip.finish(float(value["mark"]))
            if value.keys() <= _ECHO:
                return
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError):
            log.warning("ignored a malformed announcement on the channel %s", CHANNEL)
            handler.on_malformed()
            return
        self.received += 1
        handler.on_announcement(announcement)

    def _take_ephemerals(self, payload: str, handler: BrokerEventHandler) -> None:
        """Handle the ephemerals of another node; this one has delivered its own. Raise ValueError."""
        if f"{_EPHEMERALS}{self._id}" in payload[:_BEGINNING]:
            self.received += 1
            return
        found = _decode(payload)
        if found.schema in (None, self._channel.schema):
            self._neighbours.heard()
            self.received += 1
            handler.on_announcement(Announcement({}, ephemerals=_ephemerals_of(found)))


def _encode_ephemerals(ephemerals: Iterable[Ephemeral], sender: str, number: int) -> str:
    """Return a payload. Of two that are the same PostgreSQL would drop one, so those of one statement are numbered."""
    rows = [(each[0].hex(), *each[1:-1], Raw(each.body)) for each in ephemerals]
    return f'{{{_EPHEMERALS}{sender}","number":{number},"ephemerals":{encode(rows).decode()}}}'


def _decode(payload: str) -> _EphemeralPayload:
    try:
        return _DECODER.decode(payload)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _ephemerals_of(payload: _EphemeralPayload) -> list[Ephemeral]:
    found = [
        Ephemeral(bytes.fromhex(tag), group_id, user_id, seq, head, bytes(body))
        for tag, group_id, user_id, seq, head, body in payload.ephemerals
    ]
    if not all(json_text.is_object(each.body) for each in found):
        raise ValueError("a message is not an object")
    return found


def _parse(value: dict[str, Any]) -> Announcement:
    """Return the announcement. Raise an error if it is malformed: every database account can send payloads."""
    return Announcement(
        {UUID(group_id): _seq(seq) for group_id, seq in value.get("groups", {}).items()},
        [MemberJoined(UUID(group_id), _seq(seq), UUID(user_id)) for group_id, seq, user_id in value.get("joined", ())],
        [UUID(session_id) for session_id in value.get("sessions", ())],
        bool(value.get("sweep")),
        tuple(UUID(user_id) for user_id in value.get("users", ())),
    )


def _seq(value: object) -> int:
    if not isinstance(value, int) or not 0 < value <= HIGHEST:
        raise ValueError(value)
    return value
