"""One budget of memory for what clients make the process hold: bodies, unfinished messages, and what they do not read.

When it is full, the holder that costs most, by bytes times seconds, gives its memory up, then the next one.
"""

import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Counter

KINDS = ("body", "message", "outbox", "response")
OVERHEAD = 128  # bytes that a waiting frame takes beside its own
UNCOUNTED_SHARE = 4  # a quarter of the budget is not given out: Python and the C library need it beside what is counted
_RELIEF = 8  # a full budget is emptied by an eighth, so that looking for the largest holders is rare


class MemoryHolder(Protocol):
    """Part of the server that holds memory for a client. ``held`` and ``held_since`` belong to the budget."""

    held: int  # bytes
    held_since: float

    def give_up(self) -> str:
        """Release the memory, since the budget is full. Return the kind, one of ``KINDS``."""


class MemoryBudget:
    """Counts the bytes that are held, and makes holders give theirs up when there are more than ``limit``."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.used = 0
        self.given_up = Counter(
            "att_memory_given_up",
            "Times that a client lost what it held, as memory was short.",
            ["kind"],
            registry=None,
        )
        for kind in KINDS:
            self.given_up.labels(kind)
        self._clock = clock
        self._holders: dict[MemoryHolder, None] = {}
        self._outboxes: dict[int, int] = {}  # of each waiting frame, by its id, the number of outboxes that hold it
        self._is_making_room = False

    def charge(self, holder: MemoryHolder, size: int) -> None:
        """Count more bytes of a holder, which may make it give them up."""
        self._grow(holder, size)
        self._add(size)

    def release(self, holder: MemoryHolder, size: int) -> None:
        """Count fewer bytes."""
        self._shrink(holder, size)
        self.used -= size

    def settle(self, holder: MemoryHolder) -> None:
        """Spare a holder from now on: it will release its memory by itself soon."""
        self._holders.pop(holder, None)

    def charge_frame(self, holder: MemoryHolder, frame: bytes) -> None:
        """Count a frame that waits in an outbox. However many outboxes hold it, it is one object, and counts once."""
        outboxes = self._outboxes.get(id(frame), 0)
        self._outboxes[id(frame)] = outboxes + 1
        self._grow(holder, len(frame) + OVERHEAD)
        if not outboxes:
            self._add(len(frame) + OVERHEAD)

    def release_frame(self, holder: MemoryHolder, frame: bytes) -> None:
        """Count a frame that no longer waits there."""
        outboxes = self._outboxes.pop(id(frame)) - 1
        if outboxes:
            self._outboxes[id(frame)] = outboxes
        else:
            self.used -= len(frame) + OVERHEAD
        self._shrink(holder, len(frame) + OVERHEAD)

    def _grow(self, holder: MemoryHolder, size: int) -> None:
        if not holder.held:
            holder.held_since = self._clock()
            self._holders[holder] = None
        holder.held += size

    def _shrink(self, holder: MemoryHolder, size: int) -> None:
        holder.held -= size
        if not holder.held:
            self._holders.pop(holder, None)

    def _add(self, size: int) -> None:
        self.used += size
        if self.used > self.limit and not self._is_making_room:
            self._is_making_room = True
            try:
                self._make_room()
            finally:
                self._is_making_room = False

    def _make_room(self) -> None:
        now, goal = self._clock(), self.limit - self.limit // _RELIEF
        costs = {holder: holder.held * (now - holder.held_since) for holder in self._holders}
        for holder in sorted(costs, key=costs.__getitem__, reverse=True):
            if self.used <= goal:
                break
            self.given_up.labels(holder.give_up()).inc()
