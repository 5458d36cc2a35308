"""Rate limits of log-ins and sign-ups, by login and by address, against guessing.

The library ``limits`` counts in fixed windows: each begins with the first failure and ends a fixed time later.
"""

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from limits import RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter

from att.config.settings import Rate
from att.core.client_address import network_of
from att.core.names import fold
from att.core.precis import map_width
from att.errors import AuthFailed, LoginTaken, TooManyAttempts, Unavailable, WrongPassword

MAX_KEYS = 100_000  # counts for each rate; the oldest are dropped
_WAIT_TIMEOUT = 5.0  # seconds that an attempt waits for running ones

Clock = Callable[[], float]


class RateLimits:
    """Raises TooManyAttempts after too many attempts.

    ``make_counts`` returns the storage for the rate of this name, with the same clock; the default is in memory.
    """

    def __init__(
        self,
        logins: Rate,
        addresses: Rate,
        signups: Rate,
        *,
        clock: Clock = time.monotonic,
        make_counts: Callable[[str], Storage] | None = None,
    ) -> None:
        def limit(rate: Rate, name: str) -> Limit:
            return Limit(rate, clock, make_counts(name) if make_counts else WindowCounts(clock))

        self._logins = limit(logins, "login")
        self._addresses = limit(addresses, "address")
        self._signups = limit(signups, "signup")

    @contextlib.asynccontextmanager
    async def login_attempt(self, login: str, address: str | None) -> AsyncIterator[None]:
        """Count AuthFailed and WrongPassword raised by the block. Raise TooManyAttempts.

        Success clears the failures of the login, but not of the address: an attacker may own one of the logins.
        """
        network, key = network_of(address), fold(map_width(login))
        async with self._addresses.attempt(network), self._logins.attempt(key):
            try:
                yield
            except (AuthFailed, WrongPassword):
                await self._addresses.count(network)
                await self._logins.count(key)
                raise
            with contextlib.suppress(Unavailable):  # the log-in has succeeded anyway
                await self._logins.clear(key)

    def sign_up(self, address: str | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Count a sign-up, also one that raises LoginTaken. Raise TooManyAttempts."""
        return self._claim_login(network_of(address), counts_success=True)

    def rename(self, address: str | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Count a change of one's own login that raises LoginTaken, which reveals a login. Raise TooManyAttempts."""
        return self._claim_login(network_of(address), counts_success=False)

    @contextlib.asynccontextmanager
    async def _claim_login(self, network: str, *, counts_success: bool) -> AsyncIterator[None]:
        async with self._signups.attempt(network):
            try:
                yield
            except LoginTaken:
                await self._signups.count(network)
                raise
            if counts_success:
                with contextlib.suppress(Unavailable):  # the account exists
                    await self._signups.count(network)


@dataclass(eq=False, slots=True)
class AttemptGate:
    """Attempts with one key: ``total`` with the waiting ones, ``running`` without."""

    total: int = 0
    running: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while one attempt waits to run
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Limit:
    """A rate limit, counted for each key."""

    def __init__(self, rate: Rate, clock: Clock, counts: Storage) -> None:
        self._item = RateLimitItemPerSecond(rate.amount, math.ceil(rate.per.total_seconds()))
        self._limiter = FixedWindowRateLimiter(counts)
        self._clock = clock
        self._gates: defaultdict[str, AttemptGate] = defaultdict(AttemptGate)

    @contextlib.asynccontextmanager
    async def attempt(self, key: str) -> AsyncIterator[None]:
        """Run the block when the count allows it. Raise TooManyAttempts when the count is full.

        At most as many blocks run at once as may still fail, so that parallel guesses do not pass the limit.
        """
        gate = self._gates[key]
        gate.total += 1
        try:
            await self._enter(gate, key)
            try:
                yield
            finally:
                gate.running -= 1
                gate.ended.set()
        finally:
            gate.total -= 1
            if not gate.total:
                del self._gates[key]

    async def count(self, key: str) -> None:
        """Add one."""
        await self._limiter.hit(self._item, key)

    async def clear(self, key: str) -> None:
        """Reset the count."""
        await self._limiter.clear(self._item, key)

    async def _enter(self, gate: AttemptGate, key: str) -> None:
        try:
            async with asyncio.timeout(_WAIT_TIMEOUT), gate.lock:
                gate.ended.clear()  # before the test, so that an attempt that ends during it is noticed
                while not await self._limiter.test(self._item, key, cost=gate.running + 1):
                    if not await self._limiter.test(self._item, key):
                        window = await self._limiter.get_window_stats(self._item, key)
                        raise TooManyAttempts(max(1, math.ceil(window.reset_time - self._clock())))
                    if gate.running:
                        await gate.ended.wait()
                    gate.ended.clear()
                gate.running += 1
        except TimeoutError as error:
            raise TooManyAttempts(1) from error


class WindowCounts(Storage):
    """In-memory counts of one rate, always with the same ``expiry``, so the oldest windows end first.

    The library's ``MemoryStorage`` scans all keys at each hit, and is unbounded.
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, tuple[int, float]] = {}  # count and end of the window

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        self._drop_ended()
        count, end = self._windows.get(key, (0, self._clock() + expiry))
        self._windows[key] = (count + amount, end)
        if len(self._windows) > MAX_KEYS:
            del self._windows[next(iter(self._windows))]
        return count + amount

    async def get(self, key: str) -> int:
        count, end = self._windows.get(key, (0, math.inf))
        return count if end > self._clock() else 0

    async def get_expiry(self, key: str) -> float:
        """Return the end of the window, in seconds of the clock."""
        return self._windows[key][1] if key in self._windows else self._clock()

    async def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    async def reset(self) -> int:
        count = len(self._windows)
        self._windows.clear()
        return count

    async def check(self) -> bool:
        return True

    def _drop_ended(self) -> None:
        now = self._clock()
        while self._windows:
            key, (_, end) = next(iter(self._windows.items()))
            if end > now:
                break
            del self._windows[key]
