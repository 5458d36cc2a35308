"""The types of what clients send: how each is read, and what the documentation says of it."""

import re
from datetime import date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from att import names
from att.paging import CURSOR_LENGTH, CURSOR_PATTERN
from att.permissions import Permission


def _parse_id(text: object) -> object:
    value = names.parse_uuid(text) if isinstance(text, str) else None
    if value is None:
        raise ValueError("must be a UUID")
    return value


def _parse_date(text: object) -> object:
    if text is not None and not (isinstance(text, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text)):
        raise ValueError("must be a date: YYYY-MM-DD")
    return text if text is None else date.fromisoformat(text)


def _text(least: int, most: int, **more: str) -> WithJsonSchema:
    """What the documentation says of a text whose rules are in ``att.names``."""
    return WithJsonSchema({"type": "string", "minLength": least, "maxLength": most, **more})


Id = Annotated[UUID, BeforeValidator(_parse_id)]
Date = Annotated[date, BeforeValidator(_parse_date)]
Permissions = list[Annotated[Permission, Field(strict=False)]]
Name = Annotated[str, AfterValidator(names.check_name), _text(1, names.NAME_LENGTH, pattern=names.NAME_PATTERN)]
PersonName = Annotated[
    str, AfterValidator(names.check_person_name), _text(0, names.NAME_LENGTH, pattern=names.PERSON_NAME_PATTERN)
]
GroupName = Annotated[
    str, AfterValidator(names.check_group_name), _text(1, names.NAME_LENGTH, pattern=names.GROUP_NAME_PATTERN)
]
_BYTES = f"At most {names.PASSWORD_BYTES} bytes in UTF-8."
NewPassword = Annotated[
    str,
    AfterValidator(names.check_password),
    _text(names.PASSWORD_CHARACTERS, names.PASSWORD_BYTES, format="password", description=_BYTES),
]
TypedPassword = Annotated[
    str,
    AfterValidator(names.check_password_size),
    _text(0, names.PASSWORD_BYTES, format="password", description=_BYTES),
]


# In queries, where everything is text


def _digits(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("must be a whole number")
    return text


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
PartOfName = Annotated[str, AfterValidator(_part_of_name), _text(1, names.NAME_LENGTH, pattern=names.PART_PATTERN)]
Number = Annotated[int, BeforeValidator(_digits)]
Cursor = Annotated[str, Field(max_length=CURSOR_LENGTH, pattern=CURSOR_PATTERN)]
