"""A semaphore whose sources take turns, free of I/O."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextvars import ContextVar
from typing import NamedTuple

from att.core.fair_queue import FairQueue
from att.errors import Busy

SOURCE: ContextVar[Hashable] = ContextVar("source", default="")  # the user, address or own task for which code runs


class OwnTask(str):
    """A source that is a task of the server's own. It may wait in a full queue, since there are few of them."""

    __slots__ = ()


class _Turn(NamedTuple):
    """A source that waits, and its future: True for a place, False if it must give way."""

    source: Hashable
    future: asyncio.Future[bool]


class FairSemaphore:
    """Places that sources share: those who wait take turns, and no source has more than ``most`` places.

    So one source keeps no other from its turn, however much it asks for and however long that takes. At most ``queue``
    wait, ``share`` of them of one source.
    """

    def __init__(self, places: int, *, most: int, queue: int, share: int) -> None:
        self._free = places
        self._most = most
        self._taken: Counter[Hashable] = Counter()
        self._turns: FairQueue[_Turn] = FairQueue(queue, share)

    @property
    def taken(self) -> int:
        """Number of places in use."""
        return self._taken.total()

    @property
    def waiting(self) -> int:
        """Number of those who wait."""
        return len(self._turns)

    @contextlib.asynccontextmanager
    async def place(self, source: Hashable) -> AsyncIterator[None]:
        """Have a place while the block runs. Raise Busy if too many wait."""
        await self.acquire(source)
        try:
            yield
        finally:
            self.release(source)

    async def acquire(self, source: Hashable) -> None:
        """Wait for a place. Raise Busy if too many wait."""
        if self._may_take(source):
            self._take(source)
            return
        turn = _Turn(source, asyncio.get_running_loop().create_future())
        displaced = self._turns.push(source, turn, may_exceed=isinstance(source, OwnTask))
        if displaced is turn:
            raise Busy
        if displaced is not None and not displaced.future.done():
            displaced.future.set_result(False)
        try:
            has_place = await turn.future
        except asyncio.CancelledError:
            self._turns.discard(source, turn)
            if not turn.future.cancelled() and turn.future.result():
                self.release(source)
            raise
        if not has_place:
            raise Busy

    def release(self, source: Hashable) -> None:
        """Give a place of the source back, to whose turn it is."""
        self._free += 1
        self._taken[source] -= 1
        if not self._taken[source]:
            del self._taken[source]
        while self._free and (turn := self._turns.pop(self._may_take)) is not None:
            if not turn.future.done():
                self._take(turn.source)
                turn.future.set_result(True)

    def close(self) -> None:
        """Cancel those who wait."""
        while (turn := self._turns.pop()) is not None:
            turn.future.cancel()

    def _may_take(self, source: Hashable) -> bool:
        return self._free > 0 and self._taken[source] < self._most

    def _take(self, source: Hashable) -> None:
        self._free -= 1
        self._taken[source] += 1
