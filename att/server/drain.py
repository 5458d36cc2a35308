"""How a server stops without anybody losing anything: bit by bit, until nobody is connected or the time is over."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Protocol, TypeVar

from att.core.readiness import Readiness
from att.http.connections import Traffic
from att.protocol.frames import CloseCode
from att.realtime.hub import Hub

_TICK = 0.05  # seconds between portions, and between looks at the connections
IDLE_SHARE = 4  # a connection that is kept alive without a request has a quarter of the time
REQUEST_TIME = 10.0  # seconds for requests in flight, once the time is over
GOODBYE = 1.0  # seconds for sockets that are closed in a hurry
HINTS = range(1, 6)  # seconds after which a listener is asked to come back

Item = TypeVar("Item")

log = logging.getLogger("att")


def portions(items: Sequence[Item], seconds: float) -> Iterator[tuple[float, Sequence[Item]]]:
    """The items in portions of nearly one size, and when each is due: the first at 0, the last before the end."""
    count = max(1, min(len(items), round(seconds / _TICK)))
    bounds = [len(items) * number // count for number in range(count + 1)]
    for number in range(count):
        yield seconds * number / count, items[bounds[number] : bounds[number + 1]]


class DrainedAcceptor(Protocol):
    """By which connections come in."""

    def close(self) -> None:
        """Let nobody in any more but those who are waiting."""

    def traffic(self) -> Traffic:
        """What has come in and is still there."""


class Drain:
    """Sends everybody away within ``seconds``, so that they come back one after the other, and to another node.

    ``sockets`` are those that are not closed yet, whether or not they hear anything.
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
        self._door: DrainedAcceptor | None = None

    def watch(self, door: DrainedAcceptor) -> None:
        """Close this as well, and wait for those who came in by it. Without one only the WebSockets are seen to."""
        self._door = door

    async def run(self) -> None:
        """Send everybody away, and wait until they have gone. The second time there is nothing left to do."""
        if self._readiness.draining:
            return
        self._readiness.draining = True
        if self._door is not None:
            self._door.close()
        start = self._clock()
        await self._send_away(start)
        while not self._is_urgent.is_set() and not self._is_over(self._clock() - start):
            await self._pause(_TICK)
        left = self._hub.stop_admitting()
        self._hub.disconnect(left, CloseCode.GOING_AWAY)
        await self._say_goodbye()
        cut_off = f"; sockets cut off: {len(left)}" if left else ""
        log.info("the drain has ended after %.1f s%s", self._clock() - start, cut_off)

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self._is_urgent.set()

    async def _send_away(self, start: float) -> None:
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
        """Wait until then, as long as somebody is listening."""
        while len(self._hub.registry) and not self._is_urgent.is_set() and (left := moment - self._clock()) > 0:
            await self._pause(min(left, _TICK))

    async def _say_goodbye(self) -> None:
        """Leave the last ones a moment to take their close frames."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE):
                while len(self._sockets):  # noqa: ASYNC110 - it is asked once in the server's life
                    await asyncio.sleep(_TICK / 5)

    def _is_over(self, elapsed: float) -> bool:
        traffic = Traffic() if self._door is None else self._door.traffic()
        if traffic.busy or len(self._sockets):
            return elapsed > self._seconds + REQUEST_TIME
        return not traffic.open or elapsed >= self._seconds / IDLE_SHARE

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_urgent.wait()


def _reason() -> bytes:
    seconds = random.choice(HINTS)  # noqa: S311 - it spreads them, and is no secret
    return f"{CloseCode.RESTART.reason}; retry in {seconds} s".encode()
