"""Drain: stop the server gradually, until nobody is connected or the time is over, so that nothing is lost."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import TypeVar

from aiohttp import web

from att.core.readiness import Readiness
from att.http.acceptor import Acceptor
from att.http.connections import Traffic
from att.protocol.frames import CloseCode
from att.realtime.hub import Hub

_TICK = 0.05  # seconds between portions, and between checks of the connections
IDLE_SHARE = 4  # an idle keep-alive connection has a quarter of the time
REQUEST_TIME = 10.0  # seconds for requests in flight, once the time is over
CLOSE_TIME = 1.0  # seconds for the close frames of the last sockets
HINTS = range(1, 6)  # seconds after which a listener is asked to reconnect

Item = TypeVar("Item")

log = logging.getLogger("att")


def portions(items: Sequence[Item], seconds: float) -> Iterator[tuple[float, Sequence[Item]]]:
    """Yield portions of nearly equal size, each with the second at which it is due, from 0 to before ``seconds``."""
    count = max(1, min(len(items), round(seconds / _TICK)))
    bounds = [len(items) * number // count for number in range(count + 1)]
    for number in range(count):
        yield seconds * number / count, items[bounds[number] : bounds[number + 1]]


class Drain:
    """Closes all connections within ``seconds``, one after the other, so that clients reconnect to other nodes.

    ``sockets`` are all WebSockets that are not closed yet, attached to the hub or not.
    """

    def __init__(
        self,
        hub: Hub,
        sockets: Sized,
        readiness: Readiness,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._sockets = sockets
        self._readiness = readiness
        self._seconds = seconds
        self._clock = clock
        self._is_urgent = asyncio.Event()
        self._acceptor: Acceptor | None = None

    def add_acceptor(self, acceptor: Acceptor) -> None:
        """Close this acceptor too, and wait for its connections. Without one, only WebSockets are closed."""
        self._acceptor = acceptor

    async def run(self) -> None:
        """Close all connections and wait for their ends. Does nothing the second time."""
        if self._readiness.draining:
            return
        self._readiness.draining = True
        if self._acceptor is not None:
            self._acceptor.close()
        start = self._clock()
        await self._close_listeners(start)
        while not self._is_urgent.is_set() and not self._is_over(self._clock() - start):
            await self._pause(_TICK)
        left = self._hub.stop_admitting()
        self._hub.disconnect(left, CloseCode.GOING_AWAY)
        await self._wait_for_close_frames()
        cut_off = f"; sockets cut off: {len(left)}" if left else ""
        log.info("the drain has ended after %.1f s%s", self._clock() - start, cut_off)

    def hurry(self) -> None:
        """Stop waiting."""
        self._is_urgent.set()

    async def _close_listeners(self, start: float) -> None:
        listeners = self._hub.stop_admitting()
        count, seconds = len(listeners), self._seconds
        log.info("the drain begins; sockets to close: %d, within %.0f s; another signal stops at once", count, seconds)
        for due, portion in portions(listeners, self._seconds):
            await self._until(start + due)
            if self._is_urgent.is_set():
                return
            for listener in portion:
                self._hub.disconnect([listener], CloseCode.RESTART, _reason())

    async def _until(self, moment: float) -> None:
        """Wait until then, as long as there are listeners."""
        while len(self._hub.registry) and not self._is_urgent.is_set() and (left := moment - self._clock()) > 0:
            await self._pause(min(left, _TICK))

    async def _wait_for_close_frames(self) -> None:
        """Give the last sockets a moment for their close frames."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIME):
                while len(self._sockets):  # noqa: ASYNC110 - once in the server's life
                    await asyncio.sleep(_TICK / 5)

    def _is_over(self, elapsed: float) -> bool:
        traffic = Traffic() if self._acceptor is None else self._acceptor.traffic()
        if traffic.busy or len(self._sockets):
            return elapsed > self._seconds + REQUEST_TIME
        return not traffic.open or elapsed >= self._seconds / IDLE_SHARE

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_urgent.wait()


DRAIN = web.AppKey("drain", Drain)


def _reason() -> bytes:
    seconds = random.choice(HINTS)  # noqa: S311 - no secret, it spreads the reconnects
    return f"{CloseCode.RESTART.reason}; retry in {seconds} s".encode()
