"""Accounts: sign-up, authentication by password, and creation, change and deletion of users."""

import contextlib
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, Text, any_, bindparam, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from att.accounts.locking import (
    THESE_USERS,
    Account,
    check_other_administrator,
    lock_accounts,
    lock_roles,
    read_accounts,
)
from att.accounts.passwords import Passwords
from att.accounts.roles import PERMISSIONS_OF, check_administrator_left, lock_administrators
from att.accounts.users import (
    NewUser,
    Numbered,
    User,
    UserChange,
    check_change,
    check_named_once,
    check_new_names,
    check_passwords,
    check_role_assignment,
    row_of,
)
from att.core.client_address import network_of
from att.core.names import fold
from att.core.pagination import PAGE_LIMIT, Window
from att.core.permissions import Actor, Permission, Permissions, check_permits
from att.core.precis import login_keys
from att.core.preconditions import Preconditions
from att.db.engine import Engine, Transaction, prepare
from att.db.schema import roles, users
from att.db.skeletons import OwnedName, take_names
from att.errors import AuthFailed, Busy, DatabaseUnavailable, LoginTaken, WrongPassword, at_index
from att.sessions.store import SessionListener, SessionStore, Verified

BatchKey = TypeVar("BatchKey", bound=Hashable)

_profile = {
    name: bindparam(name, type_=users.c[name].type)
    for name in ("login", "login_key", "first_name", "last_name", "last_name_key", "birth_date", "search_text")
} | {"active": bindparam("is_active", type_=users.c.active.type)}
_role_named = roles.c.name_key == bindparam("role_key")

# PostgreSQL logs a statement that fails. So none that holds a hash may fail by a constraint: this one adds no row for
# a login that is taken, or a role that is missing.
_new = {
    "id": bindparam("user_id", type_=users.c.id.type),
    "password_hash": bindparam("password_hash", type_=users.c.password_hash.type),
    "role_id": roles.c.id,
    **_profile,
}
ADD_USER = prepare(
    upsert(users)
    .from_select([*_new], select(*_new.values()).where(_role_named).with_for_update(read=True, key_share=True))
    .on_conflict_do_nothing()
)
# Before a change of many users: logins that pass from one of them to another, whose uniqueness is checked at once.
# No login begins with a space, and the history does not count it.
FREE_LOGINS = prepare(
    update(users)
    .where(THESE_USERS, users.c.login_key == any_(bindparam("login_keys", type_=ARRAY(Text))))
    .values(login_key=func.concat(" ", users.c.login_key))
)
# Changes no row if another user has the login. NULL keeps the current role, even if it was renamed meanwhile.
_other = users.alias("other")
CHANGE_USER = prepare(
    update(users)
    .where(
        users.c.id == bindparam("user_id"),
        ~exists().where(_other.c.login_key == bindparam("login_key"), _other.c.id != bindparam("user_id")),
    )
    .values(**_profile, role_id=func.coalesce(select(roles.c.id).where(_role_named).scalar_subquery(), users.c.role_id))
)
SET_PASSWORD = prepare(
    update(users).where(users.c.id == bindparam("user_id")).values(password_hash=bindparam("password_hash"))
)
DELETE_USERS = prepare(delete(users).where(THESE_USERS))
_login_keys = bindparam("login_keys", type_=ARRAY(Text))
FIND_PASSWORD = prepare(
    select(users.c.id, users.c.password_hash)
    .where(users.c.login_key == func.any(_login_keys), users.c.active)
    .order_by(func.array_position(_login_keys, users.c.login_key))
    .limit(1)
)
PASSWORD_OF = prepare(select(users.c.password_hash).where(users.c.id == bindparam("user_id")))
# Has the history say that the password is the same.
IS_REHASH = prepare(select(func.set_config("att.rehash", "on", True)))
REHASH = prepare(
    update(users)
    .where(users.c.id == bindparam("user_id"), users.c.password_hash == bindparam("old_hash"))
    .values(password_hash=bindparam("new_hash"))
)


class _NewPasswords(NamedTuple):
    """Hashes of new passwords by user, and the actor's stored hash if their current password was verified."""

    hashes: dict[UUID, str]
    verified: str | None


@dataclass(slots=True)
class _EndedSessions:
    """Ended sessions to announce after the commit: all sessions of ``users``, and single ``sessions``."""

    users: set[UUID] = field(default_factory=set)
    sessions: dict[UUID, UUID] = field(default_factory=dict)  # user by session


