"""Handling of broker events on this node."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from att.realtime.brokers.base import Announcement, Broker
from att.realtime.brokers.codec import epoch_tag
from att.realtime.hub import Hub
from att.realtime.log_reader import LogReader
from att.sessions.cache import SessionCache
from att.sessions.revocation import SessionRevoker


class BrokerEvents:
    """The application's ``BrokerEventHandler``, attached to each of its brokers."""

    def __init__(
        self,
        hub: Hub,
        log_reader: LogReader,
        sessions: SessionCache,
        revoker: SessionRevoker,
        brokers: Sequence[Broker],
    ) -> None:
        self._hub = hub
        self._log_reader = log_reader
        self._sessions = sessions
        self._revoker = revoker
        self._brokers = brokers

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all brokers while the block runs."""
        async with contextlib.AsyncExitStack() as stack:
            for broker in self._brokers:
                await stack.enter_async_context(broker.running(self))
            yield

    def on_announcement(self, announcement: Announcement) -> None:
        for session_id in announcement.sessions:
            self._sessions.session_ended(session_id)
        self._revoker.check_users(announcement.users)
        for joining in announcement.joined:
            self._hub.joined(*joining)
        if announcement.events and announcement.epoch_tag == epoch_tag(self._log_reader.epoch):
            for event in announcement.events:
                self._hub.offer(event)
        elif announcement.events:  # of another epoch, or by a server of 0.2.0, which does not tell it
            self._log_reader.look_up_soon([*announcement.groups])
        for group_id, seq in announcement.groups.items():
            self._hub.observe_head(group_id, seq)
        if announcement.sweep:
            self._log_reader.sweep_soon()

    def on_connected(self) -> None:
        self._sessions.trust(is_notified=all(broker.is_connected for broker in self._brokers))
        self._log_reader.sweep_soon()

    def on_subscribed(self, group_ids: Sequence[UUID]) -> None:
        self._log_reader.look_up_soon(group_ids)

    def on_disconnected(self) -> None:
        self._sessions.trust(is_notified=False)
