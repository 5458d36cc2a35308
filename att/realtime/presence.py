"""Presence: the connected users of all nodes. Each node records its own users, and reads those of all.

The tables are unlogged. A node's rows are deleted when it stops, or after it has been silent for a while.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import bindparam, delete, func, literal, select, text, update

from att.core.pagination import Order, Page, Window
from att.core.tasks import every
from att.db.engine import Engine, prepare
from att.db.keyset import Listing
from att.db.schema import members, nodes, presence, users
from att.errors import NoSuchUser, Unavailable
from att.realtime.registry import Registry

_TICK = 1.0  # seconds between writes of changed users
_SIGN_INTERVAL = 2.0  # seconds between signs of life
SILENCE = timedelta(seconds=8)  # after which a node counts as dead
_CHUNK = 1_000  # users in one statement
_STOP_TIMEOUT = 2.0  # seconds to delete the records at the end

log = logging.getLogger("att")


class Present(NamedTuple):
    """A connected user: the start of the earliest of their sockets, and the number of sockets."""

    user_id: UUID
    login: str
    since: datetime
    sockets: int


class Stay(NamedTuple):
    """A user's sockets on one node."""

    node: str
    since: datetime
    sockets: int


class UserPresence(NamedTuple):
    """The start of a user's presence, None if they are not connected, and the number of their sockets."""

    user_id: UUID
    since: datetime | None
    sockets: int


_is_alive = nodes.c.seen_at > func.now() - literal(SILENCE)
_here = select(presence.c.user_id, presence.c.since, presence.c.sockets).join(nodes).where(_is_alive).subquery("here")

PRESENT_IN_GROUP = Listing(
    select(presence.c.user_id, users.c.login, func.min(presence.c.since), func.sum(presence.c.sockets))
    .join(nodes)
    .join(members, members.c.user_id == presence.c.user_id)
    .join(users, users.c.id == presence.c.user_id)
    .where(members.c.group_id == bindparam("group_id"), _is_alive)
    .group_by(presence.c.user_id, users.c.login),
    Order("presence", (UUID,)),
    presence.c.user_id,
)
PRESENCE_OF_USER = prepare(
    select(users.c.id, func.min(_here.c.since), func.coalesce(func.sum(_here.c.sockets), 0))
    .outerjoin(_here, _here.c.user_id == users.c.id)
    .where(users.c.id == bindparam("user_id"))
    .group_by(users.c.id)
)
STAYS_OF_USER = prepare(
    select(nodes.c.name, presence.c.since, presence.c.sockets)
    .join(presence)
    .where(presence.c.user_id == bindparam("user_id"), _is_alive)
    .order_by(presence.c.since, nodes.c.name)
)

REGISTER = prepare(
    text("""
    INSERT INTO nodes (id, name, started_at) VALUES (:node_id, :name, now() - CAST(:age AS interval))
    ON CONFLICT (id) DO UPDATE SET seen_at = now()
    RETURNING now()
    """)
)
_others = nodes.alias("others")
SIGN_OF_LIFE = prepare(
    update(nodes)
    .where(nodes.c.id == bindparam("node_id"))
    .values(seen_at=func.now())
    .returning(
        select(func.count())
        .where(_others.c.id != bindparam("node_id"), _others.c.seen_at > func.now() - literal(SILENCE))
        .scalar_subquery()
    )
)
COUNT_CHANGE = prepare(
    update(nodes).where(nodes.c.id == bindparam("node_id")).values(seen_at=func.now(), changes=nodes.c.changes + 1)
)
# Writes nothing for a node that others have deleted, and keeps them from deleting it meanwhile.
WRITE = prepare(
    text("""
    WITH node AS (SELECT id FROM nodes WHERE id = :node_id FOR KEY SHARE)
    INSERT INTO presence (node_id, user_id, since, sockets)
    SELECT node.id, u.user_id, u.since, u.sockets FROM node CROSS JOIN unnest(
        CAST(:user_ids AS uuid[]), CAST(:since AS timestamp with time zone[]), CAST(:sockets AS integer[])
    ) AS u (user_id, since, sockets)
    ON CONFLICT (node_id, user_id) DO UPDATE SET since = excluded.since, sockets = excluded.sockets
    """)
)
REMOVE = prepare(text("DELETE FROM presence WHERE node_id = :node_id AND user_id = ANY (CAST(:user_ids AS uuid[]))"))
# If many nodes find the same one dead, one deletes it and none waits.
_SWEEP = prepare(
    delete(nodes).where(
        nodes.c.id.in_(
            select(nodes.c.id).where(nodes.c.seen_at < func.now() - literal(SILENCE)).with_for_update(skip_locked=True)
        )
    )
)
LEAVE = prepare(delete(nodes).where(nodes.c.id == bindparam("node_id")))


