"""Keeps the hub in step with the log: runs its slices, reads what it wants, and looks up what no ring has told."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar
from uuid import UUID

from att.background import running
from att.errors import Unavailable
from att.realtime.hub import READS, Hub
from att.realtime.log import Log
from att.realtime.registry import Listener

SWEEP_INTERVAL = 5.0  # seconds between looks for what no ring has told: how late that can be
WHOLE_SWEEP = 12  # every so many of them, joinings are looked for too, of which the database itself tells
CHUNK = 1_000  # groups, users or sessions that are looked up by one statement
READERS = 4  # listeners that are given what they missed at the same time
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts to read from a database that does not answer

T = TypeVar("T")


class Sessions(Protocol):
    """Knows which sessions have not ended."""

    async def living(self, session_ids: Sequence[UUID]) -> set[UUID]:
        """Those of them that have not."""


class Feed:
    """The hub's hands. When the database cannot be read deliveries wait; they are never guessed."""

    def __init__(self, log: Log, hub: Hub, sessions: Sessions) -> None:
        self._log = log
        self._hub = hub
        self._sessions = sessions
        self._to_write, self._to_read, self._to_sweep = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._readers = asyncio.Semaphore(READERS)
        hub.wake = self._wake

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do it while the block runs."""
        async with (
            running("writing of slices", self._write),
            running("reading of the log", self._read),
            running("looks for what no ring has told", self._sweep_now_and_then),
        ):
            yield

    def sweep_soon(self) -> None:
        """Rings may have been missed."""
        self._to_sweep.set()

    async def catch_up(self, listener: Listener, drained: Callable[[], Awaitable[object]], size: int) -> None:
        """Give a listener what it has missed, as fast as it takes it: ``drained`` returns when it can take more.

        Of one page the bodies have about ``size`` bytes.
        """
        for group_id in self._hub.missing(listener):
            while self._hub.caught_up(listener, group_id) is not None:
                await drained()
                async with self._readers:
                    await self._serve(listener, group_id, size)

    async def _serve(self, listener: Listener, group_id: UUID, size: int) -> None:
        after = self._hub.caught_up(listener, group_id)
        if after is None:
            return  # it has gone while it was waited for
        found = await _patiently(lambda: self._log.read_from(group_id, listener.user_id, after, size=size))
        self._hub.serve(listener, group_id, found)

    async def sweep(self) -> None:
        """Look up what rings may not have told: new events, joinings, and sessions that have ended."""
        await self._sweep_groups()
        for user_ids in _chunks([*self._hub.registry.memberships()]):
            await self._sweep_users(user_ids)

    async def _sweep_groups(self) -> None:
        """What costs little, and is lost when a node dies after it has appended, and before it has rung."""
        for heads in _chunks([*self._hub.heads().items()]):
            found = await self._log.heads([group_id for group_id, _ in heads])
            for group_id, heard in heads:
                self._hub.compare(group_id, heard, found.get(group_id, 0))
        for session_ids in _chunks(self._hub.registry.sessions()):
            for session_id in set(session_ids) - await self._sessions.living(session_ids):
                self._hub.session_ended(session_id)

    async def _sweep_users(self, user_ids: Sequence[UUID]) -> None:
        joinings = await self._log.joinings(user_ids)
        known = self._hub.registry.memberships()
        for user_id, group_id, seq in joinings:
            if group_id in known.get(user_id, ()):
                continue
            if seq is None:
                self._hub.user_uncertain(user_id)
            else:
                self._hub.joined(group_id, seq, user_id)

    async def _sweep_now_and_then(self) -> None:
        for number in itertools.count(1):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_INTERVAL):
                    await self._to_sweep.wait()
            is_whole = self._to_sweep.is_set() or number % WHOLE_SWEEP == 0
            self._to_sweep.clear()
            await _patiently(self.sweep if is_whole else self._sweep_groups)

    def _wake(self) -> None:
        self._to_write.set()
        self._to_read.set()

    async def _write(self) -> None:
        while True:
            while self._hub.step():  # noqa: ASYNC110 - it works, and lets others work
                await asyncio.sleep(0)
            await self._to_write.wait()
            self._to_write.clear()

    async def _read(self) -> None:
        while True:
            limit, pause = READS, FIRST_PAUSE
            while wanted := self._hub.wanted(limit):
                try:
                    found = await self._log.read(wanted)
                except Unavailable:  # if it was too much for the time that there is, less may do
                    await asyncio.sleep(pause)
                    limit, pause = max(limit // 2, 1), min(2 * pause, LONGEST_PAUSE)
                    continue
                for group_id, after in wanted.items():
                    self._hub.read(group_id, after, found[group_id])
            await self._to_read.wait()
            self._to_read.clear()


async def _patiently(read: Callable[[], Awaitable[T]]) -> T:
    """What is read, as soon as the database answers."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await read()
        except Unavailable:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _chunks(items: Sequence[T]) -> list[list[T]]:
    iterator = iter(items)
    return [*iter(lambda: [*itertools.islice(iterator, CHUNK)], [])]
