"""Turns of those who read bytes of clients: few in each turn of the event loop, so that it serves all others, too."""

import asyncio
import sys
from collections.abc import Callable, Hashable

from att.core.fair_queue import FairQueue

READS_AT_ONCE = 2  # in one turn of the loop: some 130 KB each are read and looked at in them


class ReadTurns:
    """Gives each source its turns, the sources one after the other. A source is a user, or an address."""

    def __init__(self) -> None:
        self._queue: FairQueue[Callable[[], object]] = FairQueue(sys.maxsize, sys.maxsize)
        self._is_scheduled = False

    def ask(self, source: Hashable, take: Callable[[], object]) -> None:
        """Call ``take`` when it is the source's turn, soon if nobody else waits."""
        self._queue.push(source, take)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._give)

    async def wait(self, source: Hashable) -> None:
        """Return when it is the source's turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ask(source, lambda: None if turn.done() else turn.set_result(None))
        await turn

    def _give(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(READS_AT_ONCE):
            if (take := self._queue.pop()) is not None:
                loop.call_soon(take)
        self._is_scheduled = len(self._queue) > 0
        if self._is_scheduled:
            loop.call_soon(self._give)
