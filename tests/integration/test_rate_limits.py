"""Guessing is slow: by login and by address, wherever it is counted, with a clock that the tests turn."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from parts import Clock
from waiting import eventually

from att.accounts import rate_limits as module
from att.accounts.rate_limits import RateLimits, WindowCounts, network_of
from att.accounts.redis_rate_limits import RedisCounts
from att.config.settings import Rate
from att.errors import AuthFailed, Busy, LoginTaken, TooManyAttempts, WrongPassword
from att.redis.client import RedisClient

LOGINS, ADDRESSES, SIGNUPS = (Rate(3, timedelta(minutes=5)), Rate(7, timedelta(minutes=5)), Rate(2, timedelta(hours=1)))
HOME, AWAY = "192.0.2.1", "198.51.100.9"
LEEWAY = 25  # seconds that a test may take: in Redis they pass


class SharedClock:
    """Seconds that pass by themselves, and in Redis as well when they are told to."""

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
    """Where counts are kept."""
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
    """How many counts there are."""
    return await limit._limiter.storage.reset()


def ours(error):
    """What is to be suppressed: the error that was asked for, and nothing else."""
    return (error,) if error else ()


@pytest.fixture
def attempt(rate_limits):
    """Guess at a login; ``error`` is how it fails, None for the right password."""

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
    """What is done in the block is refused, for that long."""
    with pytest.raises(TooManyAttempts) as caught:
        yield
    assert seconds - LEEWAY <= caught.value.retry_after <= seconds


async def until(probe):
    """It holds, with others working meanwhile."""

    async def look():
        return probe()

    await eventually(look)


async def test_login(attempt, clock):
    """After so many failures for a login nobody gets in by it, from nowhere, right password or not; others do."""
    for error in (AuthFailed, WrongPassword, AuthFailed):
        await attempt(error=error)
        clock.now += 10
    for login, address, error in [("ann", HOME, None), ("ANN", AWAY, None), ("ann", AWAY, AuthFailed)]:
        async with refused(270):
            await attempt(login, address, error)
    await attempt("bob", HOME, None)


async def test_window_is_not_prolonged(attempt, clock):
    """What is tried while the brake is on does not keep it on: it opens when the window ends."""
    for _ in range(3):
        await attempt()
    for seconds in range(300, 0, -30):
        async with refused(seconds):
            await attempt()
        clock.now += 30
    await attempt(error=None)


async def test_window_begins_with_the_first_failure(attempt, clock, where):
    """The window ends as long after the first failure, wherever in it the others are; then all guesses are back."""
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
    """Whoever gets in has all their guesses again."""
    for _ in range(5):
        await attempt(address=AWAY)
        await attempt(address=HOME)
        await attempt(address=f"{HOME}0", error=None)


async def test_other_errors_do_not_count(attempt):
    """What fails for another reason is neither a failure nor a success."""
    for _ in range(2):
        await attempt()
    for _ in range(9):
        await attempt(error=Busy)
    await attempt()
    async with refused(300):
        await attempt(error=None)


async def test_address(attempt, clock):
    """After so many failures from one address it is refused whatever the login, one's own successes notwithstanding."""
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
    """An address that is braked does not use up the guesses of logins."""
    for number in range(7):
        await attempt(f"user {number}")
    for _ in range(9):
        async with refused(300):
            await attempt("ann")
    for _ in range(3):
        await attempt("ann", AWAY)


async def test_burst(rate_limits):
    """Of many guesses at once only so many are under way as may fail; when they have, the brake is on."""
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
    """However many log in at once, by one login and from one address, they wait for each other and get in."""
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
    """Whoever waits too long for them is told to come back, and is not counted."""
    monkeypatch.setattr("att.accounts.rate_limits._WAIT_TIMEOUT", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(rate_limits.login_attempt("ann", HOME))
        async with refused(1):
            await stack.enter_async_context(rate_limits.login_attempt("ann", HOME))
    async with rate_limits.login_attempt("ann", HOME):
        pass


async def test_places_are_given_back(rate_limits, attempt):
    """Whoever is refused, cancelled or right leaves no trace: nothing is kept but failures."""
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
    """So many sign-ups from an address in a while, those that find the login taken counted, failures of ours not."""
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
    """Many sign-ups at once do not get past either."""
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
    """An IPv4 address is counted by itself, an IPv6 address with its /64; our unix socket is one address."""
    assert (network_of(one) == network_of(other)) is are_one


# The counts in memory


async def test_counts_that_have_ended_go():
    """Of windows that have ended nothing is kept, once there is a hit."""
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
    """However many keys there are, so many are kept: those that came last."""
    clock = Clock(1_000.0)
    monkeypatch.setattr(module, "MAX_KEYS", 10)
    counts = WindowCounts(clock)
    for number in range(25):
        assert await counts.incr(str(number), 60) == 1
    assert [number for number in range(25) if await counts.get(str(number))] == list(range(15, 25))
    assert await counts.reset() == 10
    assert await counts.check()
    assert await counts.get("24") == 0
