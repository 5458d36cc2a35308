"""To which groups' channels a node is to be subscribed. No loop and no socket: others do the asking."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple
from uuid import UUID

LINGER = 30.0  # seconds for which a channel is kept that nobody needs: most who go come back
LINGERING = 10_000  # channels that are


class SubscriptionChange(NamedTuple):
    """What is to be subscribed to, and from what to unsubscribe."""

    more: list[UUID]
    less: list[UUID]


class Subscriptions:
    """``wake`` is called when there is something to ask for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._clock = clock
        self._wanted: set[UUID] = set()
        self._to_ask: dict[UUID, None] = {}
        self._asked: set[UUID] = set()
        self._lingering: OrderedDict[UUID, float] = OrderedDict()

    def subscribe(self, group_id: UUID) -> None:
        """It is heard here from now on."""
        self._wanted.add(group_id)
        self._lingering.pop(group_id, None)
        if group_id not in self._asked:
            self._to_ask[group_id] = None
            self.wake()

    def unsubscribe(self, group_id: UUID) -> None:
        """It is heard here no more."""
        self._wanted.discard(group_id)
        self._to_ask.pop(group_id, None)
        if group_id in self._asked:
            self._lingering[group_id] = self._clock() + LINGER

    def begin(self) -> None:
        """There is a new connection, on which nothing has been asked for."""
        self._asked.clear()
        self._lingering.clear()
        self._to_ask = dict.fromkeys(self._wanted)

    def take(self, limit: int) -> SubscriptionChange:
        """What is to be asked for now, of each no more than that."""
        more = [*islice(self._to_ask, limit)]
        for group_id in more:
            del self._to_ask[group_id]
        self._asked.update(more)
        less = [*islice(self._overdue(), limit)]
        for group_id in less:
            del self._lingering[group_id]
        self._asked.difference_update(less)
        return SubscriptionChange(more, less)

    def _overdue(self) -> Iterator[UUID]:
        """Those that have lingered for long enough, or are too many, the oldest first."""
        now, surplus = self._clock(), len(self._lingering) - LINGERING
        for place, (group_id, until) in enumerate(self._lingering.items()):
            if until > now and place >= surplus:
                return
            yield group_id
