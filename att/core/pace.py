"""Minimum pace at which a client must send a body or a message, and take a response."""

PACE_TIME = 10.0  # seconds in which ``PACE_BYTES`` must arrive
PACE_BYTES = 10 * 1024
ARRIVAL_TIMEOUT = 30.0  # seconds for a whole body or message to arrive


class Pace:
    """Tells until when the next bytes must have passed, so many in each ``period``, and all within ``timeout``."""

    __slots__ = ("_end", "_passed", "_period", "due")

    def __init__(self, now: float, timeout: float, period: float) -> None:
        self._end = now + timeout
        self._passed = 0
        self._period = period
        self.due = min(self._end, now + period)

    def after(self, passed: int, now: float) -> float:
        """Return the time that is due when so many bytes have passed in all."""
        if passed - self._passed >= PACE_BYTES:
            self._passed = passed
            self.due = min(self._end, now + self._period)
        return self.due

    def extend(self, seconds: float) -> None:
        """Allow for time in which nothing could pass."""
        self._end += seconds
        self.due += seconds