class Presence:
    """Reads the presence on all nodes. Changes of the last second or two may be missing."""

    def __init__(self, db: Engine) -> None:
        self._db = db

    async def in_group(self, group_id: UUID, window: Window) -> Page[Present]:
        """Return the connected members, by their ids."""
        page = await PRESENT_IN_GROUP.read(self._db, window, group_id=group_id)
        return page.map(Present._make)

    async def of_user(self, user_id: UUID) -> UserPresence:
        """Return one user's presence. Raise NoSuchUser."""
        row = await self._db.fetch_one(PRESENCE_OF_USER, user_id=user_id)
        if row is None:
            raise NoSuchUser
        return UserPresence(*row)

    async def stays(self, user_id: UUID) -> list[Stay]:
        """Return one user's presence on each node, the earliest first."""
        return [Stay(*row) for row in await self._db.fetch_all(STAYS_OF_USER, user_id=user_id)]


class PresenceReporter:
    """Records the presence on this node, and that the node is alive.

    Calls ``count_others`` with the number of other nodes, and the time by ``time.monotonic`` when it was asked for.
    Everything lost is written again: after the database was away, after other nodes took this one for dead, after the
    database lost its unlogged tables. Times are the database's.
    """

    def __init__(
        self, db: Engine, registry: Registry, count_others: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self._db = db
        self._registry = registry
        self._count_others = count_others
        self._started = time.monotonic()
        self._node_id = uuid4()
        self._epoch: datetime | None = None  # the monotonic clock's 0; None if not registered
        self._next_sign = 0.0
        self._pending: set[UUID] = set()
        self._has_written = False
        self._has_failed = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Record from before the block until after it, then delete the records."""
        self._node_id = uuid4()  # here, since forked processes would share an earlier one
        await self.tick()
        async with every("recording of presence", self.tick, _TICK):
            yield
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._db.execute(LEAVE, node_id=self._node_id)

    async def tick(self) -> None:
        """Write changes, and a sign of life when it is due. Failed writes are tried again at the next tick."""
        try:
            await self._report()
        except Unavailable as error:
            if not self._has_failed:
                log.warning("presence on this node cannot be recorded until the database answers: %s", error.why)
            self._has_failed = True
        else:
            self._has_failed = False

    async def _report(self) -> None:
        if self._epoch is None or time.monotonic() >= self._next_sign:
            await self._give_sign_of_life()
        self._pending |= self._registry.take_changed()
        while self._pending and self._epoch is not None:
            chunk = [*islice(self._pending, _CHUNK)]
            await self._write(chunk, self._epoch)
            self._pending.difference_update(chunk)
            self._has_written = True
        if self._has_written:  # after the writes, so that whoever sees the count sees them, too
            await self._db.execute(COUNT_CHANGE, node_id=self._node_id)
            self._has_written = False

    async def _give_sign_of_life(self) -> None:
        """Update this node's row, or register anew if it is gone. Delete the rows of dead nodes."""
        now = time.monotonic()
        found = None
        if self._epoch is not None:
            found = await self._db.fetch_one(SIGN_OF_LIFE, node_id=self._node_id)
        if found is None:
            await self._register()
        else:
            self._count_others(found[0], now)
        await self._db.execute(_SWEEP)
        self._next_sign = now + _SIGN_INTERVAL

    async def _register(self) -> None:
        moment = time.monotonic()
        name, age = f"{socket.gethostname()}:{os.getpid()}", timedelta(seconds=moment - self._started)
        self._epoch = None
        (now,) = await self._db.fetch_one(REGISTER, node_id=self._node_id, name=name, age=age)
        self._epoch = now - timedelta(seconds=moment)
        self._pending.update(self._registry.users())

    async def _write(self, user_ids: Sequence[UUID], epoch: datetime) -> None:
        stays = {user_id: stay for user_id in user_ids if (stay := self._registry.connected(user_id)) is not None}
        gone = [user_id for user_id in user_ids if user_id not in stays]
        if gone:
            await self._db.execute(REMOVE, node_id=self._node_id, user_ids=gone)
        if stays and not await self._db.execute(
            WRITE,
            node_id=self._node_id,
            user_ids=[*stays],
            since=[epoch + timedelta(seconds=since) for since, _ in stays.values()],
            sockets=[sockets for _, sockets in stays.values()],
        ):
            self._epoch = None  # other nodes took this one for dead
