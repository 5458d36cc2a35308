"""The shapes of requests and answers."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel

from att.core.fields import (
    Date,
    GroupName,
    Id,
    Name,
    NewPassword,
    PermissionList,
    PersonName,
    RetentionCount,
    TypedPassword,
)
from att.core.permissions import Join, Permission, Post
from att.core.permissions import MemberRole as Membership
from att.http.schemas import _T, RequestModel, ResponseModel
from att.realtime.event_log import Kind

_U = TypeVar("_U", bound="NewUserIn | NamedUserChangeIn")

MANY = 1_000  # items of one request
_PASSWORDS = 100  # items of one request that bring a password, each of which is hashed


class NewAccountIn(RequestModel):
    """The body of sign-up."""

    login: Name
    password: NewPassword


class CredentialsIn(RequestModel):
    """The body of log-in. A password too short to be anyone's is a wrong password, not a malformed one."""

    login: Name
    password: TypedPassword


class NewUserIn(RequestModel):
    """A user to be made. Without a password they cannot sign in until they are given one."""

    login: Name
    password: NewPassword | None = None
    first_name: PersonName = ""
    last_name: PersonName = ""
    birth_date: Date | None = None
    role: Name = "User"
    active: bool = True


class UserChangeIn(RequestModel):
    """The members of a user that are to change; those that are not given stay.

    ``current_password`` comes with a new password of one's own.
    """

    login: Name = Field(default_factory=str)
    password: NewPassword = Field(default_factory=str)
    current_password: TypedPassword = Field(default_factory=str)
    first_name: PersonName = Field(default_factory=str)
    last_name: PersonName = Field(default_factory=str)
    birth_date: Date | None = Field(default_factory=lambda: None)
    role: Name = Field(default_factory=str)
    active: bool = Field(default_factory=bool)


class NamedUserChangeIn(UserChangeIn):
    """A change of one of many users."""

    id: Id


class NewRoleIn(RequestModel):
    """A role to be made."""

    name: Name
    permissions: PermissionList = Field(default_factory=list)


class RoleChangeIn(RequestModel):
    """The members of a role that are to change; those that are not given stay."""

    name: Name = Field(default_factory=str)
    permissions: PermissionList = Field(default_factory=list)


class NamedRoleChangeIn(RoleChangeIn):
    """A change of one of many roles."""

    id: Id


def _check_passwords(items: list[_U]) -> list[_U]:
    if sum(bool(item.password) for item in items) > _PASSWORDS:
        raise ValueError(f"must not bring more than {_PASSWORDS} passwords")
    return items


NewUserList = Annotated[list[NewUserIn], Field(min_length=1, max_length=MANY), AfterValidator(_check_passwords)]
UserChangeList = Annotated[
    list[NamedUserChangeIn], Field(min_length=1, max_length=MANY), AfterValidator(_check_passwords)
]


class NewUsersIn(RootModel[NewUserList], hide_input_in_errors=True):
    """Users to be made, all or none; at most 100 with a password."""


class UserChangesIn(RootModel[UserChangeList], hide_input_in_errors=True):
    """Changes of users, all or none, each user once; at most 100 with a password."""


class NewRolesIn(RootModel[Annotated[list[NewRoleIn], Field(min_length=1, max_length=MANY)]]):
    """Roles to be made, all or none."""


class RoleChangesIn(RootModel[Annotated[list[NamedRoleChangeIn], Field(min_length=1, max_length=MANY)]]):
    """Changes of roles, all or none."""


class NewGroupIn(RequestModel):
    """A group to be made."""

    name: GroupName
    join: Join = "invite"
    post: Post = "members"
    retention: RetentionCount = 1_000


class GroupChangeIn(RequestModel):
    """The members of a group that are to change; those that are not given stay."""

    name: GroupName = Field(default_factory=str)
    join: Join = Field(default_factory=lambda: "invite")
    post: Post = Field(default_factory=lambda: "members")
    retention: RetentionCount = Field(default_factory=int)


class MemberChangeIn(RequestModel):
    """The role that a member is to have. Without it one who is new is a plain member, and others stay what they are."""

    role: Membership = Field(default_factory=lambda: "member")


class NewMembersIn(RequestModel):
    """Users to be made members, all or none."""

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MANY)]


class MessageIn(BaseModel):
    """Any JSON object. It is sent on as it came, byte for byte."""

    model_config = ConfigDict(extra="allow")


class SignedInOut(ResponseModel):
    """The answer to sign-up and log-in. The token is shown once, and is what signs requests in."""

    user_id: UUID
    token: str
    expires_at: datetime


class UserOut(ResponseModel):
    """A user; ``role`` is its name."""

    id: UUID
    login: str
    first_name: str
    last_name: str
    birth_date: date | None
    registered_at: datetime
    role: str
    active: bool


class RoleOut(ResponseModel):
    """A role and what it permits."""

    id: UUID
    name: str
    permissions: list[Permission]


class ChangeOut(ResponseModel):
    """A row of the history: what was changed, when, by whom. ``old`` and ``new`` hold what differs."""

    id: int
    at: datetime
    table: Literal["users", "roles", "groups", "members"]
    operation: Literal["INSERT", "UPDATE", "DELETE"]
    row: str
    actor_id: UUID | None
    session_id: UUID | None
    request_id: str | None
    database_role: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


class SessionOut(ResponseModel):
    """A session; ``current`` is the one that asks, ``sockets`` how many it has open."""

    id: UUID
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str | None
    user_agent: str | None
    current: bool
    sockets: int


class GroupOut(ResponseModel):
    """A group; ``role`` is one's own in it, null when one is not a member. It keeps ``retention`` events."""

    id: UUID
    name: str
    join: Join
    post: Post
    retention: int
    created_at: datetime
    role: Membership | None


class MemberOut(ResponseModel):
    """A member of a group."""

    user_id: UUID
    login: str
    role: Membership
    joined_at: datetime


class EventOut(ResponseModel):
    """An event of a group's log. ``user_id`` has sent it, joined or left; ``data`` is the JSON object that was sent."""

    seq: int
    kind: Kind
    user_id: UUID | None
    at: datetime
    data: dict[str, Any] | None


class PresenceOut(ResponseModel):
    """Since when a user is connected, and by how many sockets; null and 0 when they are not."""

    user_id: UUID
    since: datetime | None
    sockets: int


class PresentOut(PresenceOut):
    """A member who is connected."""

    login: str
    since: datetime


class ItemsOut(ResponseModel, Generic[_T]):
    """What was made or changed, in the order in which it was asked for."""

    items: Sequence[_T]


class DeletedOut(ResponseModel):
    """How many were deleted."""

    deleted: int


class DeliveryOut(ResponseModel):
    """The answer to a broadcast: where it is in the group's log, and to how many sockets of this node it was written.

    ``dropped`` are those that it could not be written to, since they read too slowly or are closing.
    """

    group: UUID
    seq: int
    at: datetime
    delivered: int
    dropped: int
