"""What this node does when a bus rings."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from att.realtime.brokers.base import Announcement, Broker
from att.realtime.hub import Hub
from att.realtime.log_reader import LogReader
from att.sessions.cache import SessionCache
from att.sessions.revocation import SessionRevoker


class BrokerEvents:
    """The ``Ears`` of the application, on each of its buses: what one does not tell, another one does."""

    def __init__(
        self, hub: Hub, feed: LogReader, sessions: SessionCache, departures: SessionRevoker, buses: Sequence[Broker]
    ) -> None:
        self._hub = hub
        self._feed = feed
        self._sessions = sessions
        self._departures = departures
        self._buses = buses

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ring and hear all of them while the block runs."""
        async with contextlib.AsyncExitStack() as stack:
            for bus in self._buses:
                await stack.enter_async_context(bus.running(self))
            yield

    def heard(self, ring: Announcement) -> None:
        for session_id in ring.sessions:
            self._sessions.session_ended(session_id)
        self._departures.heard(ring.users)
        for joining in ring.joined:
            self._hub.joined(*joining)
        for event in ring.events:
            self._hub.offer(event)
        for group_id, seq in ring.groups.items():
            self._hub.ring(group_id, seq)
        if ring.sweep:
            self._feed.sweep_soon()

    def connected(self) -> None:
        self._sessions.trust(is_told=all(bus.is_connected for bus in self._buses))
        self._feed.sweep_soon()

    def tuned(self, group_ids: Sequence[UUID]) -> None:
        self._feed.look_up_soon(group_ids)

    def disconnected(self) -> None:
        self._sessions.trust(is_told=False)
