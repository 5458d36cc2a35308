"""Cache of recently read sessions, so that most requests need no query."""

import time
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from att.core.pagination import Page, Window
from att.db.engine import Transaction
from att.sessions.store import ClientInfo, Session, SessionInfo, SessionListener, SessionStore, SignIn, Verified

_SECONDS = 5.0  # that a session is cached
SIZE = 10_000  # sessions
_EVICTIONS = 2  # of the oldest sessions for each added one


class CachedSession(NamedTuple):
    """A session, and the end of its time in the cache."""

    session: Session
    until: float


class SessionCache:
    """A ``SessionStore`` in front of another one, and a ``SessionListener`` that forwards its events.

    It drops an ended session before it forwards the event. It caches nothing while it would miss events of other
    nodes: see ``trust``.
    """

    def __init__(
        self, store: SessionStore, listener: SessionListener, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._listener = listener
        self._clock = clock
        self._cached: dict[str, CachedSession] = {}
        self._tokens: dict[UUID, str] = {}
        self._end_count = 0  # a session that is being read while one ends is not cached
        self._is_notified = False

    def trust(self, *, is_notified: bool) -> None:
        """Clear the cache, and use it only if ``is_notified``: if other nodes' ended sessions are announced."""
        self._is_notified = is_notified
        self._drop_all()

    # SessionStore

    async def create(self, verified: Verified, client: ClientInfo) -> SignIn:
        return await self._store.create(verified, client)

    async def find(self, token: str) -> Session | None:
        cached = self._cached.get(token)
        if cached is not None and self._clock() < cached.until:
            return cached.session
        end_count = self._end_count
        session = await self._store.find(token)
        if session is not None and self._is_notified and end_count == self._end_count:
            self._keep(token, session)
        return session

    async def check(self, session_id: UUID) -> Session | None:
        return await self._store.check(session_id)

    async def living(self, owners: Mapping[UUID, UUID]) -> set[UUID]:
        return await self._store.living(owners)

    async def end(self, session_id: UUID) -> None:
        try:
            await self._store.end(session_id)
        finally:
            self._drop(session_id)

    async def end_one(self, user_id: UUID, session_id: UUID) -> None:
        try:
            await self._store.end_one(user_id, session_id)
        finally:
            self._drop(session_id)

    async def end_all(
        self, user_id: UUID, *, keep: UUID | None = None, transaction: Transaction | None = None
    ) -> list[UUID]:
        try:
            return await self._store.end_all(user_id, keep=keep, transaction=transaction)
        finally:
            self._drop_user(user_id)

    async def of_user(self, user_id: UUID, window: Window) -> Page[SessionInfo]:
        return await self._store.of_user(user_id, window)

    async def departed(self, user_ids: Collection[UUID]) -> list[UUID]:
        return await self._store.departed(user_ids)

    async def sweep(self) -> None:
        await self._store.sweep()

    # SessionListener

    def session_ended(self, session_id: UUID) -> None:
        self._drop(session_id)
        self._listener.session_ended(session_id)

    def user_ended(self, user_id: UUID) -> None:
        self._drop_user(user_id)
        self._listener.user_ended(user_id)

    def user_state_unknown(self, user_id: UUID) -> None:
        self._drop_user(user_id)
        self._listener.user_state_unknown(user_id)

    # Internals

    def _keep(self, token: str, session: Session) -> None:
        self._drop_oldest()
        remaining = session.expires_at.timestamp() - time.time()
        self._cached.pop(token, None)  # to move it to the end
        self._cached[token] = CachedSession(session._replace(slid=False), self._clock() + min(_SECONDS, remaining))
        self._tokens[session.id] = token

    def _drop_oldest(self) -> None:
        """Drop expired entries, and the oldest one if the cache is full."""
        for token, (session, until) in [*islice(self._cached.items(), _EVICTIONS)]:
            if until > self._clock() and len(self._cached) < SIZE:
                return
            del self._cached[token], self._tokens[session.id]

    def _drop(self, session_id: UUID) -> None:
        self._end_count += 1
        token = self._tokens.pop(session_id, None)
        if token is not None:
            del self._cached[token]

    def _drop_user(self, user_id: UUID) -> None:
        self._end_count += 1
        for session in [cached.session for cached in self._cached.values() if cached.session.user_id == user_id]:
            self._drop(session.id)

    def _drop_all(self) -> None:
        self._end_count += 1
        self._cached.clear()
        self._tokens.clear()
