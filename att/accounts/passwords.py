"""Hashing passwords with argon2id, off the event loop and within bounds."""

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
from att.errors import Busy

WORKERS = os.cpu_count() or 1
_QUEUE = 128  # hashes waiting for a worker: a few seconds' work at OWASP's cost

_T = TypeVar("_T")


class QueueUse(NamedTuple):
    """Hashes being made, and hashes waiting."""

    running: int
    waiting: int


class Passwords:
    """Hashes and verifies. Each call costs one hash of work, whatever its outcome; raises Busy when the queue is full.

    argon2 releases the GIL while it works, so threads suffice.
    """

    def __init__(self, cost: HashingCost = OWASP, *, workers: int = WORKERS, queue: int = _QUEUE) -> None:
        self._hasher = PasswordHasher(cost.time_cost, cost.memory_kib, cost.parallelism)
        self._workers = workers
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="hash")
        self._free = self._places = workers + queue
        self._decoy = self._hasher.hash(secrets.token_hex())

    @property
    def use(self) -> QueueUse:
        """Return the use of the queue."""
        taken = self._places - self._free
        return QueueUse(min(taken, self._workers), max(taken - self._workers, 0))

    def close(self) -> None:
        """Drop what waits; what is being hashed ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """An encoded argon2id hash."""
        return await self._run(lambda: self._hasher.hash(password))

    async def hash_all(self, passwords: Iterable[str]) -> list[str]:
        """The hashes of many, in their order; no more at once than there are workers: others want their turn."""
        hashes: list[str] = []
        waiting = list(passwords)
        for start in range(0, len(waiting), self._workers):
            hashes += await asyncio.gather(*map(self.hash, waiting[start : start + self._workers]))
        return hashes

    async def verify(self, password: str, encoded: str | None) -> bool:
        """Whether the hash is this password's. With None a decoy is verified: as slow, and always False."""
        matches = await self._run(lambda: self._matches(password, encoded or self._decoy))
        return matches and encoded is not None

    def is_outdated(self, encoded: str) -> bool:
        """Whether the hash was made at another cost than hashes are made at now."""
        return self._hasher.check_needs_rehash(encoded)

    def _matches(self, password: str, encoded: str) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except (VerificationError, ValueError):  # ValueError: what is stored is no hash
            return False

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._free <= 0:
            raise Busy
        future = self._executor.submit(work)
        self._free -= 1
        loop = asyncio.get_running_loop()
        # The place is free when the work has ended, which it does also for a caller who has gone.
        future.add_done_callback(lambda _done: self._release_from_thread(loop))
        return await asyncio.wrap_future(future)

    def _release_from_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for a place any more
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._free += 1
