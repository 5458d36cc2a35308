"""Sessions that were seen a moment ago, so that a request by one of them asks no database."""

import time
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from att.core.pagination import Page, Window
from att.db.engine import Transaction
from att.sessions.store import ClientInfo, Session, SessionInfo, SessionListener, SessionStore, SignIn, Verified

_SECONDS = 5.0
SIZE = 10_000  # sessions
_AT_ONCE = 2  # of the oldest that are looked at when one is added, so that they go faster than they come


class Seen(NamedTuple):
    """A session, and until when it is taken for what it was."""

    session: Session
    until: float


class SessionCache:
    """A ``SessionStore`` before another one. It is a ``SessionListener``, too, and passes on what it hears.

    Ended sessions are forgotten before anybody is told that they have ended. It keeps none while it is not told of
    those that end elsewhere: see ``trust``.
    """

    def __init__(
        self, store: SessionStore, audience: SessionListener, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._audience = audience
        self._clock = clock
        self._seen: dict[str, Seen] = {}
        self._tokens: dict[UUID, str] = {}
        self._endings = 0  # so that what is being read while a session ends is not kept
        self._is_told = False

    def trust(self, *, is_told: bool) -> None:
        """Whether endings on other nodes are told from now on."""
        self._is_told = is_told
        self._forget_all()

    # The store

    async def create(self, verified: Verified, client: ClientInfo) -> SignIn:
        return await self._store.create(verified, client)

    async def find(self, token: str) -> Session | None:
        seen = self._seen.get(token)
        if seen is not None and self._clock() < seen.until:
            return seen.session
        endings = self._endings
        session = await self._store.find(token)
        if session is not None and self._is_told and endings == self._endings:
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
            self._forget(session_id)

    async def end_one(self, user_id: UUID, session_id: UUID) -> None:
        try:
            await self._store.end_one(user_id, session_id)
        finally:
            self._forget(session_id)

    async def end_all(
        self, user_id: UUID, *, keep: UUID | None = None, transaction: Transaction | None = None
    ) -> list[UUID]:
        try:
            return await self._store.end_all(user_id, keep=keep, transaction=transaction)
        finally:
            self._forget_user(user_id)

    async def of_user(self, user_id: UUID, window: Window) -> Page[SessionInfo]:
        return await self._store.of_user(user_id, window)

    async def departed(self, user_ids: Collection[UUID]) -> list[UUID]:
        return await self._store.departed(user_ids)

    async def sweep(self) -> None:
        await self._store.sweep()

    # The audience

    def session_ended(self, session_id: UUID) -> None:
        self._forget(session_id)
        self._audience.session_ended(session_id)

    def user_ended(self, user_id: UUID) -> None:
        self._forget_user(user_id)
        self._audience.user_ended(user_id)

    def user_state_unknown(self, user_id: UUID) -> None:
        self._forget_user(user_id)
        self._audience.user_state_unknown(user_id)

    # Within

    def _keep(self, token: str, session: Session) -> None:
        self._drop_oldest()
        left = session.expires_at.timestamp() - time.time()
        self._seen.pop(token, None)  # so that it becomes the last in line
        self._seen[token] = Seen(session._replace(slid=False), self._clock() + min(_SECONDS, left))
        self._tokens[session.id] = token

    def _drop_oldest(self) -> None:
        """Those that have been kept for long enough, and one that has not if there is no room."""
        for token, (session, until) in [*islice(self._seen.items(), _AT_ONCE)]:
            if until > self._clock() and len(self._seen) < SIZE:
                return
            del self._seen[token], self._tokens[session.id]

    def _forget(self, session_id: UUID) -> None:
        self._endings += 1
        self._drop(session_id)

    def _drop(self, session_id: UUID) -> None:
        token = self._tokens.pop(session_id, None)
        if token is not None:
            del self._seen[token]

    def _forget_user(self, user_id: UUID) -> None:
        self._endings += 1
        for session in [seen.session for seen in self._seen.values() if seen.session.user_id == user_id]:
            self._forget(session.id)

    def _forget_all(self) -> None:
        self._endings += 1
        self._seen.clear()
        self._tokens.clear()
