"""Statements about the users who own sessions."""

from sqlalchemy import ARRAY, Uuid, any_, bindparam, select

from att.db.engine import prepare
from att.db.schema import users

THESE_USERS = users.c.id == any_(bindparam("user_ids", type_=ARRAY(Uuid)))
ACTIVE_USERS = prepare(select(users.c.id).where(THESE_USERS, users.c.active))
# For a sign-in: waits for a running change of the user, and blocks the next one.
LOCK_USER = prepare(
    select(users.c.id)
    .where(users.c.id == bindparam("user_id"), users.c.active, users.c.password_hash == bindparam("password_hash"))
    .with_for_update(read=True)
)
