"""The shapes of queries: what may stand behind the question mark."""

import re
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from att.paging import CURSOR_LENGTH, PAGE_DEFAULT, PAGE_LIMIT


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
