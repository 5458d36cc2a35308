"""Rate limits by login and by address, in memory and in Redis, with a clock set by the tests."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import uuid4

import pytest
from doubles import Clock
from waiting import eventually

from att.accounts import rate_limits as module
from att.accounts.rate_limits import RateLimits, WindowCounts
from att.accounts.redis_rate_limits import RedisCounts
from att.config.settings import Rate
from att.core.client_address import network_of, site_of
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


async def test_full_width(attempt):
    """A login in characters of full width is the same user, so it has no count of its own."""
    for login in ("ann", "\uff41nn", "a\uff2en"):
        await attempt(login)
    with pytest.raises(TooManyAttempts):
        await attempt("\uff41\uff4e\uff4e")


async def test_login(attempt, clock):
    """After too many failures a login is refused at that address alone, even with the right password."""
    for _ in range(3):
        await attempt()
        clock.now += 10
    for login, error in [("ann", None), ("ANN", None), ("ann", AuthFailed)]:
        async with refused(270):
            await attempt(login, HOME, error)
    await attempt("ann", AWAY, None)
    await attempt("bob", HOME, None)


async def test_login_at_a_site(attempt):
    """A /48 of IPv6 has as many failures of one login as a single address."""
    for network in range(3):
        await attempt(address=f"2001:db8:0:{network}::1")
    async with refused(300):
        await attempt(address="2001:db8:0:9::1", error=None)
    await attempt(address="2001:db8:1::1", error=None)


async def test_refused_attempts_count_against_their_address(attempt):
    """An address that goes on with a refused login is refused for all; its /48 is not, since others are in it."""
    mine, neighbour = "2001:db8:0:1::1", "2001:db8:0:2::1"
    for _ in range(3):
        await attempt(address=mine)
    for _ in range(100):
        async with refused(300):
            await attempt(address=mine)
    async with refused(300):
        await attempt("bob", mine, None)
    await attempt("bob", neighbour, None)


async def test_guesses_from_many_addresses(rate_limits, attempt, clock):
    """A login that fails at many addresses is refused at new ones, for longer, but not where its user is known."""
    for number in range(20):
        for _ in range(3):
            await attempt(address=f"203.0.113.{number}")

    async def is_known():
        return True

    async def is_unknown():
        return False

    for known in (None, is_unknown):
        async with refused(3600), rate_limits.login_attempt("ann", HOME, None, known):
            pytest.fail("was let in")
    async with rate_limits.login_attempt("ann", HOME, None, is_known), rate_limits.login_attempt("ann", HOME, "device"):
        pass
    await attempt("bob", AWAY, None)
    clock.now += 3600
    await attempt(error=None)


async def test_one_address_is_not_many(attempt, clock):
    """One address, however long it guesses, does not have the login refused elsewhere; nor does a /48."""
    for window in range(12):
        for number in range(3):
            await attempt(address=f"2001:db8:0:{window}{number}::1")
        async with refused(300):
            await attempt(address="2001:db8:0:ffff::1")
        await attempt(error=None)
        clock.now += 300


async def test_device(rate_limits, attempt):
    """A device counts by itself, whoever guesses elsewhere or at its address, and its failures count there, too."""

    async def on_device(error=None, device="phone"):
        with suppress(*ours(error)):
            async with rate_limits.login_attempt("ann", HOME, device):
                if error:
                    raise error

    for _ in range(3):
        await attempt()
    for number in range(4):
        await attempt(f"user {number}")
    for _ in range(2):
        await on_device(AuthFailed)
        await on_device(AuthFailed)
        await on_device()
    for _ in range(3):
        await on_device(AuthFailed)
    async with refused(300):
        await on_device()
    await on_device(device="laptop")
    for _ in range(3):
        async with rate_limits.login_attempt("ann", AWAY, f"device {_}"):
            pass
    for number in range(7):
        with suppress(AuthFailed):
            async with rate_limits.login_attempt("ann", AWAY, f"device {number}"):
                raise AuthFailed
    async with refused(300):
        await attempt("bob", AWAY, None)


async def test_current_password(rate_limits, attempt):
    """A session's guesses at the current password count by themselves: no log-in fills or clears their count."""
    mine, stolen = uuid4(), uuid4()

    async def change(session, error=None):
        with suppress(*ours(error)):
            async with rate_limits.current_password(session, HOME):
                if error:
                    raise error

    for name in (str(mine), str(stolen)):
        for _ in range(3):
            await attempt(name)
    await change(mine)
    for _ in range(3):
        await change(stolen, WrongPassword)
    await change(mine)
    await attempt(str(stolen), AWAY, None)
    async with refused(300):
        await change(stolen)
    await change(mine)


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
    """A success clears the failures of the login at that address."""
    for _ in range(3):
        await attempt()
        await attempt()
        await attempt(error=None)


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


async def test_site(attempt):
    """The networks of a /48 together have ten times the failures of one; another /48 has its own."""
    for network in range(10):
        for number in range(7):
            await attempt(f"user {network} {number}", f"2001:db8:0:{network}::1")
    async with refused(300):
        await attempt("mine", "2001:db8:0:ffff::1", None)
    await attempt("mine", "2001:db8:1::1", None)


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


async def test_sign_up_at_a_site(sign_up):
    """The networks of a /48 together have ten times the sign-ups of one."""
    for network in range(10):
        for _ in range(2):
            await sign_up(f"2001:db8:0:{network}::1")
    async with refused(3600):
        await sign_up("2001:db8:0:ffff::1")
    await sign_up("2001:db8:1::1")


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


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        (HOME, HOME, True),
        (HOME, AWAY, False),
        ("2001:db8::1", "2001:db8:0:ffff::2", True),
        ("2001:db8::1", "2001:db8:1::1", False),
        (None, None, True),
        (None, HOME, False),
    ],
)
def test_site_of(one, other, are_one):
    """The networks of a /48 are one site; an IPv4 address is its own."""
    assert (site_of(one) == site_of(other)) is are_one


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
