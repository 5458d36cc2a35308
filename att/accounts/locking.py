"""Reads and locks of users and roles in a transaction that changes them."""

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

THESE_USERS = users.c.id == any_(bindparam("user_ids", type_=ARRAY(Uuid)))

READ_USERS = prepare(select(*USER, users.c.password_hash, roles.c.permissions).join(roles).where(THESE_USERS))
# Ordered by id, so that two transactions do not deadlock. Without the roles: PostgreSQL does not repeat the join for a
# row that changed while the statement waited.
_LOCK_USERS = prepare(select(users.c.id).where(THESE_USERS).order_by(users.c.id).with_for_update())
# A deletion also changes the user's groups. Every change of a group locks the group first. Users with more memberships
# leave their groups later, in batches.
LOCK_GROUPS_OF_USERS = prepare(
    select(groups.c.id)
    .where(
        groups.c.id.in_(
            select(members.c.group_id)
            .where(members.c.user_id == any_(bindparam("user_ids", type_=ARRAY(Uuid))))
            .limit(1_000)
        )
    )
    .order_by(groups.c.id)
    .with_for_update(key_share=True)
)
# Locked until the commit, so that no role gains permissions while it is assigned.
LOCK_ROLES = prepare(
    select(roles.c.name_key, roles.c.permissions)
    .where(roles.c.name_key == any_(bindparam("role_keys", type_=ARRAY(Text))))
    .order_by(roles.c.id)
    .with_for_update(read=True)
)

OTHER_ADMINISTRATOR = prepare(
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
    """A user, their password hash, and the permissions of their role."""

    user: User
    password_hash: str | None
    permissions: Permissions


async def read_accounts(transaction: Transaction, user_ids: Collection[UUID]) -> dict[UUID, Account]:
    """Return the existing users by id."""
    rows = await transaction.fetch_all(READ_USERS, user_ids=list(user_ids))
    return {row[0]: Account(User(*row[:-2]), row[-2], frozenset(row[-1])) for row in rows}


async def lock_accounts(
    transaction: Transaction, numbered: Sequence[tuple[int | None, UUID]], *, with_groups: bool = False
) -> dict[UUID, Account]:
    """Lock and return the users until the commit. Raise NoSuchUser."""
    user_ids = [user_id for _, user_id in numbered]
    if with_groups:
        await transaction.fetch_all(LOCK_GROUPS_OF_USERS, user_ids=user_ids)
    await transaction.fetch_all(_LOCK_USERS, user_ids=user_ids)
    accounts = await read_accounts(transaction, user_ids)
    for index, user_id in numbered:
        with at_index(index):
            if user_id not in accounts:
                raise NoSuchUser
    return accounts


async def lock_roles(transaction: Transaction, named: Sequence[tuple[int | None, str]]) -> dict[str, Permissions]:
    """Lock the roles until the commit, and return their permissions by name key. Raise NoSuchRole."""
    keys = {fold(name) for _, name in named}
    found = dict(await transaction.fetch_all(LOCK_ROLES, role_keys=list(keys))) if keys else {}
    for index, name in named:
        with at_index(index):
            if fold(name) not in found:
                raise NoSuchRole
    return {key: frozenset(permissions) for key, permissions in found.items()}


async def check_other_administrator(transaction: Transaction, own: Permissions, user_ids: list[UUID]) -> None:
    """Raise LastAdministrator when the actor may no longer change users, and no administrator is left besides these.

    So of two administrators who demote each other at once, the second gets this error.
    """
    if permits(own, Permission.USERS_WRITE):
        return
    if await transaction.fetch_one(OTHER_ADMINISTRATOR, user_ids=user_ids) is None:
        raise LastAdministrator
