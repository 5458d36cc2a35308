"""What waits to be appended to the log, in the order in which it came."""

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
    """A publish, since when it is here, whom to tell what became of it, and since when that is unknown."""

    __slots__ = ("_callback", "publish", "since", "unknown_since")

    def __init__(self, publish: Publish, callback: PublishCallback) -> None:
        self.publish = publish
        self.since = time.monotonic()
        self.unknown_since: float | None = None
        self._callback: PublishCallback | None = callback

    def resolve(self, outcome: Outcome) -> None:
        """Tell it, once. Whoever fails to take it fails alone."""
        callback, self._callback = self._callback, None
        if callback is None:
            return
        try:
            callback(outcome)
        except Exception:
            log.exception("nobody could be told what became of a message")


def resolve_all(items: Iterable[PendingPublish], outcome: Outcome) -> None:
    """Tell the same to each."""
    for item in items:
        item.resolve(outcome)


class PublishQueue:
    """Items in a row. ``ready`` is set when one is put in, ``bytes`` is the size of all their bodies."""

    def __init__(self, items: Iterable[PendingPublish] = ()) -> None:
        self.ready = asyncio.Event()
        self.bytes = 0
        self._items: deque[PendingPublish] = deque()
        self.put_back([*items])

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: PendingPublish) -> None:
        """At the end."""
        self._items.append(item)
        self.bytes += len(item.publish.body)
        self.ready.set()

    def put_back(self, items: Sequence[PendingPublish]) -> None:
        """At the beginning."""
        self._items.extendleft(reversed(items))
        self.bytes += sum(len(item.publish.body) for item in items)

    def take(self) -> list[PendingPublish]:
        """A batch from the beginning."""
        batch: list[PendingPublish] = []
        size = 0
        while self._items and len(batch) < BATCH_ITEMS and size < BATCH_BYTES:
            batch.append(self._items.popleft())
            size += len(batch[-1].publish.body)
        self.bytes -= size
        return batch

    def take_older(self, moment: float) -> list[PendingPublish]:
        """Those from the beginning that have been here since before that moment."""
        taken = []
        while self._items and self._items[0].since < moment:
            taken.append(self._items.popleft())
        self.bytes -= sum(len(item.publish.body) for item in taken)
        return taken

    def take_all(self, is_wanted: Callable[[PendingPublish], bool] | None = None) -> list[PendingPublish]:
        """All that there are, or all that are wanted."""
        taken = [item for item in self._items if is_wanted is None or is_wanted(item)]
        if taken:
            gone = set(taken)
            self._items = deque(item for item in self._items if item not in gone)
            self.bytes -= sum(len(item.publish.body) for item in taken)
        return taken
