"""Sessions as the keys of Redis: where each is found, and what is done to them in one step.

The session itself is among the keys of its user, see ``att.sessions.redis_scripts``. It is found by
``att:token:<SHA-256 in hex>`` and ``att:session:<id>``; what these point at may be gone.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from att.errors import RedisUnavailable
from att.redis.client import RedisLink
from att.sessions.redis_scripts import CREATE, END, END_ALL, FIND, LIST

USERS = "att:{*}:sessions"  # a pattern that fits one key of each user who has sessions
SWEEP_KEY, SWEEP_PAUSE = "att:sweep", timedelta(minutes=1)  # who sweeps, and for how long nobody else does

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Record(NamedTuple):
    """What is kept of a session."""

    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str | None
    user_agent: str | None


class Found(NamedTuple):
    """Whose session a token is; ``slid`` when its expiry was moved."""

    session_id: UUID
    user_id: UUID
    expires_at: datetime
    slid: bool


class SessionKeys:
    """Sessions that live for ``ttl`` after they were seen; whoever was seen less than ``slack`` ago is not written to.

    Times are Redis's. Each verb raises RedisUnavailable, and Busy.
    """

    def __init__(self, link: RedisLink, ttl: timedelta, slack: timedelta) -> None:
        self._link = link
        self._ttl = ttl
        self._slack = slack

    async def point(self, digest: str, user_id: UUID, session_id: UUID) -> None:
        """Let the session be found for as long as it may live, and a little longer. ``digest`` is its token's."""
        life = self._ttl + self._slack
        async with self._link.guarded():
            pipeline = self._link.client.pipeline(transaction=False)
            pipeline.set(_token_key(digest), f"{user_id} {session_id}", px=life)
            pipeline.set(_pointer(session_id), str(user_id), px=life)
            await pipeline.execute()

    async def begin(
        self, digest: str, user_id: UUID, session_id: UUID, details: tuple[str | None, str | None]
    ) -> datetime:
        """A new session of address and program, which is pointed at: when it expires."""
        args = (str(session_id), _prefix(user_id), self._ttl // _MICROSECOND, digest, json.dumps(details))
        return parse_time(await self._link.run(CREATE, _keys(user_id, session_id), args))

    async def find(self, digest: str) -> Found | None:
        """The session with this token, its expiry moved on."""
        (pointer,) = await self._link.get_many([_token_key(digest)])
        if pointer is None:
            return None
        user_id, session_id = (UUID(part) for part in pointer.decode().split())
        args = (str(session_id), self._ttl // _MICROSECOND, self._slack // _MICROSECOND)
        told = await self._link.run(FIND, _keys(user_id, session_id), args)
        if told is None:
            return None
        if told[1]:
            await self.point(digest, user_id, session_id)
        return Found(session_id, user_id, parse_time(told[0]), bool(told[1]))

    async def look_up(self, session_ids: Sequence[UUID]) -> dict[UUID, tuple[UUID, Record]]:
        """Those that there are: whose they are, and what is kept of them."""
        told = await self._link.get_many([_pointer(session_id) for session_id in session_ids])
        owners = {
            session_id: UUID(owner.decode()) for session_id, owner in zip(session_ids, told, strict=True) if owner
        }
        records = await self._link.get_many([_prefix(owner) + str(session_id) for session_id, owner in owners.items()])
        return {
            session_id: (owner, parse_record(record))
            for (session_id, owner), record in zip(owners.items(), records, strict=True)
            if record
        }

    async def end(self, user_id: UUID, session_id: UUID) -> bool:
        """End it. Whether it was there, and that user's."""
        digest: bytes | None = await self._link.run(END, _keys(user_id, session_id), [str(session_id)])
        if digest is not None:
            await self._forget([(session_id, digest.decode())])
        return digest is not None

    async def end_all(self, user_id: UUID, keep: UUID | None) -> list[UUID]:
        """End those of a user but the one to keep: which."""
        args = [_prefix(user_id), *([str(keep)] if keep else [])]
        told: list[bytes] = await self._link.run(END_ALL, _keys(user_id), args)
        ended = {UUID(session_id.decode()): digest.decode() for session_id, digest in _pairs(told)}
        await self._forget(ended.items())
        return [*ended]

    async def newest(self, user_id: UUID, limit: int, after: tuple[datetime, UUID] | None) -> list[tuple[UUID, Record]]:
        """Those of a user in order, ``limit`` at most: after the one that was begun at this time and has this id."""
        place = (write_time(after[0]), str(after[1])) if after else ()
        told: list[bytes] = await self._link.run(LIST, _keys(user_id), (_prefix(user_id), limit, *place))
        return [(UUID(session_id.decode()), parse_record(record)) for session_id, record in _pairs(told)]

    async def users(self) -> AsyncIterator[list[UUID]]:
        """Everybody who has sessions, some at a time, each at least once."""
        async for keys in self._link.scan(USERS):
            yield [UUID(key[key.index(b"{") + 1 : key.index(b"}")].decode()) for key in keys]

    async def take_turn(self) -> bool:
        """Whether it is for this node to look for what is to be swept: no other has begun within the last minute."""
        async with self._link.guarded():
            return bool(await self._link.client.set(SWEEP_KEY, b"", nx=True, px=SWEEP_PAUSE))

    async def _forget(self, ended: Iterable[tuple[UUID, str]]) -> None:
        """Remove what points at sessions that have ended. If that fails it points at nothing until it expires."""
        with contextlib.suppress(RedisUnavailable):
            async with self._link.guarded():
                pipeline = self._link.client.pipeline(transaction=False)
                for session_id, digest in ended:
                    pipeline.delete(_pointer(session_id))
                    pipeline.delete(_token_key(digest))
                await pipeline.execute()


def parse_record(text: bytes) -> Record:
    """A session as the steps write it."""
    created, seen, expires, _digest, details = text.split(b" ", 4)
    return Record(parse_time(created), parse_time(seen), parse_time(expires), *json.loads(details))


def parse_time(text: bytes) -> datetime:
    """A time as the steps write it."""
    return _EPOCH + int(text) * _MICROSECOND


def write_time(moment: datetime) -> str:
    """A time as the steps read it."""
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


def _pairs(told: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(told[::2], told[1::2], strict=True)
