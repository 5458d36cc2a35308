"""Accounts: signing up, telling by login and password who somebody is, and making, changing and deleting users."""

import contextlib
from collections.abc import AsyncIterator, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import bindparam, delete, func, insert, select, update

from att.accounts.locking import Account, check_besides, lock_accounts, lock_roles, read_accounts
from att.accounts.passwords import Passwords
from att.accounts.roles import PERMISSIONS_OF, check_administrator_left, lock_administrators
from att.accounts.users import (
    NewUser,
    Numbered,
    User,
    UserChange,
    check_change,
    check_gives,
    check_named_once,
    check_passwords,
    row_of,
)
from att.core.names import fold
from att.core.permissions import Actor, Permission, Permissions, check_permits
from att.db.engine import Engine, Transaction, prepare
from att.db.schema import roles, users
from att.errors import AuthFailed, Busy, DatabaseUnavailable, PreconditionFailed, WrongPassword, at_index
from att.sessions.owners import THESE_USERS
from att.sessions.store import SessionListener, SessionStore, Verified

BatchKey = TypeVar("BatchKey", bound=Hashable)

_values = {
    "login": bindparam("login"),
    "login_key": bindparam("login_key"),
    "password_hash": bindparam("password_hash"),
    "first_name": bindparam("first_name"),
    "last_name": bindparam("last_name"),
    "last_name_key": bindparam("last_name_key"),
    "birth_date": bindparam("birth_date"),
    "role_id": select(roles.c.id).where(roles.c.name_key == bindparam("role_key")).scalar_subquery(),
    "active": bindparam("is_active"),
    "search_text": bindparam("search_text"),
}

ADD_USER = prepare(insert(users).values(id=bindparam("user_id"), **_values))
# A role that is not given stays as it is by then, whatever it is called.
_changed = _values | {"role_id": func.coalesce(_values["role_id"], users.c.role_id)}
CHANGE_USER = prepare(update(users).where(users.c.id == bindparam("user_id")).values(**_changed))
DELETE_USERS = prepare(delete(users).where(THESE_USERS))
FIND_PASSWORD = prepare(
    select(users.c.id, users.c.password_hash).where(users.c.login_key == bindparam("login_key"), users.c.active)
)
PASSWORD_OF = prepare(select(users.c.password_hash).where(users.c.id == bindparam("user_id")))
# Tells the history that the password stays what it is.
IS_REHASH = prepare(select(func.set_config("att.rehash", "on", True)))
REHASH = prepare(
    update(users)
    .where(users.c.id == bindparam("user_id"), users.c.password_hash == bindparam("old_hash"))
    .values(password_hash=bindparam("new_hash"))
)


class _NewPasswords(NamedTuple):
    """The hashes of new passwords by user, and the stored hash of which the actor has shown the password."""

    hashes: dict[UUID, str]
    verified: str | None


@dataclass(slots=True)
class _Endings:
    """What the audience is told after the commit: which users' sessions have ended, all of them or some."""

    users: set[UUID] = field(default_factory=set)
    sessions: dict[UUID, UUID] = field(default_factory=dict)  # and whose they were


