"""The shapes of queries: what may stand behind the question mark."""

import re
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from att.names import parse_uuid
from att.paging import CURSOR_LENGTH, PAGE_DEFAULT, PAGE_LIMIT
from att.payloads import Id


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


# The history


def _parse_row(text: object) -> object:
    parts = text.split("/") if isinstance(text, str) else []
    if len(parts) not in (1, 2) or None in map(parse_uuid, parts):
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
