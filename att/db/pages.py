"""Lists that are read page by page, each page from an index."""

from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, tuple_

from att.db.engine import Engine, prepare
from att.paging import Order, Page, Window


class Listing:
    """A query that is read in one order. ``keys`` are the columns of the order, which together are unique."""

    def __init__(self, query: Select[Any], order: Order, *keys: ColumnElement[Any]) -> None:
        self.order = order
        here = tuple_(*(bindparam(_name(place), type_=key.type) for place, key in enumerate(keys)))
        is_after = tuple_(*keys) < here if order.is_descending else tuple_(*keys) > here
        ordered = (
            query.add_columns(*(key.label(f"key_{place}") for place, key in enumerate(keys)))
            .order_by(*(key.desc() if order.is_descending else key for key in keys))
            .limit(bindparam("limit"))
        )
        self._first = prepare(ordered)
        self._rest = prepare(ordered.where(is_after))

    async def read(self, db: Engine, window: Window, **params: Any) -> Page[Any]:
        """A page of rows, as tuples of the query's columns."""
        width = len(self.order.kinds)
        statement = self._first if window.after is None else self._rest
        after = {_name(place): part for place, part in enumerate(window.after or ())}
        rows = await db.fetch_all(statement, limit=window.limit + 1, **after, **params)
        shown = rows[: window.limit]
        follows = self.order.cursor(shown[-1][-width:]) if len(rows) > len(shown) else None
        return Page([row[:-width] for row in shown], follows)


def _name(place: int) -> str:
    return f"after_{place}"
