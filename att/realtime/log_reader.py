"""Keeps the hub in step with the log: runs its slices, reads what it wants, and sweeps for missed announcements."""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar
from uuid import UUID

from att.core.batch_loader import BATCH_KEYS
from att.core.fair_semaphore import FairSemaphore
from att.core.tasks import supervise
from att.errors import Unavailable
from att.protocol import messages
from att.protocol.frames import text_frame
from att.realtime.brokers.base import Broker, is_proven
from att.realtime.event_log import EventLog, LogMoment, Position, ReadHeld
from att.realtime.hub import READS, SLICE, Hub
from att.realtime.log_tail import LogTail
from att.realtime.registry import Listener
from att.sessions.store import SessionStore

_SWEEP_INTERVAL = 5.0  # seconds between looks for missed announcements: the greatest delay of an event
RARE_SWEEP = 24  # every so many looks one is also for sessions, while the brokers are proven to announce their end
WHOLE_SWEEP = 120  # and every so many, for what should not be possible, all groups and memberships are compared
_RECENT = 1_000  # recent events that are read at least, before all groups are compared, which may be more
_CHUNK = 1_000  # groups or sessions in one statement
_USERS = 100  # in one statement, each with all their groups
READERS = 2 * BATCH_KEYS  # listeners that catch up at the same time, half of them of one user
GAP_WAIT = 0.02  # seconds for which a gap may close by itself if the broker carries events
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts to read from a database that does not answer

_T = TypeVar("_T")


class _Gap(NamedTuple):
    """The seq before a gap, and when the gap was found."""

    after: int
    since: float