class Accounts:
    """Users in the database. ``att.core.names`` has normalised logins, names and passwords.

    A batch succeeds or fails as a whole; its error has the index of the failed item. The transaction reads the actor's
    current permissions.
    """

    def __init__(self, db: Engine, passwords: Passwords, sessions: SessionStore, listener: SessionListener) -> None:
        self._db = db
        self._passwords = passwords
        self._sessions = sessions
        self._listener = listener

    async def sign_up(self, login: str, password: str, request_id: str, address: str | None = None) -> Verified:
        """Create a user as the actor of their own creation. Raise LoginTaken."""
        password_hash = await self._passwords.hash(password, address)
        user_id = uuid4()
        async with self._db.transaction(Actor(user_id, None, request_id)) as transaction:
            await add_user(transaction, user_id, NewUser(login), password_hash)
            await take_names(transaction, "users", [OwnedName(None, user_id, login)])
        return Verified(user_id, password_hash)

    async def authenticate(self, login: str, password: str, address: str | None = None) -> Verified:
        """Return the user with this login and password. Those who ask at an address wait for each other.

        Raise AuthFailed for an unknown login, a wrong password, and a user who is not active or has no password, each
        after the same work.
        """
        row = await self._db.fetch_one(FIND_PASSWORD, login_keys=login_keys(login))
        if not await self._passwords.verify(password, row and row[1], address):
            raise AuthFailed
        user_id: UUID
        stored: str
        user_id, stored = row
        if self._passwords.is_outdated(stored):
            new_hash = await self._passwords.hash(password, address)
            async with self._db.transaction() as transaction:
                await transaction.fetch_one(IS_REHASH)
                was_changed = await transaction.execute(REHASH, user_id=user_id, old_hash=stored, new_hash=new_hash)
            if not was_changed:
                # Another log-in has rehashed the password, or the password has changed.
                return await self.authenticate(login, password, address)
            stored = new_hash
        return Verified(user_id, stored)

    async def is_signed_in_at(self, login: str, address: str | None) -> bool:
        """Return True if the user has a session that began at this address."""
        row = await self._db.fetch_one(FIND_PASSWORD, login_keys=login_keys(login))
        page = await self._sessions.of_user(
            row[0] if row else uuid4(), Window(PAGE_LIMIT)
        )  # unknown logins take as long
        return any(network_of(info.address) == network_of(address) for info in page.items)

    async def create(self, new: NewUser, actor: Actor) -> User:
        """Create a user. Raise LoginTaken, NoSuchRole, NotPermitted."""
        (user,) = await self._create([(None, new)], actor)
        return user

    async def create_many(self, news: Sequence[NewUser], actor: Actor) -> list[User]:
        """Create users and return them in order. Raise as ``create``."""
        return await self._create(list(enumerate(news)), actor)

    async def change(
        self, user_id: UUID, values: dict[str, Any], actor: Actor, preconditions: Preconditions | None = None
    ) -> User:
        """Change a user. Return the changed user.

        Raise InvalidInput, NoSuchUser, NoSuchRole, NotPermitted, WrongPassword, LoginTaken, LastAdministrator and
        PreconditionFailed.
        """
        (user,) = await self._change([(None, UserChange(user_id, values))], actor, preconditions)
        return user

    async def change_many(self, changes: Sequence[UserChange], actor: Actor) -> list[User]:
        """Change users and return them in order. Raise as ``change``, and InvalidInput for a repeated user."""
        return await self._change(list(enumerate(changes)), actor, None)

    async def delete(self, user_id: UUID, actor: Actor, preconditions: Preconditions | None = None) -> None:
        """Delete the user, with their sessions and memberships.

        Raise NoSuchUser, NotPermitted, LastAdministrator and PreconditionFailed.
        """
        await self._delete([(None, user_id)], actor, preconditions)

    async def delete_many(self, user_ids: Iterable[UUID], actor: Actor) -> int:
        """Delete users, and return their number without repetitions. Raise as ``delete``."""
        first_indexes: dict[UUID, int | None] = {}
        for index, user_id in enumerate(user_ids):
            first_indexes.setdefault(user_id, index)
        return await self._delete([(index, user_id) for user_id, index in first_indexes.items()], actor, None)

    async def _create(self, news: Sequence[tuple[int | None, NewUser]], actor: Actor) -> list[User]:
        passwords = {position: new.password for position, (_, new) in enumerate(news) if new.password}
        hashes = await self._hash(passwords, actor)
        ids = [uuid4() for _ in news]
        async with self._db.transaction(actor) as transaction:
            if any(fold(new.role) != "user" for _, new in news):
                await lock_administrators(transaction)  # before the roles, in the same order as changes of roles
            own = await _permissions_of(transaction, actor)
            check_permits(own, Permission.USERS_WRITE)
            given = await lock_roles(transaction, [(index, new.role) for index, new in news])
            for index, new in news:
                with at_index(index):
                    if fold(new.role) != "user":
                        check_role_assignment(own, given[fold(new.role)])
            # Ordered by login key, so that two transactions do not deadlock.
            for position in sorted(range(len(news)), key=lambda position: fold(news[position][1].login)):
                index, new = news[position]
                with at_index(index):
                    await add_user(transaction, ids[position], new, hashes.get(position))
            owned = [OwnedName(index, user_id, new.login) for user_id, (index, new) in zip(ids, news, strict=True)]
            await take_names(transaction, "users", owned)
            created = await read_accounts(transaction, ids)
        return [created[user_id].user for user_id in ids]

    async def _change(
        self, changes: Sequence[Numbered], actor: Actor, preconditions: Preconditions | None
    ) -> list[User]:
        check_named_once(changes)
        check_passwords(changes, actor.user_id)
        passwords = await self._new_passwords(changes, actor)
        reduces = any(not {"role", "active"}.isdisjoint(change.values) for _, change in changes)
        ids = [change.user_id for _, change in changes]
        async with self._ending_sessions(actor) as (transaction, ended):
            if reduces:
                await lock_administrators(transaction)
            before = await lock_accounts(transaction, [(index, change.user_id) for index, change in changes])
            own = await _permissions_of(transaction, actor)
            if reduces:
                await check_other_administrator(transaction, own, ids)
            await _check(transaction, changes, before, actor, own)
            if preconditions is not None:
                preconditions.check(before[ids[0]].user.version)
            if actor.user_id in passwords.hashes and before[actor.user_id].password_hash != passwords.verified:
                raise Busy  # the password has changed since it was verified
            changes = check_new_names(changes, {user_id: account.user for user_id, account in before.items()})
            await _free_logins(transaction, changes, before)
            # Ordered by login key, as in _create.
            for index, change in sorted(changes, key=lambda numbered: fold(numbered[1].values.get("login", ""))):
                with at_index(index):
                    await _write(transaction, change, before[change.user_id], passwords)
                await self._end_sessions(transaction, change, actor, ended)
            await _take_logins(transaction, changes, before)
            if reduces:
                await check_administrator_left(transaction)
            after = await read_accounts(transaction, ids)
        return [after[user_id].user for user_id in ids]

    async def _delete(
        self, numbered: Sequence[tuple[int | None, UUID]], actor: Actor, preconditions: Preconditions | None
    ) -> int:
        async with self._ending_sessions(actor) as (transaction, ended):
            await lock_administrators(transaction)
            accounts = await lock_accounts(transaction, numbered, with_groups=True)
            own = await _permissions_of(transaction, actor)
            await check_other_administrator(transaction, own, list(accounts))
            for index, user_id in numbered:
                with at_index(index):
                    is_own, user_permissions = user_id == actor.user_id, accounts[user_id].permissions
                    check_change(own, {}, is_own=is_own, user_permissions=user_permissions)
                if preconditions is not None:
                    preconditions.check(accounts[user_id].user.version)
                await self._sessions.end_all(user_id, keep=None, transaction=transaction)
                ended.users.add(user_id)
            deleted = await transaction.execute(DELETE_USERS, user_ids=list(accounts))
            await check_administrator_left(transaction)
        return deleted

    async def _new_passwords(self, changes: Sequence[Numbered], actor: Actor) -> _NewPasswords:
        """Verify and hash passwords, before the transaction takes locks."""
        verified = None
        for index, (user_id, values) in changes:
            if user_id == actor.user_id and "password" in values:
                row = await self._db.fetch_one(PASSWORD_OF, user_id=user_id)
                verified = row and row[0]
                with at_index(index):
                    if not await self._passwords.verify(values["current_password"], verified, actor.address):
                        raise WrongPassword
        new = {user_id: values["password"] for _, (user_id, values) in changes if "password" in values}
        return _NewPasswords(await self._hash(new, actor), verified)

    async def _hash(self, passwords: Mapping[BatchKey, str], actor: Actor) -> dict[BatchKey, str]:
        hashes = await self._passwords.hash_all(passwords.values(), actor.address)
        return dict(zip(passwords, hashes, strict=True))

    async def _end_sessions(
        self, transaction: Transaction, change: UserChange, actor: Actor, ended: _EndedSessions
    ) -> None:
        user_id, values = change
        is_disabled = values.get("active") is False
        if not is_disabled and "password" not in values:
            return
        keep = actor.session_id if user_id == actor.user_id and not is_disabled else None
        session_ids = await self._sessions.end_all(user_id, keep=keep, transaction=transaction)
        if keep is None:
            ended.users.add(user_id)
        else:
            ended.sessions |= dict.fromkeys(session_ids, user_id)

    @contextlib.asynccontextmanager
    async def _ending_sessions(self, actor: Actor) -> AsyncIterator[tuple[Transaction, _EndedSessions]]:
        """Open a transaction. Announce the ended sessions after its commit."""
        ended = _EndedSessions()
        try:
            async with self._db.transaction(actor) as transaction:
                yield transaction, ended
        except DatabaseUnavailable:
            for user_id in ended.users | set(ended.sessions.values()):
                self._listener.user_state_unknown(user_id)
            raise
        for user_id in ended.users:
            self._listener.user_ended(user_id)
        for session_id in ended.sessions:
            self._listener.session_ended(session_id)


