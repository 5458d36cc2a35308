"""What a Redis or Valkey keeps and tells, where one is configured."""

import contextlib
import json
import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

from att.core.pagination import Page, Window
from att.db.engine import Engine, Transaction
from att.db.notifications import NOTIFY
from att.errors import AuthFailed, NoSuchSession, Unavailable
from att.redis.client import RedisLink
from att.sessions.owners import ACTIVE_USERS, LOCK_USER
from att.sessions.redis_keys import SessionKeys
from att.sessions.store import (
    SESSIONS_OF_USER,
    TOKEN_BYTES,
    ClientInfo,
    Session,
    SessionInfo,
    SignIn,
    Verified,
    hash_token,
    is_token,
    slack_of,
)

log = logging.getLogger("att")


class RedisSessions:
    """A ``SessionStore`` in Redis. Who may sign in is for the database ``db`` to say.

    What ends is told by the database too, for a node that has lost Redis, or if Redis is lost just then. Each verb but
    ``living`` raises RedisUnavailable while there is no Redis.
    """

    def __init__(self, link: RedisLink, db: Engine, ttl: timedelta) -> None:
        self._keys = SessionKeys(link, ttl, slack_of(ttl))
        self._db = db

    async def create(self, verified: Verified, client: ClientInfo) -> SignIn:
        token, session_id, user_id = secrets.token_urlsafe(TOKEN_BYTES), uuid4(), verified.user_id
        digest = hash_token(token).hex()
        # First, and not while the user is locked: without Redis no connection to the database is held.
        await self._keys.point(digest, user_id, session_id)
        async with self._db.transaction() as transaction:
            if await transaction.fetch_one(LOCK_USER, **verified._asdict()) is None:
                raise AuthFailed
            expires_at = await self._keys.begin(digest, user_id, session_id, client)
        return SignIn(token, Session(session_id, user_id, expires_at))

    async def find(self, token: str) -> Session | None:
        found = await self._keys.find(hash_token(token).hex()) if is_token(token) else None
        return Session(*found) if found else None

    async def check(self, session_id: UUID) -> Session | None:
        found = await self._keys.look_up([session_id])
        return Session(session_id, found[session_id][0], found[session_id][1].expires_at) if found else None

    async def living(self, owners: Mapping[UUID, UUID]) -> set[UUID]:
        """Of users who are gone or disabled none is: they end here, whether or not that was announced.

        While Redis is away that is all that is known, and everybody else's are taken for living.
        """
        departed = {*await self.departed({*owners.values()})}
        found: Collection[UUID] = owners
        with contextlib.suppress(Unavailable):
            found = await self._keys.look_up([*owners])
            for user_id in departed:
                await self._keys.end_all(user_id, None)
        return {session_id for session_id in found if owners[session_id] not in departed}

    async def end(self, session_id: UUID) -> None:
        for user_id, _ in (await self._keys.look_up([session_id])).values():
            if await self._keys.end(user_id, session_id):
                await announce_ended_sessions(self._db, [session_id])

    async def end_one(self, user_id: UUID, session_id: UUID) -> None:
        if not await self._keys.end(user_id, session_id):
            raise NoSuchSession
        await announce_ended_sessions(self._db, [session_id])

    async def end_all(
        self, user_id: UUID, *, keep: UUID | None = None, transaction: Transaction | None = None
    ) -> list[UUID]:
        """Also in a transaction they end at once, and stay ended if it is rolled back: never the other way round."""
        ended = await self._keys.end_all(user_id, keep)
        await announce_ended_sessions(transaction or self._db, ended)
        return ended

    async def of_user(self, user_id: UUID, window: Window) -> Page[SessionInfo]:
        after = (window.after[0], window.after[1]) if window.after else None
        found = await self._keys.newest(user_id, window.limit + 1, after)
        shown = [SessionInfo(session_id, *record) for session_id, record in found[: window.limit]]
        is_last = len(found) == len(shown)
        return Page(shown, None if is_last else SESSIONS_OF_USER.order.cursor((shown[-1].created_at, shown[-1].id)))

    async def departed(self, user_ids: Collection[UUID]) -> list[UUID]:
        active = await self._db.fetch_all(ACTIVE_USERS, user_ids=[*user_ids]) if user_ids else []
        return [*{*user_ids} - {user_id for (user_id,) in active}]

    async def sweep(self) -> None:
        """End the sessions of users who are gone or disabled, of which no announcement has told.

        Redis itself removes what has expired. Of all nodes one does this at a time.
        """
        if await self._keys.take_turn():
            async for user_ids in self._keys.users():
                for user_id in await self.departed(user_ids):
                    await self._keys.end_all(user_id, None)


_ENDINGS = 150  # sessions in one payload


async def announce_ended_sessions(db: Engine | Transaction, session_ids: Sequence[UUID]) -> None:
    """Tell every node that these sessions have ended, if it can be told; in a transaction, when it is committed."""
    for first in range(0, len(session_ids), _ENDINGS):
        told = {"sessions": [str(session_id) for session_id in session_ids[first : first + _ENDINGS]]}
        with contextlib.suppress(Unavailable):
            await db.fetch_one(NOTIFY, payload=json.dumps(told))
