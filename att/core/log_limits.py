"""Limits on log lines about what happens again and again."""

import logging
import time
from collections.abc import Callable, Hashable

INTERVAL = 60.0  # seconds between two lines of one kind
_KINDS = 1_000  # kinds of lines that are remembered

log = logging.getLogger("att")


class OutageLog:
    """Log of the outages of one service: a line when an outage begins, and one when it ends."""

    __slots__ = ("_name", "_since")

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None

    def begin(self, why: str) -> None:
        """Log the outage, unless it has begun before."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning("%s is away: %s", self._name, why)

    def end(self) -> None:
        """Log the end of the outage, if there was one."""
        if self._since is not None:
            log.info("%s is back after %.1f s", self._name, time.monotonic() - self._since)
            self._since = None


class RateLimited:
    """Allows ``lines`` log lines a second, and counts the suppressed ones."""

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._clock = clock
        self._end = float("-inf")
        self._left = self._suppressed = 0

    def passes(self) -> int | None:
        """Return the number of lines suppressed since the last allowed one, or None if this one is suppressed."""
        now = self._clock()
        if now >= self._end:
            self._end, self._left = now + 1, self._lines
        if not self._left:
            self._suppressed += 1
            return None
        self._left -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class OncePerInterval:
    """Allows one log line of each kind per ``seconds``, and counts the suppressed ones."""

    def __init__(self, seconds: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._allowed_at: dict[Hashable, float] = {}
        self._suppressed: dict[Hashable, int] = {}

    def passes(self, kind: Hashable) -> int | None:
        """Return the number of lines suppressed since the last allowed one, or None if this one is suppressed."""
        now = self._clock()
        if kind in self._allowed_at and now < self._allowed_at[kind] + self._seconds:
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return None
        if len(self._allowed_at) >= _KINDS:
            self._allowed_at.clear()
            self._suppressed.clear()
        self._allowed_at[kind] = now
        return self._suppressed.pop(kind, 0)
