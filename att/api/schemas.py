"""Shapes of requests and responses."""

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
    NewGroupName,
    NewLogin,
    NewName,
    NewPassword,
    NewPersonName,
    PermissionList,
    PersonName,
    RetentionCount,
    SeqValue,
    TypedPassword,
)
from att.core.permissions import HistoryRule, Join, MemberRole, Permission, Post
from att.http.schemas import RequestModel, ResponseModel
from att.realtime.event_log import Kind

_T = TypeVar("_T")
_U = TypeVar("_U", bound="NewUserIn | NamedUserChangeIn")

MANY = 1_000  # items of one request
_PASSWORDS = 100  # items of one request with a password, each of which is hashed


class NewAccountIn(RequestModel):
    """The body of sign-up."""

    login: NewLogin
    password: NewPassword


class CredentialsIn(RequestModel):
    """The body of log-in. A password that is too short is a wrong one, not invalid input."""

    login: Name
    password: TypedPassword


class NewUserIn(RequestModel):
    """A new user. Without a password they cannot sign in until they get one."""

    login: NewLogin
    password: NewPassword | None = None
    first_name: NewPersonName = ""
    last_name: NewPersonName = ""
    birth_date: Date | None = None
    role: Name = "User"
    active: bool = True


class UserChangeIn(RequestModel):
    """Fields of a user to change; the others stay.

    To change one's own password, send ``current_password``, too.
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
    """A new role."""

    name: NewName
    permissions: PermissionList = Field(default_factory=list)


class RoleChangeIn(RequestModel):
    """Fields of a role to change; the others stay."""

    name: Name = Field(default_factory=str)
    permissions: PermissionList = Field(default_factory=list)


class NamedRoleChangeIn(RoleChangeIn):
    """A change of one of many roles."""

    id: Id


def _check_passwords(items: list[_U]) -> list[_U]:
    if sum(bool(item.password) for item in items) > _PASSWORDS:
        raise ValueError(f"must not have more than {_PASSWORDS} passwords")
    return items


NewUserList = Annotated[list[NewUserIn], Field(min_length=1, max_length=MANY), AfterValidator(_check_passwords)]
UserChangeList = Annotated[
    list[NamedUserChangeIn], Field(min_length=1, max_length=MANY), AfterValidator(_check_passwords)
]


class NewUsersIn(RootModel[NewUserList], hide_input_in_errors=True):
    """New users, all or none; at most 100 with a password."""


class UserChangesIn(RootModel[UserChangeList], hide_input_in_errors=True):
    """Changes of users, all or none, each user once; at most 100 with a password."""


class NewRolesIn(RootModel[Annotated[list[NewRoleIn], Field(min_length=1, max_length=MANY)]]):
    """New roles, all or none."""


class RoleChangesIn(RootModel[Annotated[list[NamedRoleChangeIn], Field(min_length=1, max_length=MANY)]]):
    """Changes of roles, all or none."""


class NewGroupIn(RequestModel):
    """A new group."""

    name: NewGroupName
    join: Join = "invite"
    post: Post = "members"
    retention: RetentionCount = 1_000
    history: HistoryRule = "since_join"


class GroupChangeIn(RequestModel):
    """Fields of a group to change; the others stay."""

    name: GroupName = Field(default_factory=str)
    join: Join = Field(default_factory=lambda: "invite")
    post: Post = Field(default_factory=lambda: "members")
    retention: RetentionCount = Field(default_factory=int)
    history: HistoryRule = Field(default_factory=lambda: "since_join")


class MemberChangeIn(RequestModel):
    """The member's role. By default a new member is a plain member, and others keep theirs."""

    role: MemberRole = Field(default_factory=lambda: "member")


class NewMembersIn(RequestModel):
    """Users to add as members, all or none."""

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MANY)]


class MessageIn(BaseModel):
    """Any JSON object. It is delivered byte for byte as it was sent."""

    model_config = ConfigDict(extra="allow")


class SignedInOut(ResponseModel):
    """The response to sign-up and log-in. The token signs requests in; it is shown only here."""

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


class ProfileOut(ResponseModel):
    """A user as fellow members of a group see them, and those who may read a message of theirs."""

    id: UUID
    login: str
    first_name: str
    last_name: str


class RoleOut(ResponseModel):
    """A role and its permissions."""

    id: UUID
    name: str
    permissions: list[Permission]


class ChangeOut(ResponseModel):
    """A change in the history. ``old`` and ``new`` have the values that differ."""

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
    """A session. ``current`` is that of this request; ``sockets`` is the number of its open WebSockets."""

    id: UUID
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str | None
    user_agent: str | None
    current: bool
    sockets: int


class GroupOut(ResponseModel):
    """A group. ``role`` is one's own in it, null for non-members.

    The group keeps ``retention`` events, of which ``seq`` is the last one's. Members read all of them if ``history`` is
    ``all``. ``read`` is the seq up to which one has read, ``unread`` the number of messages of others above it, counted
    up to 100; null for non-members.
    """

    id: UUID
    name: str
    join: Join
    post: Post
    retention: int
    history: HistoryRule
    created_at: datetime
    seq: int
    role: MemberRole | None
    read: int
    unread: int | None


class ReadMarkerChangeIn(RequestModel):
    """The last event that one has read."""

    seq: SeqValue


class ReadMarkerOut(ResponseModel):
    """The seq up to which one has read, and the number of messages of others above it, counted up to 100."""

    read: int
    unread: int


class MemberOut(ResponseModel):
    """A member of a group."""

    user_id: UUID
    login: str
    first_name: str
    last_name: str
    role: MemberRole
    joined_at: datetime


class EventOut(ResponseModel):
    """An event of a group's log. ``user_id`` sent it, joined or left, and is null for other kinds.

    ``data`` is the JSON object that was sent, null once it is redacted; for other kinds the members of their frame.
    """

    seq: int
    kind: Kind
    user_id: UUID | None
    at: datetime
    data: dict[str, Any] | None


class PresenceOut(ResponseModel):
    """Since when a user is connected, and by how many sockets; null and 0 when not connected."""

    user_id: UUID
    since: datetime | None
    sockets: int


class PresentOut(PresenceOut):
    """A member who is connected."""

    login: str
    since: datetime


class ItemsOut(ResponseModel, Generic[_T]):
    """New or changed items, in the order of the request."""

    items: Sequence[_T]


class DeletedOut(ResponseModel):
    """Number of deleted items."""

    deleted: int


class EventPageOut(ResponseModel):
    """A page of a log. ``next`` is the ``after`` of the following page, or its ``before``, null at the end.

    Seqs are of ``epoch``.
    """

    items: Sequence[EventOut]
    next: str | None
    epoch: str


class EphemeralOut(ResponseModel):
    """The response to an ephemeral broadcast: its group."""

    group: UUID


class DeliveryOut(ResponseModel):
    """The response to a broadcast: its position in the group's log, and the number of sockets of this node it went to.

    ``dropped`` sockets did not get it, since they read too slowly or are closing.
    """

    group: UUID
    seq: int
    at: datetime
    epoch: str
    delivered: int
    dropped: int
