"""How to log what happens again and again: once, and in words."""

import logging
import time
from collections.abc import Callable, Hashable

INTERVAL = 60.0  # seconds between two lines of one kind
_KINDS = 1_000  # of lines that are remembered

log = logging.getLogger("att")


class OutageLog:
    """Something that may go away and come back: a line for each."""

    __slots__ = ("_name", "_since")

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None

    def begin(self, why: str) -> None:
        """It is away; known already if it was away before."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning("%s is away: %s", self._name, why)

    def end(self) -> None:
        """It is there."""
        if self._since is not None:
            log.info("%s is back after %.1f s", self._name, time.monotonic() - self._since)
            self._since = None


class RateLimited:
    """Lets so many lines pass in a second, and counts those that it holds back."""

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._clock = clock
        self._end = float("-inf")
        self._left = self._untold = 0

    def passes(self) -> int | None:
        """How many were held back since the last one that passed; None when this one is held back, too."""
        now = self._clock()
        if now >= self._end:
            self._end, self._left = now + 1, self._lines
        if not self._left:
            self._untold += 1
            return None
        self._left -= 1
        untold, self._untold = self._untold, 0
        return untold


class OncePerInterval:
    """Lets one line of each kind pass in a while, and counts those that it holds back."""

    def __init__(self, seconds: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._told: dict[Hashable, float] = {}
        self._untold: dict[Hashable, int] = {}

    def passes(self, kind: Hashable) -> int | None:
        """How many were held back since the last one that passed; None when this one is held back, too."""
        now = self._clock()
        if kind in self._told and now < self._told[kind] + self._seconds:
            self._untold[kind] = self._untold.get(kind, 0) + 1
            return None
        if len(self._told) >= _KINDS:
            self._told.clear()
            self._untold.clear()
        self._told[kind] = now
        return self._untold.pop(kind, 0)
