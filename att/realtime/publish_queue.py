"""Queue of publishes that wait to be appended, in the order in which they came."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from att.errors import AttError
from att.realtime.event_log import Publish, PublishResult

BATCH_ITEMS = 256
BATCH_BYTES = 4 * 1024**2

Outcome = PublishResult | AttError
PublishCallback = Callable[[Outcome], None]

log = logging.getLogger("att")


class PendingPublish:
    """A publish, its time of arrival, its callback, and the time since when its outcome is unknown."""

    __slots__ = ("_callback", "publish", "since", "unknown_since")

    def __init__(self, publish: Publish, callback: PublishCallback) -> None:
        self.publish = publish
        self.since = time.monotonic()
        self.unknown_since: float | None = None
        self._callback: PublishCallback | None = callback

    def resolve(self, outcome: Outcome) -> None:
        """Call back with the outcome, once. An error in the callback is logged."""
        callback, self._callback = self._callback, None
        if callback is None:
            return
        try:
            callback(outcome)
        except Exception:
            log.exception("the outcome of a publish could not be delivered")


def resolve_all(items: Iterable[PendingPublish], outcome: Outcome) -> None:
    """Resolve all items with the same outcome."""
    for item in items:
        item.resolve(outcome)


class PublishQueue:
    """Items in order. ``ready`` is set when one is added, ``bytes`` is the size of all bodies."""

    def __init__(self, items: Iterable[PendingPublish] = ()) -> None:
        self.ready = asyncio.Event()
        self.bytes = 0
        self._items: deque[PendingPublish] = deque()
        self.put_back([*items])

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: PendingPublish) -> None:
        """Add an item at the end."""
        self._items.append(item)
        self.bytes += len(item.publish.body)
        self.ready.set()

    def put_back(self, items: Sequence[PendingPublish]) -> None:
        """Add items at the beginning."""
        self._items.extendleft(reversed(items))
        self.bytes += sum(len(item.publish.body) for item in items)

    def take(self) -> list[PendingPublish]:
        """Remove and return a batch from the beginning."""
        batch: list[PendingPublish] = []
        size = 0
        while self._items and len(batch) < BATCH_ITEMS and size < BATCH_BYTES:
            batch.append(self._items.popleft())
            size += len(batch[-1].publish.body)
        self.bytes -= size
        return batch

    def take_older(self, moment: float) -> list[PendingPublish]:
        """Remove and return the items at the beginning that arrived before that moment."""
        taken = []
        while self._items and self._items[0].since < moment:
            taken.append(self._items.popleft())
        self.bytes -= sum(len(item.publish.body) for item in taken)
        return taken

    def take_all(self, matches: Callable[[PendingPublish], bool] | None = None) -> list[PendingPublish]:
        """Remove and return all items, or all wanted ones."""
        taken = [item for item in self._items if matches is None or matches(item)]
        if taken:
            gone = set(taken)
            self._items = deque(item for item in self._items if item not in gone)
            self.bytes -= sum(len(item.publish.body) for item in taken)
        return taken
