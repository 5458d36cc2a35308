"""The shapes of requests and answers."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from att import names, paging
from att.errors import FieldError, InvalidInput

T = TypeVar("T")

FAULTS_TOLD = 100

Name = Annotated[str, AfterValidator(names.check_name)]
GroupName = Annotated[str, AfterValidator(names.check_group_name)]
NewPassword = Annotated[str, AfterValidator(names.check_password)]
TypedPassword = Annotated[str, AfterValidator(names.check_password_size)]


def _digits(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("must be a whole number")
    return text


class Request(BaseModel):
    """What a client sends: exactly these members, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewAccount(Request):
    """The body of sign-up."""

    login: Name
    password: NewPassword


class Credentials(Request):
    """The body of log-in. A password too short to be anyone's is a wrong password, not a malformed one."""

    login: Name
    password: TypedPassword


class NewGroup(Request):
    """The body that makes a group."""

    name: GroupName


class Nothing(Request):
    """A body that has nothing to say: none at all, or an empty object."""


class PageQuery(BaseModel):
    """The query of a list."""

    limit: Annotated[int, BeforeValidator(_digits)] = Field(default=paging.PAGE_DEFAULT, ge=1, le=paging.PAGE_LIMIT)
    after: Annotated[paging.Cursor, BeforeValidator(paging.parse_cursor)] = paging.START


class Answer(BaseModel):
    """What a client gets, made from the attributes of what the domain returns."""

    model_config = ConfigDict(from_attributes=True)


class Group(Answer):
    """A group; ``role`` is one's own in it."""

    id: UUID
    name: str
    created_at: datetime
    role: Literal["owner", "member"]


class Member(Answer):
    """A member of a group."""

    user_id: UUID
    login: str
    role: Literal["owner", "member"]
    joined_at: datetime


class Page(Answer, Generic[T]):
    """A part of a list. ``next`` is the ``after`` of the part that follows, null at the end."""

    items: Sequence[T]
    next: Annotated[str | None, BeforeValidator(lambda cursor: None if cursor is None else str(cursor))]


class Delivery(Answer):
    """The answer to a broadcast: to how many sockets it was written."""

    group: UUID
    delivered: int


def explain(error: ValidationError) -> InvalidInput:
    """Every fault at once, each with the path of its member; what was sent is not repeated.

    Of very many the first are told, and how many more there are: the answer must not outgrow the question.
    """
    faults = error.errors(include_url=False, include_input=False)
    told = [_explain_one(fault) for fault in faults[:FAULTS_TOLD]]
    untold = len(faults) - len(told)
    return InvalidInput([*told, FieldError("body", f"has {untold} more faults")] if untold else told)


def _explain_one(fault: ErrorDetails) -> FieldError:
    field = ".".join(str(part) for part in fault["loc"]) or "body"
    context: dict[str, Any] = fault.get("ctx", {})
    if fault["type"] == "value_error":
        return FieldError(field, str(context["error"]))
    if fault["type"] == "extra_forbidden":
        return FieldError(field, "unknown member")
    if fault["type"] == "missing":
        return FieldError(field, "is missing")
    if fault["type"] == "model_type":
        return FieldError(field, "must be a JSON object")
    return FieldError(field, fault["msg"][:1].lower() + fault["msg"][1:])
