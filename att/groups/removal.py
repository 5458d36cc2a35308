"""Removal of the members of deleted groups, and of the memberships of deleted users, that a deletion has left behind.

A deletion removes up to a thousand by itself. The database marks what remains (see the migration "Removed members in
batches"), and any node removes it, batch by batch, also after a crash.
"""

import asyncio
import contextlib

from sqlalchemy import Integer, Uuid, bindparam, func, select

from att.db.engine import Engine, prepare
from att.db.schema import removals
from att.errors import Busy

REMOVED_AT_ONCE = 500  # members removed in one transaction, which locks the groups that a user leaves
_PAUSE = 0.02  # seconds after each REMOVED_AT_ONCE members, in which others have their turn

PENDING_REMOVALS = prepare(select(removals.c.id).order_by(removals.c.at))
REMOVE_MEMBERS = prepare(
    select(func.att_remove_members(bindparam("removal_id", type_=Uuid), bindparam("batch", type_=Integer)))
)


class RemovalTask:
    """Removes what is marked. Each removal is done by one node at a time."""

    def __init__(self, db: Engine, at_once: int = REMOVED_AT_ONCE) -> None:
        self._db = db
        self._at_once = at_once

    async def remove(self) -> None:
        """Remove all that is marked, but what others have locked."""
        since_pause = 0
        for (removal_id,) in await self._db.fetch_all(PENDING_REMOVALS):
            removed = 1
            with contextlib.suppress(Busy):
                while removed:
                    (removed,) = await self._db.fetch_one(REMOVE_MEMBERS, removal_id=removal_id, batch=self._at_once)
                    since_pause += removed
                    if since_pause >= self._at_once:
                        since_pause = 0
                        await asyncio.sleep(_PAUSE)
