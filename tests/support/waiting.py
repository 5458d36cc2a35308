"""Wait for what announces itself by no event."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(probe: Callable[[], Awaitable[Any]], seconds: float = 20) -> Any:
    """The first true answer of ``probe``, for what announces itself by no event. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (answer := await probe()):  # noqa: ASYNC110 - another process gives us no Event
            await asyncio.sleep(0.005)
    return answer
