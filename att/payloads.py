"""The shapes of requests and answers."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel

from att.fields import Date, GroupName, Id, Name, NewPassword, Permissions, PersonName, Retention, TypedPassword
from att.permissions import Join, Permission, Post
from att.permissions import Role as Membership
from att.realtime.log import Kind

T = TypeVar("T")
U = TypeVar("U", bound="NewUser | NamedUserChange")
V = TypeVar("V", bound="NamedUserChange | NamedRoleChange")

MANY = 1_000  # items of one request
PASSWORDS = 100  # items of one request that bring a password, each of which is hashed


class Request(BaseModel):
    """What a client sends: exactly these members, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class NewAccount(Request):
    """The body of sign-up."""

    login: Name
    password: NewPassword


class Credentials(Request):
    """The body of log-in. A password too short to be anyone's is a wrong password, not a malformed one."""

    login: Name
    password: TypedPassword


class NewUser(Request):
    """A user to be made. Without a password they cannot sign in until they are given one."""

    login: Name
    password: NewPassword | None = None
    first_name: PersonName = ""
    last_name: PersonName = ""
    birth_date: Date | None = None
    role: Name = "User"
    active: bool = True


class UserChange(Request):
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


class NamedUserChange(UserChange):
    """A change of one of many users."""

    id: Id


class NewRole(Request):
    """A role to be made."""

    name: Name
    permissions: Permissions = Field(default_factory=list)


class RoleChange(Request):
    """The members of a role that are to change; those that are not given stay."""

    name: Name = Field(default_factory=str)
    permissions: Permissions = Field(default_factory=list)


class NamedRoleChange(RoleChange):
    """A change of one of many roles."""

    id: Id


def _check_passwords(items: list[U]) -> list[U]:
    if sum(bool(item.password) for item in items) > PASSWORDS:
        raise ValueError(f"must not bring more than {PASSWORDS} passwords")
    return items


NewUserList = Annotated[list[NewUser], Field(min_length=1, max_length=MANY), AfterValidator(_check_passwords)]
UserChangeList = Annotated[
    list[NamedUserChange], Field(min_length=1, max_length=MANY), AfterValidator(_check_passwords)
]


class NewUsers(RootModel[NewUserList], hide_input_in_errors=True):
    """Users to be made, all or none; at most 100 with a password."""


class UserChanges(RootModel[UserChangeList], hide_input_in_errors=True):
    """Changes of users, all or none, each user once; at most 100 with a password."""


class NewRoles(RootModel[Annotated[list[NewRole], Field(min_length=1, max_length=MANY)]]):
    """Roles to be made, all or none."""


class RoleChanges(RootModel[Annotated[list[NamedRoleChange], Field(min_length=1, max_length=MANY)]]):
    """Changes of roles, all or none."""


class NewGroup(Request):
    """A group to be made."""

    name: GroupName
    join: Join = "invite"
    post: Post = "members"
    retention: Retention = 1_000


class GroupChange(Request):
    """The members of a group that are to change; those that are not given stay."""

    name: GroupName = Field(default_factory=str)
    join: Join = Field(default_factory=lambda: "invite")
    post: Post = Field(default_factory=lambda: "members")
    retention: Retention = Field(default_factory=int)


class MemberChange(Request):
    """The role that a member is to have. Without it one who is new is a plain member, and others stay what they are."""

    role: Membership = Field(default_factory=lambda: "member")


class NewMembers(Request):
    """Users to be made members, all or none."""

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MANY)]


class Message(BaseModel):
    """Any JSON object. It is sent on as it came, byte for byte."""

    model_config = ConfigDict(extra="allow")


class Answer(BaseModel):
    """What a client gets, made from the attributes of what the domain returns."""

    model_config = ConfigDict(from_attributes=True, hide_input_in_errors=True)


class SignedIn(Answer):
    """The answer to sign-up and log-in. The token is shown once, and is what signs requests in."""

    user_id: UUID
    token: str
    expires_at: datetime


class User(Answer):
    """A user; ``role`` is its name."""

    id: UUID
    login: str
    first_name: str
    last_name: str
    birth_date: date | None
    registered_at: datetime
    role: str
    active: bool


class Role(Answer):
    """A role and what it permits."""

    id: UUID
    name: str
    permissions: list[Permission]


class Change(Answer):
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


class Session(Answer):
    """A session; ``current`` is the one that asks, ``sockets`` how many it has open."""

    id: UUID
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str | None
    user_agent: str | None
    current: bool
    sockets: int


class Group(Answer):
    """A group; ``role`` is one's own in it, null when one is not a member. It keeps ``retention`` events."""

    id: UUID
    name: str
    join: Join
    post: Post
    retention: int
    created_at: datetime
    role: Membership | None


class Member(Answer):
    """A member of a group."""

    user_id: UUID
    login: str
    role: Membership
    joined_at: datetime


class Event(Answer):
    """An event of a group's log. ``user_id`` has sent it, joined or left; ``data`` is the JSON object that was sent."""

    seq: int
    kind: Kind
    user_id: UUID | None
    at: datetime
    data: dict[str, Any] | None


class Presence(Answer):
    """Since when a user is connected, and by how many sockets; null and 0 when they are not."""

    user_id: UUID
    since: datetime | None
    sockets: int


class Present(Presence):
    """A member who is connected."""

    login: str
    since: datetime


class Page(Answer, Generic[T]):
    """A part of a list. ``next`` is the ``after`` of the part that follows, null at the end."""

    items: Sequence[T]
    next: str | None


class Items(Answer, Generic[T]):
    """What was made or changed, in the order in which it was asked for."""

    items: Sequence[T]


class Deleted(Answer):
    """How many were deleted."""

    deleted: int


class Delivery(Answer):
    """The answer to a broadcast: where it is in the group's log, and to how many sockets of this node it was written.

    ``dropped`` are those that it could not be written to, since they read too slowly or are closing.
    """

    group: UUID
    seq: int
    at: datetime
    delivered: int
    dropped: int
