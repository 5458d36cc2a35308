"""Sessions as Redis keys.

A session is one of the keys of its user, see ``att.sessions.redis_scripts``. The pointers
``att:token:<SHA-256 in hex>`` and ``att:session:<id>`` lead to it, and may outlive it.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from att.errors import RedisUnavailable
from att.redis.client import RedisClient
from att.sessions.redis_scripts import CREATE, END, END_ALL, FIND, LIST, MAX_SESSIONS

USERS = "att:{*}:sessions"  # matches one key of each user with sessions
SWEEP_KEY, SWEEP_PAUSE = "att:sweep", timedelta(minutes=1)  # held by the node that sweeps, and for how long

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Record(NamedTuple):
    """A stored session."""

    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str | None
    user_agent: str | None


class Found(NamedTuple):
    """The session of a token; ``slid`` if this moved its expiry."""

    session_id: UUID
    user_id: UUID
    expires_at: datetime
    slid: bool


class SessionKeys:
    """Sessions that live for ``ttl`` after their last use, written at most once per ``slack``.

    Times are those of the Redis server. Each method raises RedisUnavailable and Busy.
    """

    def __init__(self, redis: RedisClient, ttl: timedelta, slack: timedelta) -> None:
        self._redis = redis
        self._ttl = ttl
        self._slack = slack

    async def add_pointers(self, digest: str, user_id: UUID, session_id: UUID) -> None:
        """Write the pointers, which live a little longer than the session. ``digest`` is of its token."""
        lifetime = self._ttl + self._slack
        async with self._redis.guarded():
            pipeline = self._redis.client.pipeline(transaction=False)
            pipeline.set(_token_key(digest), f"{user_id} {session_id}", px=lifetime)
            pipeline.set(_pointer(session_id), str(user_id), px=lifetime)
            await pipeline.execute()

    async def create(
        self,
        digest: str,
        user_id: UUID,
        session_id: UUID,
        details: tuple[str | None, str | None],
        limit: int = MAX_SESSIONS,
    ) -> tuple[datetime, list[UUID]]:
        """Create a session that has pointers. End the oldest ones of a user with so many sessions.

        Return the expiry, and the ended sessions. ``details`` are address and user agent.
        """
        args = (str(session_id), _prefix(user_id), self._ttl // _MICROSECOND, digest, json.dumps(details), limit)
        expires, *reply = await self._redis.run(CREATE, _keys(user_id, session_id), args)
        return parse_time(expires), await self._ended(reply)

    async def find(self, digest: str) -> Found | None:
        """Return the session with this token, and prolong it."""
        (pointer,) = await self._redis.get_many([_token_key(digest)])
        if pointer is None:
            return None
        user_id, session_id = (UUID(part) for part in pointer.decode().split())
        args = (str(session_id), self._ttl // _MICROSECOND, self._slack // _MICROSECOND)
        reply = await self._redis.run(FIND, _keys(user_id, session_id), args)
        if reply is None:
            return None
        if reply[1]:
            await self.add_pointers(digest, user_id, session_id)
        return Found(session_id, user_id, parse_time(reply[0]), bool(reply[1]))

    async def look_up(self, session_ids: Sequence[UUID]) -> dict[UUID, tuple[UUID, Record]]:
        """Return the existing sessions by id, each with its user."""
        pointers = await self._redis.get_many([_pointer(session_id) for session_id in session_ids])
        owners = {
            session_id: UUID(owner.decode()) for session_id, owner in zip(session_ids, pointers, strict=True) if owner
        }
        records = await self._redis.get_many([_prefix(owner) + str(session_id) for session_id, owner in owners.items()])
        return {
            session_id: (owner, parse_record(record))
            for (session_id, owner), record in zip(owners.items(), records, strict=True)
            if record
        }

    async def end(self, user_id: UUID, session_id: UUID) -> bool:
        """End a session. Return False if the user has no such session."""
        digest: bytes | None = await self._redis.run(END, _keys(user_id, session_id), [str(session_id)])
        if digest is not None:
            await self._delete_pointers([(session_id, digest.decode())])
        return digest is not None

    async def end_all(self, user_id: UUID, keep: UUID | None) -> list[UUID]:
        """End the sessions of a user except ``keep``. Return their ids."""
        args = [_prefix(user_id), *([str(keep)] if keep else [])]
        return await self._ended(await self._redis.run(END_ALL, _keys(user_id), args))

    async def newest(self, user_id: UUID, limit: int, after: tuple[datetime, UUID] | None) -> list[tuple[UUID, Record]]:
        """Return at most ``limit`` sessions of a user, newest first, after the one with this creation time and id."""
        position = (write_time(after[0]), str(after[1])) if after else ()
        reply: list[bytes] = await self._redis.run(LIST, _keys(user_id), (_prefix(user_id), limit, *position))
        return [(UUID(session_id.decode()), parse_record(record)) for session_id, record in _pairs(reply)]

    async def users(self) -> AsyncIterator[list[UUID]]:
        """Yield batches of users with sessions, each user at least once."""
        async for keys in self._redis.scan(USERS):
            yield [UUID(key[key.index(b"{") + 1 : key.index(b"}")].decode()) for key in keys]

    async def start_sweep(self) -> bool:
        """Return True if no node has started a sweep within the last minute."""
        async with self._redis.guarded():
            return bool(await self._redis.client.set(SWEEP_KEY, b"", nx=True, px=SWEEP_PAUSE))

    async def _ended(self, reply: list[bytes]) -> list[UUID]:
        """Return the sessions that a script has ended, after deleting the pointers to them."""
        ended = {UUID(session_id.decode()): digest.decode() for session_id, digest in _pairs(reply)}
        if ended:
            await self._delete_pointers(ended.items())
        return [*ended]

    async def _delete_pointers(self, ended: Iterable[tuple[UUID, str]]) -> None:
        """Delete the pointers to ended sessions. If that fails, they expire."""
        with contextlib.suppress(RedisUnavailable):
            async with self._redis.guarded():
                pipeline = self._redis.client.pipeline(transaction=False)
                for session_id, digest in ended:
                    pipeline.delete(_pointer(session_id))
                    pipeline.delete(_token_key(digest))
                await pipeline.execute()


def parse_record(text: bytes) -> Record:
    """Parse a session as the scripts write it."""
    created, seen, expires, _digest, details = text.split(b" ", 4)
    return Record(parse_time(created), parse_time(seen), parse_time(expires), *json.loads(details))


def parse_time(text: bytes) -> datetime:
    """Parse a time as the scripts write it."""
    return _EPOCH + int(text) * _MICROSECOND


def write_time(moment: datetime) -> str:
    """Format a time as the scripts read it."""
    return str((moment - _EPOCH) // _MICROSECOND)


def _token_key(digest: str) -> str:
    return f"att:token:{digest}"


def _pointer(session_id: UUID) -> str:
    return f"att:session:{session_id}"


def _prefix(user_id: UUID) -> str:
    return f"att:{{{user_id}}}:session:"


def _keys(user_id: UUID, session_id: UUID | None = None) -> list[str]:
    sets = [f"att:{{{user_id}}}:sessions", f"att:{{{user_id}}}:expiries"]
    return [*sets, f"{_prefix(user_id)}{session_id}"] if session_id else sets


def _pairs(reply: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(reply[::2], reply[1::2], strict=True)
