"""Test doubles and helpers of the log's parts; their database is the real one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import psycopg

from att.protocol.frames import text_frame
from att.realtime.event_log import _SLICE, EventLog

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name = 'att'"


class RecordingConnection:
    """A ``ListenerConnection`` that records its calls."""

    def __init__(self):
        self.frames = []
        self.codes = []
        self.reasons = []
        self.has_changed = asyncio.Event()

    def send(self, frame):
        self.frames.append(frame)
        self.has_changed.set()
        return True

    def send_if_room(self, frame):
        return self.send(frame)

    def replay(self, frame):
        self.send(frame)

    def close(self, code, reason=b""):
        self.codes.append(code)
        self.reasons.append(reason)
        self.has_changed.set()


async def received(connection, count=1, seconds=5):
    """Wait for this number of frames; return them."""
    async with asyncio.timeout(seconds):
        while len(connection.frames) < count:
            connection.has_changed.clear()
            await connection.has_changed.wait()
    return connection.frames


async def closed(connection, seconds=5):
    """Wait for the close; return its codes."""
    async with asyncio.timeout(seconds):
        while not connection.codes:
            connection.has_changed.clear()
            await connection.has_changed.wait()
    return connection.codes


class RecordingBroker:
    """A ``Broker`` that records announcements."""

    def __init__(self):
        self.heads = []
        self.events = []
        self.epochs = set()
        self.sweeps = 0
        self.markers = []
        self.ephemerals = []

    def announce(self, event, epoch):
        self.epochs.add(epoch)
        self.heads.append((event.group_id, event.seq))
        self.events.append(event)

    def announce_head(self, group_id, seq):
        self.heads.append((group_id, seq))

    def announce_marker(self, position):
        self.markers.append(position)

    def announce_ephemeral(self, ephemeral):
        self.ephemerals.append(ephemeral)

    def announce_sweep(self):
        self.sweeps += 1


class SpyLog(EventLog):
    """An event log that records calls, can be paused, and raises ``errors`` in turn. ``page`` is its slice size."""

    def __init__(self, db):
        super().__init__(db)
        self.appends = []
        self.reads = []
        self.recent_reads = []
        self.recent_found = []
        self.head_reads = []
        self.heads_found = []  # the reads of heads that were answered
        self.lock_reads = []
        self.errors = []
        self.locks_error = None
        self.page = _SLICE
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, publishes):
        self.appends.append([publish.body for publish in publishes])
        await self._pass()
        return await super().append(publishes)

    async def lock_holders(self, groups):
        self.lock_reads.append([*groups])
        if self.locks_error:
            raise self.locks_error
        return await super().lock_holders(groups)

    async def read(self, positions):
        self.reads.append(dict(positions))
        await self._pass()
        return await super().read(positions)

    async def read_from(self, *args, **size):
        self.reads.append(args)
        await self._pass()
        return await super().read_from(*args, limit=self.page, **size)

    async def heads(self, group_ids):
        self.head_reads.append([*group_ids])
        await self._pass()
        found = await super().heads(group_ids)
        self.heads_found.append([*group_ids])
        return found

    async def recent(self, since, limit):
        self.recent_reads.append(since)
        await self._pass()
        self.recent_found.append(await super().recent(since, limit))
        return self.recent_found[-1]

    async def _pass(self):
        self.begun.set()
        await self.gate.wait()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Pause calls until the block ends."""
        self.begun.clear()
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    async def called(self, seconds=5):
        """Wait for a call since the pause."""
        async with asyncio.timeout(seconds):
            await self.begun.wait()


async def append_together(publisher, spy_log, first, publishes):
    """Append ``first`` in one call, and the others, submitted meanwhile, in the next call."""
    async with spy_log.paused():
        tasks = [asyncio.ensure_future(publisher.append(first))]
        await spy_log.called()
        tasks += [asyncio.ensure_future(publisher.append(each)) for each in publishes]
        await asyncio.sleep(0)
    return tasks


def seqs_of(outcomes):
    """Return the seqs of the outcomes."""
    return [outcome.event.seq for outcome in outcomes]


@contextlib.contextmanager
def away(postgresql) -> Iterator[None]:
    """Drop all connections of att to this database, and refuse new ones until the block ends."""
    name, host, user = postgresql.info.dbname, postgresql.info.host, postgresql.info.user
    with psycopg.connect(host=host, user=user, dbname="postgres", autocommit=True) as server:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            server.execute(KILL, (name,))
            yield
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


class FakeLiveSessions:
    """Live sessions, with a record of the requested owners."""

    def __init__(self):
        self.ids = set()
        self.owners = {}

    async def living(self, owners):
        self.owners |= owners
        return self.ids.intersection(owners)


class Clock:
    """A clock that shows the time set, in seconds."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def bodies(*numbers):
    return [b'{"n":%d}' % number for number in numbers]


def frames(*numbers):
    return [text_frame(body) for body in bodies(*numbers)]


async def drained():
    """Do nothing: this reader always has room."""


def is_empty(registry):
    """Return True if the registry is empty, after taking its changed users."""
    registry.take_changed()
    held = vars(registry) | {"sockets": sum(registry.sockets.values())}
    return not any(held.values())
