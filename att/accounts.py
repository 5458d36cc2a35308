"""Accounts: signing up, and telling by login and password who somebody is."""

from uuid import UUID

from sqlalchemy import bindparam, insert, select, update

from att.db.engine import Engine, prepare
from att.db.schema import users
from att.errors import AuthFailed
from att.names import fold
from att.passwords import Passwords

ADD_USER = prepare(
    insert(users)
    .values(login=bindparam("login"), login_key=bindparam("login_key"), password_hash=bindparam("password_hash"))
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

    async def sign_up(self, login: str, password: str) -> UUID:
        """The id of a new user. Raises LoginTaken."""
        password_hash = await self._passwords.hash(password)
        row = await self._db.fetch_one(ADD_USER, login=login, login_key=fold(login), password_hash=password_hash)
        user_id: UUID = row[0]
        return user_id

    async def authenticate(self, login: str, password: str) -> UUID:
        """The id of the user. Raises AuthFailed, after the same work for an unknown login as for a wrong password."""
        row = await self._db.fetch_one(FIND_PASSWORD, login_key=fold(login))
        if not await self._passwords.verify(password, row and row[1]):
            raise AuthFailed
        user_id: UUID
        stored: str
        user_id, stored = row
        if self._passwords.is_outdated(stored):
            new_hash = await self._passwords.hash(password)
            await self._db.execute(REHASH, user_id=user_id, old_hash=stored, new_hash=new_hash)
        return user_id
