"""Keyset pagination: a page begins after the key of the last item of the previous page."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

PAGE_LIMIT = 200
PAGE_DEFAULT = 50
CURSOR_LENGTH = 2_000  # a name of 64 characters takes up to 768 in JSON, and a third more in base64
CURSOR_PATTERN = "^[A-Za-z0-9_-]*$"
MAX_INTEGER = 2**63 - 1

_T = TypeVar("_T")
_U = TypeVar("_U")
CursorKey = tuple[Any, ...]


class Window(NamedTuple):
    """The requested part of a list: at most ``limit`` items after the one with the key ``after``."""

    limit: int = PAGE_DEFAULT
    after: CursorKey | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[_T]):
    """A page of a list, and the cursor of the following page: None after the last one."""

    items: Sequence[_T]
    next: str | None

    def map(self, make: Callable[[_T], _U]) -> "Page[_U]":
        """Return the page with each item converted."""
        return Page([make(item) for item in self.items], self.next)


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list: its unique name, and the types of its key's parts."""

    name: str
    kinds: tuple[type, ...]
    is_descending: bool = False

    def cursor(self, key: CursorKey) -> str:
        """Return the key as text, opaque to clients."""
        parts = [self.name, *(_WRITE[kind](part) for kind, part in zip(self.kinds, key, strict=True))]
        return urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")

    def parse(self, text: str) -> CursorKey:
        """Read a cursor that ``cursor`` wrote. Raises ValueError when it belongs to another order."""
        try:
            name, *parts = json.loads(urlsafe_b64decode(text[:CURSOR_LENGTH] + "=" * (-len(text) % 4)).decode())
            key = tuple(_READ[kind](part) for kind, part in zip(self.kinds, parts, strict=True))
            is_ours = name == self.name and self.cursor(key) == text
        except (ValueError, TypeError, RecursionError, OverflowError):
            is_ours = False
        if not is_ours:
            raise ValueError("is not a cursor of this list in this order; use 'next' of a page")
        return key


def _read_datetime(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() != timedelta(0):
        raise ValueError
    return moment


def _read_uuid(text: str) -> UUID:
    if not isinstance(text, str):
        raise TypeError
    return UUID(text)


def _read_str(text: str) -> str:
    if not isinstance(text, str) or "\0" in text:
        raise ValueError
    text.encode()
    return text


def _read_int(number: int) -> int:
    if type(number) is not int or not -MAX_INTEGER <= number <= MAX_INTEGER:
        raise ValueError
    return number


_WRITE: dict[type, Callable[[Any], Any]] = {
    datetime: lambda moment: moment.astimezone(UTC).isoformat(),
    UUID: str,
    str: str,
    int: int,
}
_READ: dict[type, Callable[[Any], Any]] = {datetime: _read_datetime, UUID: _read_uuid, str: _read_str, int: _read_int}
