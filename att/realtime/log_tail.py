"""The time after which the log's events may not have been seen yet. No loop, no database."""

from collections import deque
from datetime import datetime
from typing import NamedTuple

SNAPSHOTS = 6  # reads that are remembered: transactions may last as long before all groups are compared


class Snapshot(NamedTuple):
    """The moment at which a read began. It saw all transactions below ``xmin``; those from ``next`` on began later."""

    began: datetime
    xmin: int
    next: int


class LogTail:
    """Finds from when on the log is to be read so that no event is missed, though events are not committed in order.

    A transaction gets its number before it gives an event its time. So an event that a read did not see, of a
    transaction of ``xmin`` or above, is not older than any read whose ``next`` was not above that.
    """

    def __init__(self) -> None:
        self._epoch = ""
        self._marks: deque[Snapshot] = deque(maxlen=SNAPSHOTS)

    def since(self, epoch: str) -> datetime | None:
        """Return the time from which the next read must begin, or None if that is not known in this epoch."""
        marks = self._marks
        return marks[0].began if epoch == self._epoch and marks and marks[0].next <= marks[-1].xmin else None

    def note(self, epoch: str, snapshot: Snapshot) -> bool:
        """Note a read from ``since`` on, in this epoch. Return False if it may have missed earlier events."""
        since = self.since(epoch)
        if epoch != self._epoch:  # the numbers of its transactions may be lower
            self._epoch = epoch
            self._marks.clear()
        self._marks.append(snapshot)
        while len(self._marks) > 1 and self._marks[1].next <= snapshot.xmin:
            self._marks.popleft()
        return since is not None and since <= snapshot.began  # else the clock was set back
