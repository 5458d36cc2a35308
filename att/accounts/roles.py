"""Roles: permissions of users beyond their own account and groups."""

import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from att.core.batch_loader import BatchLoader
from att.core.names import fold
from att.core.pagination import Order, Page, Window
from att.core.permissions import Actor, Permission, Permissions, check_covers, check_permits, permits
from att.core.precis import check_name, check_rename
from att.core.preconditions import Preconditions, version_of
from att.db.engine import Engine, Transaction, planned_once, prepare
from att.db.keyset import Listing
from att.db.schema import roles, users
from att.db.skeletons import OwnedName, take_names
from att.errors import (
    BuiltInRole,
    FieldError,
    InvalidInput,
    LastAdministrator,
    NoSuchRole,
    NotPermitted,
    RoleInUse,
    at_index,
)

ADMIN = "Admin"
_USER = "User"
BUILT_IN = frozenset({fold(ADMIN), fold(_USER)})

_KNOWN = frozenset(Permission)
_LOCK = 0x6174745F61646D  # key of an advisory lock of the database


class Role(NamedTuple):
    """A role; its permissions are sorted."""

    id: UUID
    name: str
    permissions: tuple[Permission, ...]

    @property
    def version(self) -> str:
        """Return a hash of all fields."""
        return version_of(self)


class NewRole(NamedTuple):
    """A role to create."""

    name: str
    permissions: Collection[Permission] = ()


class RoleChange(NamedTuple):
    """A change of a role. None keeps the value."""

    id: UUID
    name: str | None = None
    permissions: Collection[Permission] | None = None


_role = (roles.c.id, roles.c.name, roles.c.permissions)
_find = select(*_role).where(roles.c.id == bindparam("role_id"))
_values: dict[str, BindParameter[object]] = {name: bindparam(name) for name in ("name", "name_key", "permissions")}

PERMISSIONS_OF = prepare(
    select(roles.c.permissions).join(users).where(users.c.id == bindparam("user_id"), users.c.active)
)
_PERMISSIONS_OF_MANY = planned_once(
    prepare(
        select(users.c.id, roles.c.permissions)
        .join(roles)
        .where(users.c.id == any_(cast(bindparam("user_ids"), ARRAY(Uuid))), users.c.active)
    ),
    "att_permissions",
)
ROLES = Listing(select(*_role), Order("roles", (str,)), roles.c.name_key)
_FIND_ROLE = prepare(_find)
FIND_TO_CHANGE = prepare(_find.with_for_update(key_share=True))
# Locked, so that no user gets the role between the count of its users and its deletion.
FIND_TO_DELETE = prepare(_find.with_for_update())
ADD_ROLE = prepare(insert(roles).values(**_values).returning(*_role))
CHANGE_ROLE = prepare(update(roles).where(roles.c.id == bindparam("role_id")).values(**_values).returning(*_role))
# Before a change of many roles: names that pass from one of them to another, whose uniqueness is checked at once.
# No name begins with a space.
FREE_NAMES = prepare(
    update(roles)
    .where(
        roles.c.id == any_(bindparam("role_ids", type_=ARRAY(Uuid))),
        roles.c.name_key == any_(bindparam("name_keys", type_=ARRAY(Text))),
    )
    .values(name_key=func.concat(" ", roles.c.id))
)
DELETE_ROLE = prepare(delete(roles).where(roles.c.id == bindparam("role_id")))
OTHER_HOLDER = prepare(
    select(users.c.id).where(users.c.role_id == bindparam("role_id"), users.c.id != bindparam("actor_id")).limit(1)
)
COUNT_USERS = prepare(select(func.count()).select_from(users).where(users.c.role_id == bindparam("role_id")))

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
    """Lock the set of administrators until the transaction ends.

    Call it before reading, so that two transactions that demote each other's administrators see both changes.
    """
    await transaction.fetch_one(LOCK_ADMINISTRATORS)


async def check_administrator_left(transaction: Transaction) -> None:
    """Raise LastAdministrator when no active user with a password has a role that permits everything."""
    if await transaction.fetch_one(ANY_ADMINISTRATOR) is None:
        raise LastAdministrator


