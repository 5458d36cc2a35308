"""What this node does when the bus rings."""

from att.realtime.bus import Ring
from att.realtime.feed import Feed
from att.realtime.hub import Hub
from att.session_cache import SessionCache


class Node:
    """The ``Ears`` of the application."""

    def __init__(self, hub: Hub, feed: Feed, sessions: SessionCache) -> None:
        self._hub = hub
        self._feed = feed
        self._sessions = sessions

    def heard(self, ring: Ring) -> None:
        for session_id in ring.sessions:
            self._sessions.session_ended(session_id)
        for joining in ring.joined:
            self._hub.joined(*joining)
        for group_id, seq in ring.groups.items():
            self._hub.ring(group_id, seq)
        if ring.sweep:
            self._feed.sweep_soon()

    def connected(self) -> None:
        self._sessions.trust(is_told=True)
        self._feed.sweep_soon()

    def disconnected(self) -> None:
        self._sessions.trust(is_told=False)
