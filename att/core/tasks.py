"""Work that is done while the server runs: now and then, or all the time. It is known what of it fails."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from att.errors import AttError

RESTART_PAUSE = 1.0  # seconds
RETRY_PAUSE = 5.0  # seconds at most until what is done now and then, and has failed, is tried again
PROBATION = 10.0  # seconds that what is done all the time, and has failed, must run before it counts as sound

log = logging.getLogger("att")


class Failing(NamedTuple):
    """Work that fails, and since when."""

    name: str
    since: datetime


class Work:
    """A piece of work, and whether it fails: from a failure on until it has succeeded, or ``probation`` seconds."""

    def __init__(self, name: str, probation: float = math.inf) -> None:
        self.name = name
        self._probation = probation
        self._since: datetime | None = None
        self._failed_at = -math.inf
        self._kind: type[Exception] | None = None

    @property
    def failing_since(self) -> datetime | None:
        """When it failed first; None when it does not fail."""
        return self._since if time.monotonic() < self._failed_at + self._probation else None

    def fail(self, error: Exception) -> bool:
        """It has failed. Whether that is news, and not as it was before."""
        before, known = self.failing_since, self._kind
        self._failed_at, self._kind = time.monotonic(), type(error)
        self._since = before or datetime.now(UTC)
        return before is None or known is not self._kind

    def succeed(self) -> bool:
        """It has succeeded. Whether it had failed before."""
        had_failed, self._since = self._since is not None, None
        return had_failed


_supervised: set[Work] = set()


def failing() -> list[Failing]:
    """The work of this process that fails, by name."""
    return sorted(Failing(work.name, since) for work in _supervised if (since := work.failing_since))


@contextlib.contextmanager
def _watched(work: Work) -> Iterator[Work]:
    _supervised.add(work)
    try:
        yield work
    finally:
        _supervised.discard(work)


@contextlib.asynccontextmanager
async def every(name: str, work: Callable[[], Awaitable[object]], seconds: float) -> AsyncIterator[None]:
    """Do it now and then, ``seconds`` after it was done last, until the block ends. A failure is logged.

    It is tried again after ``RETRY_PAUSE`` then, and as long as it fails by the same nothing more is logged.
    """
    is_over = asyncio.Event()
    with _watched(Work(name)) as watched:
        task = asyncio.create_task(_repeat(watched, work, seconds, is_over), name=name)
        try:
            yield
        finally:
            # Both: a cancellation may get lost (wait_for of Python 3.11 drops one that meets a result), or be answered
            # by an error of the driver's.
            is_over.set()
            task.cancel()
            await asyncio.wait([task])


@contextlib.asynccontextmanager
async def supervise(name: str, work: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Do it all the time until the block ends. If it fails that is logged, and it is begun anew a second later."""
    with _watched(Work(name, RESTART_PAUSE + PROBATION)) as watched:
        task = asyncio.create_task(_keep(watched, work), name=name)
        try:
            yield
        finally:
            while not task.done():  # a cancellation may get lost: see above
                task.cancel()
                await asyncio.wait([task], timeout=1)


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Do all of it at once, until one of them ends or fails: then none goes on. Raises what it has raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting = [*tasks]
        while waiting:  # a cancellation may get lost: see above
            for task in waiting:
                task.cancel()
            _, waiting = map(list, await asyncio.wait(waiting, timeout=1))
    for task in done:
        task.result()


async def _keep(watched: Work, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
        except Exception as error:
            if watched.fail(error):
                log.exception("%s failed, and is begun anew", watched.name)
        await asyncio.sleep(RESTART_PAUSE)


async def _repeat(watched: Work, work: Callable[[], Awaitable[object]], seconds: float, is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        pause = min(seconds, RETRY_PAUSE)
        try:
            await work()
        except AttError as error:
            if not is_over.is_set() and watched.fail(error):
                log.warning("%s: %s", watched.name, error.why)
        except Exception as error:
            if watched.fail(error):
                log.exception("%s failed", watched.name)
        else:
            pause = seconds
            if watched.succeed():
                log.info("%s works again", watched.name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await is_over.wait()


def is_cancelled() -> bool:
    """Whether this task was cancelled; aiopg raises CancelledError also for a statement that the server cancelled."""
    return (task := asyncio.current_task()) is None or task.cancelling() > 0
