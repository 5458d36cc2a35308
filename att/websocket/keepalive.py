"""One timer for the checks of many peers, instead of one for each."""

import logging
from collections import defaultdict
from typing import Protocol

TICK = 0.5  # seconds between ticks

log = logging.getLogger("att")


class KeepalivePeer(Protocol):
    """A peer that is checked regularly. ``due``, the tick of its next check, belongs to the timer."""

    due: int

    def check_liveness(self) -> int:
        """Return the number of ticks to the next check, 1 or more. Must not detach any peer."""


class KeepaliveTimer:
    """Counts ticks in ``now``, instead of reading a clock: after a standstill no peer seems to be silent."""

    def __init__(self) -> None:
        self.now = 0
        self._due: defaultdict[int, set[KeepalivePeer]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(len(peers) for peers in self._due.values())

    def attach(self, peer: KeepalivePeer, ticks: int) -> None:
        """Check a peer after so many ticks."""
        peer.due = self.now + ticks
        self._due[peer.due].add(peer)

    def detach(self, peer: KeepalivePeer) -> None:
        """Stop checking a peer, if it is there."""
        peers = self._due.get(peer.due)
        if peers is not None:
            peers.discard(peer)
            if not peers:
                del self._due[peer.due]

    async def tick(self) -> None:
        """Check the peers that are due. One whose check fails is not checked again."""
        self.now += 1
        for peer in self._due.pop(self.now, ()):
            try:
                self.attach(peer, peer.check_liveness())
            except Exception:
                log.exception("the check of a WebSocket failed")
