"""The shapes of queries: what may stand behind the question mark."""

import re
from datetime import datetime
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

    limit: Annotated[int, BeforeValidator(_digits)] = Field(
        default=PAGE_DEFAULT, ge=1, le=PAGE_LIMIT, description="How many items a page has at most."
    )
    after: Annotated[str, Field(max_length=CURSOR_LENGTH)] | None = Field(
        default=None, description="The `next` of the page before."
    )


# Users


def _moment(text: object) -> object:
    form = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
    if isinstance(text, str):
        if not re.fullmatch(form, text.upper()):
            raise ValueError("must be a time with its zone (RFC 3339), such as 2026-11-22T06:30:00Z")
        return datetime.fromisoformat(text.upper())
    return text


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


Moment = Annotated[datetime, BeforeValidator(_moment)]
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
