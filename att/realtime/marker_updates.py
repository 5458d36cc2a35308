"""Updates of read markers, told to the users' sockets on every node."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from itertools import islice
from uuid import UUID

from att.core.tasks import supervise
from att.errors import Unavailable
from att.groups.read_markers import ReadMarker, ReadMarkers
from att.realtime.brokers.base import Broker
from att.realtime.hub import Hub

MARGIN = 30.0  # seconds for which an outage may have lasted before it was noticed
_USERS = 1_000  # whose markers are read at once
_PAUSE = 1.0  # seconds between attempts


class MarkerUpdates:
    """Moves markers, and tells users' sockets of it.

    Announcements may be lost, so after an outage of the broker the markers that have moved meanwhile are read.
    """

    def __init__(
        self, markers: ReadMarkers, hub: Hub, broker: Broker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._markers = markers
        self._hub = hub
        self._broker = broker
        self._clock = clock
        self._missed_since: float | None = None
        self._to_read = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read missed updates while the block runs."""
        async with supervise("reading of moved markers", self._read_missed):
            yield

    async def move(self, group: UUID | str, user_id: UUID, seq: int) -> ReadMarker:
        """Move a member's marker. Raise NoSuchGroup and NotAMember."""
        marker = await self._markers.move(group, user_id, seq)
        if marker.has_moved:
            self._hub.marker_moved(marker.position)
            self._broker.announce_marker(marker.position)
        return marker

    def begin_outage(self) -> None:
        """Note that announcements are missed from now on."""
        if self._missed_since is None:
            self._missed_since = self._clock()

    def read_missed(self) -> None:
        """Read soon what has been missed until now."""
        self.begin_outage()
        self._to_read.set()

    async def _read_missed(self) -> None:
        while True:
            await self._to_read.wait()
            self._to_read.clear()
            since, self._missed_since = self._missed_since or self._clock(), None
            try:
                await self._read_since(since)
            except Unavailable:
                self._missed_since = since
                self._to_read.set()
                await asyncio.sleep(_PAUSE)

    async def _read_since(self, since: float) -> None:
        users = iter(self._hub.registry.users())
        while user_ids := [*islice(users, _USERS)]:
            seconds = self._clock() - since + MARGIN
            for position in await self._markers.moved_since(user_ids, seconds):
                self._hub.marker_moved(position)
