"""Password hashing with argon2id, in a bounded pool of threads. Addresses take turns."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from att.config.settings import OWASP, HashingCost
from att.core.client_address import site_of
from att.core.fair_semaphore import FairSemaphore

WORKERS = os.cpu_count() or 1
_QUEUE = 128  # waiting hashes: a few seconds of work at OWASP's cost

_T = TypeVar("_T")


class QueueUse(NamedTuple):
    """Numbers of running and waiting hashes."""

    running: int
    waiting: int


class Passwords:
    """Hashes and verifies passwords. Each call costs one hash, whatever its outcome.

    The addresses of clients take turns, so that one cannot keep the others waiting; a /48 of IPv6 is one address.
    Raises Busy when the queue is full, or an address has half of it. Threads suffice, since argon2 releases the GIL.
    """

    def __init__(self, cost: HashingCost = OWASP, *, workers: int = WORKERS, queue: int = _QUEUE) -> None:
        self._hasher = PasswordHasher(cost.time_cost, cost.memory_kib, cost.parallelism)
        self._workers = workers
        self._places = FairSemaphore(workers, most=workers, queue=queue, share=-(-queue // 2))
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="hash")
        self._decoy = self._hasher.hash(secrets.token_hex())

    @property
    def use(self) -> QueueUse:
        """Return the use of the queue."""
        return QueueUse(self._places.taken, self._places.waiting)

    def close(self) -> None:
        """Cancel waiting hashes. Running ones end by themselves."""
        self._places.close()
        self._executor.shutdown(wait=False)

    async def hash(self, password: str, address: str | None = None) -> str:
        """Return the encoded argon2id hash."""
        return await self._run(lambda: self._hasher.hash(password), address)

    async def hash_all(self, passwords: Iterable[str], address: str | None = None) -> list[str]:
        """Return the hashes in order. Uses at most one place per worker at a time, to leave room for other callers."""
        hashes: list[str] = []
        waiting = list(passwords)
        for start in range(0, len(waiting), self._workers):
            batch = waiting[start : start + self._workers]
            hashes += await asyncio.gather(*(self.hash(password, address) for password in batch))
        return hashes

    async def verify(self, password: str, encoded: str | None, address: str | None = None) -> bool:
        """Return True if the hash is of this password. None costs as much time, and returns False."""
        matches = await self._run(lambda: self._matches(password, encoded or self._decoy), address)
        return matches and encoded is not None

    def is_outdated(self, encoded: str) -> bool:
        """Return True if the hash has another cost than new hashes."""
        return self._hasher.check_needs_rehash(encoded)

    def _matches(self, password: str, encoded: str) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except (VerificationError, ValueError):  # ValueError: the stored text is not a hash
            return False

    async def _run(self, work: Callable[[], _T], address: str | None = None) -> _T:
        source = site_of(address)
        await self._places.acquire(source)
        future = self._executor.submit(work)
        loop = asyncio.get_running_loop()
        # Release the worker when the work ends, even if its caller was cancelled.
        future.add_done_callback(lambda _done: self._release_from_thread(loop, source))
        return await asyncio.wrap_future(future)

    def _release_from_thread(self, loop: asyncio.AbstractEventLoop, source: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._places.release, source)
