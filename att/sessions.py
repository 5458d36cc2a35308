"""Who is signed in: the store of sessions, and the one that keeps them in PostgreSQL."""

import hashlib
import re
import secrets
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import Interval, bindparam, delete, func, insert, select, update

from att.db.engine import Engine, Transaction, prepare
from att.db.schema import sessions

TOKEN_BYTES = 32
_TOKEN_FORM = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64url without padding
SLIDE_PARTS = 20  # a session in use is written to at most this often in its lifetime


class Session(NamedTuple):
    """A session as it is found: ``slid`` when finding it moved its expiry."""

    id: UUID
    user_id: UUID
    expires_at: datetime
    slid: bool = False


class SignIn(NamedTuple):
    """A new session and its token, which is nowhere else."""

    token: str
    session: Session

    @property
    def expires_at(self) -> datetime:
        return self.session.expires_at


class SessionStore(Protocol):
    """Keeps sessions. Knows nothing of how a token travels."""

    async def create(self, user_id: UUID) -> SignIn:
        """A new session of that user. Raises NoSuchUser."""

    async def find(self, token: str) -> Session | None:
        """The live session with this token, its expiry moved on; None when there is none."""

    async def check(self, session_id: UUID) -> Session | None:
        """The live session with this id, left as it is; None when it has ended."""

    async def end(self, session_id: UUID) -> None:
        """End it, now. It does not matter whether it had ended before."""

    async def end_all(
        self, user_id: UUID, *, keep: UUID | None = None, transaction: Transaction | None = None
    ) -> list[UUID]:
        """End all of the user's sessions but ``keep``, within the transaction if there is one. Their ids."""


class Audience(Protocol):
    """Is told which sessions have ended, after it is committed."""

    def session_ended(self, session_id: UUID) -> None:
        """This session has ended."""

    def user_ended(self, user_id: UUID) -> None:
        """All sessions of this user have ended."""

    def user_uncertain(self, user_id: UUID) -> None:
        """The connection was lost at the commit: sessions of this user may have ended, or not."""


_expiry = func.now() + bindparam("ttl", type_=Interval)
_live = sessions.c.expires_at > func.now()

CREATE = prepare(
    insert(sessions)
    .values(token_hash=bindparam("token_hash"), user_id=bindparam("user_id"), expires_at=_expiry)
    .returning(sessions.c.id, sessions.c.user_id, sessions.c.expires_at)
)
FIND = prepare(
    select(
        sessions.c.id,
        sessions.c.user_id,
        sessions.c.expires_at,
        (sessions.c.expires_at < _expiry - bindparam("slack", type_=Interval)).label("is_stale"),
    ).where(sessions.c.token_hash == bindparam("token_hash"), _live)
)
SLIDE = prepare(
    update(sessions)
    .where(sessions.c.id == bindparam("session_id"), _live)
    .values(expires_at=_expiry)
    .returning(sessions.c.id, sessions.c.user_id, sessions.c.expires_at)
)
CHECK = prepare(
    select(sessions.c.id, sessions.c.user_id, sessions.c.expires_at).where(
        sessions.c.id == bindparam("session_id"), _live
    )
)
END = prepare(delete(sessions).where(sessions.c.id == bindparam("session_id")))

END_ALL = prepare(
    delete(sessions)
    .where(sessions.c.user_id == bindparam("user_id"), sessions.c.id.is_distinct_from(bindparam("keep")))
    .returning(sessions.c.id)
)


class PostgresSessions:
    """A ``SessionStore`` in the table ``sessions``. Times are the database's."""

    def __init__(self, db: Engine, ttl: timedelta) -> None:
        self._db = db
        self._ttl = ttl

    async def create(self, user_id: UUID) -> SignIn:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        row = await self._db.fetch_one(CREATE, token_hash=_hash(token), user_id=user_id, ttl=self._ttl)
        return SignIn(token, Session(*row))

    async def find(self, token: str) -> Session | None:
        if not _TOKEN_FORM.fullmatch(token):
            return None
        slack = self._ttl / SLIDE_PARTS
        row = await self._db.fetch_one(FIND, token_hash=_hash(token), ttl=self._ttl, slack=slack)
        if row is None:
            return None
        session_id, user_id, expires_at, is_stale = row
        return await self._slide(session_id) if is_stale else Session(session_id, user_id, expires_at)

    async def check(self, session_id: UUID) -> Session | None:
        row = await self._db.fetch_one(CHECK, session_id=session_id)
        return Session(*row) if row else None

    async def end(self, session_id: UUID) -> None:
        await self._db.execute(END, session_id=session_id)

    async def end_all(
        self, user_id: UUID, *, keep: UUID | None = None, transaction: Transaction | None = None
    ) -> list[UUID]:
        on = self._db if transaction is None else transaction
        return [row[0] for row in await on.fetch_all(END_ALL, user_id=user_id, keep=keep)]

    async def _slide(self, session_id: UUID) -> Session | None:
        row = await self._db.fetch_one(SLIDE, session_id=session_id, ttl=self._ttl)
        return Session(*row)._replace(slid=True) if row else None


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
