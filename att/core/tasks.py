"""Background work, periodic or continuous. The work that fails is known."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from att.core.fair_semaphore import SOURCE, OwnTask
from att.errors import AttError

RESTART_PAUSE = 1.0  # seconds
RETRY_PAUSE = 5.0  # seconds at most before periodic work that has failed is tried again
PROBATION = 10.0  # seconds that continuous work must run after a failure before it counts as sound

log = logging.getLogger("att")


class Failing(NamedTuple):
    """Name of work that fails, and the time of its first failure."""

    name: str
    since: datetime


class Work:
    """State of a piece of work. It fails from an error on until it succeeds, or for ``probation`` seconds."""

    def __init__(self, name: str, probation: float = math.inf) -> None:
        self.name = name
        self._probation = probation
        self._since: datetime | None = None
        self._failed_at = -math.inf
        self._kind: type[Exception] | None = None

    @property
    def failing_since(self) -> datetime | None:
        """Return the time of the first failure, or None if the work does not fail."""
        return self._since if time.monotonic() < self._failed_at + self._probation else None

    def fail(self, error: Exception) -> bool:
        """Note a failure. Return True if the work did not fail before, or failed by another error."""
        before, known = self.failing_since, self._kind
        self._failed_at, self._kind = time.monotonic(), type(error)
        self._since = before or datetime.now(UTC)
        return before is None or known is not self._kind

    def succeed(self) -> bool:
        """Note a success. Return True if the work failed before."""
        had_failed, self._since = self._since is not None, None
        return had_failed


_supervised: set[Work] = set()


def failing() -> list[Failing]:
    """Return the work of this process that fails, by name."""
    return sorted(Failing(work.name, since) for work in _supervised if (since := work.failing_since))


@contextlib.contextmanager
def _registered(work: Work) -> Iterator[Work]:
    _supervised.add(work)
    try:
        yield work
    finally:
        _supervised.discard(work)


@contextlib.asynccontextmanager
async def every(name: str, work: Callable[[], Awaitable[object]], seconds: float) -> AsyncIterator[None]:
    """Do the work while the block runs, with a pause of ``seconds`` after each time. Logs a failure.

    Failed work is tried again after at most ``RETRY_PAUSE``. The same failure in a row is logged once.
    """
    is_over = asyncio.Event()
    with _registered(Work(name)) as state:
        task = asyncio.create_task(_repeat(state, work, seconds, is_over), name=name)
        try:
            yield
        finally:
            # Both, because a cancellation may get lost: wait_for of Python 3.11 drops one that meets a result, and the
            # driver may raise another error instead.
            is_over.set()
            task.cancel()
            await asyncio.wait([task])


@contextlib.asynccontextmanager
async def supervise(name: str, work: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Run the work while the block runs. Log a failure, and start the work again a second later."""
    with _registered(Work(name, RESTART_PAUSE + PROBATION)) as state:
        task = asyncio.create_task(_restart(state, work), name=name)
        try:
            yield
        finally:
            while not task.done():  # a cancellation may get lost, see above
                task.cancel()
                await asyncio.wait([task], timeout=1)


async def _restart(state: Work, work: Callable[[], Awaitable[object]]) -> None:
    SOURCE.set(OwnTask(state.name))
    while True:
        try:
            await work()
        except Exception as error:
            if state.fail(error):
                log.exception("%s failed and is restarted", state.name)
        await asyncio.sleep(RESTART_PAUSE)


async def _repeat(state: Work, work: Callable[[], Awaitable[object]], seconds: float, is_over: asyncio.Event) -> None:
    SOURCE.set(OwnTask(state.name))
    while not is_over.is_set():
        pause = min(seconds, RETRY_PAUSE)
        try:
            await work()
        except AttError as error:
            if not is_over.is_set() and state.fail(error):
                log.warning("%s: %s", state.name, error.why)
        except Exception as error:
            if state.fail(error):
                log.exception("%s failed", state.name)
        else:
            pause = seconds
            if state.succeed():
                log.info("%s works again", state.name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await is_over.wait()


def is_cancelled() -> bool:
    """Return True if this task was cancelled. aiopg also raises CancelledError when the server cancels a statement."""
    return (task := asyncio.current_task()) is None or task.cancelling() > 0


_T = TypeVar("_T")


async def in_steps(steps: Generator[None, None, _T]) -> _T:
    """Do work step by step, so that it keeps nobody waiting. Return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
        await asyncio.sleep(0)


def at_once(steps: Generator[None, None, _T]) -> _T:
    """Do the same work without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
