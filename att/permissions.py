"""Pure rules: may this person do this? No loop, no socket, no database."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal
from uuid import UUID

from att.errors import NotAMember, NotAnOwner, NotYou

Role = Literal["owner", "member"]


class Who(Enum):
    """Who may call a route. Each value is the sentence that the documentation shows."""

    ANYONE = "anyone"
    SIGNED_IN = "anyone signed in"
    ONESELF = "the user in the path"
    MEMBER = "members of the group"
    OWNER = "owners of the group"
    OWNER_OR_ONESELF = "owners of the group, and the user in the path"


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf a change is made; the database records it with the change."""

    user_id: UUID
    session_id: UUID
    request_id: str


def check(who: Who, *, actor: UUID, target: UUID | None = None, role: Role | None = None) -> None:
    """Pass, or raise a ``Forbidden`` that says what is missing.

    ``actor`` is the user who asks, ``target`` the user in the path, ``role`` the actor's own role in the group of
    the path, None when they are not a member.
    """
    if who is Who.ONESELF and actor != target:
        raise NotYou
    if who in (Who.MEMBER, Who.OWNER, Who.OWNER_OR_ONESELF) and role is None:
        raise NotAMember
    if who is Who.OWNER and role != "owner":
        raise NotAnOwner
    if who is Who.OWNER_OR_ONESELF and role != "owner" and actor != target:
        raise NotAnOwner
