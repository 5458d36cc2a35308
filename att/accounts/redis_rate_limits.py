"""Counts of attempts in Redis, shared by all nodes.

The storage of the library ``limits`` would open its own connections, and need rights to more commands.
"""

import math
import time
from collections.abc import Callable

from limits.aio.storage import Storage

from att.redis.client import RedisClient, Script

_PREFIX = "att:limit:"

# Key: the count. Arguments: the increment, and the window's seconds. Returns the count.
COUNT = Script(
    """
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
if count == tonumber(ARGV[1]) then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return count
"""
)


class RedisCounts(Storage):
    """A count is a key that expires with its window. Each method raises RedisUnavailable."""

    STORAGE_SCHEME = None

    def __init__(self, redis: RedisClient, name: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._redis = redis
        self._prefix = f"{_PREFIX}{name}:"
        self._clock = clock

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return int(await self._redis.run(COUNT, [self._prefix + key], [amount, math.ceil(expiry)]))

    async def get(self, key: str) -> int:
        (count,) = await self._redis.get_many([self._prefix + key])
        return int(count or 0)

    async def get_expiry(self, key: str) -> float:
        """Return the end of the window, in seconds of the clock."""
        async with self._redis.guarded():
            remaining = await self._redis.client.pttl(self._prefix + key)
        return self._clock() + max(remaining, 0) / 1_000

    async def clear(self, key: str) -> None:
        async with self._redis.guarded():
            await self._redis.client.delete(self._prefix + key)

    async def reset(self) -> int:
        """Delete all counts. Return their number."""
        count = 0
        async for keys in self._redis.scan(f"{self._prefix}*"):
            for key in keys:
                async with self._redis.guarded():
                    count += await self._redis.client.delete(key)
        return count

    async def check(self) -> bool:
        await self._redis.ping()
        return True
