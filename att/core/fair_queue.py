"""A bounded queue whose sources take turns, free of I/O."""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class FairQueue(Generic[_T]):
    """Items in order for each source; the sources take turns, so none waits for all items of another.

    It has at most ``limit`` items, and at most ``share`` of one source.
    """

    def __init__(self, limit: int, share: int) -> None:
        self._limit = limit
        self._share = share
        self._queues: dict[Hashable, deque[_T]] = {}  # the next to take its turn first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, source: Hashable, item: _T, *, may_exceed: bool = False) -> _T | None:
        """Add an item. Return the item that has no place, perhaps this one, or None.

        In a full queue a source gives way that has more items than this one, unless this one ``may_exceed`` the limit.
        """
        own = self._queues.get(source, ())
        if len(own) >= self._share:
            return item
        displaced = None
        if self._count >= self._limit and not may_exceed:
            if self._count == len(self._queues):
                return item  # nobody has two: quickly, since very many may come
            longest = max(self._queues, key=lambda name: len(self._queues[name]), default=source)
            if len(self._queues.get(longest, ())) <= len(own) + 1:
                return item
            displaced = self._queues[longest].pop()
            self._count -= 1
        self._queues.setdefault(source, deque()).append(item)
        self._count += 1
        return displaced

    def pop(self, may: Callable[[Hashable], bool] = lambda _source: True) -> _T | None:
        """Remove and return the first item of the source whose turn it is; None if there is none that ``may``."""
        source = next(filter(may, self._queues), None)
        if source is None:
            return None
        queue = self._queues.pop(source)
        item = queue.popleft()
        if queue:
            self._queues[source] = queue
        self._count -= 1
        return item

    def discard(self, source: Hashable, item: _T) -> None:
        """Remove an item, if it is there."""
        queue = self._queues.get(source)
        if queue is None or item not in queue:
            return
        queue.remove(item)
        self._count -= 1
        if not queue:
            del self._queues[source]
