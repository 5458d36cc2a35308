"""Lists that are read page by page, each page from an index."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Integer, Select, bindparam, select, tuple_

from att.db.engine import Engine, prepare
from att.paging import Order, Page, Window

SIFTED = 5_000  # rows in which a page is looked for, before the index of a sieve is


class Sieve(NamedTuple):
    """A condition that may leave many or few: ``condition`` is told by looking at a row, ``indexed`` by an index."""

    condition: ColumnElement[bool]
    indexed: ColumnElement[bool]


class Listing:
    """A query that is read in one order. ``keys`` are the columns of the order, which together are unique.

    With a sieve, a page is first looked for in the next rows, where it is found at once when many pass; from the index,
    which gives all that pass to be sorted, it is read only when few do.
    """

    def __init__(self, query: Select[Any], order: Order, *keys: ColumnElement[Any], sieve: Sieve | None = None) -> None:
        self.order = order
        here = tuple_(*(bindparam(_name(place), type_=key.type) for place, key in enumerate(keys)))
        is_after = tuple_(*keys) < here if order.is_descending else tuple_(*keys) > here
        ordered = query.order_by(*(key.desc() if order.is_descending else key for key in keys))
        self._first = [prepare(step) for step in _steps(ordered, keys, sieve)]
        self._rest = [prepare(step) for step in _steps(ordered.where(is_after), keys, sieve)]

    async def read(self, db: Engine, window: Window, **params: Any) -> Page[Any]:
        """A page of rows, as tuples of the query's columns."""
        width = len(self.order.kinds)
        after = {_name(place): part for place, part in enumerate(window.after or ())}
        rows: list[Any] = []
        for statement in self._first if window.after is None else self._rest:
            rows = await db.fetch_all(statement, limit=window.limit + 1, **after, **params)
            if len(rows) > window.limit:
                break
        shown = rows[: window.limit]
        follows = self.order.cursor(shown[-1][-width:]) if len(rows) > len(shown) else None
        return Page([row[:-width] for row in shown], follows)


def _steps(ordered: Select[Any], keys: tuple[ColumnElement[Any], ...], sieve: Sieve | None) -> Iterator[Select[Any]]:
    """What is read in turn until the page is full."""
    query = ordered.add_columns(*(key.label(f"key_{place}") for place, key in enumerate(keys)))
    limit = bindparam("limit", type_=Integer)
    if sieve is not None:
        passes = sieve.condition.label("passes")
        near = ordered.with_only_columns(*keys, passes).limit(SIFTED).subquery()
        found = select(*(near.c[key.name] for key in keys)).where(near.c.passes).limit(limit)
        yield query.where(tuple_(*keys).in_(found)).limit(limit)
        query = query.where(sieve.condition, sieve.indexed)
    yield query.limit(limit)


def _name(place: int) -> str:
    return f"after_{place}"
