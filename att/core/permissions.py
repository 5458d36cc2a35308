"""Rules of permission, free of I/O."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Literal
from uuid import UUID

from att.errors import NotAMember, NotAnOwner, NotPermitted, NotYou

MemberRole = Literal["owner", "member"]
Join = Literal["invite", "open"]
Post = Literal["members", "owners"]
HistoryRule = Literal["since_join", "all"]


class Permission(StrEnum):
    """Permissions that a role can grant beyond one's own account and groups."""

    EVERYTHING = "*"
    USERS_READ = "users.read"
    USERS_WRITE = "users.write"
    ROLES_READ = "roles.read"
    ROLES_WRITE = "roles.write"
    HISTORY_READ = "history.read"
    GROUPS_READ = "groups.read"
    GROUPS_WRITE = "groups.write"
    BROADCAST_ANY = "broadcast.any"
    SESSIONS_WRITE = "sessions.write"
    QUOTAS_EXEMPT = "quotas.exempt"


Permissions = frozenset[str]


class Who(Enum):
    """Users who may call a route without a permission. Each value is the documentation's wording."""

    ANYONE = "anyone"
    SIGNED_IN = "anyone signed in"
    PERMITTED = "nobody"
    ONESELF = "the user in the path"
    FELLOW = "the user in the path, and whoever shares a group with them or may read a message of theirs"
    MEMBER = "members of the group"
    VISITOR = "members of the group, and anyone signed in if it is open"
    POSTER = "members of the group, or its owners alone if it says so"
    OWNER = "owners of the group"
    OWNER_OR_ONESELF = "owners of the group, and the user in the path"
    OWNER_OR_SENDER = "owners of the group, and the sender of the message"
    OWNER_OR_JOINER = "owners of the group, and the user in the path if it is open"


@dataclass(frozen=True, slots=True)
class Actor:
    """The author of a change; the database records it with the change, except for the address."""

    user_id: UUID
    session_id: UUID | None
    request_id: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """The user's role in the group in the path, None for a non-member, and the group's rules."""

    role: MemberRole | None = None
    join: Join = "invite"
    post: Post = "members"


NO_GROUP = Standing()
_FOR_MEMBERS = (Who.MEMBER, Who.POSTER, Who.OWNER, Who.OWNER_OR_ONESELF, Who.OWNER_OR_SENDER)


def check(who: Who, *, actor: UUID, target: UUID | None = None, standing: Standing = NO_GROUP) -> None:
    """Raise a ``Forbidden`` that says what is missing, if something is.

    ``actor`` is the user who asks, ``target`` the user in the path, or the sender of the message there.
    """
    is_open, is_own = standing.join == "open", actor == target
    if who is Who.OWNER_OR_SENDER and is_own:  # also one who has left
        return
    if who is Who.PERMITTED:
        raise NotPermitted
    if who in (Who.ONESELF, Who.FELLOW) and not is_own:  # the database tells who is a fellow
        raise NotYou
    if who in _FOR_MEMBERS and standing.role is None:
        raise NotAMember
    if who is Who.VISITOR and standing.role is None and not is_open:
        raise NotAMember
    if who is Who.OWNER_OR_JOINER and standing.role is None and not (is_open and is_own):
        raise NotAMember
    if standing.role != "owner" and _is_for_owners(who, is_own=is_own, is_open=is_open, post=standing.post):
        raise NotAnOwner


def _is_for_owners(who: Who, *, is_own: bool, is_open: bool, post: Post) -> bool:
    return (
        who in (Who.OWNER, Who.OWNER_OR_SENDER)
        or (who is Who.POSTER and post == "owners")
        or (who is Who.OWNER_OR_ONESELF and not is_own)
        or (who is Who.OWNER_OR_JOINER and not (is_own and is_open))
    )


def permits(granted: Collection[str], wanted: Permission) -> bool:
    """Return True if the permissions ``granted`` include this one."""
    return wanted in granted or Permission.EVERYTHING in granted


def check_covers(granted: Collection[str], others: Collection[str]) -> None:
    """Raise NotPermitted, with the missing permissions, unless ``granted`` covers ``others``.

    So no user can gain permissions: to change a role, or a user who has it, takes all permissions of the role.
    """
    missing = set() if Permission.EVERYTHING in granted else set(others) - set(granted)
    if missing:
        raise NotPermitted(f"Your role lacks permissions of theirs: {', '.join(sorted(missing))}.")


def check_permits(granted: Collection[str], wanted: Permission) -> None:
    """Raise NotPermitted, with the missing permission, unless it is granted."""
    if not permits(granted, wanted):
        raise NotPermitted(f"Your role does not permit {wanted}.")
