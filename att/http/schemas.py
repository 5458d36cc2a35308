"""Base classes of the shapes of requests, queries and responses."""

from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from att.core.fields import Cursor, Number
from att.core.pagination import PAGE_DEFAULT, PAGE_LIMIT

_T = TypeVar("_T")


class RequestModel(BaseModel):
    """A request body: exactly these fields, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class ResponseModel(BaseModel):
    """A response body, made from the attributes of a domain object."""

    model_config = ConfigDict(from_attributes=True, hide_input_in_errors=True)


class PageOut(ResponseModel, Generic[_T]):
    """A page of a list. ``next`` is the ``after`` of the following page, null at the end."""

    items: Sequence[_T]
    next: str | None


class QueryModel(BaseModel):
    """A query: exactly these parameters. Those in ``repeatable`` are lists, the others are given once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repeatable: ClassVar[frozenset[str]] = frozenset()


class PageQuery(QueryModel):
    """The query of a list."""

    limit: Number = Field(default=PAGE_DEFAULT, ge=1, le=PAGE_LIMIT, description="Maximum number of items in a page.")
    after: Cursor | None = Field(default=None, description="The `next` of the previous page.")
