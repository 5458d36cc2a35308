"""Users and roles as they are within a transaction, read and locked for a change that depends on them."""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Text, Uuid, any_, bindparam, literal, not_, select

from att.accounts.users import USER, User
from att.core.names import fold
from att.core.permissions import Permission, Permissions, permits
from att.db.engine import Transaction, prepare
from att.db.schema import groups, members, roles, users
from att.errors import LastAdministrator, NoSuchRole, NoSuchUser, at_index
from att.sessions.owners import THESE_USERS

READ_USERS = prepare(select(*USER, users.c.password_hash, roles.c.permissions).join(roles).where(THESE_USERS))
# In the order of their ids, so that two who lock the same users wait for, and not on, each other. Without the roles:
# a row that changed while it was waited for is not joined anew.
_LOCK_USERS = prepare(select(users.c.id).where(THESE_USERS).order_by(users.c.id).with_for_update())
# Whoever is deleted leaves their groups, which are locked first, as by whoever changes a group.
LOCK_THEIR_GROUPS = prepare(
    select(groups.c.id)
    .where(
        groups.c.id.in_(
            select(members.c.group_id).where(members.c.user_id == any_(bindparam("user_ids", type_=ARRAY(Uuid))))
        )
    )
    .order_by(groups.c.id)
    .with_for_update(key_share=True)
)
# Shared until the commit, so that no role comes to permit more while it is being given.
LOCK_ROLES = prepare(
    select(roles.c.name_key, roles.c.permissions)
    .where(roles.c.name_key == any_(bindparam("role_keys", type_=ARRAY(Text))))
    .order_by(roles.c.id)
    .with_for_update(read=True)
)

ADMINISTRATOR_BESIDES = prepare(
    select(users.c.id)
    .join(roles)
    .where(
        not_(THESE_USERS),
        users.c.active,
        users.c.password_hash.is_not(None),
        literal(Permission.EVERYTHING.value) == any_(roles.c.permissions),
    )
    .limit(1)
)


class Account(NamedTuple):
    """A user as they are now, what their password is told by, and what their role permits."""

    user: User
    password_hash: str | None
    permissions: Permissions


async def read_accounts(transaction: Transaction, user_ids: Collection[UUID]) -> dict[UUID, Account]:
    """The users that there are, by their ids."""
    rows = await transaction.fetch_all(READ_USERS, user_ids=list(user_ids))
    return {row[0]: Account(User(*row[:-2]), row[-2], frozenset(row[-1])) for row in rows}


async def lock_accounts(
    transaction: Transaction, numbered: Sequence[tuple[int | None, UUID]], *, with_groups: bool = False
) -> dict[UUID, Account]:
    """The users as they are, and stay until the commit. Raises NoSuchUser."""
    user_ids = [user_id for _, user_id in numbered]
    if with_groups:
        await transaction.fetch_all(LOCK_THEIR_GROUPS, user_ids=user_ids)
    await transaction.fetch_all(_LOCK_USERS, user_ids=user_ids)
    accounts = await read_accounts(transaction, user_ids)
    for index, user_id in numbered:
        with at_index(index):
            if user_id not in accounts:
                raise NoSuchUser
    return accounts


async def lock_roles(transaction: Transaction, named: Sequence[tuple[int | None, str]]) -> dict[str, Permissions]:
    """What the named roles permit, by the keys of their names, until the commit. Raises NoSuchRole."""
    keys = {fold(name) for _, name in named}
    found = dict(await transaction.fetch_all(LOCK_ROLES, role_keys=list(keys))) if keys else {}
    for index, name in named:
        with at_index(index):
            if fold(name) not in found:
                raise NoSuchRole
    return {key: frozenset(permissions) for key, permissions in found.items()}


async def check_besides(transaction: Transaction, held: Permissions, user_ids: list[UUID]) -> None:
    """Raises LastAdministrator to somebody who has meanwhile lost what they asked with, when all administrators left
    are among these users: of two who demote each other at once, the second is told that it cannot be.
    """
    if permits(held, Permission.USERS_WRITE):
        return
    if await transaction.fetch_one(ADMINISTRATOR_BESIDES, user_ids=user_ids) is None:
        raise LastAdministrator
