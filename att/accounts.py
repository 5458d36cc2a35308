"""Accounts: signing up, and telling by login and password who somebody is."""

from uuid import UUID, uuid4

from sqlalchemy import bindparam, insert, select, update

from att.db.engine import Engine, prepare
from att.db.schema import roles, users
from att.errors import AuthFailed
from att.names import fold
from att.passwords import Passwords
from att.permissions import Actor
from att.sessions import Verified

ADD_USER = prepare(
    insert(users)
    .values(
        id=bindparam("user_id"),
        login=bindparam("login"),
        login_key=bindparam("login_key"),
        password_hash=bindparam("password_hash"),
        search_text=bindparam("search_text"),
        role_id=select(roles.c.id).where(roles.c.name_key == "user").scalar_subquery(),
    )
    .returning(users.c.id)
)
FIND_PASSWORD = prepare(select(users.c.id, users.c.password_hash).where(users.c.login_key == bindparam("login_key")))
REHASH = prepare(
    update(users)
    .where(users.c.id == bindparam("user_id"), users.c.password_hash == bindparam("old_hash"))
    .values(password_hash=bindparam("new_hash"))
)


class Accounts:
    """Logins and passwords come in the form that ``att.names`` gives them."""

    def __init__(self, db: Engine, passwords: Passwords) -> None:
        self._db = db
        self._passwords = passwords

    async def sign_up(self, login: str, password: str, request_id: str) -> Verified:
        """A new user, who did this themselves. Raises LoginTaken."""
        password_hash = await self._passwords.hash(password)
        user_id, login_key = uuid4(), fold(login)
        async with self._db.transaction(Actor(user_id, None, request_id)) as transaction:
            await transaction.execute(
                ADD_USER,
                user_id=user_id,
                login=login,
                login_key=login_key,
                password_hash=password_hash,
                search_text=f"{login_key}\n\n",
            )
        return Verified(user_id, password_hash)

    async def authenticate(self, login: str, password: str) -> Verified:
        """Who this is. Raises AuthFailed, after the same work for an unknown login as for a wrong password."""
        row = await self._db.fetch_one(FIND_PASSWORD, login_key=fold(login))
        if not await self._passwords.verify(password, row and row[1]):
            raise AuthFailed
        user_id: UUID
        stored: str
        user_id, stored = row
        if self._passwords.is_outdated(stored):
            new_hash = await self._passwords.hash(password)
            if not await self._db.execute(REHASH, user_id=user_id, old_hash=stored, new_hash=new_hash):
                # Another log-in has just done the same, or the password is another one by now.
                return await self.authenticate(login, password)
            stored = new_hash
        return Verified(user_id, stored)
