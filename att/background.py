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
    task = asyncio.create_task(_repeat(name, work, seconds), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _repeat(name: str, work: Callable[[], Awaitable[object]], seconds: float) -> None:
    while True:
        try:
            await work()
        except AttError as error:
            log.warning("%s: %s", name, error.detail)
        except Exception:
            log.exception("%s failed", name)
        await asyncio.sleep(seconds)
