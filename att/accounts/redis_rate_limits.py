"""Counts of attempts that all nodes share, in Redis.

The library's own storage for Redis opens connections of its own, to a cluster also differently, and asks for rights to
commands that nothing else needs; so this is one of ours, as ``att.accounts.rate_limits.WindowCounts`` is.
"""

import math
import time
from collections.abc import Callable

from limits.aio.storage import Storage

from att.redis.client import RedisLink, Script

_PREFIX = "att:limit:"

# The count's key; how many more, and for how many seconds if it is the first. How many there are.
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
    """A count is a key that expires with its window. Each verb raises RedisUnavailable."""

    STORAGE_SCHEME = None

    def __init__(self, link: RedisLink, name: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._link = link
        self._prefix = f"{_PREFIX}{name}:"
        self._clock = clock

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return int(await self._link.run(COUNT, [self._prefix + key], [amount, math.ceil(expiry)]))

    async def get(self, key: str) -> int:
        (count,) = await self._link.get_many([self._prefix + key])
        return int(count or 0)

    async def get_expiry(self, key: str) -> float:
        """When the window ends, by the clock that was given."""
        async with self._link.guarded():
            left = await self._link.client.pttl(self._prefix + key)
        return self._clock() + max(left, 0) / 1_000

    async def clear(self, key: str) -> None:
        async with self._link.guarded():
            await self._link.client.delete(self._prefix + key)

    async def reset(self) -> int:
        """Forget every count; how many there were."""
        count = 0
        async for keys in self._link.scan(f"{self._prefix}*"):
            for key in keys:
                async with self._link.guarded():
                    count += await self._link.client.delete(key)
        return count

    async def check(self) -> bool:
        await self._link.ping()
        return True
