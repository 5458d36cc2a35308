"""Changes to accounts by the operator, at start or by a sub-command.

The history names only the database role, since no user is signed in.
"""

import contextlib
import secrets
import shlex
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, Text, any_, bindparam, func, select, update

from att.accounts.passwords import Passwords
from att.accounts.roles import ADMIN, ANY_ADMINISTRATOR, ensure_built_in, lock_administrators
from att.accounts.service import SET_PASSWORD, add_user
from att.accounts.users import NewUser
from att.core.names import fold
from att.core.precis import check_login, login_keys
from att.db.engine import DriverError, Engine, Transaction, prepare
from att.db.schema import roles, users
from att.db.skeletons import OwnedName, reserve_names
from att.errors import CannotStart, NoSuchUser
from att.sessions.store import SessionStore

GENERATED_LOGIN = "admin"
GENERATED_BYTES = 15  # of a generated password: 20 characters

_admin_role = select(roles.c.id).where(roles.c.name_key == fold(ADMIN)).scalar_subquery()
_login_keys = bindparam("login_keys", type_=ARRAY(Text))
_FIND_USER = prepare(
    select(users.c.id, users.c.login)
    .where(users.c.login_key == any_(_login_keys))
    .order_by(func.array_position(_login_keys, users.c.login_key))
    .limit(1)
)
PROMOTE = prepare(update(users).where(users.c.id == bindparam("user_id")).values(role_id=_admin_role, active=True))


class AdministratorCredentials(NamedTuple):
    """A login and its password, both normalised by ``att.core.names``."""

    login: str
    password: str

    def __repr__(self) -> str:
        return f"AdministratorCredentials({self.login!r})"


class Administrators:
    """Users whose role permits everything. Each method raises CannotStart when the database refuses."""

    def __init__(self, db: Engine, passwords: Passwords, sessions: SessionStore) -> None:
        self._db = db
        self._passwords = passwords
        self._sessions = sessions

    async def ensure(self, wanted: AdministratorCredentials | None = None) -> AdministratorCredentials | None:
        """Create the built-in roles if they are missing, and an administrator: ``wanted`` or a generated one.

        While there is an active administrator, none is created: one who was renamed or deleted does not come back.
        Return the generated credentials, if any. Raise CannotStart when the login is taken.
        """
        async with self._change() as transaction:
            await ensure_built_in(transaction)
            if await transaction.fetch_one(ANY_ADMINISTRATOR):
                return None
            if wanted is not None:
                await self._add_one(transaction, wanted)
                return None
            generated = AdministratorCredentials(GENERATED_LOGIN, secrets.token_urlsafe(GENERATED_BYTES))
            await self._add_one(transaction, generated)
            return generated

    async def create(self, wanted: AdministratorCredentials) -> bool:
        """Make the user an administrator with this password, and end their sessions. Return True if they are new."""
        password_hash = await self._passwords.hash(wanted.password)
        async with self._change() as transaction:
            await ensure_built_in(transaction)
            found = await transaction.fetch_one(_FIND_USER, login_keys=login_keys(wanted.login))
            if found is None:
                await _add(transaction, wanted.login, password_hash)
            else:
                await transaction.execute(PROMOTE, user_id=found[0])
                await self._set_password(transaction, found[0], password_hash)
        return found is None

    async def reset_password(self, wanted: AdministratorCredentials) -> None:
        """Give the user this password, and end their sessions. Raise NoSuchUser."""
        password_hash = await self._passwords.hash(wanted.password)
        async with self._change() as transaction:
            found = await transaction.fetch_one(_FIND_USER, login_keys=login_keys(wanted.login))
            if found is None:
                raise NoSuchUser(f"there is no user with the login {wanted.login!r}")
            await self._set_password(transaction, found[0], password_hash)

    async def _set_password(self, transaction: Transaction, user_id: UUID, password_hash: str) -> None:
        await transaction.execute(SET_PASSWORD, user_id=user_id, password_hash=password_hash)
        await self._sessions.end_all(user_id, transaction=transaction)

    async def _add_one(self, transaction: Transaction, wanted: AdministratorCredentials) -> None:
        found = await transaction.fetch_one(_FIND_USER, login_keys=login_keys(wanted.login))
        if found is not None:
            _user_id, login = found
            raise CannotStart(
                f"the user {login!r} is not an active administrator, and there is no other; choose another login with"
                f" --admin-login, or make this user one: att-server create-admin {shlex.quote(login)}"
            )
        await _add(transaction, wanted.login, await self._passwords.hash(wanted.password))

    @contextlib.asynccontextmanager
    async def _change(self) -> AsyncIterator[Transaction]:
        """Let one process at a time change administrators."""
        try:
            async with self._db.transaction() as transaction:
                await lock_administrators(transaction)
                yield transaction
        except DriverError as error:
            raise CannotStart(f"the database refuses: {error.diag.message_primary or 'no reason given'}") from error


async def _add(transaction: Transaction, login: str, password_hash: str) -> None:
    try:
        login = check_login(login)
    except ValueError as error:
        raise CannotStart(f"the login {login!r} {error}") from error
    user_id = uuid4()
    await add_user(transaction, user_id, NewUser(login, role=ADMIN), password_hash)
    # A user whose login looks like this one must not keep the operator out.
    await reserve_names(transaction, "users", [OwnedName(None, user_id, login)])
