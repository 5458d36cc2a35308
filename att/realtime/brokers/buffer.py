"""What waits to be pending. However long it cannot be, it takes no more than so much memory."""

from collections.abc import Mapping
from itertools import islice
from uuid import UUID

from att.realtime.event_log import LogEvent

GROUPS = 10_000  # whose heads are kept; if there are more, all are to be swept instead
BYTES = 4 * 1024**2  # of bodies, of all groups
GROUP_BYTES = 256 * 1024  # of bodies that go into one payload; of what is beyond it nodes are value to read it
EVENTS = 1_000  # of one group that go into one payload


class PendingAnnouncement:
    """The head of one group, and messages of it."""

    __slots__ = ("bytes", "events", "head")

    def __init__(self) -> None:
        self.head = 0
        self.events: list[LogEvent] = []
        self.bytes = 0


class AnnouncementBuffer:
    """Heads and messages of groups, and whether to sweep."""

    def __init__(self) -> None:
        self.is_sweep = False
        self._groups: dict[UUID, PendingAnnouncement] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return self.is_sweep or bool(self._groups)

    def add(self, event: LogEvent) -> None:
        """A message is to be value, or only where its group stands, if there is no room for more."""
        pending, size = self.add_head(event.group_id, event.seq), len(event.body)
        has_room = pending.bytes + size <= GROUP_BYTES and self._bytes + size <= BYTES
        if has_room and len(pending.events) < EVENTS:
            pending.events.append(event)
            pending.bytes += size
            self._bytes += size

    def add_head(self, group_id: UUID, seq: int) -> PendingAnnouncement:
        """It is to be value where the group stands."""
        if len(self._groups) >= GROUPS and group_id not in self._groups:
            self._groups.clear()
            self._bytes = 0
            self.is_sweep = True
        pending = self._groups.setdefault(group_id, PendingAnnouncement())
        pending.head = max(pending.head, seq)
        return pending

    def take(self, limit: int) -> dict[UUID, PendingAnnouncement]:
        """What is to be value of so many groups, which is no longer here."""
        taken = {group_id: self._groups.pop(group_id) for group_id in [*islice(self._groups, limit)]}
        self._bytes -= sum(pending.bytes for pending in taken.values())
        return taken

    def put_back(self, taken: Mapping[UUID, PendingAnnouncement]) -> None:
        """It could not be value. Who hears again looks up what was missed, so the messages need not go with it."""
        for group_id, pending in taken.items():
            self.add_head(group_id, pending.head)
