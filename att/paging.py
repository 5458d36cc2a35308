"""Pages by key: where a page begins is the key of the last item before it, never a count."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

PAGE_LIMIT = 200
PAGE_DEFAULT = 50

T = TypeVar("T")


class Cursor(NamedTuple):
    """A place in a list that is sorted by time, then by id. As text it is opaque to clients."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        return urlsafe_b64encode(f"{self.at.astimezone(UTC).isoformat()} {self.id}".encode()).decode().rstrip("=")


START = Cursor(datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


def parse_cursor(text: str) -> Cursor:
    """Read a cursor that ``str(cursor)`` wrote. Raises ValueError when it is not one of ours."""
    try:
        at, _, row_id = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(" ")
        cursor = Cursor(datetime.fromisoformat(at), UUID(row_id))
    except ValueError:
        cursor = None
    if cursor is None or cursor.at.utcoffset() != timedelta(0) or str(cursor) != text:
        raise ValueError("is not a cursor of this list; take it from 'next' of the page before")
    return cursor


class Window(NamedTuple):
    """Which part of a list is asked for."""

    limit: int = PAGE_DEFAULT
    after: Cursor = START


class Page(NamedTuple, Generic[T]):
    """A part of a list, and where the next part begins: None after the last one."""

    items: Sequence[T]
    next: Cursor | None


def cut(items: Sequence[T], window: Window, key: Callable[[T], Cursor]) -> Page[T]:
    """Make a page of what a query for ``window.limit + 1`` items found."""
    page = items[: window.limit]
    return Page(page, key(page[-1]) if len(items) > len(page) else None)