class Accounts:
    """Logins, names and passwords come in the form that ``att.core.names`` gives them.

    What is done to many users is done to all of them or to none, and the error is marked with the index of the one that
    was to blame. The actor's permissions are those at that moment.
    """

    def __init__(self, db: Engine, passwords: Passwords, sessions: SessionStore, audience: SessionListener) -> None:
        self._db = db
        self._passwords = passwords
        self._sessions = sessions
        self._audience = audience

    async def sign_up(self, login: str, password: str, request_id: str) -> Verified:
        """A new user, who did this themselves. Raises LoginTaken."""
        password_hash = await self._passwords.hash(password)
        user_id = uuid4()
        async with self._db.transaction(Actor(user_id, None, request_id)) as transaction:
            await transaction.execute(ADD_USER, user_id=user_id, **row_of(NewUser(login), password_hash))
        return Verified(user_id, password_hash)

    async def authenticate(self, login: str, password: str) -> Verified:
        """Who this is. Raises AuthFailed, after the same work whether it is the login that is unknown, the password
        that is wrong, or the user who is not active or has no password.
        """
        row = await self._db.fetch_one(FIND_PASSWORD, login_key=fold(login))
        if not await self._passwords.verify(password, row and row[1]):
            raise AuthFailed
        user_id: UUID
        stored: str
        user_id, stored = row
        if self._passwords.is_outdated(stored):
            new_hash = await self._passwords.hash(password)
            async with self._db.transaction() as transaction:
                await transaction.fetch_one(IS_REHASH)
                is_ours = await transaction.execute(REHASH, user_id=user_id, old_hash=stored, new_hash=new_hash)
            if not is_ours:
                # Another log-in has just done the same, or the password is another one by now.
                return await self.authenticate(login, password)
            stored = new_hash
        return Verified(user_id, stored)

    async def create(self, new: NewUser, actor: Actor) -> User:
        """The new user. Raises LoginTaken, NoSuchRole, NotPermitted."""
        (user,) = await self._create([(None, new)], actor)
        return user

    async def create_many(self, news: Sequence[NewUser], actor: Actor) -> list[User]:
        """The new users, as they were given. Raises what ``create`` does."""
        return await self._create(list(enumerate(news)), actor)

    async def change(
        self, user_id: UUID, values: dict[str, Any], actor: Actor, versions: Collection[str] | None = None
    ) -> User:
        """The user as they are then. With ``versions`` they must have one of these.

        Raises InvalidInput, NoSuchUser, NoSuchRole, NotPermitted, WrongPassword, LoginTaken, LastAdministrator and
        PreconditionFailed.
        """
        (user,) = await self._change([(None, UserChange(user_id, values))], actor, versions)
        return user

    async def change_many(self, changes: Sequence[UserChange], actor: Actor) -> list[User]:
        """The users as they are then. Raises what ``change`` does, and InvalidInput for one who is named twice."""
        return await self._change(list(enumerate(changes)), actor, None)

    async def delete(self, user_id: UUID, actor: Actor) -> None:
        """Delete the user, with their sessions and memberships. Raises NoSuchUser, NotPermitted, LastAdministrator."""
        await self._delete([(None, user_id)], actor)

    async def delete_many(self, user_ids: Iterable[UUID], actor: Actor) -> int:
        """How many were deleted; one who is named twice counts once. Raises what ``delete`` does."""
        firsts: dict[UUID, int | None] = {}
        for index, user_id in enumerate(user_ids):
            firsts.setdefault(user_id, index)
        return await self._delete([(index, user_id) for user_id, index in firsts.items()], actor)

    async def _create(self, news: Sequence[tuple[int | None, NewUser]], actor: Actor) -> list[User]:
        hashes = await self._hash({place: new.password for place, (_, new) in enumerate(news) if new.password})
        ids = [uuid4() for _ in news]
        async with self._db.transaction(actor) as transaction:
            if any(fold(new.role) != "user" for _, new in news):
                await lock_administrators(transaction)  # before roles are locked, as by who changes roles
            held = await _permissions_of(transaction, actor)
            check_permits(held, Permission.USERS_WRITE)
            given = await lock_roles(transaction, [(index, new.role) for index, new in news])
            for index, new in news:
                with at_index(index):
                    if fold(new.role) != "user":
                        check_gives(held, given[fold(new.role)])
            # In the order of their keys, so that two who add the same logins wait for, and not on, each other.
            for place in sorted(range(len(news)), key=lambda place: fold(news[place][1].login)):
                index, new = news[place]
                with at_index(index):
                    await transaction.execute(ADD_USER, user_id=ids[place], **row_of(new, hashes.get(place)))
            made = await read_accounts(transaction, ids)
        return [made[user_id].user for user_id in ids]

    async def _change(self, changes: Sequence[Numbered], actor: Actor, versions: Collection[str] | None) -> list[User]:
        check_named_once(changes)
        check_passwords(changes, actor.user_id)
        passwords = await self._new_passwords(changes, actor)
        reduces = any(not {"role", "active"}.isdisjoint(change.values) for _, change in changes)
        ids = [change.user_id for _, change in changes]
        async with self._ending(actor) as (transaction, endings):
            if reduces:
                await lock_administrators(transaction)
            before = await lock_accounts(transaction, [(index, change.user_id) for index, change in changes])
            if versions is not None and before[ids[0]].user.version not in versions:
                raise PreconditionFailed
            held = await _permissions_of(transaction, actor)
            if reduces:
                await check_besides(transaction, held, ids)
            await _check(transaction, changes, before, actor, held)
            if actor.user_id in passwords.hashes and before[actor.user_id].password_hash != passwords.verified:
                raise Busy  # the password became another one after it was verified
            # In the order of their keys, as in _create.
            for index, change in sorted(changes, key=lambda numbered: fold(numbered[1].values.get("login", ""))):
                with at_index(index):
                    await _write(transaction, change, before[change.user_id], passwords)
                await self._end_sessions(transaction, change, actor, endings)
            if reduces:
                await check_administrator_left(transaction)
            after = await read_accounts(transaction, ids)
        return [after[user_id].user for user_id in ids]

    async def _delete(self, numbered: Sequence[tuple[int | None, UUID]], actor: Actor) -> int:
        async with self._ending(actor) as (transaction, endings):
            await lock_administrators(transaction)
            accounts = await lock_accounts(transaction, numbered, with_groups=True)
            held = await _permissions_of(transaction, actor)
            await check_besides(transaction, held, list(accounts))
            for index, user_id in numbered:
                with at_index(index):
                    is_own, theirs = user_id == actor.user_id, accounts[user_id].permissions
                    check_change(held, {}, is_own=is_own, theirs=theirs)
                await self._sessions.end_all(user_id, keep=None, transaction=transaction)
                endings.users.add(user_id)
            deleted = await transaction.execute(DELETE_USERS, user_ids=list(accounts))
            await check_administrator_left(transaction)
        return deleted

    async def _new_passwords(self, changes: Sequence[Numbered], actor: Actor) -> _NewPasswords:
        """Done before the transaction, which is not to wait for it with everything locked."""
        verified = None
        for index, (user_id, values) in changes:
            if user_id == actor.user_id and "password" in values:
                row = await self._db.fetch_one(PASSWORD_OF, user_id=user_id)
                verified = row and row[0]
                with at_index(index):
                    if not await self._passwords.verify(values["current_password"], verified):
                        raise WrongPassword
        new = {user_id: values["password"] for _, (user_id, values) in changes if "password" in values}
        return _NewPasswords(await self._hash(new), verified)

    async def _hash(self, passwords: Mapping[BatchKey, str]) -> dict[BatchKey, str]:
        return dict(zip(passwords, await self._passwords.hash_all(passwords.values()), strict=True))

    async def _end_sessions(
        self, transaction: Transaction, change: UserChange, actor: Actor, endings: _Endings
    ) -> None:
        user_id, values = change
        is_off = values.get("active") is False
        if not is_off and "password" not in values:
            return
        keep = actor.session_id if user_id == actor.user_id and not is_off else None
        ended = await self._sessions.end_all(user_id, keep=keep, transaction=transaction)
        if keep is None:
            endings.users.add(user_id)
        else:
            endings.sessions |= dict.fromkeys(ended, user_id)

    @contextlib.asynccontextmanager
    async def _ending(self, actor: Actor) -> AsyncIterator[tuple[Transaction, _Endings]]:
        """A transaction, after whose commit the audience is told what was put down in the endings."""
        endings = _Endings()
        try:
            async with self._db.transaction(actor) as transaction:
                yield transaction, endings
        except DatabaseUnavailable:
            for user_id in endings.users | set(endings.sessions.values()):
                self._audience.user_state_unknown(user_id)
            raise
        for user_id in endings.users:
            self._audience.user_ended(user_id)
        for session_id in endings.sessions:
            self._audience.session_ended(session_id)


