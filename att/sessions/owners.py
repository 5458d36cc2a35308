"""Users as owners of sessions: read and locked while one begins or ends."""

from sqlalchemy import ARRAY, Uuid, any_, bindparam, select

from att.db.engine import prepare
from att.db.schema import users

THESE_USERS = users.c.id == any_(bindparam("user_ids", type_=ARRAY(Uuid)))
ACTIVE_USERS = prepare(select(users.c.id).where(THESE_USERS, users.c.active))
# For whoever signs in: it waits for a change of the user that is under way, and makes the next one wait.
LOCK_USER = prepare(
    select(users.c.id)
    .where(users.c.id == bindparam("user_id"), users.c.active, users.c.password_hash == bindparam("password_hash"))
    .with_for_update(read=True)
)
