"""The session stores for their common tests, with access to their storage."""

import contextlib
from datetime import timedelta
from uuid import UUID

import redis

from att.redis.client import RedisClient
from att.sessions.redis_keys import parse_record, write_time
from att.sessions.redis_store import RedisSessions
from att.sessions.store import PostgresSessions


class InPostgres:
    """Sessions in the table, and its rows."""

    url = None  # of a Redis

    def __init__(self, db, sql, ttl):
        self.sessions = PostgresSessions(db, ttl)
        self._db = db
        self._sql = sql

    def living_for(self, ttl, limit=None):
        """Return the same store with another time to live, and a limit of sessions of one user."""
        return PostgresSessions(self._db, ttl, limit)

    def rows(self):
        """Return the stored sessions: id, user, times of creation, last use and expiry, address and user agent."""
        return self._sql(
            "SELECT id, user_id, created_at, last_seen_at, expires_at, address, user_agent FROM sessions ORDER BY id"
        )

    def everything(self):
        """Return everything stored, as one text."""
        return str(self._sql("SELECT token_hash, encode(token_hash, 'hex'), sessions::text FROM sessions"))

    def age(self, left, ttl, *session_ids):
        """Make these or all sessions expire after ``left``, as if their last use was earlier."""
        self._sql(
            "UPDATE sessions SET expires_at = now() + %s, last_seen_at = now() + %s WHERE %s OR id = ANY(%s)",
            left,
            left - ttl,
            not session_ids,
            list(session_ids),
        )

    def begin_at_once(self, session_ids):
        """Give these sessions the same creation time."""
        self._sql(
            "UPDATE sessions SET created_at = (SELECT max(created_at) FROM sessions) WHERE id = ANY(%s)", session_ids
        )


class InRedis:
    """Sessions in Redis, and its keys."""

    def __init__(self, url, redis_client, client, db, ttl):
        self.sessions = RedisSessions(redis_client, db, ttl)
        self.url = url
        self.is_cluster = redis_client.is_cluster
        self.client = client
        self._redis = redis_client
        self._db = db

    def living_for(self, ttl, limit=None):
        return RedisSessions(self._redis, self._db, ttl, limit)

    def rows(self):
        return [
            (session_id, user_id, *parse_record(self.client.get(key).encode()))
            for key, user_id, session_id in sorted(self._records(), key=lambda found: found[2])
        ]

    def everything(self):
        texts = []
        for key in self.client.scan_iter(count=1_000):
            kind = self.client.type(key)
            texts += [key, self.client.get(key) if kind == "string" else str(self.client.zrange(key, 0, -1))]
        return "\n".join(texts)

    def age(self, left, ttl, *session_ids):
        for key, user_id, session_id in [*self._records()]:
            if not session_ids or session_id in session_ids:
                self._age(key, user_id, session_id, left, ttl)

    def begin_at_once(self, session_ids):
        found = [(key, user_id, one) for key, user_id, one in self._records() if one in session_ids]
        moment = write_time(max(parse_record(self.client.get(key).encode()).created_at for key, _, _ in found))
        for key, user_id, session_id in found:
            self._set(key, created=moment)
            self.client.zadd(f"att:{{{user_id}}}:sessions", {str(session_id): moment})

    def _age(self, key, user_id, session_id, left, ttl):
        seconds, microseconds = self._now()
        now = timedelta(seconds=seconds, microseconds=microseconds) // timedelta(microseconds=1)
        expires, seen = (now + span // timedelta(microseconds=1) for span in (left, left - ttl))
        self._set(key, seen=str(seen), expires=str(expires))
        self.client.zadd(f"att:{{{user_id}}}:expiries", {str(session_id): expires})
        self.client.pexpire(key, left)

    def _now(self):
        told = self.client.time()
        return next(iter(told.values())) if isinstance(told, dict) else told

    def _set(self, key, **values):
        names = ("created", "seen", "expires", "token", "details")
        record = dict(zip(names, self.client.get(key).split(" ", 4), strict=True)) | values
        self.client.set(key, " ".join(record.values()), keepttl=True)

    def _records(self):
        for key in self.client.scan_iter("att:{*}:session:*", count=1_000):
            user_id, session_id = key.removeprefix("att:{").split("}:session:")
            yield key, UUID(user_id), UUID(session_id)


@contextlib.asynccontextmanager
async def in_redis(url, db, ttl):
    """Open the store in the server or cluster at the URL."""
    redis_client = await RedisClient.connect(url)
    kind = redis.RedisCluster if redis_client.is_cluster else redis.Redis
    try:
        with kind.from_url(url, decode_responses=True, protocol=2) as client:
            yield InRedis(url, redis_client, client, db, ttl)
    finally:
        await redis_client.close()