async def add_user(transaction: Transaction, user_id: UUID, new: NewUser, password_hash: str | None) -> None:
    """Add a user. Raise LoginTaken, NoSuchRole."""
    if not await transaction.execute(ADD_USER, user_id=user_id, password_hash=password_hash, **row_of(new)):
        await lock_roles(transaction, [(None, new.role)])
        raise LoginTaken


async def _permissions_of(transaction: Transaction, actor: Actor) -> Permissions:
    row = await transaction.fetch_one(PERMISSIONS_OF, user_id=actor.user_id)
    return frozenset(row[0]) if row else frozenset()


async def _check(
    transaction: Transaction,
    changes: Sequence[Numbered],
    before: Mapping[UUID, Account],
    actor: Actor,
    own: Permissions,
) -> None:
    """Raise NoSuchRole or NotPermitted when the actor may not make a change."""
    named = [(index, change.values["role"]) for index, change in changes if "role" in change.values]
    permissions_by_role = await lock_roles(transaction, named)
    for index, (user_id, values) in changes:
        account = before[user_id]
        with at_index(index):
            check_change(own, values, is_own=user_id == actor.user_id, user_permissions=account.permissions)
            key = fold(values.get("role", account.user.role))
            if key != fold(account.user.role):
                check_role_assignment(own, permissions_by_role[key])