class LogReader:
    """Does the hub's I/O: reads the log, runs deliveries. Retries until the database answers.

    If the broker carries events, those missing before a present one are usually on their way from another node. The
    reader waits ``gap_wait`` seconds for them before it reads the log. The hub sets ``woken``.

    Every few seconds it reads which logs have grown, and so finds events and joinings that were not announced. It asks
    for the sessions of all listeners as often only while ``brokers`` are not proven to bring what nodes announce.
    """

    def __init__(
        self, log: EventLog, hub: Hub, sessions: SessionStore, woken: asyncio.Event, gap_wait: float = 0.0
    ) -> None:
        self.brokers: Sequence[Broker] = ()
        self._log = log
        self._hub = hub
        self._sessions = sessions
        self._woken, self._to_sweep, self._to_look_up = woken, asyncio.Event(), asyncio.Event()
        self._subscribed: set[UUID] = set()
        self._readers = FairSemaphore(READERS, most=READERS // 2, queue=sys.maxsize, share=sys.maxsize)
        self._gap_wait = gap_wait
        self._gaps: dict[UUID, _Gap] = {}
        self._tail = LogTail()
        self._is_doubtful = True

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the hub in step while the block runs."""
        self._log.on_new_epoch = self._begin_epoch
        async with (
            supervise("writing of frames", self._write),
            supervise("reading of the log", self._read),
            supervise("sweeping for missed announcements", self._sweep_regularly),
            supervise("looking up of subscribed groups", self._look_up_subscribed),
        ):
            yield

    def sweep_soon(self) -> None:
        """Sweep soon, since announcements may have been missed."""
        self._to_sweep.set()

    def doubt(self) -> None:
        """Look up sessions within seconds, since an announcement may have been missed."""
        self._is_doubtful = True

    def look_up_soon(self, group_ids: Iterable[UUID]) -> None:
        """Look up these groups soon, since their announcements may have been missed."""
        self._subscribed.update(group_ids)
        self._to_look_up.set()

    @property
    def epoch(self) -> str:
        """The epoch of the log."""
        return self._log.epoch

    async def positions(self, user_id: UUID) -> list[Position]:
        """Return the user's positions as soon as the database answers."""
        return await _retry(lambda: self._log.positions(user_id))

    async def moment(self) -> LogMoment:
        """Return the present moment of the log as soon as the database answers."""
        return await _retry(self._log.moment)

    async def held(self, epoch: str, seqs: Mapping[UUID, int]) -> dict[UUID, int]:
        """Return up to which seq these positions of an epoch hold, as soon as the database answers."""
        held: dict[UUID, int] = {}
        for group_ids in _chunks([*seqs]):
            held |= await _retry(partial(self._log.held, epoch, group_ids))
        return {group_id: min(seq, held[group_id]) for group_id, seq in seqs.items()}

    async def catch_up(self, listener: Listener, drained: Callable[[], Awaitable[object]], size: int) -> None:
        """Send a listener the events that it has missed. ``drained`` returns when it can take more.

        The bodies of one page have about ``size`` bytes.
        """
        for number, group_id in enumerate([*listener.groups]):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            while self._hub.served_up_to(listener, group_id) is not None:
                await drained()
                async with self._readers.place(listener.user_id):
                    await self._serve(listener, group_id, size)

    async def _serve(self, listener: Listener, group_id: UUID, size: int) -> None:
        after = self._hub.served_up_to(listener, group_id)
        if after is None:
            return  # it left meanwhile
        found = await _retry(lambda: self._log.read_from(group_id, listener.user_id, after, size=size))
        self._hub.serve(listener, group_id, found)

    async def sweep(self) -> None:
        """Look up what announcements may have missed: new events, joinings and ended sessions."""
        await self._sweep_groups()
        await self._sweep_users()
        await self._sweep_sessions()

    async def _begin_epoch(self, epoch: str, read_held: ReadHeld) -> None:
        held: dict[UUID, int] = {}
        while unknown := [*self._hub.known_groups() - held.keys()]:
            held |= await read_held(unknown[:_CHUNK])
        self._hub.begin_epoch(text_frame(messages.epoch(epoch)), held)
        self.sweep_soon()

    async def _sweep_groups(self) -> None:
        for group_ids in _chunks([*self._hub.heads()]):
            await self._look_up(group_ids)

    async def find_recent(self) -> bool:
        """Look up recent events and joinings, also those of a node that died between append and announcement.

        Return False if there may be others than those found.
        """
        limit = max(self._hub.group_count, _RECENT)
        recent = await self._log.recent(self._tail.since(self._log.epoch), limit)
        is_complete = self._tail.note(self._log.epoch, recent.snapshot) and recent.number < limit
        epoch = self._log.epoch
        notes = [
            *(partial(self._hub.joined, *joining) for joining in recent.joined),
            *(partial(self._hub.observe_head, *head) for head in recent.heads.items()),
        ]
        for number, note in enumerate(notes):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
                if epoch != self._log.epoch:
                    return False
            note()
        # Their listeners may have read the heads before what an earlier read has found.
        for group_ids in _chunks([*self._hub.take_new_groups()]):
            await _retry(partial(self._look_up, group_ids))
        return is_complete

    async def _sweep_sessions(self) -> None:
        owners = self._hub.registry.sessions()
        for session_ids in _chunks([*owners]):
            part = {session_id: owners[session_id] for session_id in session_ids}
            for session_id in part.keys() - await self._sessions.living(part):
                self._hub.session_ended(session_id)

    async def _sweep_users(self) -> None:
        for user_ids in _chunks(self._hub.registry.started_users(), _USERS):
            await self._find_joinings(user_ids)

    async def _look_up(self, group_ids: Sequence[UUID]) -> None:
        """Compare the heads of these logs, also for groups that are about to get their first listener."""
        known, epoch = self._hub.heads(group_ids), self._log.epoch
        found = await self._log.heads(group_ids)
        known = known if epoch == self._log.epoch else {}
        for group_id in group_ids:
            self._hub.compare(group_id, known.get(group_id, 0), found.get(group_id, 0))

    async def _look_up_subscribed(self) -> None:
        while True:
            while self._subscribed:
                # A group subscribed to again meanwhile is looked up once more.
                group_ids = [self._subscribed.pop() for _ in range(min(len(self._subscribed), _CHUNK))]
                await _retry(partial(self._look_up, group_ids))
            await self._to_look_up.wait()
            self._to_look_up.clear()

    async def _find_joinings(self, user_ids: Sequence[UUID]) -> None:
        async for user_id, group_id, seqs in self._log.joinings(user_ids):
            if not self._hub.registry.lacks(user_id, group_id):
                continue
            if not seqs:
                self._hub.user_state_unknown(user_id)
            for seq in seqs:  # listeners have missed events since the first one unknown to them
                self._hub.joined(group_id, seq, user_id)

    async def _sweep_regularly(self) -> None:
        doubts, were_joinings_missed = 0, False
        for number in itertools.count(1):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_INTERVAL):
                    await self._to_sweep.wait()
            is_requested, is_rare = self._to_sweep.is_set(), number % WHOLE_SWEEP == 0
            self._to_sweep.clear()
            is_doubtful, self._is_doubtful = self._is_doubtful or is_requested, False
            if is_doubtful or not all(map(is_proven, self.brokers)):
                doubts = 2  # sweeps: one for the listeners that were about to be attached at the first
            is_complete = await _retry(self.find_recent)
            were_joinings_missed = were_joinings_missed or not is_complete
            if is_requested or is_rare or not is_complete:
                await _retry(self._sweep_groups)
            if is_requested or is_rare or (were_joinings_missed and number % RARE_SWEEP == 0):
                await _retry(self._sweep_users)
                were_joinings_missed = False
            if doubts or number % RARE_SWEEP == 0:
                doubts = max(doubts - 1, 0)
                try:
                    await self._sweep_sessions()
                except Unavailable:  # their store may be another than the log's
                    self.doubt()

    async def _write(self) -> None:
        while True:
            while self._hub.step():  # noqa: ASYNC110 - each step is work; other tasks run in between
                await asyncio.sleep(0)
            await self._woken.wait()
            self._woken.clear()  # the other waiting task checks for work before it waits again

    async def _read(self) -> None:
        limit, pause = READS, _FIRST_PAUSE
        while True:
            wanted = self._hub.wanted(limit)
            due = self._due(wanted)
            if not due:
                limit, pause = READS, _FIRST_PAUSE
                await self._wait(self._gap_wait if wanted else None)
                continue
            if any(map(self._hub.may_fill_gap, due)):
                self.doubt()  # what the broker should have brought has not come
            try:
                found = await self._log.read(due)
            except Unavailable:  # a smaller read may finish in time
                await asyncio.sleep(pause)
                limit, pause = max(limit // 2, 1), min(2 * pause, _LONGEST_PAUSE)
                continue
            for group_id, after in due.items():
                self._hub.read(group_id, after, found[group_id])

    def _due(self, wanted: dict[UUID, int]) -> dict[UUID, int]:
        """Return what is to be read now: gaps that cannot close by themselves, or have not in time."""
        if not self._gap_wait:
            return wanted
        now, gaps = asyncio.get_running_loop().time(), self._gaps
        self._gaps = {
            group_id: gaps[group_id] if group_id in gaps and gaps[group_id].after == after else _Gap(after, now)
            for group_id, after in wanted.items()
        }
        return {
            group_id: after
            for group_id, after in wanted.items()
            if now >= self._gaps[group_id].since + self._gap_wait or not self._hub.may_fill_gap(group_id)
        }

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()


async def _retry(read: Callable[[], Awaitable[_T]]) -> _T:
    """Return the result of a read as soon as the database answers."""
    pause = _FIRST_PAUSE
    while True:
        try:
            return await read()
        except Unavailable:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _chunks(items: Sequence[_T], size: int = _CHUNK) -> list[list[_T]]:
    iterator = iter(items)
    return [*iter(lambda: [*itertools.islice(iterator, size)], [])]
