"""Counts in Redis, shared by nodes, also in a cluster: they expire, and without them no password is checked."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from valkey_servers import Valkey
from waiting import eventually

from att.accounts.rate_limits import RateLimits
from att.accounts.redis_rate_limits import RedisCounts
from att.config.settings import Rate
from att.errors import AuthFailed, RedisUnavailable, TooManyAttempts
from att.redis.client import RedisClient

RATE = Rate(3, timedelta(minutes=5))
HOME = "192.0.2.1"


@pytest.fixture(params=["valkey_url", "cluster_url"])
async def redis_client(request):
    """A client of one server, and of a cluster."""
    redis_client = await RedisClient.connect(request.getfixturevalue(request.param))
    yield redis_client
    await redis_client.close()


@pytest.fixture
def counts(redis_client):
    return RedisCounts(redis_client, "login")


def rate_limits_on(redis_client):
    """Return the rate limits of one node."""
    return RateLimits(RATE, Rate(100, RATE.per), RATE, make_counts=lambda name: RedisCounts(redis_client, name))


async def test_counts(counts, redis_client):
    """Counts grow for each key and rate separately, and can be cleared."""
    assert [await counts.incr("ann", 60), await counts.incr("ann", 60, 3), await counts.incr("bob", 60)] == [1, 4, 1]
    assert [await counts.get(key) for key in ("ann", "bob", "eve")] == [4, 1, 0]
    assert await RedisCounts(redis_client, "address").get("ann") == 0
    await counts.clear("ann")
    await counts.clear("nobody")
    assert [await counts.get(key) for key in ("ann", "bob")] == [0, 1]
    assert await counts.check()


async def test_reset(counts, redis_client):
    """All counts of the rate are deleted, and no others."""
    other = RedisCounts(redis_client, "address")
    await other.incr("ann", 60)
    for number in range(30):
        await counts.incr(str(number), 60)
    assert await counts.reset() == 30
    assert await counts.get("7") == 0
    assert await other.get("ann") == 1


async def test_window(redis_client):
    """The window starts with the first count, later counts do not prolong it, and it expires."""
    counts = RedisCounts(redis_client, "login", clock=lambda: 1_000.0)
    assert await counts.get_expiry("ann") == 1_000
    await counts.incr("ann", 1)
    end = await counts.get_expiry("ann")
    assert 1_000 < end <= 1_001
    await counts.incr("ann", 60)
    assert await counts.get_expiry("ann") <= end

    async def is_gone():
        return await counts.get("ann") == 0

    assert await eventually(is_gone)


async def test_nodes_share_them(redis_client):
    """Failures on one node count on the other."""
    nodes = [rate_limits_on(redis_client), rate_limits_on(redis_client)]
    for number in range(3):
        with pytest.raises(AuthFailed):
            async with nodes[number % 2].login_attempt("ann", HOME):
                raise AuthFailed
    for node in nodes:
        with pytest.raises(TooManyAttempts):
            async with node.login_attempt("ann", HOME):
                pass


async def test_attempts_at_once_on_many_nodes(redis_client):
    """Each node runs at most as many attempts as may fail; then all nodes refuse."""
    nodes = [rate_limits_on(redis_client) for _ in range(3)]

    async def attempt(node):
        async with node.login_attempt("ann", HOME):
            await asyncio.sleep(0.01)
            raise AuthFailed

    outcomes = await asyncio.gather(*(attempt(node) for node in nodes * 20), return_exceptions=True)
    told = Counter(type(outcome) for outcome in outcomes)
    assert told.keys() == {AuthFailed, TooManyAttempts}
    assert 3 <= told[AuthFailed] <= 3 * 3
    with pytest.raises(TooManyAttempts):
        await attempt(nodes[0])


async def test_without_redis():
    """No attempt is uncounted; a log-in or sign-up that has succeeded stays."""
    valkey = Valkey()
    valkey.start()
    redis_client = await RedisClient.connect(valkey.url)
    try:
        rate_limits = rate_limits_on(redis_client)
        async with rate_limits.login_attempt("ann", HOME), rate_limits.sign_up(HOME):
            valkey.kill()
        for attempt in (rate_limits.login_attempt("ann", HOME), rate_limits.sign_up(HOME), rate_limits.rename(HOME)):
            with pytest.raises(RedisUnavailable):
                async with attempt:
                    pytest.fail("was let in")
        valkey.start()
        async with rate_limits.login_attempt("ann", HOME):
            pass
        for limit in (rate_limits._logins, rate_limits._addresses, rate_limits._signups):
            assert not limit._gates
    finally:
        await redis_client.close()
        valkey.stop()
