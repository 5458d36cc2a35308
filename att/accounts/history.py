"""Reads of the history. Only database triggers write it."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, select

from att.core.pagination import Order, Page, Window
from att.db.engine import Engine
from att.db.keyset import Listing
from att.db.schema import history


class HistoryEntry(NamedTuple):
    """A row of the history. ``old`` and ``new`` hold the changed columns; a member's ``row`` is group/user."""

    id: int
    at: datetime
    table: str
    operation: str
    row: str
    actor_id: UUID | None
    session_id: UUID | None
    request_id: str | None
    database_role: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


class HistoryFilters(TypedDict, total=False):
    """Filters of changes; all must match. ``since`` is inclusive, ``until`` exclusive."""

    table: str
    row: str
    actor: UUID
    operation: str
    since: datetime
    until: datetime


_changes = select(
    history.c.id,
    history.c.at,
    history.c.table_name,
    history.c.operation,
    history.c.row_id,
    history.c.actor_id,
    history.c.session_id,
    history.c.request_id,
    history.c.database_role,
    history.c.old,
    history.c.new,
)
_CONDITIONS: Mapping[str, ColumnElement[bool]] = MappingProxyType(
    {
        "table": history.c.table_name == bindparam("table"),
        "row": history.c.row_id == bindparam("row"),
        "actor": history.c.actor_id == bindparam("actor"),
        "operation": history.c.operation == bindparam("operation"),
        "since": history.c.at >= bindparam("since"),
        "until": history.c.at < bindparam("until"),
    }
)

HISTORY_ORDER = Order("history", (datetime, int), is_descending=True)
HISTORY_OF_USER = Listing(
    _changes.where(history.c.user_id == bindparam("user_id")),
    Order("history of user", (datetime, int), is_descending=True),
    history.c.at,
    history.c.id,
)


@cache
def history_where(names: frozenset[str]) -> Listing:
    """Return the listing for these filters. Each of the 64 combinations is compiled once."""
    conditions = (condition for name, condition in _CONDITIONS.items() if name in names)
    return Listing(_changes.where(*conditions), HISTORY_ORDER, history.c.at, history.c.id)


class History:
    """The history in the database, newest first."""

    def __init__(self, db: Engine) -> None:
        self._db = db

    async def page(self, window: Window, filters: HistoryFilters) -> Page[HistoryEntry]:
        """Return changes of users, roles, groups and members."""
        page = await history_where(frozenset(filters)).read(self._db, window, **filters)
        return page.map(HistoryEntry._make)

    async def of_user(self, user_id: UUID, window: Window) -> Page[HistoryEntry]:
        """Return changes of the user's own row and memberships, also of a deleted user."""
        page = await HISTORY_OF_USER.read(self._db, window, user_id=user_id)
        return page.map(HistoryEntry._make)