async def _permissions_of(transaction: Transaction, actor: Actor) -> Permissions:
    row = await transaction.fetch_one(PERMISSIONS_OF, user_id=actor.user_id)
    return frozenset(row[0]) if row else frozenset()


async def _check(
    transaction: Transaction,
    changes: Sequence[Numbered],
    before: Mapping[UUID, Account],
    actor: Actor,
    held: Permissions,
) -> None:
    """Whether the actor may make each of the changes. Raises NoSuchRole, NotPermitted."""
    named = [(index, change.values["role"]) for index, change in changes if "role" in change.values]
    roles_given = await lock_roles(transaction, named)
    for index, (user_id, values) in changes:
        account = before[user_id]
        with at_index(index):
            check_change(held, values, is_own=user_id == actor.user_id, theirs=account.permissions)
            key = fold(values.get("role", account.user.role))
            if key != fold(account.user.role):
                check_gives(held, roles_given[key])


async def _write(transaction: Transaction, change: UserChange, account: Account, passwords: _NewPasswords) -> None:
    values = {name: value for name, value in change.values.items() if name in NewUser._fields and name != "password"}
    before = row_of(account.user, account.password_hash)
    after = row_of(account.user._replace(**values), passwords.hashes.get(change.user_id, account.password_hash))
    if after != before:
        if after["role_key"] == before["role_key"]:
            after["role_key"] = None
        await transaction.execute(CHANGE_USER, user_id=change.user_id, **after)
