"""Bookkeeping of the group channels that a node subscribes to. No loop, no socket."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple
from uuid import UUID

LINGER = 30.0  # seconds for which an unneeded channel is kept: most listeners come back
LINGERING = 10_000  # unneeded channels kept at most


class SubscriptionChange(NamedTuple):
    """Groups to subscribe to, and groups to unsubscribe from."""

    more: list[UUID]
    less: list[UUID]


class Subscriptions:
    """The wanted groups and the subscribed ones. ``wake`` is called when there is something to subscribe to."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._clock = clock
        self._wanted: set[UUID] = set()
        self._to_subscribe: dict[UUID, None] = {}
        self._subscribed: set[UUID] = set()
        self._lingering: OrderedDict[UUID, float] = OrderedDict()

    def subscribe(self, group_id: UUID) -> None:
        """Want a group's channel from now on."""
        self._wanted.add(group_id)
        self._lingering.pop(group_id, None)
        if group_id not in self._subscribed:
            self._to_subscribe[group_id] = None
            self.wake()

    def unsubscribe(self, group_id: UUID) -> None:
        """Stop wanting a group's channel."""
        self._wanted.discard(group_id)
        self._to_subscribe.pop(group_id, None)
        if group_id in self._subscribed:
            self._lingering[group_id] = self._clock() + LINGER

    def begin(self) -> None:
        """Start anew on a connection without subscriptions."""
        self._subscribed.clear()
        self._lingering.clear()
        self._to_subscribe = dict.fromkeys(self._wanted)

    def take(self, limit: int) -> SubscriptionChange:
        """Return the next changes, at most ``limit`` of each kind."""
        more = [*islice(self._to_subscribe, limit)]
        for group_id in more:
            del self._to_subscribe[group_id]
        self._subscribed.update(more)
        less = [*islice(self._overdue(), limit)]
        for group_id in less:
            del self._lingering[group_id]
        self._subscribed.difference_update(less)
        return SubscriptionChange(more, less)

    def _overdue(self) -> Iterator[UUID]:
        """Yield the channels that have lingered long enough, or exceed the limit, oldest first."""
        now, surplus = self._clock(), len(self._lingering) - LINGERING
        for index, (group_id, until) in enumerate(self._lingering.items()):
            if until > now and index >= surplus:
                return
            yield group_id
