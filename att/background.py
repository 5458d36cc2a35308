"""Work that is done while the server runs: now and then, or all the time."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from att.errors import AttError

RESTART_PAUSE = 1.0  # seconds

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


@contextlib.asynccontextmanager
async def running(name: str, work: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Do it all the time until the block ends. If it fails that is logged, and it is begun anew a second later."""
    task = asyncio.create_task(_keep(name, work), name=name)
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


async def _keep(name: str, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s failed, and is begun anew", name)
        await asyncio.sleep(RESTART_PAUSE)


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
