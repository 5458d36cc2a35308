"""Queue for publishes to groups whose row another transaction has locked.

One statement checks all locked groups. Nothing is appended from here: publishes go back to the main queue.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from uuid import UUID

from att.errors import Busy, DatabaseUnavailable
from att.realtime.event_log import EventLog, key_of
from att.realtime.publish_queue import PendingPublish, PublishQueue, resolve_all

_MAX_WAIT = 3.0  # seconds after which a publish to a locked group is refused
_PAUSE = 0.1  # seconds between checks of the locks


class LockedGroups:
    """The locked groups, and in ``queue`` the publishes to them, which return to ``free`` after the unlock."""

    def __init__(self, log: EventLog, free: PublishQueue) -> None:
        self.queue = PublishQueue()
        self._log = log
        self._free = free
        self._holders: dict[UUID, str] = {}
        self._ids: dict[str, UUID] = {}  # of locked groups, by the keys of their names
        self._handed_over: set[UUID] = set()
        self._is_any = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._holders)

    def queue_for(self, group: UUID | str) -> PublishQueue:
        """Return the queue for publishes to this group."""
        return self._free if self._locked_id(group) is None else self.queue

    async def take_locked(self, batch: Sequence[PendingPublish]) -> list[PendingPublish]:
        """Queue a batch's publishes to locked groups here. Return the others. Raise what the log raises.

        Later publishes to the same groups move here from ``free``.
        """
        found = await self._log.lock_holders({item.publish.group for item in batch})
        locks = [lock for lock in found if lock[0] not in self._handed_over]
        self._handed_over.clear()
        if not locks:
            return [*batch]
        for group_id, key, holder in locks:
            self._holders.setdefault(group_id, holder)
            self._ids[key] = group_id
        self._is_any.set()
        for item in (*filter(self._is_locked, batch), *self._free.take_all(self._is_locked)):
            self.queue.put(item)
        return [item for item in batch if not self._is_locked(item)]

    async def recheck(self) -> None:
        """Check regularly which transactions hold the locks, while any group is locked."""
        while True:
            await self._is_any.wait()
            await asyncio.sleep(_PAUSE)
            resolve_all(self.queue.take_older(time.monotonic() - _MAX_WAIT), Busy())
            try:
                locks = await self._log.lock_holders(self._holders.keys())
            except Busy:
                continue
            except Exception as error:
                self._unlock(self._holders.keys())  # the main queue reports the error
                if not isinstance(error, DatabaseUnavailable):
                    raise
            else:
                self._update({group_id: holder for group_id, _, holder in locks})

    def _update(self, holders: dict[UUID, str]) -> None:
        """Apply the present lock holders.

        If the holder of a group has changed, the lock changes hands quickly, as when other servers append. An append
        that waits in the database gets the lock in turn, while a check may never find the group free.
        """
        changed = {group_id for group_id, holder in self._holders.items() if holders.get(group_id) != holder}
        self._handed_over |= changed & holders.keys()
        self._unlock(changed)

    def _unlock(self, group_ids: Collection[UUID]) -> None:
        gone = {*group_ids}
        self._free.put_back(self.queue.take_all(lambda item: self._locked_id(item.publish.group) in gone))
        self._free.ready.set()
        for group_id in gone:
            del self._holders[group_id]
        self._ids = {key: group_id for key, group_id in self._ids.items() if group_id not in gone}
        if not self._holders:
            self._is_any.clear()

    def _locked_id(self, group: UUID | str) -> UUID | None:
        """Return the group's id if it is locked, else None."""
        if isinstance(group, UUID):
            return group if group in self._holders else None
        return self._ids.get(key_of(group) or "") if self._ids else None

    def _is_locked(self, item: PendingPublish) -> bool:
        return self._locked_id(item.publish.group) is not None
