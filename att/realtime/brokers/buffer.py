"""Buffer of pending announcements, bounded in memory however long the broker is away."""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any
from uuid import UUID

from att.core.names import NAME_LENGTH
from att.groups.read_markers import MarkerPosition
from att.realtime.ephemerals import Ephemeral
from att.realtime.event_log import LogEvent

GROUPS = 10_000  # with pending heads; more are replaced by one sweep
BYTES = 4 * 1024**2  # of bodies in all groups
GROUP_BYTES = 256 * 1024  # of bodies in one payload; nodes read the rest from the log
EVENTS = 1_000  # of one group in one payload
PENDING_EPHEMERALS = 10_000  # pending
EPHEMERAL_BYTES = 4 * 1024**2  # of their bodies
MARKERS = 10_000  # pending; further ones are left to a sweep
MARKERS_AT_ONCE = 20  # in one payload, which must have less than 8,000 bytes


class PendingMarkers:
    """Read markers to be announced, the highest of each user and group. ``is_full`` once one was dropped."""

    def __init__(self) -> None:
        self.is_full = False
        self._markers: dict[tuple[UUID, UUID], MarkerPosition] = {}

    def __bool__(self) -> bool:
        return bool(self._markers)

    def add(self, position: MarkerPosition) -> None:
        """Add a marker."""
        key = position.user_id, position.group_id
        if len(self._markers) >= MARKERS and key not in self._markers:
            self.is_full = True
        elif key not in self._markers or self._markers[key].seq < position.seq:
            self._markers[key] = position

    def take(self) -> list[MarkerPosition]:
        """Remove and return as many markers as fit into one payload."""
        return [self._markers.pop(key) for key in [*islice(self._markers, MARKERS_AT_ONCE)]]


def encode_markers(markers: Iterable[MarkerPosition], sender: object) -> str:
    """Return the payload, in JSON. Names are cut, since SQL may have made longer ones."""
    rows = [[str(each.user_id), str(each.group_id), each.name[:NAME_LENGTH], each.seq] for each in markers]
    return json.dumps({"markers": rows, "from": str(sender)}, separators=(",", ":"), ensure_ascii=False)


def decode_markers(value: Mapping[str, Any], *, own: object) -> tuple[MarkerPosition, ...]:
    """Return the markers of a payload; none of this node's own. Raise an error if they are malformed."""
    if value.get("from") == str(own):
        return ()
    return tuple(
        MarkerPosition(UUID(user_id), UUID(group_id), str(name), int(seq))
        for user_id, group_id, name, seq in value.get("markers", ())
    )


class PendingEphemerals:
    """Ephemerals to be sent to other nodes, in order. If there are too many the oldest are dropped."""

    def __init__(self) -> None:
        self._items: deque[Ephemeral] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, ephemeral: Ephemeral) -> None:
        """Add an ephemeral."""
        self._items.append(ephemeral)
        self._bytes += len(ephemeral.body)
        while self._bytes > EPHEMERAL_BYTES or len(self._items) > PENDING_EPHEMERALS:
            self._bytes -= len(self._items.popleft().body)

    def take(self, size: int, overhead: int) -> list[Ephemeral]:
        """Remove and return the next ones, of at most so many bytes with an overhead for each."""
        taken: list[Ephemeral] = []
        while self._items and (size := size - len(self._items[0].body) - overhead) >= 0:
            taken.append(self._items.popleft())
        self._bytes -= sum(len(ephemeral.body) for ephemeral in taken)
        return taken


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