async def _take_logins(transaction: Transaction, changes: Sequence[Numbered], before: Mapping[UUID, Account]) -> None:
    renamed = [
        OwnedName(index, user_id, values["login"])
        for index, (user_id, values) in changes
        if values.get("login", before[user_id].user.login) != before[user_id].user.login
    ]
    if renamed:
        await take_names(transaction, "users", renamed)


async def _free_logins(transaction: Transaction, changes: Sequence[Numbered], before: Mapping[UUID, Account]) -> None:
    keys = {change.user_id: fold(change.values["login"]) for _, change in changes if "login" in change.values}
    renamed = [user_id for user_id, key in keys.items() if key != fold(before[user_id].user.login)]
    if len(renamed) > 1:
        await transaction.execute(FREE_LOGINS, user_ids=renamed, login_keys=[keys[user_id] for user_id in renamed])


async def _write(transaction: Transaction, change: UserChange, account: Account, passwords: _NewPasswords) -> None:
    values = {name: value for name, value in change.values.items() if name in NewUser._fields and name != "password"}
    before, after = row_of(account.user), row_of(account.user._replace(**values))
    if after != before:
        if after["role_key"] == before["role_key"]:
            after["role_key"] = None
        if not await transaction.execute(CHANGE_USER, user_id=change.user_id, **after):
            raise LoginTaken
    if change.user_id in passwords.hashes:
        await transaction.execute(SET_PASSWORD, user_id=change.user_id, password_hash=passwords.hashes[change.user_id])
