"""Makes guessing slow: how many attempts there may be in a while, by login and by address.

The counting is the library's (``limits``), by fixed windows: each begins with the first failure and ends a fixed time
later, whatever is tried meanwhile.
"""

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from limits import RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter

from att.config.settings import Rate
from att.core.client_address import parse_address
from att.core.names import fold
from att.errors import AuthFailed, LoginTaken, TooManyAttempts, Unavailable, WrongPassword

MAX_KEYS = 100_000  # counts kept for each rate; beyond that the oldest are forgotten
_PATIENCE = 5.0  # seconds that an attempt waits for those under way
NETWORK_BITS = 64  # of an IPv6 address: what one customer has for themselves

Clock = Callable[[], float]


class RateLimits:
    """Refuses attempts, with TooManyAttempts, while there have been too many.

    ``make_counts`` gives the counts for a rate of this name, whose windows end by the same clock; without it they are
    this process's own.
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
    async def guess(self, login: str, address: str | None) -> AsyncIterator[None]:
        """Around the check of a password, which fails by AuthFailed or WrongPassword. Raises TooManyAttempts.

        Success wipes out the login's failures, but not the address's: it may be one's own login among those of others.
        """
        network, key = network_of(address), fold(login)
        async with self._addresses.attempt(network), self._logins.attempt(key):
            try:
                yield
            except (AuthFailed, WrongPassword):
                await self._addresses.count(network)
                await self._logins.count(key)
                raise
            with contextlib.suppress(Unavailable):  # they are in, whether or not that can be put down
                await self._logins.clear(key)

    @contextlib.asynccontextmanager
    async def sign_up(self, address: str | None) -> AsyncIterator[None]:
        """Around a sign-up; one that finds the login taken counts as well. Raises TooManyAttempts."""
        network = network_of(address)
        async with self._signups.attempt(network):
            try:
                yield
            except LoginTaken:
                await self._signups.count(network)
                raise
            with contextlib.suppress(Unavailable):  # the account has been made
                await self._signups.count(network)

    @contextlib.asynccontextmanager
    async def rename(self, address: str | None) -> AsyncIterator[None]:
        """Around a new login for oneself: one that is taken counts as at sign-up, for it tells who is there."""
        network = network_of(address)
        async with self._signups.attempt(network):
            try:
                yield
            except LoginTaken:
                await self._signups.count(network)
                raise


@dataclass(eq=False, slots=True)
class AttemptGate:
    """Where attempts with one key stand in line: ``people`` in all, of whom ``under_way`` have been let in."""

    people: int = 0
    under_way: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # of the one who asks whether they may; the rest wait
    left: asyncio.Event = field(default_factory=asyncio.Event)


class Limit:
    """One rate, for each key by itself."""

    def __init__(self, rate: Rate, clock: Clock, counts: Storage) -> None:
        self._item = RateLimitItemPerSecond(rate.amount, math.ceil(rate.per.total_seconds()))
        self._limiter = FixedWindowRateLimiter(counts)
        self._clock = clock
        self._doors: defaultdict[str, AttemptGate] = defaultdict(AttemptGate)

    @contextlib.asynccontextmanager
    async def attempt(self, key: str) -> AsyncIterator[None]:
        """Let it be made, unless the count is full. No more are under way here at once than may still fail: others wait
        for them, so that many guesses at once do not get past, and many who are right do. Raises TooManyAttempts.
        """
        door = self._doors[key]
        door.people += 1
        try:
            await self._enter(door, key)
            try:
                yield
            finally:
                door.under_way -= 1
                door.left.set()
        finally:
            door.people -= 1
            if not door.people:
                del self._doors[key]

    async def count(self, key: str) -> None:
        """Count one."""
        await self._limiter.hit(self._item, key)

    async def clear(self, key: str) -> None:
        """Forget what was counted."""
        await self._limiter.clear(self._item, key)

    async def _enter(self, door: AttemptGate, key: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE), door.turn:
                door.left.clear()  # before it is asked: whoever leaves meanwhile must be noticed
                while not await self._limiter.test(self._item, key, cost=door.under_way + 1):
                    if not await self._limiter.test(self._item, key):
                        window = await self._limiter.get_window_stats(self._item, key)
                        raise TooManyAttempts(max(1, math.ceil(window.reset_time - self._clock())))
                    if door.under_way:
                        await door.left.wait()
                    door.left.clear()
                door.under_way += 1
        except TimeoutError as error:
            raise TooManyAttempts(1) from error


class WindowCounts(Storage):
    """Counts in memory, of one rate: ``expiry`` is always the same.

    So windows end in the order in which they began, and those that have ended are found at the front. The library's
    own ``MemoryStorage`` walks through all keys at each hit, and has no bound. None of the verbs ever waits.
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, tuple[int, float]] = {}  # how many, and when the window ends

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        self._forget_ended()
        count, end = self._windows.get(key, (0, self._clock() + expiry))
        self._windows[key] = (count + amount, end)
        if len(self._windows) > MAX_KEYS:
            del self._windows[next(iter(self._windows))]
        return count + amount

    async def get(self, key: str) -> int:
        count, end = self._windows.get(key, (0, math.inf))
        return count if end > self._clock() else 0

    async def get_expiry(self, key: str) -> float:
        """When the window ends, by the clock that was given."""
        return self._windows[key][1] if key in self._windows else self._clock()

    async def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    async def reset(self) -> int:
        count = len(self._windows)
        self._windows.clear()
        return count

    async def check(self) -> bool:
        return True

    def _forget_ended(self) -> None:
        now = self._clock()
        while self._windows:
            key, (_, end) = next(iter(self._windows.items()))
            if end > now:
                break
            del self._windows[key]


def network_of(address: str | None) -> str:
    """Whom an address is counted as: one IPv4 address, one /64 of IPv6, or all those who come by our unix socket."""
    parsed = parse_address(address or "")
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), NETWORK_BITS), strict=False))
    return str(parsed)
