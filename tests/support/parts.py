"""Parts of the log's machinery that tests look into or hold up; the database behind them is the real one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import psycopg

from att.protocol.frames import text_frame
from att.realtime.event_log import _SLICE, EventLog

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name = 'att'"


class Recording:
    """A ``Connection`` in memory, which keeps what it is given."""

    def __init__(self):
        self.frames = []
        self.codes = []
        self.reasons = []
        self.is_given = asyncio.Event()

    def send(self, frame):
        self.frames.append(frame)
        self.is_given.set()
        return True

    def replay(self, frame):
        self.send(frame)

    def close(self, code, reason=b""):
        self.codes.append(code)
        self.reasons.append(reason)
        self.is_given.set()


async def given(connection, count=1, seconds=5):
    """The first frames of a recording, when it has that many."""
    async with asyncio.timeout(seconds):
        while len(connection.frames) < count:
            connection.is_given.clear()
            await connection.is_given.wait()
    return connection.frames


async def closed(connection, seconds=5):
    """With what a recording was closed, as soon as it is."""
    async with asyncio.timeout(seconds):
        while not connection.codes:
            connection.is_given.clear()
            await connection.is_given.wait()
    return connection.codes


class Bell:
    """A ``Bus`` that keeps how it was rung."""

    def __init__(self):
        self.rings = []
        self.events = []
        self.sweeps = 0

    def ring(self, event):
        self.rings.append((event.group_id, event.seq))
        self.events.append(event)

    def ring_head(self, group_id, seq):
        self.rings.append((group_id, seq))

    def ring_for_sweep(self):
        self.sweeps += 1


class Watched(EventLog):
    """A log whose calls are kept, can be held up before they are made, and fail with each of ``errors`` that is one.

    ``page`` is the number of events that a listener is given at once. With ``blindness``, looks at who holds groups
    fail.
    """

    def __init__(self, db):
        super().__init__(db)
        self.appends = []
        self.reads = []
        self.looks = []
        self.inspections = []
        self.errors = []
        self.blindness = None
        self.page = _SLICE
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, drafts):
        self.appends.append([draft.body for draft in drafts])
        await self._pass()
        return await super().append(drafts)

    async def holds(self, groups):
        self.inspections.append([*groups])
        if self.blindness:
            raise self.blindness
        return await super().holds(groups)

    async def read(self, positions):
        self.reads.append(dict(positions))
        await self._pass()
        return await super().read(positions)

    async def read_from(self, *args, **size):
        self.reads.append(args)
        await self._pass()
        return await super().read_from(*args, limit=self.page, **size)

    async def heads(self, group_ids):
        self.looks.append([*group_ids])
        await self._pass()
        return await super().heads(group_ids)

    async def _pass(self):
        self.begun.set()
        await self.gate.wait()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

    @contextlib.asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """Calls wait until the block ends."""
        self.begun.clear()
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    async def called(self, seconds=5):
        """A call has been made since it is held up."""
        async with asyncio.timeout(seconds):
            await self.begun.wait()


async def together(writer, watched, first, drafts):
    """Have ``first`` appended in a call, and meanwhile all the others submitted, which go out in the next one."""
    async with watched.held_up():
        tasks = [asyncio.ensure_future(writer.append(first))]
        await watched.called()
        tasks += [asyncio.ensure_future(writer.append(each)) for each in drafts]
        await asyncio.sleep(0)
    return tasks


def seqs_of(outcomes):
    """The seqs with which drafts were appended."""
    return [outcome.event.seq for outcome in outcomes]


@contextlib.contextmanager
def away(postgresql) -> Iterator[None]:
    """Nobody of ours is connected to the database of this connection, nor can be, until the block ends."""
    name, host, user = postgresql.info.dbname, postgresql.info.host, postgresql.info.user
    with psycopg.connect(host=host, user=user, dbname="postgres", autocommit=True) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            server.execute(KILL, (name,))
            yield
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


class LivingSessions:
    """Which sessions have not ended, and whose those were that were asked for."""

    def __init__(self):
        self.ids = set()
        self.owners = {}

    async def living(self, owners):
        self.owners |= owners
        return self.ids.intersection(owners)


class Clock:
    """Shows what it is set to, in seconds."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def bodies(*numbers):
    return [b'{"n":%d}' % number for number in numbers]


def frames(*numbers):
    return [text_frame(body) for body in bodies(*numbers)]


async def drained():
    """Whoever can always take more."""


def is_vacant(registry):
    """Whether the registry holds nothing at all, not even an empty set, once it has told who has changed."""
    registry.take_changed()
    held = vars(registry) | {"sockets": sum(registry.sockets.values())}
    return not any(held.values())
