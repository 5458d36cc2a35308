"""Users who were deleted or disabled by whomever, of whom the database tells: their sessions end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Protocol
from uuid import UUID

from att.core.tasks import supervise
from att.errors import Unavailable

_AT_ONCE = 100  # users that are dealt with together
MOST = 10_000  # that may wait; whoever comes then is found by the next sweep
_PAUSE = 1.0  # seconds until it is tried again


class RevocableSessions(Protocol):
    """Knows whose sessions are to end, and ends them."""

    async def departed(self, user_ids: Collection[UUID]) -> list[UUID]:
        """Those of the users who are indeed gone or disabled."""

    async def end_all(self, user_id: UUID) -> object:
        """End all of that user's."""


class Sockets(Protocol):
    """Closes sockets."""

    def user_ended(self, user_id: UUID) -> None:
        """All sessions of this user have ended."""


class SessionRevoker:
    """Ends their sessions in the background, one announcement after the other."""

    def __init__(self, sessions: RevocableSessions, sockets: Sockets) -> None:
        self._sessions = sessions
        self._sockets = sockets
        self._waiting: dict[UUID, None] = {}  # in the order in which they were heard
        self._heard = asyncio.Event()

    def heard(self, user_ids: Iterable[UUID]) -> None:
        """They may have been deleted or disabled."""
        for user_id in user_ids:
            if len(self._waiting) < MOST:
                self._waiting[user_id] = None
                self._heard.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do it while the block runs."""
        async with supervise("ending of sessions of who has gone", self._run):
            yield

    async def _run(self) -> None:
        while True:
            await self._heard.wait()
            self._heard.clear()
            while self._waiting:
                await self._end([*self._waiting][:_AT_ONCE])

    async def _end(self, user_ids: Collection[UUID]) -> None:
        for user_id in user_ids:
            del self._waiting[user_id]  # before it is looked, so that what is heard meanwhile counts
        try:
            user_ids = await self._sessions.departed(user_ids)
            for user_id in user_ids:
                self._sockets.user_ended(user_id)  # first: sessions may be where nobody can reach them now
            for user_id in user_ids:
                await self._sessions.end_all(user_id)
        except Unavailable:
            self.heard(user_ids)
            await asyncio.sleep(_PAUSE)