async def ensure_built_in(transaction: Transaction) -> None:
    """Create the roles Admin and User if they are missing, and let Admin permit everything."""
    await transaction.execute(ENSURE_ADMIN, **_columns(ADMIN, [Permission.EVERYTHING]))
    await transaction.execute(ENSURE_USER, **_columns(_USER, []))


class Roles:
    """Roles in the database.

    A change needs ``roles.write`` and every permission that the role has before or after, so that actors cannot gain
    permissions. New permissions of other users need ``users.write``, too, and those of the role User ``*``.
    A batch succeeds or fails as a whole; its error has the index of the failed item.
    """

    def __init__(self, db: Engine) -> None:
        self._db = db
        self._permissions = BatchLoader(self._permissions_of_many, db.batches)

    async def permissions_of(self, user_id: UUID) -> Permissions:
        """Return the current permissions of the user; none if the user is unknown or not active."""
        return await self._permissions.load(user_id)

    async def _permissions_of_many(self, user_ids: Sequence[UUID]) -> list[Permissions]:
        rows = await self._db.fetch_all(_PERMISSIONS_OF_MANY, user_ids=f"{{{','.join(map(str, user_ids))}}}")
        found = dict(rows)
        return [frozenset(found.get(user_id, ())) for user_id in user_ids]

    async def page(self, window: Window) -> Page[Role]:
        """Return the roles by name."""
        page = await ROLES.read(self._db, window)
        return page.map(_make)

    async def find(self, role_id: UUID) -> Role:
        """Return the role. Raise NoSuchRole."""
        return _found(await self._db.fetch_one(_FIND_ROLE, role_id=role_id))

    async def create(self, new: NewRole, actor: Actor) -> Role:
        """Create a role. Raise RoleNameTaken, NotPermitted."""
        with at_index(None):
            [role] = await self.create_many([new], actor)
        return role

    async def create_many(self, new: Iterable[NewRole], actor: Actor) -> list[Role]:
        """Create roles and return them in order. Raise RoleNameTaken, NotPermitted."""
        created = []
        async with self._change(actor) as (transaction, own):
            for index, (name, permissions) in enumerate(new):
                with at_index(index):
                    check_covers(own, permissions)
                    created.append(_make(await transaction.fetch_one(ADD_ROLE, **_columns(name, permissions))))
            owned = [OwnedName(index, role.id, role.name) for index, role in enumerate(created)]
            await take_names(transaction, "roles", owned)
        return created

    async def change(self, change: RoleChange, actor: Actor, preconditions: Preconditions | None = None) -> Role:
        """Return the changed role.

        Raise NoSuchRole, BuiltInRole, RoleNameTaken, LastAdministrator, NotPermitted and PreconditionFailed.
        """
        with at_index(None):
            [role] = await self._change_all([change], actor, preconditions)
        return role

    async def change_many(self, changes: Sequence[RoleChange], actor: Actor) -> list[Role]:
        """Return the changed roles in order. Raise as ``change``, and InvalidInput for a repeated role."""
        return await self._change_all(changes, actor, None)

    async def _change_all(
        self, changes: Sequence[RoleChange], actor: Actor, preconditions: Preconditions | None
    ) -> list[Role]:
        changed: dict[UUID, Role] = {}
        renamed = []
        weakened = None
        async with self._change(actor) as (transaction, own):
            keys = {change.id: fold(change.name) for change in changes if change.name is not None}
            if len(keys) > 1:
                await transaction.execute(FREE_NAMES, role_ids=[*keys], name_keys=[*keys.values()])
            for index, change in enumerate(changes):
                if change.id in changed:
                    raise InvalidInput([FieldError(f"{index}.id", "is given twice")])
                with at_index(index):
                    before, after = await _change(transaction, own, change, actor, preconditions)
                changed[change.id] = after
                if after.name != before.name:
                    renamed.append(OwnedName(index, after.id, after.name))
                if Permission.EVERYTHING in set(before.permissions) - set(after.permissions):
                    weakened = index
            if renamed:
                await take_names(transaction, "roles", renamed)
            if weakened is not None:
                with at_index(weakened):
                    await check_administrator_left(transaction)
        return list(changed.values())

    async def delete(self, role_id: UUID, actor: Actor, preconditions: Preconditions | None = None) -> None:
        """Delete the role. Raise NoSuchRole, BuiltInRole, RoleInUse, NotPermitted and PreconditionFailed."""
        with at_index(None):
            await self._delete_all([role_id], actor, preconditions)

    async def delete_many(self, role_ids: Iterable[UUID], actor: Actor) -> int:
        """Delete roles, and return their number without repetitions. Raise as ``delete``."""
        return await self._delete_all(role_ids, actor, None)

    async def _delete_all(self, role_ids: Iterable[UUID], actor: Actor, preconditions: Preconditions | None) -> int:
        deleted: set[UUID] = set()
        async with self._change(actor) as (transaction, own):
            for index, role_id in enumerate(role_ids):
                if role_id not in deleted:
                    with at_index(index):
                        await _delete(transaction, own, role_id, preconditions)
                    deleted.add(role_id)
        return len(deleted)

    @contextlib.asynccontextmanager
    async def _change(self, actor: Actor) -> AsyncIterator[tuple[Transaction, Permissions]]:
        """Open a transaction that changes roles; return it with the actor's permissions."""
        async with self._db.transaction(actor) as transaction:
            await lock_administrators(transaction)
            row = await transaction.fetch_one(PERMISSIONS_OF, user_id=actor.user_id)
            own = frozenset(row[0]) if row else frozenset()
            check_permits(own, Permission.ROLES_WRITE)
            yield transaction, own


