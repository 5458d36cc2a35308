"""The shapes of queries: what may stand behind the question mark."""

import re
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from att import names
from att.paging import CURSOR_LENGTH, PAGE_DEFAULT, PAGE_LIMIT
from att.payloads import Id, Name

IDS = 200  # that fit into the first line of a request


def _digits(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("must be a whole number")
    return text


class Query(BaseModel):
    """Exactly these parameters. Those in ``repeatable`` are lists, the others are given once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repeatable: ClassVar[frozenset[str]] = frozenset()


class PageQuery(Query):
    """The query of a list."""

    limit: Annotated[int, BeforeValidator(_digits)] = Field(default=PAGE_DEFAULT, ge=1, le=PAGE_LIMIT)
    after: Annotated[str, Field(max_length=CURSOR_LENGTH)] | None = None


# Times

_MOMENT_FORM = re.compile(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}t[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(z|[+-][0-9]{2}:[0-9]{2})"
)


def _parse_moment(text: object) -> object:
    if not isinstance(text, str) or not _MOMENT_FORM.fullmatch(text.lower()):
        raise ValueError("must be a time with its zone (RFC 3339), as 2026-11-22T06:20:00Z; write + as %2B")
    try:
        # In UTC, since PostgreSQL does not take every offset that RFC 3339 has.
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time that there is, in the years 1 to 9999") from None


Moment = Annotated[datetime, BeforeValidator(_parse_moment)]


# Users


def _truth(text: object) -> object:
    if isinstance(text, str) and text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true" if isinstance(text, str) else text


def _part_of_name(text: str) -> str:
    part = names.normalise(text[: names.RAW_LENGTH])
    if not 1 <= len(part) <= names.NAME_LENGTH or len(text) > names.RAW_LENGTH:
        raise ValueError(f"must have 1 to {names.NAME_LENGTH} characters")
    names.check_printable(part)
    return part


Truth = Annotated[bool, BeforeValidator(_truth)]
PartOfName = Annotated[str, AfterValidator(_part_of_name)]


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


class IdsQuery(Query):
    """Which ones, by ``id``, given as many times as there are."""

    repeatable: ClassVar[frozenset[str]] = frozenset({"id"})

    id: Annotated[list[Id], Field(min_length=1, max_length=IDS)]


# The history


def _parse_row(text: object) -> object:
    parts = text.split("/") if isinstance(text, str) else []
    if len(parts) not in (1, 2) or None in map(names.parse_uuid, parts):
        raise ValueError("must be a UUID, or for members two of them: group/user")
    return "/".join(parts).lower()


class HistoryQuery(PageQuery):
    """Which part of the history. Times are from ``from`` on and before ``to``."""

    table: Literal["users", "roles", "groups", "members"] | None = None
    row: Annotated[str, BeforeValidator(_parse_row)] | None = None
    actor: Id | None = None
    operation: Literal["INSERT", "UPDATE", "DELETE"] | None = None
    since: Moment | None = Field(default=None, alias="from")
    until: Moment | None = Field(default=None, alias="to")
