"""The shapes of queries: what may stand behind the question mark."""

import re
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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


class IdsQuery(Query):
    """What is to be deleted."""

    repeatable = frozenset({"id"})

    id: Annotated[list[Id], Field(min_length=1, max_length=PAGE_LIMIT)]
