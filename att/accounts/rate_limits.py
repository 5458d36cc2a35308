"""Rate limits of log-ins and sign-ups against guessing, such that a stranger cannot lock anybody out.

OWASP, "Slow Down Online Guessing Attacks with Device Cookies": a device on which a user has signed in counts by itself.
The library ``limits`` counts in fixed windows: each begins with the first failure and ends a fixed time later.
"""

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from limits import RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter

from att.config.settings import Rate
from att.core.client_address import network_of, site_of
from att.core.names import fold
from att.core.precis import map_width
from att.errors import AuthFailed, LoginTaken, TooManyAttempts, Unavailable, WrongPassword

MAX_KEYS = 100_000  # counts for each rate; the oldest are dropped
SITE_AMOUNT = 10  # times the failures of an address: a /48 of IPv6 may have many customers
# Failures of a login at all addresses, as multiples of those at one: by default 100 in an hour (OWASP ASVS 4.0.3,
# 2.2.1), which is more than one address can reach.
ANYWHERE_AMOUNT, ANYWHERE_WINDOWS = 20, 12
_WAIT_TIMEOUT = 5.0  # seconds that an attempt waits for running ones

Clock = Callable[[], float]
IsKnown = Callable[[], Awaitable[bool]]


class Counter(NamedTuple):
    """The count of one key of a limit."""

    limit: "Limit"
    key: str


class RateLimits:
    """Raises TooManyAttempts after too many attempts.

    ``make_counts`` returns the storage for the rate of this name, with the same clock; the default is in memory. The
    names are not those of 0.2.0 where a count means something else, since its servers may run beside.
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

        self._logins = limit(logins, "login_at_site")
        self._logins_anywhere = limit(
            Rate(ANYWHERE_AMOUNT * logins.amount, ANYWHERE_WINDOWS * logins.per), "login_anywhere"
        )
        self._devices = limit(logins, "device")
        self._sessions = limit(logins, "session")
        self._addresses = limit(addresses, "address")
        self._sites = limit(addresses._replace(amount=SITE_AMOUNT * addresses.amount), "site")
        self._signups = limit(signups, "signup")
        self._site_signups = limit(signups._replace(amount=SITE_AMOUNT * signups.amount), "signup_at_site")

    @contextlib.asynccontextmanager
    async def login_attempt(
        self, login: str, address: str | None, device: str | None = None, is_known: IsKnown | None = None
    ) -> AsyncIterator[None]:
        """Count AuthFailed raised by the block. Raise TooManyAttempts.

        A ``device`` on which the login has signed in before has a count of its own, which nobody else can fill. Without
        one the login's failures at this address count, those at the address, and those of the login at all addresses.
        The last do not refuse an address that ``is_known`` to be the user's.
        """
        key = fold(map_width(login))
        if device is not None:
            async with self._attempt(Counter(self._devices, device), [], address):
                yield
            return
        own, anywhere = Counter(self._logins, f"{site_of(address)} {key}"), Counter(self._logins_anywhere, key)
        async with self._attempt(own, self._at(address), address, anywhere, is_known):
            yield

    def current_password(self, session_id: UUID, address: str | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Count WrongPassword raised by the block, for this session alone. Raise TooManyAttempts."""
        return self._attempt(Counter(self._sessions, str(session_id)), [], address)

    def sign_up(self, address: str | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Count a sign-up, also one that raises LoginTaken. Raise TooManyAttempts."""
        return self._claim_login(address, counts_success=True)

    def rename(self, address: str | None) -> contextlib.AbstractAsyncContextManager[None]:
        """Count a change of one's own login that raises LoginTaken, which reveals a login. Raise TooManyAttempts."""
        return self._claim_login(address, counts_success=False)

    @contextlib.asynccontextmanager
    async def _attempt(
        self,
        own: Counter,
        others: Sequence[Counter],
        address: str | None,
        anywhere: Counter | None = None,
        is_known: IsKnown | None = None,
    ) -> AsyncIterator[None]:
        """Let a password be tried. Failures and refusals also count against the address.

        Success clears ``own``, but not the failures of the address: an attacker may own one of the logins.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                for limit, key in (*others, own):
                    await stack.enter_async_context(limit.attempt(key))
                if anywhere is not None:
                    await _enter_anywhere(stack, anywhere, is_known)
            except TooManyAttempts as error:
                if not isinstance(error.__cause__, TimeoutError):  # which is no sign of guessing
                    # Not against the site: one address alone must not fill it.
                    await self._addresses.count(network_of(address))
                raise
            try:
                yield
            except (AuthFailed, WrongPassword):
                for limit, key in (*self._at(address), own, *([anywhere] if anywhere else [])):
                    await limit.count(key)
                raise
            with contextlib.suppress(Unavailable):  # the password was right anyway
                await own.limit.clear(own.key)

    def _at(self, address: str | None) -> list[Counter]:
        return _places(self._addresses, self._sites, address)

    @contextlib.asynccontextmanager
    async def _claim_login(self, address: str | None, *, counts_success: bool) -> AsyncIterator[None]:
        places = _places(self._signups, self._site_signups, address)
        async with contextlib.AsyncExitStack() as stack:
            for limit, key in places:
                await stack.enter_async_context(limit.attempt(key))
            try:
                yield
            except LoginTaken:
                for limit, key in places:
                    await limit.count(key)
                raise
            if counts_success:
                with contextlib.suppress(Unavailable):  # the account exists
                    for limit, key in places:
                        await limit.count(key)


def _places(addresses: "Limit", sites: "Limit", address: str | None) -> list[Counter]:
    """Return the counts of an address, and of its /48 if it has one."""
    network, site = network_of(address), site_of(address)
    places = [Counter(addresses, network), Counter(sites, site)]
    return places[: 1 if network == site else 2]


async def _enter_anywhere(stack: contextlib.AsyncExitStack, anywhere: Counter, is_known: IsKnown | None) -> None:
    try:
        await stack.enter_async_context(anywhere.limit.attempt(anywhere.key))
    except TooManyAttempts:
        if is_known is None or not await is_known():
            raise


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
