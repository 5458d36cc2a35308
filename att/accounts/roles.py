"""Roles: what a user may do beyond their own account and their own groups."""

import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import BindParameter, any_, bindparam, delete, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from att.core.names import fold
from att.core.pagination import Order, Page, Window
from att.core.permissions import Actor, Permission, Permissions, check_covers, check_permits
from att.db.engine import Engine, Transaction, prepare
from att.db.keyset import Listing
from att.db.schema import roles, users
from att.errors import BuiltInRole, FieldError, InvalidInput, LastAdministrator, NoSuchRole, RoleInUse, at_index

ADMIN = "Admin"
_USER = "User"
BUILT_IN = frozenset({fold(ADMIN), fold(_USER)})

_KNOWN = frozenset(Permission)
_LOCK = 0x6174745F61646D  # our own among the advisory locks of the database


class Role(NamedTuple):
    """A role; its permissions are sorted."""

    id: UUID
    name: str
    permissions: tuple[Permission, ...]


class NewRole(NamedTuple):
    """A role to be made."""

    name: str
    permissions: Collection[Permission] = ()


class RoleChange(NamedTuple):
    """What is to change of a role; None stays."""

    id: UUID
    name: str | None = None
    permissions: Collection[Permission] | None = None


_role = (roles.c.id, roles.c.name, roles.c.permissions)
_find = select(*_role).where(roles.c.id == bindparam("role_id"))
_values: dict[str, BindParameter[object]] = {name: bindparam(name) for name in ("name", "name_key", "permissions")}

PERMISSIONS_OF = prepare(
    select(roles.c.permissions).join(users).where(users.c.id == bindparam("user_id"), users.c.active)
)
ROLES = Listing(select(*_role), Order("roles", (str,)), roles.c.name_key)
_FIND_ROLE = prepare(_find)
FIND_TO_CHANGE = prepare(_find.with_for_update(key_share=True))
# Nobody can be given the role between the count of those who have it and its end.
FIND_TO_DELETE = prepare(_find.with_for_update())
ADD_ROLE = prepare(insert(roles).values(**_values).returning(*_role))
CHANGE_ROLE = prepare(update(roles).where(roles.c.id == bindparam("role_id")).values(**_values).returning(*_role))
DELETE_ROLE = prepare(delete(roles).where(roles.c.id == bindparam("role_id")))
COUNT_HOLDERS = prepare(select(func.count()).select_from(users).where(users.c.role_id == bindparam("role_id")))

LOCK_ADMINISTRATORS = prepare(select(func.pg_advisory_xact_lock(_LOCK)))
ANY_ADMINISTRATOR = prepare(
    select(users.c.id)
    .join(roles)
    .where(
        users.c.active,
        users.c.password_hash.is_not(None),
        literal(Permission.EVERYTHING.value) == any_(roles.c.permissions),
    )
    .limit(1)
)
_added = upsert(roles).values(**_values)
ENSURE_ADMIN = prepare(
    _added.on_conflict_do_update(
        index_elements=["name_key"],
        set_={"permissions": _added.excluded.permissions},
        where=roles.c.permissions != _added.excluded.permissions,
    )
)
ENSURE_USER = prepare(_added.on_conflict_do_nothing())


async def lock_administrators(transaction: Transaction) -> None:
    """Until the end of the transaction nobody else changes who is an administrator.

    Taken before the first look at what is to change, so that two who take from each other see one another.
    """
    await transaction.fetch_one(LOCK_ADMINISTRATORS)


async def check_administrator_left(transaction: Transaction) -> None:
    """Raises LastAdministrator when no active user has a role that permits everything."""
    if await transaction.fetch_one(ANY_ADMINISTRATOR) is None:
        raise LastAdministrator


async def ensure_built_in(transaction: Transaction) -> None:
    """See to it that the role Admin is there and permits everything, and that the role User is there."""
    await transaction.execute(ENSURE_ADMIN, **_columns(ADMIN, [Permission.EVERYTHING]))
    await transaction.execute(ENSURE_USER, **_columns(_USER, []))


