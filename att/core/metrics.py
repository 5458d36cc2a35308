"""What the program counts as it goes: plain numbers, kept by whoever does the work, and read when somebody asks."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """How many values there were, by size, and their sum.

    ``counts[i]`` are those of at most ``bounds[i]`` and more than the bound before; the last are those above all.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def __add__(self, other: "Histogram") -> "Histogram":
        """Both together; they have the same bounds."""
        both = Histogram(self.bounds)
        both.counts = [one + another for one, another in zip(self.counts, other.counts, strict=True)]
        both.sum = self.sum + other.sum
        return both


class Asked(NamedTuple):
    """What was asked, and how it was answered: the route as it stands in the table, "" for none of them."""

    route: str
    method: str
    status: int


class Requests:
    """Requests, and how many seconds they took, by what was asked; those that were refused before that was known, by
    status; and the sockets that were closed, by code.
    """

    __slots__ = ("closes", "refusals", "times")

    def __init__(self) -> None:
        self.times: dict[tuple[str, str, int], Histogram] = {}
        self.refusals: dict[int, int] = {}
        self.closes: dict[int, int] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """One more. What is given as route and method must be of few kinds, whatever clients send."""
        asked = (route, method, status)
        times = self.times.get(asked)
        if times is None:
            times = self.times[Asked(*asked)] = Histogram()
        times.observe(seconds)

    def refused(self, status: int) -> None:
        """One more was refused with this status."""
        self.refusals[status] = self.refusals.get(status, 0) + 1

    def closed(self, code: int) -> None:
        """One more socket was closed with this code."""
        self.closes[code] = self.closes.get(code, 0) + 1


class Appends:
    """What was appended to the log: messages, the size of batches, and for how many seconds each message waited."""

    __slots__ = ("batches", "messages", "repeats", "waits")

    def __init__(self) -> None:
        self.messages = 0
        self.repeats = 0  # messages that were there already, by their idempotency key
        self.batches = Histogram(ITEMS)
        self.waits = Histogram()


class PoolUse(NamedTuple):
    """Connections that are open, those of them in use, how many there may be, and how many callers wait for one."""

    open: int
    in_use: int
    limit: int
    waiting: int


class QueueUse(NamedTuple):
    """How much is being done, and how much waits."""

    running: int
    waiting: int
