"""Shapes of queries."""

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field, ValidationInfo, field_validator

from att.core.fields import Id, Moment, Name, Number, PartOfName, PositiveSeq, RowId, Seq, Truth
from att.core.names import RAW_LENGTH
from att.http.schemas import PageQuery, QueryModel
from att.protocol.event_stream import ID_LIMIT

LISTEN_GROUPS = 100
Reference = Annotated[str, Field(min_length=1, max_length=RAW_LENGTH)]  # to a group
IDS = 200  # as many as fit into the first line of a request
NAMED = 100  # users of one request, given by their ids


class EventsQuery(QueryModel):
    """A part of a log: the events after a seq, oldest first, or those before one, newest first."""

    after: Seq | None = Field(default=None, description="The `next` of the previous page, or the `seq` of any event.")
    before: PositiveSeq | None = Field(
        default=None, description="Likewise, newest first; the newest page is that before 9223372036854775807."
    )
    kind: Literal["message"] | None = Field(default=None, description="Only events of this kind.")
    limit: Number = Field(default=100, ge=1, le=1_000, description="Maximum number of items in a page.")

    @field_validator("before")
    @classmethod
    def _check_direction(cls, before: int | None, info: ValidationInfo) -> int | None:
        if before is not None and info.data.get("after") is not None:
            raise ValueError("must not be given with 'after'")
        return before


class BroadcastQuery(QueryModel):
    """Choice of sending a message to the present listeners alone."""

    ephemeral: Truth = Field(
        default=False,
        description="Send to those who listen now, and keep nothing. It has at most 4,096 bytes, and no key.",
    )


class ListenQuery(QueryModel):
    """Groups to hear: ``group``, an id or a name, repeated. Without it all of one's groups are heard."""

    repeatable: ClassVar[frozenset[str]] = frozenset({"group"})

    group: Annotated[list[Reference], Field(max_length=LISTEN_GROUPS, default_factory=list)]
    last_event_id: str | None = Field(
        default=None,
        max_length=ID_LIMIT,
        description="For server-sent events: as the header Last-Event-ID, which counts.",
    )


# Users


class UsersQuery(PageQuery):
    """Filters of users and their order, which a minus sign reverses; or the ids of users, and nothing else.

    ``q`` is a part of the login, the first or the last name. ``registered_to`` itself is not included.
    """

    repeatable: ClassVar[frozenset[str]] = frozenset({"id"})

    login: Name | None = None
    role: Name | None = None
    active: Truth | None = None
    q: PartOfName | None = None
    registered_from: Moment | None = None
    registered_to: Moment | None = None
    sort: Literal["registered_at", "-registered_at", "login", "-login", "last_name", "-last_name"] = "registered_at"
    id: Annotated[list[Id], Field(min_length=1, max_length=NAMED)] | None = Field(
        default=None, description=f"The id of a user, up to {NAMED} times, and no other parameter."
    )

    @field_validator("id")
    @classmethod
    def _check_alone(cls, ids: list[UUID] | None, info: ValidationInfo) -> list[UUID] | None:
        if ids and any(value != cls.model_fields[name].default for name, value in info.data.items()):
            raise ValueError("must not be given with other parameters")
        return ids


class IdsQuery(QueryModel):
    """Ids of items: ``id``, repeated."""

    repeatable: ClassVar[frozenset[str]] = frozenset({"id"})

    id: Annotated[list[Id], Field(min_length=1, max_length=IDS)]


# The history


class HistoryQuery(PageQuery):
    """Filters of the history. ``from`` is included, ``to`` is not."""

    table: Literal["users", "roles", "groups", "members"] | None = None
    row: RowId | None = None
    actor: Id | None = None
    operation: Literal["INSERT", "UPDATE", "DELETE"] | None = None
    since: Moment | None = Field(default=None, alias="from")
    until: Moment | None = Field(default=None, alias="to")
