"""Sessions: the interface of their store, and the store in PostgreSQL."""

import hashlib
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import ARRAY, Interval, Text, Uuid, bindparam, cast, delete, func, insert, literal, select, text, update

from att.core.batch_loader import BatchLoader
from att.core.pagination import Order, Page, Window
from att.core.quotas import EXEMPTING
from att.db.engine import Engine, Transaction, planned_once, prepare
from att.db.keyset import Listing
from att.db.schema import roles, sessions, users
from att.errors import AuthFailed, NoSuchSession

TOKEN_BYTES = 32
_TOKEN_FORM = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64url without padding
# A session is prolonged at most once a minute, or once per twentieth of its lifetime if that is shorter.
SLIDE_EVERY = timedelta(minutes=1)
SLIDE_PARTS = 20
SWEEP_BATCH = 1_000  # sessions removed by one statement


class Session(NamedTuple):
    """A session; ``slid`` if this read prolonged it."""

    id: UUID
    user_id: UUID
    expires_at: datetime
    slid: bool = False


class SignIn(NamedTuple):
    """A new session and its token, which is not stored."""

    token: str
    session: Session

    @property
    def expires_at(self) -> datetime:
        return self.session.expires_at


class Verified(NamedTuple):
    """A user whose password was verified, and the hash used."""

    user_id: UUID
    password_hash: str


class ClientInfo(NamedTuple):
    """The client that signs in: its IP address and user agent, if known."""

    address: str | None
    user_agent: str | None


class SessionInfo(NamedTuple):
    """A session as shown to its user; ``address`` and ``user_agent`` are from the sign-in."""

    id: UUID
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str | None
    user_agent: str | None


class SessionListener(Protocol):
    """Is called after sessions have ended and that is committed. Closes their sockets."""

    def session_ended(self, session_id: UUID) -> None:
        """Handle the end of a session."""

    def user_ended(self, user_id: UUID) -> None:
        """Handle the end of all sessions of a user."""

    def user_state_unknown(self, user_id: UUID) -> None:
        """Handle a connection lost at the commit: sessions of this user may have ended."""


class SessionStore(Protocol):
    """Store of sessions, independent of how a token travels."""

    async def create(self, verified: Verified, client: ClientInfo) -> SignIn:
        """Create a session, and end the oldest ones of a user who has too many.

        Raise AuthFailed if the user is no longer active or the password has changed.
        """

    async def find(self, token: str) -> Session | None:
        """Return the live session with this token, or None. Prolong it."""

    async def check(self, session_id: UUID) -> Session | None:
        """Return the live session with this id, or None. Do not prolong it."""

    async def living(self, owners: Mapping[UUID, UUID]) -> set[UUID]:
        """Return the sessions not known to have ended; ``owners`` is user by session."""

    async def end(self, session_id: UUID) -> None:
        """End a session, if it has not ended yet."""

    async def end_one(self, user_id: UUID, session_id: UUID) -> None:
        """End a session of the user. Raise NoSuchSession."""

    async def end_all(
        self, user_id: UUID, *, keep: UUID | None = None, transaction: Transaction | None = None
    ) -> list[UUID]:
        """End the sessions of the user except ``keep``, and return their ids.

        In a transaction they end at the commit or before. Change the user first, so that no new session is created.
        """

    async def of_user(self, user_id: UUID, window: Window) -> Page[SessionInfo]:
        """Return the live sessions of the user, newest first."""

    async def departed(self, user_ids: Collection[UUID]) -> list[UUID]:
        """Return the deleted and disabled users whose sessions this store must still end."""

    async def sweep(self) -> None:
        """Remove sessions that have expired or should have ended."""


_expiry = func.now() + bindparam("ttl", type_=Interval)
_live = sessions.c.expires_at > func.now()

