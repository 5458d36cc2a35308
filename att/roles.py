"""Roles: what a user may do beyond their own account and their own groups."""

from uuid import UUID

from sqlalchemy import bindparam, select

from att.db.engine import Engine, prepare
from att.db.schema import roles, users
from att.permissions import Permissions

PERMISSIONS_OF = prepare(
    select(roles.c.permissions).join(users).where(users.c.id == bindparam("user_id"), users.c.active)
)


class Roles:
    """Roles in the database."""

    def __init__(self, db: Engine) -> None:
        self._db = db

    async def permissions_of(self, user_id: UUID) -> Permissions:
        """What the user's role permits, now: nothing to somebody who is not there or not active."""
        row = await self._db.fetch_one(PERMISSIONS_OF, user_id=user_id)
        return frozenset(row[0]) if row else frozenset()
