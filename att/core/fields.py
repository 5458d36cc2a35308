"""Types of input fields, with their parsers and JSON Schemas."""

import re
from datetime import UTC, date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from att.core import names, precis
from att.core.pagination import CURSOR_LENGTH, CURSOR_PATTERN, MAX_INTEGER
from att.core.permissions import Permission

MOST_PERMISSIONS = 100  # in one request; there are fewer
MOST_RETAINED = 1_000_000  # events of one group


def _parse_id(text: object) -> object:
    value = names.parse_uuid(text) if isinstance(text, str) else None
    if value is None:
        raise ValueError("must be a UUID")
    return value


def _parse_date(text: object) -> object:
    if text is not None and not (isinstance(text, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text)):
        raise ValueError("must be a date: YYYY-MM-DD")
    return text if text is None else date.fromisoformat(text)


def _whole(number: object) -> object:
    """Convert 5.0 to 5: JSON has one type of numbers."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _text(least: int, most: int, **more: str) -> WithJsonSchema:
    """Return the JSON Schema of a text whose rules are in ``att.core.names``."""
    return WithJsonSchema({"type": "string", "minLength": least, "maxLength": most, **more})


Id = Annotated[UUID, BeforeValidator(_parse_id)]
Date = Annotated[date, BeforeValidator(_parse_date)]
PermissionList = Annotated[list[Annotated[Permission, Field(strict=False)]], Field(max_length=MOST_PERMISSIONS)]
# Names are looked up by the rules of ``att.core.names``. New ones follow those of ``att.core.precis``; a new name in a
# change is checked by the service, since the one from before may stay.
Name = Annotated[str, AfterValidator(names.check_name), _text(1, names.NAME_LENGTH, pattern=names.NAME_PATTERN)]
PersonName = Annotated[
    str, AfterValidator(names.check_person_name), _text(0, names.NAME_LENGTH, pattern=names.PERSON_NAME_PATTERN)
]
GroupName = Annotated[
    str, AfterValidator(names.check_group_name), _text(1, names.NAME_LENGTH, pattern=names.GROUP_NAME_PATTERN)
]
_USERNAME = "As UsernameCaseMapped of RFC 8265, also in upper case, with spaces inside, signs and emoji."
_NICKNAME = "As Nickname of RFC 8266, with all emoji."
NewLogin = Annotated[
    str,
    AfterValidator(precis.check_login),
    _text(1, names.NAME_LENGTH, pattern=names.NAME_PATTERN, description=_USERNAME),
]
NewName = Annotated[
    str,
    AfterValidator(precis.check_name),
    _text(1, names.NAME_LENGTH, pattern=names.NAME_PATTERN, description=_NICKNAME),
]
NewPersonName = Annotated[
    str,
    AfterValidator(precis.check_person_name),
    _text(0, names.NAME_LENGTH, pattern=names.PERSON_NAME_PATTERN, description=_NICKNAME),
]
NewGroupName = Annotated[
    str,
    AfterValidator(precis.check_group_name),
    _text(1, names.NAME_LENGTH, pattern=names.GROUP_NAME_PATTERN, description=_NICKNAME),
]
RetentionCount = Annotated[int, Field(ge=0, le=MOST_RETAINED), BeforeValidator(_whole)]
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


# Types of query parameters, where everything is text


_MOMENT_FORM = re.compile(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}t[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(z|[+-][0-9]{2}:[0-9]{2})"
)


def _digits(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("must be a whole number of at most 9 digits, without a sign")
    return text


def _seq(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch("[0-9]{1,19}", text):
        raise ValueError("must be a whole number of at most 19 digits, without a sign")
    return text


def _moment(text: object) -> object:
    if not isinstance(text, str) or not _MOMENT_FORM.fullmatch(text.lower()):
        raise ValueError("must be a time with its zone (RFC 3339), like 2026-11-22T06:20:00Z; write + as %2B")
    try:
        # In UTC, since PostgreSQL does not accept every offset of RFC 3339.
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be an existing time in the years 1 to 9999") from None


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


def _row(text: object) -> object:
    parts = text.split("/") if isinstance(text, str) else []
    if len(parts) not in (1, 2) or None in map(names.parse_uuid, parts):
        raise ValueError("must be a UUID, or for members two of them: group/user")
    return "/".join(parts).lower()


_UUID_PATTERN = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"

Moment = Annotated[datetime, BeforeValidator(_moment)]
Truth = Annotated[bool, BeforeValidator(_truth)]
PartOfName = Annotated[str, AfterValidator(_part_of_name), _text(1, names.NAME_LENGTH, pattern=names.PART_PATTERN)]
Number = Annotated[int, BeforeValidator(_digits)]
Seq = Annotated[int, Field(ge=0, le=MAX_INTEGER), BeforeValidator(_seq)]
PositiveSeq = Annotated[int, Field(ge=1, le=MAX_INTEGER), BeforeValidator(_seq)]
SeqValue = Annotated[int, Field(ge=0, le=MAX_INTEGER), BeforeValidator(_whole)]
Cursor = Annotated[str, Field(max_length=CURSOR_LENGTH, pattern=CURSOR_PATTERN)]
RowId = Annotated[
    str, BeforeValidator(_row), WithJsonSchema({"type": "string", "pattern": f"^{_UUID_PATTERN}(/{_UUID_PATTERN})?$"})
]
