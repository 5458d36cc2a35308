"""The session store in Redis or Valkey."""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, Uuid, any_, bindparam, select

from att.core.batch_loader import BatchLoader
from att.core.pagination import Page, Window
from att.db.engine import Engine, Transaction, prepare
from att.db.notifications import NOTIFY
from att.db.schema import users
from att.errors import AuthFailed, NoSuchSession, Unavailable
from att.redis.client import RedisClient
from att.sessions.redis_keys import SessionKeys
from att.sessions.redis_scripts import MAX_SESSIONS
from att.sessions.store import (
    LOCK_USER,
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

_IDS_PER_PAYLOAD = 150  # NOTIFY takes less than 8,000 bytes

ACTIVE_USERS = prepare(
    select(users.c.id).where(users.c.id == any_(bindparam("user_ids", type_=ARRAY(Uuid))), users.c.active)
)

log = logging.getLogger("att")


class RedisSessions:
    """A ``SessionStore`` in Redis. The users are in the database ``db``.

    The database announces ended sessions too, for nodes that have lost Redis. Each method except ``living`` raises
    RedisUnavailable without Redis. ``limit`` is of sessions of one user.
    """

    def __init__(self, redis: RedisClient, db: Engine, ttl: timedelta, limit: int | None = None) -> None:
        self._keys = SessionKeys(redis, ttl, slack_of(ttl))
        self._db = db
        self._limit = limit
        self._checked = BatchLoader(self._check_many, asyncio.Semaphore(1))

    async def create(self, verified: Verified, client: ClientInfo) -> SignIn:
        token, session_id, user_id = secrets.token_urlsafe(TOKEN_BYTES), uuid4(), verified.user_id
        digest = hash_token(token).hex()
        # Before the transaction, so that no connection to the database waits for Redis.
        await self._keys.add_pointers(digest, user_id, session_id)
        async with self._db.transaction() as transaction:
            user = await transaction.fetch_one(LOCK_USER, **verified._asdict())
            if user is None:
                raise AuthFailed
            limit = MAX_SESSIONS if user[0] or self._limit is None else min(self._limit, MAX_SESSIONS)
            expires_at, ended = await self._keys.create(digest, user_id, session_id, client, limit)
        await announce_ended_sessions(self._db, ended)
        return SignIn(token, Session(session_id, user_id, expires_at))

    async def find(self, token: str) -> Session | None:
        found = await self._keys.find(hash_token(token).hex()) if is_token(token) else None
        return Session(*found) if found else None

    async def check(self, session_id: UUID) -> Session | None:
        return await self._checked.load(session_id)

    async def _check_many(self, session_ids: Sequence[UUID]) -> list[Session | None]:
        found = await self._keys.look_up(session_ids)
        sessions = {key: Session(key, owner, record.expires_at) for key, (owner, record) in found.items()}
        return [sessions.get(session_id) for session_id in session_ids]

    async def living(self, owners: Mapping[UUID, UUID]) -> set[UUID]:
        """Also end the sessions of deleted and disabled users, whether or not that was announced.

        Without Redis, the sessions of all other users count as living.
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
        """End the sessions at once, even before a transaction commits. A rollback does not restore them."""
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
        """End the sessions of deleted and disabled users whose announcement was missed.

        Redis itself removes expired sessions. One node sweeps at a time.
        """
        if await self._keys.start_sweep():
            async for user_ids in self._keys.users():
                for user_id in await self.departed(user_ids):
                    await self._keys.end_all(user_id, None)


async def announce_ended_sessions(db: Engine | Transaction, session_ids: Sequence[UUID]) -> None:
    """Announce ended sessions to all nodes if the database is available; a transaction does so at its commit."""
    for first in range(0, len(session_ids), _IDS_PER_PAYLOAD):
        payload = {"sessions": [str(session_id) for session_id in session_ids[first : first + _IDS_PER_PAYLOAD]]}
        with contextlib.suppress(Unavailable):
            await db.fetch_one(NOTIFY, payload=json.dumps(payload))