class Roles:
    """Roles in the database.

    Whoever changes one needs ``roles.write`` and all that the role permits, before and after: nobody raises themselves.
    Of many at once all are changed or none, and an error bears the index of the one to blame.
    """

    def __init__(self, db: Engine) -> None:
        self._db = db

    async def permissions_of(self, user_id: UUID) -> Permissions:
        """What the user's role permits, now: nothing to somebody who is not there or not active."""
        row = await self._db.fetch_one(PERMISSIONS_OF, user_id=user_id)
        return frozenset(row[0]) if row else frozenset()

    async def page(self, window: Window) -> Page[Role]:
        """The roles, by name."""
        page = await ROLES.read(self._db, window)
        return page.map(_make)

    async def find(self, role_id: UUID) -> Role:
        """The role with this id. Raises NoSuchRole."""
        return _found(await self._db.fetch_one(_FIND_ROLE, role_id=role_id))

    async def create(self, new: NewRole, actor: Actor) -> Role:
        """A new role. Raises RoleNameTaken, NotPermitted."""
        with at_index(None):
            [role] = await self.create_many([new], actor)
        return role

    async def create_many(self, new: Iterable[NewRole], actor: Actor) -> list[Role]:
        """New roles, in the order given. Raises RoleNameTaken, NotPermitted."""
        made = []
        async with self._change(actor) as (transaction, held):
            for index, (name, permissions) in enumerate(new):
                with at_index(index):
                    check_covers(held, permissions)
                    made.append(_make(await transaction.fetch_one(ADD_ROLE, **_columns(name, permissions))))
        return made

    async def change(self, change: RoleChange, actor: Actor) -> Role:
        """The role as it is then. Raises NoSuchRole, BuiltInRole, RoleNameTaken, LastAdministrator, NotPermitted."""
        with at_index(None):
            [role] = await self.change_many([change], actor)
        return role

    async def change_many(self, changes: Iterable[RoleChange], actor: Actor) -> list[Role]:
        """The roles as they are then, in this order. Raises as ``change``, and InvalidInput for one given twice."""
        changed: dict[UUID, Role] = {}
        weakened = None
        async with self._change(actor) as (transaction, held):
            for index, change in enumerate(changes):
                if change.id in changed:
                    raise InvalidInput([FieldError(f"{index}.id", "is given twice")])
                with at_index(index):
                    before, after = await _change(transaction, held, change)
                changed[change.id] = after
                if Permission.EVERYTHING in set(before.permissions) - set(after.permissions):
                    weakened = index
            if weakened is not None:
                with at_index(weakened):
                    await check_administrator_left(transaction)
        return list(changed.values())

    async def delete(self, role_id: UUID, actor: Actor) -> None:
        """Raises NoSuchRole, BuiltInRole, RoleInUse, NotPermitted."""
        with at_index(None):
            await self.delete_many([role_id], actor)

    async def delete_many(self, role_ids: Iterable[UUID], actor: Actor) -> int:
        """How many were deleted; one that is given twice counts once. Raises as ``delete``."""
        deleted: set[UUID] = set()
        async with self._change(actor) as (transaction, held):
            for index, role_id in enumerate(role_ids):
                if role_id not in deleted:
                    with at_index(index):
                        await _delete(transaction, held, role_id)
                    deleted.add(role_id)
        return len(deleted)

    @contextlib.asynccontextmanager
    async def _change(self, actor: Actor) -> AsyncIterator[tuple[Transaction, Permissions]]:
        """A transaction in which roles are changed, one at a time, and what the actor's role permits within it."""
        async with self._db.transaction(actor) as transaction:
            await lock_administrators(transaction)
            row = await transaction.fetch_one(PERMISSIONS_OF, user_id=actor.user_id)
            held = frozenset(row[0]) if row else frozenset()
            check_permits(held, Permission.ROLES_WRITE)
            yield transaction, held


async def _change(transaction: Transaction, held: Permissions, change: RoleChange) -> tuple[Role, Role]:
    """The role before and after."""
    before = _found(await transaction.fetch_one(FIND_TO_CHANGE, role_id=change.id))
    name = before.name if change.name is None else change.name
    permissions = before.permissions if change.permissions is None else change.permissions
    check_covers(held, {*before.permissions, *permissions})
    if fold(before.name) in BUILT_IN and name != before.name:
        raise BuiltInRole
    if fold(before.name) == fold(ADMIN) and set(permissions) != set(before.permissions):
        raise BuiltInRole("The role Admin permits everything ('*'), and stays so.")
    row = await transaction.fetch_one(CHANGE_ROLE, role_id=change.id, **_columns(name, permissions))
    return before, _make(row)


async def _delete(transaction: Transaction, held: Permissions, role_id: UUID) -> None:
    role = _found(await transaction.fetch_one(FIND_TO_DELETE, role_id=role_id))
    check_covers(held, role.permissions)
    if fold(role.name) in BUILT_IN:
        raise BuiltInRole
    [holders] = await transaction.fetch_one(COUNT_HOLDERS, role_id=role_id)
    if holders:
        raise RoleInUse(f"{holders} {'user has' if holders == 1 else 'users have'} this role. Give them another first.")
    await transaction.execute(DELETE_ROLE, role_id=role_id)


def _columns(name: str, permissions: Collection[str]) -> dict[str, object]:
    return {"name": name, "name_key": fold(name), "permissions": sorted(str(part) for part in set(permissions))}


def _found(row: tuple[UUID, str, Sequence[str]] | None) -> Role:
    if row is None:
        raise NoSuchRole
    return _make(row)


def _make(row: tuple[UUID, str, Sequence[str]]) -> Role:
    role_id, name, permissions = row
    # What an operator has written there that means nothing permits nothing.
    return Role(role_id, name, tuple(Permission(part) for part in sorted(_KNOWN.intersection(permissions))))
