"""The broker on Redis or Valkey: a channel for each group."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID, uuid4

from att.core.log_limits import OutageLog
from att.core.tasks import is_cancelled, supervise
from att.errors import Unavailable
from att.groups.read_markers import MarkerPosition
from att.realtime.brokers.base import (
    ECHO_INTERVAL,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    STOP_TIMEOUT,
    SWEEP_ANNOUNCEMENT,
    Announcement,
    BrokerEventHandler,
    RoundTrip,
    log,
)
from att.realtime.brokers.buffer import (
    AnnouncementBuffer,
    PendingAnnouncement,
    PendingEphemerals,
    PendingMarkers,
    decode_markers,
    encode_markers,
)
from att.realtime.brokers.codec import decode, decode_ephemerals, encode, encode_ephemerals
from att.realtime.brokers.subscriptions import Subscriptions
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import LogEvent
from att.redis.client import RedisClient
from att.redis.pubsub import PubSub, PubSubConnection
from att.sessions.redis_scripts import ENDED_CHANNEL

ALL, GROUP_CHANNEL, NODE = "att:all", "att:group:", "att:node:"  # channels
_AT_ONCE = 100  # groups announced by one pipeline
_EPHEMERAL_BYTES, _EPHEMERAL_OVERHEAD = 256 * 1024, 100  # of all ephemerals in one pipeline, of each beside its body
SUBSCRIBED_AT_ONCE = 5_000  # groups in one round of subscribing
_TICK = 2.0  # seconds between checks for unneeded channels


class RedisBroker:
    """A ``SubscribingBroker`` with a channel for each group.

    Payloads carry the messages themselves, so a node that misses none does not read the log. Ended sessions come on
    ``att:sessions`` as a JSON array of ids, announcements to all nodes on ``att:all``.
    """

    name = "redis"

    def __init__(self, redis: RedisClient) -> None:
        self.sent = self.received = 0
        self._id = uuid4()
        self._own = f"{NODE}{self._id}"
        self._pubsub = PubSub(redis)
        self._handler: BrokerEventHandler
        self._round_trip = RoundTrip()
        self._outage = OutageLog(f"the broker ({self.name})")
        self._is_up = asyncio.Event()
        self._outgoing = AnnouncementBuffer()
        self._markers = PendingMarkers()
        self._ephemerals = PendingEphemerals()
        self._has_pending = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._subscriptions = Subscriptions(time.monotonic)
        self._to_subscribe = asyncio.Event()
        self._subscriptions.wake = self._to_subscribe.set

    @property
    def is_connected(self) -> bool:
        return self._is_up.is_set()

    @property
    def round_trip(self) -> float:
        return self._round_trip.seconds

    @contextlib.asynccontextmanager
    async def running(self, handler: BrokerEventHandler) -> AsyncIterator[None]:
        self._handler = handler
        async with (
            supervise("receiving of announcements from Redis", self._receive),
            supervise("sending of announcements to Redis", self._announce_pending),
            supervise("measuring of the round trip by Redis", self._measure),
        ):
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._idle.wait()

    # Subscriptions

    def subscribe(self, group_id: UUID) -> None:
        self._subscriptions.subscribe(group_id)

    def unsubscribe(self, group_id: UUID) -> None:
        self._subscriptions.unsubscribe(group_id)

    # Sending

    def announce(self, event: LogEvent, epoch: str) -> None:
        self._outgoing.add(event, epoch)
        self._wake()

    def announce_head(self, group_id: UUID, seq: int) -> None:
        self._outgoing.add_head(group_id, seq)
        self._wake()

    def announce_marker(self, position: MarkerPosition) -> None:
        self._markers.add(position)
        self._wake()

    def announce_ephemeral(self, ephemeral: Ephemeral) -> None:
        self._ephemerals.add(ephemeral)
        self._wake()

    def announce_sweep(self) -> None:
        self._outgoing.is_sweep = True
        self._wake()

    def _wake(self) -> None:
        self._idle.clear()
        self._has_pending.set()

    async def _announce_pending(self) -> None:
        while True:
            while self._outgoing or self._markers or self._ephemerals:
                if self._outgoing or self._markers:
                    await self._publish()
                if self._ephemerals:
                    await self._publish_ephemerals()
            self._idle.set()
            await self._has_pending.wait()
            self._has_pending.clear()

    async def _publish(self) -> None:
        taken = self._outgoing.take(_AT_ONCE)
        markers = self._markers.take()
        is_sweep, self._outgoing.is_sweep = self._outgoing.is_sweep or self._markers.is_full, False
        self._markers.is_full = False
        try:
            if taken:
                await self._pubsub.publish_sharded(self._payloads(taken))
            if is_sweep:
                await self._pubsub.publish(ALL, json.dumps({"sweep": True}))
            if markers:
                await self._pubsub.publish(ALL, encode_markers(markers, self._id))
            self.sent += len(taken) + is_sweep + bool(markers)
        except Unavailable:
            self._outgoing.put_back(taken)
            self._outgoing.is_sweep |= is_sweep
            for position in markers:
                self._markers.add(position)
            await asyncio.sleep(FIRST_PAUSE)

    async def _publish_ephemerals(self) -> None:
        groups: dict[UUID, list[Ephemeral]] = {}
        for ephemeral in self._ephemerals.take(_EPHEMERAL_BYTES, _EPHEMERAL_OVERHEAD):
            groups.setdefault(ephemeral.group_id, []).append(ephemeral)
        with contextlib.suppress(Unavailable):  # they are not kept
            await self._pubsub.publish_sharded(
                [(f"{GROUP_CHANNEL}{group_id}", encode_ephemerals(self._id, part)) for group_id, part in groups.items()]
            )
            self.sent += len(groups)

    def _payloads(self, taken: Mapping[UUID, PendingAnnouncement]) -> list[tuple[str, bytes]]:
        return [
            (f"{GROUP_CHANNEL}{group_id}", encode(self._id, each.epoch, each.head, each.events))
            for group_id, each in taken.items()
        ]

    async def _measure(self) -> None:
        while True:
            await self._is_up.wait()
            with contextlib.suppress(Unavailable):
                await self._pubsub.publish(self._own, str(self._round_trip.start()))
            await asyncio.sleep(ECHO_INTERVAL)

    # Receiving

    async def _receive(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._pubsub.connect(self) as connection:
                    self._subscriptions.begin()
                    await connection.subscribe(ENDED_CHANNEL, self._own, ALL)
                    await connection.run(self._update_subscriptions(connection))
            except Unavailable as error:
                self._outage.begin(error.why)
            finally:
                pause = FIRST_PAUSE if self.is_connected else pause
                self._is_up.clear()
                self._round_trip.start()  # so that the measured time grows until payloads come again
                self._handler.on_disconnected()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _update_subscriptions(self, connection: PubSubConnection) -> None:
        """Subscribe to and unsubscribe from channels as needed."""
        while not is_cancelled():  # wait_for of Python 3.11, in the library, may drop a cancellation
            while any(change := self._subscriptions.take(SUBSCRIBED_AT_ONCE)):
                await connection.subscribe_sharded([f"{GROUP_CHANNEL}{group_id}" for group_id in change.more])
                await connection.unsubscribe_sharded([f"{GROUP_CHANNEL}{group_id}" for group_id in change.less])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._to_subscribe.wait()
            self._to_subscribe.clear()

    def subscribed(self, channel: str) -> None:
        if channel == ALL:  # the last of the first three channels
            self._outage.end()
            self._is_up.set()
            self._handler.on_connected()
        elif channel.startswith(GROUP_CHANNEL):
            self._handler.on_subscribed([UUID(channel.removeprefix(GROUP_CHANNEL))])

    def published(self, channel: str, payload: bytes) -> None:
        self.received += 1
        try:
            if channel == self._own:
                self._round_trip.finish(float(payload))
                return
            announcement = self._read(channel, payload)
        except (ValueError, TypeError, AttributeError, RecursionError):
            log.warning("ignored a malformed announcement on the channel %s", channel)
            self._handler.on_malformed()
            return
        self._handler.on_announcement(announcement)

    def _read(self, channel: str, payload: bytes) -> Announcement:
        """Return the announcement. Raise an error if it is malformed: every Redis user can publish payloads."""
        if channel.startswith(GROUP_CHANNEL):
            group_id = UUID(channel.removeprefix(GROUP_CHANNEL))
            if (ephemerals := decode_ephemerals(group_id, payload, own=self._id)) is not None:
                return Announcement({}, ephemerals=ephemerals)
            found = decode(group_id, payload, own=self._id)
            return Announcement({group_id: found.head}, events=found.events, epoch_tag=found.epoch_tag)
        value: Any = json.loads(payload)
        if channel == ENDED_CHANNEL:
            return Announcement({}, sessions=[UUID(session_id) for session_id in value])
        if value.get("sweep") is True:
            return SWEEP_ANNOUNCEMENT
        return Announcement({}, markers=decode_markers(value, own=self._id))
