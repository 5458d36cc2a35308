"""Rate limits by login and by address, in memory and in Redis, with a clock set by the tests."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from doubles import Clock
from waiting import eventually

from att.accounts import rate_limits as module
from att.accounts.rate_limits import RateLimits, WindowCounts
from att.accounts.redis_rate_limits import RedisCounts
from att.config.settings import Rate
from att.core.client_address import network_of
from att.errors import AuthFailed, Busy, LoginTaken, TooManyAttempts, WrongPassword
from att.redis.client import RedisClient

LOGINS, ADDRESSES, SIGNUPS = (Rate(3, timedelta(minutes=5)), Rate(7, timedelta(minutes=5)), Rate(2, timedelta(hours=1)))
HOME, AWAY = "192.0.2.1", "198.51.100.9"
LEEWAY = 25  # seconds that a test may take: in Redis they pass


class SharedClock:
    """A clock that runs, and that the tests can move, in Redis too."""

    def __init__(self, valkey):
        self._valkey = valkey
        self._passed = 0.0

    def __call__(self):
        return time.time() + self._passed

    @property
    def now(self):
        return self._passed

    @now.setter
    def now(self, passed):
        for key in self._valkey.ask("KEYS", "att:limit:*"):
            left = self._valkey.ask("PTTL", key) - round(1_000 * (passed - self._passed))
            self._valkey.ask("PEXPIRE", key, left)
        self._passed = passed


@pytest.fixture(params=["memory", "redis"])
def where(request):
    """The place of the counts."""
    return request.param


@pytest.fixture
def clock(where, request):
    if where == "memory":
        return Clock(1_000.0)
    request.getfixturevalue("valkey_url")
    return SharedClock(request.getfixturevalue("valkey"))


@pytest.fixture
async def rate_limits(where, clock, request):
    if where == "memory":
        yield RateLimits(LOGINS, ADDRESSES, SIGNUPS, clock=clock)
        return
    redis_client = await RedisClient.connect(request.getfixturevalue("valkey_url"))
    yield RateLimits(
        LOGINS, ADDRESSES, SIGNUPS, clock=clock, make_counts=lambda name: RedisCounts(redis_client, name, clock)
    )
    await redis_client.close()


async def kept(limit):
    """Return the number of counts."""
    return await limit._limiter.storage.reset()


def ours(error):
    """Return the exceptions to suppress: the requested error only."""
    return (error,) if error else ()


@pytest.fixture
def attempt(rate_limits):
    """Attempt a log-in that fails with ``error``, or succeeds with None."""

    async def go(login="ann", address=HOME, error=AuthFailed):
        with suppress(*ours(error)):
            async with rate_limits.login_attempt(login, address):
                if error:
                    raise error

    return go


@pytest.fixture
def sign_up(rate_limits):
    async def go(address=HOME, error=None):
        with suppress(*ours(error)):
            async with rate_limits.sign_up(address):
                if error:
                    raise error

    return go


@asynccontextmanager
async def refused(seconds):
    """Assert that the block raises TooManyAttempts with about this time."""
    with pytest.raises(TooManyAttempts) as caught:
        yield
    assert seconds - LEEWAY <= caught.value.retry_after <= seconds


async def until(probe):
    """Wait until the probe is true."""

    async def look():
        return probe()

    await eventually(look)


async def test_login(attempt, clock):
    """After too many failures a login is refused from any address, even with the right password; others are not."""
    for error in (AuthFailed, WrongPassword, AuthFailed):
        await attempt(error=error)
        clock.now += 10
    for login, address, error in [("ann", HOME, None), ("ANN", AWAY, None), ("ann", AWAY, AuthFailed)]:
        async with refused(270):
            await attempt(login, address, error)
    await attempt("bob", HOME, None)


async def test_window_is_not_prolonged(attempt, clock):
    """Refused attempts do not prolong the window."""
    for _ in range(3):
        await attempt()
    for seconds in range(300, 0, -30):
        async with refused(seconds):
            await attempt()
        clock.now += 30
    await attempt(error=None)


async def test_window_begins_with_the_first_failure(attempt, clock, where):
    """The window ends a fixed time after the first failure; then the full number of attempts is allowed."""
    left = 0.5 if where == "memory" else 30
    await attempt()
    clock.now += 300 - left
    await attempt()
    await attempt()
    async with refused(math.ceil(left)):
        await attempt()
    clock.now += left
    for _ in range(3):
        await attempt()
    async with refused(300):
        await attempt()


async def test_success_wipes_out_the_login(attempt):
    """A success clears the failures of the login."""
    for _ in range(5):
        await attempt(address=AWAY)
        await attempt(address=HOME)
        await attempt(address=f"{HOME}0", error=None)


async def test_other_errors_do_not_count(attempt):
    """Other errors count neither as a failure nor as a success."""
    for _ in range(2):
        await attempt()
    for _ in range(9):
        await attempt(error=Busy)
    await attempt()
    async with refused(300):
        await attempt(error=None)


async def test_address(attempt, clock):
    """After too many failures an address is refused for any login, despite its successes."""
    for number in range(7):
        await attempt("mine", error=None)
        await attempt(f"user {number}")
        clock.now += 1
    async with refused(293):
        await attempt("mine", error=None)
    async with refused(293):
        await attempt("somebody")
    await attempt("mine", AWAY, None)
    clock.now += 293
    await attempt("mine", error=None)


async def test_refusals_by_address_leave_the_login_alone(attempt):
    """Attempts refused by address do not count for the login."""
    for number in range(7):
        await attempt(f"user {number}")
    for _ in range(9):
        async with refused(300):
            await attempt("ann")
    for _ in range(3):
        await attempt("ann", AWAY)


async def test_burst(rate_limits):
    """At most as many concurrent attempts run as may fail; then all are refused."""
    gate, begun = asyncio.Event(), []

    async def attempt():
        async with rate_limits.login_attempt("ann", HOME):
            begun.append(1)
            await gate.wait()
            raise AuthFailed

    guesses = [asyncio.create_task(attempt()) for _ in range(20)]
    await until(lambda: len(begun) == 3)
    gate.set()
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    assert Counter(type(outcome) for outcome in outcomes) == {AuthFailed: 3, TooManyAttempts: 17}
    assert len(begun) == 3
    async with refused(300):
        await attempt()


async def test_burst_of_those_who_are_right(rate_limits):
    """Many concurrent right passwords for one login and address wait for each other and succeed."""
    most = under_way = 0

    async def log_in():
        nonlocal most, under_way
        async with rate_limits.login_attempt("ann", HOME):
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.005)
            under_way -= 1

    await asyncio.gather(*(log_in() for _ in range(200)))
    assert most == 3
    for limit in (rate_limits._logins, rate_limits._addresses):
        assert not limit._gates


async def test_waiting_for_those_under_way_is_bounded(rate_limits, monkeypatch):
    """An attempt that waits too long is refused, and not counted."""
    monkeypatch.setattr("att.accounts.rate_limits._WAIT_TIMEOUT", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(rate_limits.login_attempt("ann", HOME))
        async with refused(1):
            await stack.enter_async_context(rate_limits.login_attempt("ann", HOME))
    async with rate_limits.login_attempt("ann", HOME):
        pass


async def test_places_are_given_back(rate_limits, attempt):
    """Refused, cancelled and successful attempts leave nothing but failures."""
    gate = asyncio.Event()

    async def wait():
        async with rate_limits.login_attempt("ann", HOME):
            await gate.wait()

    waiting = [asyncio.create_task(wait()) for _ in range(4)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 4
    await attempt(error=None)
    for limit in (rate_limits._logins, rate_limits._addresses):
        assert not limit._gates
        assert await kept(limit) == 0


async def test_sign_up(sign_up, clock):
    """Sign-ups from an address are limited, including those for taken logins, excluding our own failures."""
    await sign_up()
    for _ in range(5):
        await sign_up(error=Busy)
    await sign_up(error=LoginTaken)
    async with refused(3600):
        await sign_up()
    await sign_up(AWAY)
    clock.now += 3600
    await sign_up()


async def test_sign_ups_at_once(rate_limits):
    """Concurrent sign-ups do not exceed the limit."""
    gate = asyncio.Event()

    async def sign_up():
        async with rate_limits.sign_up(HOME):
            await gate.wait()

    tasks = [asyncio.create_task(sign_up()) for _ in range(9)]
    await until(lambda: rate_limits._signups._gates[HOME].running == 2)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert Counter(type(outcome) for outcome in outcomes) == {type(None): 2, TooManyAttempts: 7}


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        (HOME, HOME, True),
        (HOME, AWAY, False),
        ("2001:db8::1", "2001:db8:0:0:ffff::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        (None, None, True),
        (None, HOME, False),
    ],
)
def test_network(one, other, are_one):
    """IPv4 addresses count separately, IPv6 addresses by their /64, and our unix socket as one address."""
    assert (network_of(one) == network_of(other)) is are_one


# The counts in memory


async def test_counts_that_have_ended_go():
    """The next count removes ended windows."""
    clock = Clock(1_000.0)
    counts = WindowCounts(clock)
    for number in range(100):
        await counts.incr(str(number), 60)
        clock.now += 1
    assert len(counts._windows) == 60
    clock.now += 60
    assert await counts.get("99") == 0
    assert await counts.incr("99", 60) == 1
    assert len(counts._windows) == 1
    assert await counts.get_expiry("99") == clock.now + 60


async def test_counts_are_bounded(monkeypatch):
    """The number of counts is bounded; the newest are kept."""
    clock = Clock(1_000.0)
    monkeypatch.setattr(module, "MAX_KEYS", 10)
    counts = WindowCounts(clock)
    for number in range(25):
        assert await counts.incr(str(number), 60) == 1
    assert [number for number in range(25) if await counts.get(str(number))] == list(range(15, 25))
    assert await counts.reset() == 10
    assert await counts.check()
    assert await counts.get("24") == 0
