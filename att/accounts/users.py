"""A user as the domain sees one, what is told of one to make or change them, and who may. No database."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select

from att.core.names import fold
from att.core.permissions import Permission, check_covers, check_permits, permits
from att.db.schema import roles, users
from att.errors import FieldError, InvalidInput, NotPermitted


class User(NamedTuple):
    """A user; ``role`` is its name."""

    id: UUID
    login: str
    first_name: str
    last_name: str
    birth_date: date | None
    registered_at: datetime
    role: str
    active: bool

    @property
    def version(self) -> str:
        """A text that is another as soon as any field is."""
        return hashlib.sha256(json.dumps(self, default=str).encode()).hexdigest()[:32]


# The columns of a User. The role's name is not joined, which would have every row wait for it that is read on the way.
USER = (
    users.c.id,
    users.c.login,
    users.c.first_name,
    users.c.last_name,
    users.c.birth_date,
    users.c.registered_at,
    select(roles.c.name).where(roles.c.id == users.c.role_id).correlate(users).scalar_subquery(),
    users.c.active,
)


class NewUser(NamedTuple):
    """A user to be made. Without a password they cannot sign in."""

    login: str
    password: str | None = None
    first_name: str = ""
    last_name: str = ""
    birth_date: date | None = None
    role: str = "User"
    active: bool = True


class UserChange(NamedTuple):
    """A user, and their new values by field: those of ``NewUser``, and ``current_password``."""

    user_id: UUID
    values: Mapping[str, Any]


Numbered = tuple[int | None, UserChange]  # with its index, when it is one of many


def row_of(user: NewUser | User, password_hash: str | None) -> dict[str, Any]:
    """The row by the parameters of the statements that write it, with the keys by which it is found and sorted."""
    login_key, first_name_key, last_name_key = fold(user.login), fold(user.first_name), fold(user.last_name)
    return {
        "login": user.login,
        "login_key": login_key,
        "password_hash": password_hash,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "last_name_key": last_name_key,
        "birth_date": user.birth_date,
        "role_key": fold(user.role),
        "is_active": user.active,
        "search_text": f"{login_key}\n{first_name_key}\n{last_name_key}",
    }


def check_change(held: Collection[str], values: Mapping[str, Any], *, is_own: bool, theirs: Collection[str]) -> None:
    """Whether a role that permits ``held`` may change these of a user, whose role permits ``theirs``.

    Raises NotPermitted. Whoever set the password of somebody stronger could sign in as them.
    """
    if not is_own:
        check_permits(held, Permission.USERS_WRITE)
        check_covers(held, theirs)
    elif not {"role", "active"}.isdisjoint(values) and not permits(held, Permission.USERS_WRITE):
        raise NotPermitted("Which role you have, and whether you are active, is not yours to set.")


def check_gives(held: Collection[str], given: Collection[str]) -> None:
    """Whether a role that permits ``held`` may give somebody one that permits ``given``. Raises NotPermitted."""
    check_permits(held, Permission.ROLES_WRITE)
    check_covers(held, given)


def check_named_once(changes: Iterable[Numbered]) -> None:
    """Nobody is changed twice at once. Raises InvalidInput."""
    seen: set[UUID] = set()
    faults = []
    for index, (user_id, _) in changes:
        if user_id in seen:
            faults.append(FieldError(f"{index}.id", "is given twice"))
        seen.add(user_id)
    if faults:
        raise InvalidInput(faults)


def check_passwords(changes: Iterable[Numbered], actor_id: UUID) -> None:
    """One's own new password comes with the current one, and nothing else does. Raises InvalidInput."""
    faults = []
    for index, (user_id, values) in changes:
        field = "current_password" if index is None else f"{index}.current_password"
        is_wanted = user_id == actor_id and "password" in values
        if is_wanted and "current_password" not in values:
            faults.append(FieldError(field, "is missing: a new password of your own needs it"))
        elif not is_wanted and "current_password" in values:
            faults.append(FieldError(field, "is given only with a new password of your own"))
    if faults:
        raise InvalidInput(faults)