# For a sign-in: waits for a running change of the user and for other sign-ins, and blocks the next ones. Tells whether
# the user is exempt from quotas.
LOCK_USER = prepare(
    select(
        select(roles.c.permissions.op("&&")(cast(literal(EXEMPTING, Text), ARRAY(Text))))
        .where(roles.c.id == users.c.role_id)
        .scalar_subquery()
    )
    .where(users.c.id == bindparam("user_id"), users.c.active, users.c.password_hash == bindparam("password_hash"))
    .with_for_update(key_share=True)
)
_CREATE = prepare(
    insert(sessions)
    .values(
        token_hash=bindparam("token_hash"),
        user_id=bindparam("user_id"),
        expires_at=_expiry,
        address=bindparam("address"),
        user_agent=bindparam("user_agent"),
    )
    .returning(sessions.c.id, sessions.c.user_id, sessions.c.expires_at)
)
# All but the new session and so many others, the newest ones. Times are those of the begin of a transaction, so another
# one may seem to be newer than the new one.
END_OLDEST = prepare(
    delete(sessions).where(
        sessions.c.id.in_(
            select(sessions.c.id)
            .where(sessions.c.user_id == bindparam("user_id"), sessions.c.id != bindparam("new_id"), _live)
            .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
            .offset(bindparam("others"))
        )
    )
)
# Of many tokens, given by their hashes in hexadecimal.
FIND_MANY = planned_once(
    prepare(
        text("""
    SELECT encode(s.token_hash, 'hex'), s.id, s.user_id, s.expires_at,
        s.last_seen_at < now() - CAST(:slack AS interval)
    FROM unnest(CAST(:digests AS text[])) AS w (digest)
    JOIN sessions AS s ON s.token_hash = decode(w.digest, 'hex')
    WHERE s.expires_at > now()
    """)
    )._replace(is_read=True),
    "att_find_sessions",
)
SLIDE = prepare(
    update(sessions)
    .where(sessions.c.id == bindparam("session_id"), _live)
    .values(expires_at=_expiry, last_seen_at=func.now())
    .returning(sessions.c.id, sessions.c.user_id, sessions.c.expires_at)
)
# Of many sessions. Those that another transaction has locked are left out.
SLIDE_MANY = planned_once(
    prepare(
        text("""
    UPDATE sessions SET expires_at = now() + CAST(:ttl AS interval), last_seen_at = now()
    WHERE id IN (
        SELECT s.id FROM sessions AS s WHERE s.id = ANY (CAST(:ids AS uuid[])) AND s.expires_at > now()
        FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING id, user_id, expires_at
    """)
    ),
    "att_slide_sessions",
)
CHECK = planned_once(
    prepare(
        text("""
    SELECT s.id, s.user_id, s.expires_at FROM sessions AS s
    WHERE s.id = ANY (CAST(:ids AS uuid[])) AND s.expires_at > now()
    """)
    )._replace(is_read=True),
    "att_check_sessions",
)
LIVING = prepare(select(sessions.c.id).where(sessions.c.id == func.any(bindparam("ids", type_=ARRAY(Uuid))), _live))
_END = prepare(delete(sessions).where(sessions.c.id == bindparam("session_id")))
END_ONE = prepare(
    delete(sessions).where(sessions.c.id == bindparam("session_id"), sessions.c.user_id == bindparam("user_id"))
)
_END_ALL = prepare(
    delete(sessions)
    .where(sessions.c.user_id == bindparam("user_id"), sessions.c.id.is_distinct_from(bindparam("keep")))
    .returning(sessions.c.id)
)
SESSIONS_OF_USER = Listing(
    select(*(sessions.c[name] for name in SessionInfo._fields)).where(
        sessions.c.user_id == bindparam("user_id"), _live
    ),
    Order("sessions of user", (datetime, UUID), is_descending=True),
    sessions.c.created_at,
    sessions.c.id,
)
# Skips sessions that another sweep or a prolongation has locked.
_SWEEP = prepare(
    delete(sessions).where(
        sessions.c.id.in_(
            select(sessions.c.id)
            .where(sessions.c.expires_at <= func.now())
            .order_by(sessions.c.expires_at)
            .limit(bindparam("batch"))
            .with_for_update(skip_locked=True)
        )
    )
)


