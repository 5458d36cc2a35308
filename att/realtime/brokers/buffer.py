"""Buffer of pending announcements, bounded in memory however long the broker is away."""

from collections.abc import Mapping
from itertools import islice
from uuid import UUID

from att.realtime.event_log import LogEvent

GROUPS = 10_000  # with pending heads; more are replaced by one sweep
BYTES = 4 * 1024**2  # of bodies in all groups
GROUP_BYTES = 256 * 1024  # of bodies in one payload; nodes read the rest from the log
EVENTS = 1_000  # of one group in one payload


class PendingAnnouncement:
    """The head of one group, and messages of it, all of one epoch."""

    __slots__ = ("bytes", "epoch", "events", "head")

    def __init__(self) -> None:
        self.epoch = ""
        self.head = 0
        self.events: list[LogEvent] = []
        self.bytes = 0


class AnnouncementBuffer:
    """Pending heads and messages by group, and whether to announce a sweep."""

    def __init__(self) -> None:
        self.is_sweep = False
        self._groups: dict[UUID, PendingAnnouncement] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return self.is_sweep or bool(self._groups)

    def add(self, event: LogEvent, epoch: str) -> None:
        """Add a message, or its group's head alone if the buffer is full. Drop messages of another epoch."""
        pending, size = self.add_head(event.group_id, event.seq), len(event.body)
        if pending.epoch != epoch:
            self._bytes -= pending.bytes
            pending.epoch, pending.bytes = epoch, 0
            pending.events.clear()
        has_room = pending.bytes + size <= GROUP_BYTES and self._bytes + size <= BYTES
        if has_room and len(pending.events) < EVENTS:
            pending.events.append(event)
            pending.bytes += size
            self._bytes += size

    def add_head(self, group_id: UUID, seq: int) -> PendingAnnouncement:
        """Add a group's head. Return the group's pending announcement."""
        if len(self._groups) >= GROUPS and group_id not in self._groups:
            self._groups.clear()
            self._bytes = 0
            self.is_sweep = True
        pending = self._groups.setdefault(group_id, PendingAnnouncement())
        pending.head = max(pending.head, seq)
        return pending

    def take(self, limit: int) -> dict[UUID, PendingAnnouncement]:
        """Remove and return the announcements of up to ``limit`` groups."""
        taken = {group_id: self._groups.pop(group_id) for group_id in [*islice(self._groups, limit)]}
        self._bytes -= sum(pending.bytes for pending in taken.values())
        return taken

    def put_back(self, taken: Mapping[UUID, PendingAnnouncement]) -> None:
        """Restore announcements that could not be sent. Heads suffice: nodes read the log after reconnecting."""
        for group_id, pending in taken.items():
            self.add_head(group_id, pending.head)
