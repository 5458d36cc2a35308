"""Sends ephemeral messages to the listeners of all nodes, without a database but for the sender's permission."""

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from prometheus_client import Counter

from att.core.permissions import Permission, Permissions, Standing, Who, check, permits
from att.errors import Forbidden
from att.groups.queries import GroupQueries
from att.realtime.brokers.base import Broker
from att.realtime.brokers.codec import epoch_tag
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import EventLog
from att.realtime.hub import Hub

_KNOWN = 100_000  # permissions that are remembered; the oldest are dropped
_ROLE_SECONDS = 5.0  # for which a permission by the user's role is believed: the group's log does not tell of its end


class _Known(NamedTuple):
    """A permission to post in a group, as the database had it by an event of an epoch."""

    group_id: UUID
    seq: int
    epoch: str
    until: float


class EphemeralPublisher:
    """Publishes ephemeral messages.

    A permission to post is remembered while the hub applies the group's log, which tells when it ends. If nobody
    listens to the group here it is read for each message.
    """

    def __init__(
        self,
        log: EventLog,
        hub: Hub,
        broker: Broker,
        groups: GroupQueries,
        permissions_of: Callable[[UUID], Awaitable[Permissions]],
    ) -> None:
        self._log = log
        self._hub = hub
        self._broker = broker
        self._groups = groups
        self._permissions_of = permissions_of
        self._clock = time.monotonic
        self._known: dict[tuple[UUID | str, UUID], _Known] = {}
        self._tag = "", b""
        self.sent = Counter("att_ephemerals", "Ephemeral messages sent here.", registry=None)

    async def publish(self, group: UUID | str, user_id: UUID, body: bytes) -> UUID:
        """Send a message to the group with this id or name, whose id is returned.

        Raise NoSuchGroup, NotAMember, NotAnOwner, DatabaseUnavailable.
        """
        return self.publish_known(group, user_id, body) or await self._publish_anew(group, user_id, body)

    def publish_known(self, group: UUID | str, user_id: UUID, body: bytes) -> UUID | None:
        """Send a message likewise, without waiting. Return None if the permission is not known, and has to be read."""
        known = self._known.get((group, user_id))
        if known is None or known.epoch != self._log.epoch or known.until < self._clock():
            return None
        span = self._hub.still_permitted(known.group_id, user_id, known.seq)
        if span is None:
            return None
        self._send(Ephemeral(self._epoch_tag(known.epoch), known.group_id, user_id, *span, body))
        return known.group_id

    async def _publish_anew(self, group: UUID | str, user_id: UUID, body: bytes) -> UUID:
        epoch, until = self._log.epoch, float("inf")
        view = await self._groups.find(str(group), user_id)
        try:
            check(Who.POSTER, actor=user_id, standing=Standing(view.role, view.join, view.post))
        except Forbidden:
            if not permits(await self._permissions_of(user_id), Permission.BROADCAST_ANY):
                raise
            until = self._clock() + _ROLE_SECONDS
        self._known.pop((group, user_id), None)
        self._known[group, user_id] = _Known(view.id, view.seq, epoch, until)
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        head = max(view.seq, self._hub.heads([view.id]).get(view.id, 0))
        self._send(Ephemeral(self._epoch_tag(epoch), view.id, user_id, view.seq, head, body))
        return view.id

    def _send(self, ephemeral: Ephemeral) -> None:
        self.sent.inc()
        self._hub.offer_ephemeral(ephemeral)
        self._broker.announce_ephemeral(ephemeral)

    def _epoch_tag(self, epoch: str) -> bytes:
        if self._tag[0] != epoch:
            self._tag = epoch, epoch_tag(epoch)
        return self._tag[1]
