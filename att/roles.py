"""Roles: what a user may do beyond their own account and their own groups."""

from uuid import UUID

from sqlalchemy import any_, bindparam, func, literal, select

from att.db.engine import Engine, Transaction, prepare
from att.db.schema import roles, users
from att.errors import LastAdministrator
from att.permissions import Permission, Permissions

PERMISSIONS_OF = prepare(
    select(roles.c.permissions).join(users).where(users.c.id == bindparam("user_id"), users.c.active)
)

ADMINISTRATORS = 0x617474_01  # the number of an advisory lock
LOCK_ADMINISTRATORS = prepare(select(func.pg_advisory_xact_lock(ADMINISTRATORS)))
ANY_ADMINISTRATOR = prepare(
    select(users.c.id)
    .join(roles)
    .where(users.c.active, literal(Permission.EVERYTHING.value) == any_(roles.c.permissions))
    .limit(1)
)


async def lock_administrators(transaction: Transaction) -> None:
    """Until the commit nobody else makes a change that could leave fewer administrators."""
    await transaction.fetch_one(LOCK_ADMINISTRATORS)


async def check_administrator_left(transaction: Transaction) -> None:
    """Raises LastAdministrator unless somebody active has a role that permits everything."""
    if await transaction.fetch_one(ANY_ADMINISTRATOR) is None:
        raise LastAdministrator


class Roles:
    """Roles in the database."""

    def __init__(self, db: Engine) -> None:
        self._db = db

    async def permissions_of(self, user_id: UUID) -> Permissions:
        """What the user's role permits, now: nothing to somebody who is not there or not active."""
        row = await self._db.fetch_one(PERMISSIONS_OF, user_id=user_id)
        return frozenset(row[0]) if row else frozenset()
