"""Lists that are read page by page, each page from an index."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, select, tuple_, union_all

from att.db.engine import Engine, prepare
from att.paging import Order, Page, Window

Keys = Sequence[ColumnElement[Any]]


class Listing:
    """A query that is read in one order. ``keys`` are the columns of the order, which together are unique."""

    def __init__(self, query: Select[Any], order: Order, *keys: ColumnElement[Any]) -> None:
        self.order = order
        self._first = prepare(_first(query, order, keys))
        self._rest = prepare(_rest(query, order, keys))

    async def read(self, db: Engine, window: Window, **params: Any) -> Page[Any]:
        """A page of rows, as tuples of the query's columns."""
        width = len(self.order.kinds)
        statement = self._first if window.after is None else self._rest
        after = {_name(place): part for place, part in enumerate(window.after or ())}
        rows = await db.fetch_all(statement, limit=window.limit + 1, **after, **params)
        shown = rows[: window.limit]
        follows = self.order.cursor(shown[-1][-width:]) if len(rows) > len(shown) else None
        return Page([row[:-width] for row in shown], follows)


class MergedListing(Listing):
    """Queries of the same columns that are read as one list, each with keys of its own. They have no row in common.

    Each is read no further than a page is long, by whatever index serves it alone.
    """

    def __init__(self, order: Order, *parts: tuple[Select[Any], Keys]) -> None:
        self.order = order
        self._first = prepare(_merge([_first(query, order, keys) for query, keys in parts], order))
        self._rest = prepare(_merge([_rest(query, order, keys) for query, keys in parts], order))


def _first(query: Select[Any], order: Order, keys: Keys) -> Select[Any]:
    return _cut(query.add_columns(*(key.label(f"key_{place}") for place, key in enumerate(keys))), order, keys)


def _rest(query: Select[Any], order: Order, keys: Keys) -> Select[Any]:
    here = tuple_(*(bindparam(_name(place), type_=key.type) for place, key in enumerate(keys)))
    return _first(query.where(tuple_(*keys) < here if order.is_descending else tuple_(*keys) > here), order, keys)


def _merge(parts: Sequence[Select[Any]], order: Order) -> Select[Any]:
    merged = union_all(*parts).subquery("merged")
    return _cut(select(merged), order, list(merged.c)[-len(order.kinds) :])


def _cut(query: Select[Any], order: Order, keys: Keys) -> Select[Any]:
    return query.order_by(*(key.desc() if order.is_descending else key for key in keys)).limit(bindparam("limit"))


def _name(place: int) -> str:
    return f"after_{place}"
