"""Users, new users and changes of users, and the rules of who may make them. No I/O."""

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select

from att.core.names import fold
from att.core.permissions import Permission, check_covers, check_permits, permits
from att.core.precis import check_login, check_person_name
from att.core.preconditions import version_of
from att.db.schema import roles, users
from att.errors import FieldError, InvalidInput, NotPermitted


class User(NamedTuple):
    """A user; ``role`` is the name of their role."""

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
        """Return a hash of all fields."""
        return version_of(self)


# The columns of a User. The role's name is a subquery: a join would also be done for skipped rows.
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
    """A user to create. Without a password they cannot sign in."""

    login: str
    password: str | None = None
    first_name: str = ""
    last_name: str = ""
    birth_date: date | None = None
    role: str = "User"
    active: bool = True


class UserChange(NamedTuple):
    """New values of a user by field: the fields of ``NewUser``, and ``current_password``."""

    user_id: UUID
    values: Mapping[str, Any]


_CHECKS = {"login": check_login, "first_name": check_person_name, "last_name": check_person_name}

Numbered = tuple[int | None, UserChange]  # with its index in a batch


def row_of(user: NewUser | User) -> dict[str, Any]:
    """Return the parameters of the statements that write a user, with its keys for search and order."""
    login_key, first_name_key, last_name_key = fold(user.login), fold(user.first_name), fold(user.last_name)
    return {
        "login": user.login,
        "login_key": login_key,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "last_name_key": last_name_key,
        "birth_date": user.birth_date,
        "role_key": fold(user.role),
        "is_active": user.active,
        "search_text": f"{login_key}\n{first_name_key}\n{last_name_key}",
    }


def check_change(
    own: Collection[str], values: Mapping[str, Any], *, is_own: bool, user_permissions: Collection[str]
) -> None:
    """Raise NotPermitted when an actor with the permissions ``own`` may not change these values of the user.

    The actor needs all permissions of the user, since a new password lets the actor sign in as the user.
    """
    if not is_own:
        check_permits(own, Permission.USERS_WRITE)
        check_covers(own, user_permissions)
    elif not {"role", "active"}.isdisjoint(values) and not permits(own, Permission.USERS_WRITE):
        raise NotPermitted("You may not change your own role, nor whether you are active.")


def check_role_assignment(own: Collection[str], assigned: Collection[str]) -> None:
    """Raise NotPermitted when an actor with the permissions ``own`` may not assign a role with ``assigned``."""
    check_permits(own, Permission.ROLES_WRITE)
    check_covers(own, assigned)


def check_new_names(changes: Iterable[Numbered], before: Mapping[UUID, User]) -> list[Numbered]:
    """Return the changes with new logins in normal form. Raise InvalidInput for logins and names that are not allowed.

    A login or name from an earlier release may stay as it is.
    """
    checked: list[Numbered] = []
    faults = []
    for index, (user_id, values) in changes:
        new = dict(values)
        for field, check in _CHECKS.items():
            if field in new and new[field] != getattr(before[user_id], field):
                try:
                    new[field] = check(new[field])
                except ValueError as error:
                    faults.append(FieldError(field if index is None else f"{index}.{field}", str(error)))
        checked.append((index, UserChange(user_id, new)))
    if faults:
        raise InvalidInput(faults)
    return checked


def check_named_once(changes: Iterable[Numbered]) -> None:
    """Raise InvalidInput when a user is repeated."""
    seen: set[UUID] = set()
    faults = []
    for index, (user_id, _) in changes:
        if user_id in seen:
            faults.append(FieldError(f"{index}.id", "is given twice"))
        seen.add(user_id)
    if faults:
        raise InvalidInput(faults)


def check_passwords(changes: Iterable[Numbered], actor_id: UUID) -> None:
    """Raise InvalidInput unless exactly a new password of the actor's own comes with the current one."""
    faults = []
    for index, (user_id, values) in changes:
        field = "current_password" if index is None else f"{index}.current_password"
        is_needed = user_id == actor_id and "password" in values
        if is_needed and "current_password" not in values:
            faults.append(FieldError(field, "is missing: a new password of your own needs it"))
        elif not is_needed and "current_password" in values:
            faults.append(FieldError(field, "is given only with a new password of your own"))
    if faults:
        raise InvalidInput(faults)
