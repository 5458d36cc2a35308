"""Handling of broker events on this node."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from att.realtime.brokers.base import Announcement, Broker
from att.realtime.brokers.codec import epoch_tag
from att.realtime.ephemerals import Ephemeral
from att.realtime.hub import Hub
from att.realtime.log_reader import LogReader
from att.realtime.marker_updates import MarkerUpdates
from att.sessions.cache import SessionCache
from att.sessions.revocation import SessionRevoker


@dataclass
class BrokerEvents:
    """The application's ``BrokerEventHandler``, attached to each of its brokers."""

    hub: Hub
    log_reader: LogReader
    sessions: SessionCache
    revoker: SessionRevoker
    markers: MarkerUpdates
    brokers: Sequence[Broker]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all brokers while the block runs."""
        self.log_reader.brokers = self.brokers
        async with contextlib.AsyncExitStack() as stack:
            for broker in self.brokers:
                await stack.enter_async_context(broker.running(self))
            yield

    def on_announcement(self, announcement: Announcement) -> None:
        for session_id in announcement.sessions:
            self.sessions.session_ended(session_id)
        self.revoker.check_users(announcement.users)
        for joining in announcement.joined:
            self.hub.joined(*joining)
        if announcement.events and announcement.epoch_tag == epoch_tag(self.log_reader.epoch):
            for event in announcement.events:
                self.hub.offer(event)
        elif announcement.events:  # of another epoch, or by a server of 0.2.0, which does not tell it
            self.log_reader.look_up_soon([*announcement.groups])
        for group_id, seq in announcement.groups.items():
            self.hub.observe_head(group_id, seq)
        self._offer_ephemerals(announcement.ephemerals)
        for position in announcement.markers:
            self.hub.marker_moved(position)
        if announcement.sweep:
            self.log_reader.sweep_soon()
            self.markers.read_missed()

    def _offer_ephemerals(self, ephemerals: Sequence[Ephemeral]) -> None:
        """Deliver the ephemerals of the present epoch; the seqs of another one say nothing about it."""
        tag = epoch_tag(self.log_reader.epoch) if ephemerals else b""
        for ephemeral in ephemerals:
            if ephemeral.epoch_tag == tag:
                self.hub.offer_ephemeral(ephemeral)

    def on_connected(self) -> None:
        self.sessions.trust(is_notified=all(broker.is_connected for broker in self.brokers))
        self.log_reader.sweep_soon()
        self.markers.read_missed()

    def on_subscribed(self, group_ids: Sequence[UUID]) -> None:
        self.log_reader.look_up_soon(group_ids)

    def on_disconnected(self) -> None:
        self.sessions.trust(is_notified=False)
        self.markers.begin_outage()

    def on_malformed(self) -> None:
        self.log_reader.doubt()
