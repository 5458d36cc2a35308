"""When to look at each of many peers again: one clock for all of them, instead of timers for each."""

import logging
from collections import defaultdict
from typing import Protocol

TICK = 0.5  # seconds between ticks

log = logging.getLogger("att")


class KeepalivePeer(Protocol):
    """Whoever is looked at now and then. ``due`` is the heartbeat's own: the beat at which that is."""

    due: int

    def check_liveness(self) -> int:
        """After how many ticks, 1 or more, it is to be looked at again. It must not detach anybody."""


class KeepaliveTimer:
    """``now`` counts the ticks. They are counted rather than timed: when all stood still, nobody seems to be silent."""

    def __init__(self) -> None:
        self.now = 0
        self._due: defaultdict[int, set[KeepalivePeer]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(len(peers) for peers in self._due.values())

    def attach(self, peer: KeepalivePeer, ticks: int) -> None:
        """Look at it after so many ticks."""
        peer.due = self.now + ticks
        self._due[peer.due].add(peer)

    def detach(self, peer: KeepalivePeer) -> None:
        """Look at it no more. Harmless when it is not there."""
        peers = self._due.get(peer.due)
        if peers is not None:
            peers.discard(peer)
            if not peers:
                del self._due[peer.due]

    async def tick(self) -> None:
        """Look at those whose time it is. Who fails to be looked at fails alone, and is looked at no more."""
        self.now += 1
        for peer in self._due.pop(self.now, ()):
            try:
                self.attach(peer, peer.check_liveness())
            except Exception:
                log.exception("a socket cannot be looked after")
