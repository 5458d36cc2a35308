"""Revocation: ends the sessions of users whom any program has deleted or disabled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterable
from uuid import UUID

from att.core.tasks import supervise
from att.errors import Unavailable
from att.sessions.store import SessionListener, SessionStore

_BATCH = 100  # users checked together
MAX_WAITING = 10_000  # users; the next sweep finds the rest
_PAUSE = 1.0  # seconds before another attempt


class SessionRevoker:
    """Ends sessions in the background. The database announces the users."""

    def __init__(self, sessions: SessionStore, listener: SessionListener) -> None:
        self._sessions = sessions
        self._listener = listener
        self._waiting: dict[UUID, None] = {}  # in the order of their announcements
        self._has_waiting = asyncio.Event()

    def check_users(self, user_ids: Iterable[UUID]) -> None:
        """Queue users who may have been deleted or disabled."""
        for user_id in user_ids:
            if len(self._waiting) < MAX_WAITING:
                self._waiting[user_id] = None
                self._has_waiting.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work while the block runs."""
        async with supervise("revocation of sessions", self._run):
            yield

    async def _run(self) -> None:
        while True:
            await self._has_waiting.wait()
            self._has_waiting.clear()
            while self._waiting:
                await self._end([*self._waiting][:_BATCH])

    async def _end(self, user_ids: Collection[UUID]) -> None:
        for user_id in user_ids:
            del self._waiting[user_id]  # before the check, so that a new announcement leads to another check
        try:
            user_ids = await self._sessions.departed(user_ids)
            for user_id in user_ids:
                self._listener.user_ended(user_id)  # first: the store may be unreachable
            for user_id in user_ids:
                await self._sessions.end_all(user_id)
        except Unavailable:
            self.check_users(user_ids)
            await asyncio.sleep(_PAUSE)
