"""Lists that are read page by page, each page from an index."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Integer, Select, bindparam, select, tuple_, union_all

from att.core.pagination import Order, Page, Window
from att.db.engine import Engine, Statement, prepare

SIFTED = 20_000  # rows in which a page is looked for, before the index of a sieve is

Keys = Sequence[ColumnElement[Any]]

_limit = bindparam("limit", type_=Integer)


class Sieve(NamedTuple):
    """A condition that may leave many or few: ``condition`` is told by looking at a row, ``indexed`` by an index."""

    condition: ColumnElement[bool]
    indexed: ColumnElement[bool]


class Pages:
    """What is read in one order: statements that are tried in turn until the page is full, the first one or a later."""

    def __init__(self, order: Order, first: Sequence[Statement], rest: Sequence[Statement]) -> None:
        self.order = order
        self._first = first
        self._rest = rest

    async def read(self, db: Engine, window: Window, *, is_rare: bool = False, **params: Any) -> Page[Any]:
        """A page of rows, as tuples of the query's columns. When few pass the sieve, its index is read at once."""
        width = len(self.order.kinds)
        after = {_name(place): part for place, part in enumerate(window.after or ())}
        rows: list[Any] = []
        steps = self._first if window.after is None else self._rest
        for statement in steps[-1:] if is_rare else steps:
            rows = await db.fetch_all(statement, limit=window.limit + 1, **after, **params)
            if len(rows) > window.limit:
                break
        shown = rows[: window.limit]
        follows = self.order.cursor(shown[-1][-width:]) if len(rows) > len(shown) else None
        return Page([row[:-width] for row in shown], follows)


class Listing(Pages):
    """A query that is read in one order. ``keys`` are the columns of the order, which together are unique.

    With a sieve, a page is first looked for in the next rows, where it is found at once when many pass. From the index,
    which gives all that pass to be sorted, it is read when few do.
    """

    def __init__(self, query: Select[Any], order: Order, *keys: ColumnElement[Any], sieve: Sieve | None = None) -> None:
        first, rest = _sort(query, order, keys), _sort(_follow(query, order, keys), order, keys)
        super().__init__(
            order,
            [prepare(step) for step in _steps(first, keys, sieve)],
            [prepare(step) for step in _steps(rest, keys, sieve)],
        )


class MergedListing(Pages):
    """Queries of the same columns that are read as one list, each with keys of its own. They have no row in common.

    Each is read no further than a page is long, by whatever index serves it alone.
    """

    def __init__(self, order: Order, *parts: tuple[Select[Any], Keys]) -> None:
        first = [_name_keys(_sort(query, order, keys), keys).limit(_limit) for query, keys in parts]
        rest = [
            _name_keys(_sort(_follow(query, order, keys), order, keys), keys).limit(_limit) for query, keys in parts
        ]
        super().__init__(order, [prepare(_merge(first, order))], [prepare(_merge(rest, order))])


def _sort(query: Select[Any], order: Order, keys: Keys) -> Select[Any]:
    return query.order_by(*(key.desc() if order.is_descending else key for key in keys))


def _follow(query: Select[Any], order: Order, keys: Keys) -> Select[Any]:
    here = tuple_(*(bindparam(_name(place), type_=key.type) for place, key in enumerate(keys)))
    return query.where(tuple_(*keys) < here if order.is_descending else tuple_(*keys) > here)


def _name_keys(query: Select[Any], keys: Keys) -> Select[Any]:
    return query.add_columns(*(key.label(f"key_{place}") for place, key in enumerate(keys)))


def _steps(ordered: Select[Any], keys: Keys, sieve: Sieve | None) -> Iterator[Select[Any]]:
    query = _name_keys(ordered, keys)
    if sieve is not None:
        passes = sieve.condition.label("passes")
        near = ordered.with_only_columns(*keys, passes).limit(SIFTED).subquery()
        found = select(*(near.c[key.name] for key in keys)).where(near.c.passes).limit(_limit)
        yield query.where(tuple_(*keys).in_(found)).limit(_limit)
        query = query.where(sieve.condition, sieve.indexed)
    yield query.limit(_limit)


def _merge(parts: Sequence[Select[Any]], order: Order) -> Select[Any]:
    merged = union_all(*parts).subquery("merged")
    return _sort(select(merged), order, list(merged.c)[-len(order.kinds) :]).limit(_limit)


def _name(place: int) -> str:
    return f"after_{place}"