async def _change(
    transaction: Transaction, own: Permissions, change: RoleChange, actor: Actor, preconditions: Preconditions | None
) -> tuple[Role, Role]:
    """Change a role; return it before and after."""
    before = _found(await transaction.fetch_one(FIND_TO_CHANGE, role_id=change.id))
    name = before.name if change.name is None else change.name
    permissions = before.permissions if change.permissions is None else change.permissions
    check_covers(own, {*before.permissions, *permissions})
    if name != before.name:
        check_rename(check_name, name)  # one from an earlier release may stay as it is
    if set(permissions) != set(before.permissions):
        await _check_holders(transaction, own, before, actor)
    if fold(before.name) in BUILT_IN and name != before.name:
        raise BuiltInRole
    if fold(before.name) == fold(ADMIN) and set(permissions) != set(before.permissions):
        raise BuiltInRole("The permissions of the role Admin cannot change: it permits everything ('*').")
    if preconditions is not None:
        preconditions.check(before.version)
    row = await transaction.fetch_one(CHANGE_ROLE, role_id=change.id, **_columns(name, permissions))
    return before, _make(row)


async def _check_holders(transaction: Transaction, own: Permissions, role: Role, actor: Actor) -> None:
    """Raise NotPermitted when the actor may not change what users with this role may do."""
    if fold(role.name) == fold(_USER):
        if not permits(own, Permission.EVERYTHING):
            raise NotPermitted("Everybody who signs up has the role User: to change its permissions takes '*'.")
    elif await transaction.fetch_one(OTHER_HOLDER, role_id=role.id, actor_id=actor.user_id):
        check_permits(own, Permission.USERS_WRITE)


async def _delete(
    transaction: Transaction, own: Permissions, role_id: UUID, preconditions: Preconditions | None
) -> None:
    role = _found(await transaction.fetch_one(FIND_TO_DELETE, role_id=role_id))
    check_covers(own, role.permissions)
    if fold(role.name) in BUILT_IN:
        raise BuiltInRole
    [count] = await transaction.fetch_one(COUNT_USERS, role_id=role_id)
    if count:
        raise RoleInUse(f"{count} {'user has' if count == 1 else 'users have'} this role. Give them another first.")
    if preconditions is not None:
        preconditions.check(role.version)
    await transaction.execute(DELETE_ROLE, role_id=role_id)


def _columns(name: str, permissions: Collection[str]) -> dict[str, object]:
    return {"name": name, "name_key": fold(name), "permissions": sorted(str(part) for part in set(permissions))}


def _found(row: tuple[UUID, str, Sequence[str]] | None) -> Role:
    if row is None:
        raise NoSuchRole
    return _make(row)


def _make(row: tuple[UUID, str, Sequence[str]]) -> Role:
    role_id, name, permissions = row
    # Ignore unknown permissions that an operator has stored.
    return Role(role_id, name, tuple(Permission(part) for part in sorted(_KNOWN.intersection(permissions))))
