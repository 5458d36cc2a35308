"""Work that is done again and again while the server runs."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from att.errors import AttError

log = logging.getLogger("att")


@contextlib.asynccontextmanager
async def repeating(name: str, work: Callable[[], Awaitable[object]], seconds: float) -> AsyncIterator[None]:
    """Do it now and then, ``seconds`` after it was done last, until the block ends. A failure is logged, no more."""
    is_over = asyncio.Event()
    task = asyncio.create_task(_repeat(name, work, seconds, is_over), name=name)
    try:
        yield
    finally:
        # Both: a cancellation may get lost (wait_for of Python 3.11 drops one that meets a result), or be answered by
        # an error of the driver's.
        is_over.set()
        task.cancel()
        await asyncio.wait([task])


async def _repeat(name: str, work: Callable[[], Awaitable[object]], seconds: float, is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        try:
            await work()
        except AttError as error:
            if not is_over.is_set():
                log.warning("%s: %s", name, error.detail)
        except Exception:
            log.exception("%s failed", name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await is_over.wait()
