"""The shapes of queries: what may stand behind the question mark."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from att.core.fields import Id, Moment, Name, Number, PartOfName, RowId, Seq, Truth
from att.http.schemas import PageQuery, QueryModel

IDS = 200  # that fit into the first line of a request


class EventsQuery(QueryModel):
    """Which part of a log."""

    after: Seq = Field(default=0, description="The `next` of the page before, or the `seq` of any event.")
    limit: Number = Field(default=100, ge=1, le=1_000, description="How many items a page has at most.")


# Users


class UsersQuery(PageQuery):
    """Which users, and in which order: with a minus sign in front the other way round.

    ``q`` is a part of the login, the first or the last name. ``registered_to`` itself is not included.
    """

    login: Name | None = None
    role: Name | None = None
    active: Truth | None = None
    q: PartOfName | None = None
    registered_from: Moment | None = None
    registered_to: Moment | None = None
    sort: Literal["registered_at", "-registered_at", "login", "-login", "last_name", "-last_name"] = "registered_at"


class IdsQuery(QueryModel):
    """Which ones, by ``id``, given as many times as there are."""

    repeatable: ClassVar[frozenset[str]] = frozenset({"id"})

    id: Annotated[list[Id], Field(min_length=1, max_length=IDS)]


# The history


class HistoryQuery(PageQuery):
    """Which part of the history. Times are from ``from`` on and before ``to``."""

    table: Literal["users", "roles", "groups", "members"] | None = None
    row: RowId | None = None
    actor: Id | None = None
    operation: Literal["INSERT", "UPDATE", "DELETE"] | None = None
    since: Moment | None = Field(default=None, alias="from")
    until: Moment | None = Field(default=None, alias="to")
