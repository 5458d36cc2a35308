"""Tells listeners who else of their groups is connected, on any node, and each change of that.

Each node reads what all nodes record (see ``att.realtime.presence``), but only while somebody here wants to know, and
only of nodes that have recorded a change. Who is told of a group is among its connected members, so a listener that has
left the group hears no more of it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from att.core.tasks import supervise
from att.db.engine import Engine, prepare
from att.errors import Unavailable
from att.protocol import messages
from att.protocol.frames import text_frame
from att.realtime.presence import SILENCE
from att.realtime.registry import Listener, Registry

_INTERVAL = 0.5  # seconds between reads
NAMED_PRESENT = 100  # present members of a group up to which frames say who; beyond it, how many
_COUNT_INTERVAL = 2.0  # seconds between numbers of a large group
_SLICE = 500  # frames written before others have their turn

# Servers of the last release do not count their changes, so each of their signs of life may be one.
STATES = prepare(
    text("""
    SELECT id, CASE WHEN changes > 0 THEN CAST(changes AS text) ELSE CAST(seen_at AS text) END
    FROM nodes WHERE seen_at > now() - CAST(:silence AS interval)
    """)
)
PRESENT_ON = prepare(
    text("SELECT node_id, user_id, since FROM presence WHERE node_id = ANY (CAST(:node_ids AS uuid[]))")
)
MEMBERSHIPS = prepare(
    text("""
    SELECT m.group_id, m.user_id FROM members AS m JOIN groups AS g ON g.id = m.group_id
    WHERE m.user_id = ANY (CAST(:user_ids AS uuid[])) AND m.group_id = ANY (CAST(:group_ids AS uuid[]))
    """)
)

log = logging.getLogger("att")


class GroupPresence:
    """The connected members of a group, and those who came and went since listeners were told."""

    def __init__(self) -> None:
        self.present: set[UUID] = set()
        self._told: set[UUID] = set()
        self._next_count = 0.0  # when listeners may be told the next number, by ``time.monotonic``

    def take_changes(self) -> tuple[set[UUID], set[UUID], bool]:
        """Return who came, who went, and True if the group was or is too large to name them."""
        is_large, now = max(len(self.present), len(self._told)) > NAMED_PRESENT, time.monotonic()
        if self.present == self._told or (is_large and now < self._next_count):
            return set(), set(), is_large
        came, went = self.present - self._told, self._told - self.present
        self._told, self._next_count = set(self.present), now + _COUNT_INTERVAL
        return came, went, is_large


class PresenceFeed:
    """Tells the listeners given to ``watch``. ``on_member`` is to be called when a user joins or leaves a group."""

    def __init__(self, db: Engine, registry: Registry) -> None:
        self._db = db
        self._registry = registry
        self._woken = asyncio.Event()
        self._has_failed = False
        self._told_groups: dict[Listener, set[UUID]] = {}
        self._states: dict[UUID, str] = {}
        self._nodes: dict[UUID, dict[UUID, datetime]] = {}
        self._since: dict[UUID, datetime] = {}
        self._groups: dict[UUID, GroupPresence] = {}
        self._changed: set[UUID] = set()  # users who came or went, until their groups know it
        self._moves: list[tuple[UUID, UUID, bool]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell listeners while the block runs."""
        async with supervise("presence of members", self._run):
            yield

    def watch(self, listener: Listener) -> None:
        """Tell a listener from now on, first the state of each of its groups."""
        self._told_groups[listener] = set()
        self._woken.set()

    def on_member(self, group_id: UUID, user_id: UUID, kind: str) -> None:
        """Note that a user has joined or left a group, by an event of this kind."""
        if group_id in self._groups:
            self._moves.append((group_id, user_id, kind == "joined"))

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL if self._told_groups else None):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self.tick()
                self._has_failed = False
            except Unavailable as error:
                if not self._has_failed:
                    log.warning("presence cannot be told until the database answers: %s", error.why)
                self._has_failed = True
                await asyncio.sleep(_INTERVAL)

    async def tick(self) -> None:
        """Read what has changed, and tell it."""
        for listener in [each for each in self._told_groups if each not in self._registry]:
            del self._told_groups[listener]
        if not self._told_groups:
            self._states, self._nodes, self._since, self._groups = {}, {}, {}, {}
            self._changed, self._moves = set(), []
            return
        self._changed |= await self._read_nodes()
        await self._read_groups(self._changed)
        self._changed = set()
        moves, self._moves = self._moves, []
        for group_id, user_id, is_member in moves:
            if (group := self._groups.get(group_id)) is not None:
                (group.present.add if is_member and user_id in self._since else group.present.discard)(user_id)
            if not is_member:  # even one who is back already: a client has forgotten the group with its own `left`
                for listener in self._registry.of_user(user_id):
                    self._told_groups.get(listener, set()).discard(group_id)
        await self._tell()

    async def _read_nodes(self) -> set[UUID]:
        """Read the presence on nodes that have recorded a change. Return the users who came or went."""
        states = {row[0]: row[1] for row in await self._db.fetch_all(STATES, silence=SILENCE)}
        outdated = [node_id for node_id, state in states.items() if self._states.get(node_id) != state]
        nodes = {node_id: users for node_id, users in self._nodes.items() if node_id in states}
        if outdated:
            nodes |= {node_id: {} for node_id in outdated}
            for node_id, user_id, since in await self._db.fetch_all(PRESENT_ON, node_ids=outdated):
                nodes[node_id][user_id] = since
        before, self._states, self._nodes = {*self._since}, states, nodes
        self._since = self._own_users()
        for users in nodes.values():
            for user_id, since in users.items():
                self._since[user_id] = min(since, self._since.get(user_id, since))
        return before ^ {*self._since}

    def _own_users(self) -> dict[UUID, datetime]:
        """Return the users who watch here: what this node records comes a moment later."""
        clock = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        return {listener.user_id: clock + timedelta(seconds=listener.since) for listener in self._told_groups}

    async def _read_groups(self, changed: set[UUID]) -> None:
        """Bring the connected members of the groups of listeners up to date."""
        wanted = {group_id for listener in self._told_groups for group_id in listener.groups}
        known = [group_id for group_id in self._groups if group_id in wanted]
        new = [group_id for group_id in wanted if group_id not in self._groups]
        came = [user_id for user_id in changed if user_id in self._since]
        found = [*await self._memberships(came, known), *await self._memberships([*self._since], new)]
        self._groups = {group_id: self._groups.get(group_id, GroupPresence()) for group_id in (*known, *new)}
        for user_id in changed.difference(came):
            for group in self._groups.values():
                group.present.discard(user_id)
        for group_id, user_id in found:
            self._groups[group_id].present.add(user_id)

    async def _memberships(self, user_ids: Collection[UUID], group_ids: Collection[UUID]) -> list[tuple[UUID, UUID]]:
        if not user_ids or not group_ids:
            return []
        rows = await self._db.fetch_all(MEMBERSHIPS, user_ids=[*user_ids], group_ids=[*group_ids])
        return [(group_id, user_id) for group_id, user_id in rows]

    async def _tell(self) -> None:
        """Send each listener the states of groups that are new to it, and what has changed in the others."""
        changes = {group_id: self._frames(group_id, group) for group_id, group in self._groups.items()}
        changes = {group_id: frames for group_id, frames in changes.items() if frames}
        states: dict[UUID, bytes] = {}
        written = 0
        for listener, told in [*self._told_groups.items()]:
            if not changes and told == listener.groups:
                continue
            present = {each for each in listener.groups if listener.user_id in self._present(each)}
            for group_id in present - told:
                if group_id not in states:
                    states[group_id] = self._state(group_id)
                written += self._send(listener, [states[group_id]])
            for group_id in changes.keys() & told & present:
                written += self._send(listener, changes[group_id])
            if listener in self._told_groups:
                self._told_groups[listener] = present
            if written >= _SLICE:
                written = 0
                await asyncio.sleep(0)

    def _send(self, listener: Listener, frames: Iterable[bytes]) -> int:
        return sum(listener.connection.send(frame) for frame in frames) if listener in self._registry else 0

    def _present(self, group_id: UUID) -> Collection[UUID]:
        group = self._groups.get(group_id)
        return () if group is None else group.present

    def _frames(self, group_id: UUID, group: GroupPresence) -> list[bytes]:
        """Return the frames of the changes of a group."""
        came, went, is_large = group.take_changes()
        if is_large:
            return [self._state(group_id)] if came or went else []
        found = [*((True, user_id) for user_id in came), *((False, user_id) for user_id in went)]
        return [text_frame(messages.online(group_id, user_id, is_online=is_online)) for is_online, user_id in found]

    def _state(self, group_id: UUID) -> bytes:
        present = self._groups[group_id].present
        if len(present) > NAMED_PRESENT:
            return text_frame(messages.presence_count(group_id, len(present)))
        users = sorted((self._since[user_id], user_id) for user_id in present)
        return text_frame(messages.presence(group_id, [(user_id, since) for since, user_id in users]))