class PostgresSessions:
    """A ``SessionStore`` in the table ``sessions``. Times are the database's. ``limit`` is of sessions of one user."""

    def __init__(self, db: Engine, ttl: timedelta, limit: int | None = None) -> None:
        self._db = db
        self._ttl = ttl
        self._limit = limit
        self._found = BatchLoader(self._find_many, db.batches)
        self._slid = BatchLoader(self._slide_many, db.batches)
        self._checked = BatchLoader(self._check_many, db.batches)

    async def create(self, verified: Verified, client: ClientInfo) -> SignIn:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        user_id, digest = verified.user_id, hash_token(token)
        async with self._db.transaction() as transaction:
            user = await transaction.fetch_one(LOCK_USER, **verified._asdict())
            if user is None:
                raise AuthFailed
            row = await transaction.fetch_one(
                _CREATE, token_hash=digest, user_id=user_id, ttl=self._ttl, **client._asdict()
            )
            session = Session(*row)
            if self._limit is not None and not user[0]:
                await transaction.execute(END_OLDEST, user_id=user_id, new_id=session.id, others=self._limit - 1)
        return SignIn(token, session)

    async def find(self, token: str) -> Session | None:
        if not is_token(token):
            return None
        session, is_stale = await self._found.load(hash_token(token).hex())
        if session is None or not is_stale:
            return session
        return await self._slid.load(session.id) or await self._slide(session.id)

    async def check(self, session_id: UUID) -> Session | None:
        return await self._checked.load(session_id)

    async def living(self, owners: Mapping[UUID, UUID]) -> set[UUID]:
        return {row[0] for row in await self._db.fetch_all(LIVING, ids=[*owners])}

    async def end(self, session_id: UUID) -> None:
        await self._db.execute(_END, session_id=session_id)

    async def end_one(self, user_id: UUID, session_id: UUID) -> None:
        if not await self._db.execute(END_ONE, user_id=user_id, session_id=session_id):
            raise NoSuchSession

    async def end_all(
        self, user_id: UUID, *, keep: UUID | None = None, transaction: Transaction | None = None
    ) -> list[UUID]:
        rows = await (transaction or self._db).fetch_all(_END_ALL, user_id=user_id, keep=keep)
        return [session_id for (session_id,) in rows]

    async def of_user(self, user_id: UUID, window: Window) -> Page[SessionInfo]:
        page = await SESSIONS_OF_USER.read(self._db, window, user_id=user_id)
        return page.map(lambda row: SessionInfo(*row))

    async def departed(self, user_ids: Collection[UUID]) -> list[UUID]:  # noqa: ARG002 - the interface has it
        """Return none: a trigger and a foreign key have already ended the sessions."""
        return []

    async def sweep(self) -> None:
        while await self._db.execute(_SWEEP, batch=SWEEP_BATCH) == SWEEP_BATCH:
            pass

    async def _find_many(self, digests: Sequence[str]) -> list[tuple[Session | None, bool]]:
        rows = await self._db.fetch_all(FIND_MANY, digests=_array(digests), slack=slack_of(self._ttl))
        found = {digest: (Session(*values), is_stale) for digest, *values, is_stale in rows}
        return [found.get(digest, (None, False)) for digest in digests]

    async def _check_many(self, session_ids: Sequence[UUID]) -> list[Session | None]:
        found = {row[0]: Session(*row) for row in await self._db.fetch_all(CHECK, ids=_array(session_ids))}
        return [found.get(session_id) for session_id in session_ids]

    async def _slide_many(self, session_ids: Sequence[UUID]) -> list[Session | None]:
        rows = await self._db.fetch_all(SLIDE_MANY, ids=_array(session_ids), ttl=self._ttl)
        slid = {row[0]: Session(*row)._replace(slid=True) for row in rows}
        return [slid.get(session_id) for session_id in session_ids]

    async def _slide(self, session_id: UUID) -> Session | None:
        row = await self._db.fetch_one(SLIDE, session_id=session_id, ttl=self._ttl)
        return Session(*row)._replace(slid=True) if row else None


def is_token(text: str) -> bool:
    """Return True if the text has the form of a token."""
    return _TOKEN_FORM.fullmatch(text) is not None


def hash_token(token: str) -> bytes:
    """Return the stored hash of a token."""
    return hashlib.sha256(token.encode()).digest()


def _array(values: Iterable[object]) -> str:
    return f"{{{','.join(map(str, values))}}}"


def slack_of(ttl: timedelta) -> timedelta:
    """Return the time after a session's last use in which it is not prolonged again."""
    return min(ttl / SLIDE_PARTS, SLIDE_EVERY)
