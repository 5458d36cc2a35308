"""Sends ephemeral messages to the listeners of all nodes, without a database but for the sender's permission."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from prometheus_client import Counter

from att.core.permissions import Permission, Permissions, Standing, Who, check, permits
from att.core.tasks import every
from att.errors import Forbidden
from att.groups.queries import GroupQueries
from att.realtime.brokers.base import Broker
from att.realtime.brokers.codec import epoch_tag
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import EventLog
from att.realtime.hub import Hub

_KNOWN = 100_000  # permissions that are remembered; the oldest are dropped
BELIEVED = 1.0  # seconds for which the database need not be asked whether a permission has ended
_CHECK_INTERVAL = 0.4  # seconds between looks at the heads of the groups in use
_IN_USE = 10.0  # seconds for which a group counts as in use after a message
_CHUNK = 1_000  # groups in one statement


class _Known(NamedTuple):
    """A permission to post in a group, as the database had it by an event of an epoch at ``read_at``.

    The group's log tells of its end, unless it is ``by_role``.
    """

    group_id: UUID
    seq: int
    epoch: str
    read_at: float
    by_role: bool


class EphemeralPublisher:
    """Publishes ephemeral messages.

    A permission to post is remembered while the hub applies the group's log, which tells when it ends. Announcements
    may be late or lost, and this process may stand still. So the heads of the groups in use are read regularly, and a
    permission counts only if that was within ``BELIEVED`` seconds. If nobody listens to the group here it is read for
    each message.
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
        self._used_at: dict[UUID, float] = {}
        self._checked_at: dict[UUID, float] = {}
        self._tag = "", b""
        self.sent = Counter("att_ephemerals", "Ephemeral messages sent here.", registry=None)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check the remembered permissions while the block runs."""
        async with every("checking who may send ephemerals", self._check, _CHECK_INTERVAL):
            yield

    async def publish(self, group: UUID | str, user_id: UUID, body: bytes) -> UUID:
        """Send a message to the group with this id or name, whose id is returned.

        Raise NoSuchGroup, NotAMember, NotAnOwner, DatabaseUnavailable.
        """
        return self.publish_known(group, user_id, body) or await self._publish_anew(group, user_id, body)

    def publish_known(self, group: UUID | str, user_id: UUID, body: bytes) -> UUID | None:
        """Send a message likewise, without waiting. Return None if the permission is not known, and has to be read."""
        known = self._known.get((group, user_id))
        if known is None or known.epoch != self._log.epoch:
            return None
        now, checked_at = self._clock(), known.read_at
        if not known.by_role:
            checked_at = max(checked_at, self._checked_at.get(known.group_id, 0.0))
        if now >= checked_at + BELIEVED:
            return None
        span = self._hub.still_permitted(known.group_id, user_id, known.seq)
        if span is None:
            return None
        self._used_at[known.group_id] = now
        self._send(Ephemeral(self._epoch_tag(known.epoch), known.group_id, user_id, *span, body))
        return known.group_id

    async def _publish_anew(self, group: UUID | str, user_id: UUID, body: bytes) -> UUID:
        epoch, now, by_role = self._log.epoch, self._clock(), False
        view = await self._groups.find(str(group), user_id)
        try:
            check(Who.POSTER, actor=user_id, standing=Standing(view.role, view.join, view.post))
        except Forbidden:
            if not permits(await self._permissions_of(user_id), Permission.BROADCAST_ANY):
                raise
            by_role = True
        self._known.pop((group, user_id), None)
        self._known[group, user_id] = _Known(view.id, view.seq, epoch, now, by_role)
        self._used_at[view.id] = now
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        head = max(view.seq, self._hub.heads([view.id]).get(view.id, 0))
        self._send(Ephemeral(self._epoch_tag(epoch), view.id, user_id, view.seq, head, body))
        return view.id

    async def _check(self) -> None:
        """Learn of what has changed in the groups in use."""
        oldest = self._clock() - _IN_USE
        self._used_at = {group_id: at for group_id, at in self._used_at.items() if at > oldest}
        self._checked_at = {group_id: at for group_id, at in self._checked_at.items() if group_id in self._used_at}
        remaining = iter([*self._used_at])
        while group_ids := [*itertools.islice(remaining, _CHUNK)]:
            now, epoch = self._clock(), self._log.epoch
            heads = await self._log.heads(group_ids)
            if epoch != self._log.epoch:
                return
            for group_id, head in heads.items():
                self._hub.observe_head(group_id, head)
                self._checked_at[group_id] = now

    def _send(self, ephemeral: Ephemeral) -> None:
        self.sent.inc()
        self._hub.offer_ephemeral(ephemeral)
        self._broker.announce_ephemeral(ephemeral)

    def _epoch_tag(self, epoch: str) -> bytes:
        if self._tag[0] != epoch:
            self._tag = epoch, epoch_tag(epoch)
        return self._tag[1]
