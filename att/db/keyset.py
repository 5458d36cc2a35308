"""Keyset pagination: lists read page by page, each page from an index."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Integer, Select, bindparam, select, tuple_, union_all

from att.core.pagination import Order, Page, Window
from att.db.engine import Engine, Statement, prepare

MAX_SCANNED_ROWS = 20_000  # scanned for a page before a filter's index is used
_WALKED_ROWS = 2_000  # likewise, before the queries of a merged list

Keys = Sequence[ColumnElement[Any]]

_limit = bindparam("limit", type_=Integer)


class IndexedFilter(NamedTuple):
    """A filter of unknown selectivity: ``condition`` is checked on a row, ``indexed`` by an index."""

    condition: ColumnElement[bool]
    indexed: ColumnElement[bool]


class Pages:
    """A list in one order: statements for the first and later pages, tried in turn until the page is full."""

    def __init__(self, order: Order, first: Sequence[Statement], rest: Sequence[Statement]) -> None:
        self.order = order
        self._first = first
        self._rest = rest

    async def read(self, db: Engine, window: Window, *, is_rare: bool = False, **params: Any) -> Page[Any]:
        """Return a page of rows, as tuples of the query's columns. With ``is_rare``, use the filter's index at once."""
        width = len(self.order.kinds)
        after = {_name(position): part for position, part in enumerate(window.after or ())}
        rows: list[Any] = []
        steps = self._first if window.after is None else self._rest
        for statement in steps[-1:] if is_rare else steps:
            rows = await db.fetch_all(statement, limit=window.limit + 1, **after, **params)
            if len(rows) > window.limit:
                break
        shown = rows[: window.limit]
        next_cursor = self.order.cursor(shown[-1][-width:]) if len(rows) > len(shown) else None
        return Page([row[:-width] for row in shown], next_cursor)


class Listing(Pages):
    """A query read in one order. ``keys`` are the columns of the order, unique together.

    With a filter, a page is first read from the next rows, which is fast if many match. If few match, it is read from
    the filter's index, and all matches are sorted.
    """

    def __init__(
        self, query: Select[Any], order: Order, *keys: ColumnElement[Any], indexed_filter: IndexedFilter | None = None
    ) -> None:
        first, rest = _sort(query, order, keys), _sort(_follow(query, order, keys), order, keys)
        super().__init__(
            order,
            [prepare(step) for step in _steps(first, keys, indexed_filter)],
            [prepare(step) for step in _steps(rest, keys, indexed_filter)],
        )


class MergedListing(Pages):
    """Disjoint queries of the same columns, read as one list, each with its own keys.

    Each query reads at most one page, by its own index. Where one of them sorts very many rows for that, a page is
    first read from the next rows of ``walked``: all rows, their keys, and the filter that finds those of the list.
    """

    def __init__(
        self,
        order: Order,
        *parts: tuple[Select[Any], Keys],
        walked: tuple[Select[Any], Keys, ColumnElement[bool]] | None = None,
    ) -> None:
        first = [_name_keys(_sort(query, order, keys), keys).limit(_limit) for query, keys in parts]
        rest = [
            _name_keys(_sort(_follow(query, order, keys), order, keys), keys).limit(_limit) for query, keys in parts
        ]
        steps = [_merge(first, order)], [_merge(rest, order)]
        if walked is not None:
            query, keys, condition = walked
            for part, start in zip(steps, (query, _follow(query, order, keys)), strict=True):
                part.insert(0, _walk(start, order, keys, condition))
        super().__init__(order, *(list(map(prepare, part)) for part in steps))


def _sort(query: Select[Any], order: Order, keys: Keys) -> Select[Any]:
    return query.order_by(*(key.desc() if order.is_descending else key for key in keys))


def _follow(query: Select[Any], order: Order, keys: Keys) -> Select[Any]:
    here = tuple_(*(bindparam(_name(position), type_=key.type) for position, key in enumerate(keys)))
    return query.where(tuple_(*keys) < here if order.is_descending else tuple_(*keys) > here)


def _name_keys(query: Select[Any], keys: Keys) -> Select[Any]:
    return query.add_columns(*(key.label(f"key_{position}") for position, key in enumerate(keys)))


def _steps(ordered: Select[Any], keys: Keys, indexed_filter: IndexedFilter | None) -> Iterator[Select[Any]]:
    query = _name_keys(ordered, keys)
    if indexed_filter is not None:
        matches = indexed_filter.condition.label("matches")
        near = ordered.with_only_columns(*keys, matches).limit(MAX_SCANNED_ROWS).subquery()
        found = select(*(near.c[key.name] for key in keys)).where(near.c.matches).limit(_limit)
        yield query.where(tuple_(*keys).in_(found)).limit(_limit)
        query = query.where(indexed_filter.condition, indexed_filter.indexed)
    yield query.limit(_limit)


def _walk(query: Select[Any], order: Order, keys: Keys, condition: ColumnElement[bool]) -> Select[Any]:
    walked = _name_keys(_sort(query, order, keys).add_columns(condition.label("matches")), keys)
    near = walked.limit(_WALKED_ROWS).subquery("near")
    found = select(*(column for column in near.c if column.name != "matches")).where(near.c.matches)
    return _sort(found, order, list(near.c)[-len(keys) :]).limit(_limit)


def _merge(parts: Sequence[Select[Any]], order: Order) -> Select[Any]:
    merged = union_all(*parts).subquery("merged")
    return _sort(select(merged), order, list(merged.c)[-len(order.kinds) :]).limit(_limit)


def _name(position: int) -> str:
    return f"after_{position}"
