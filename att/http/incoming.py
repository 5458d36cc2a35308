"""Memory of one request on its way in, counted from its first bytes on."""

from collections.abc import Callable

from aiohttp import web

from att.core.memory import MemoryBudget


class IncomingRequest:
    """Counts what has arrived of a request: a ``MemoryHolder``. ``refuse`` is called when the budget is full."""

    __slots__ = ("_memory", "held", "held_since", "refuse")

    def __init__(self, memory: MemoryBudget, refuse: Callable[[], None]) -> None:
        self._memory = memory
        self.held = 0
        self.held_since = 0.0
        self.refuse = refuse

    def grow_to(self, size: int) -> None:
        """Count so many bytes in all, or more if there were more before."""
        if size > self.held:
            self._memory.charge(self, size - self.held)

    def settle(self) -> None:
        """Note that the request is complete, so it is not refused any more."""
        self._memory.settle(self)

    def release(self, rest: int = 0) -> None:
        """Count no more than ``rest``, which is of the next request."""
        rest = min(rest, self.held)
        self._memory.release(self, self.held)
        if rest:
            self._memory.charge(self, rest)

    def give_up(self) -> str:
        self.refuse()
        self.release()
        return "body"


INCOMING = web.RequestKey("incoming", IncomingRequest)
