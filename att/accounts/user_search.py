"""Search for users: one by id, or pages of users by filters and order."""

import functools
import math
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Text, Uuid, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from att.accounts.users import USER, User
from att.core.names import fold
from att.core.pagination import Order, Page, Window
from att.db.engine import Engine, prepare
from att.db.keyset import MAX_SCANNED_ROWS, IndexedFilter, Listing
from att.db.schema import roles, users
from att.errors import NoSuchUser

GRAMS = 3  # looked up in the index
SHARES_AGE = 600.0  # seconds until the shares of grams are read again

_KEYS: dict[str, tuple[ColumnElement[Any], ...]] = {
    "registered_at": (users.c.registered_at, users.c.id),
    "login": (users.c.login_key,),
    "last_name": (users.c.last_name_key, users.c.id),
}
_KINDS: dict[str, tuple[type, ...]] = {"registered_at": (datetime, UUID), "login": (str,), "last_name": (str, UUID)}
ORDERS = {
    sign + sort: Order(f"users by {sign}{sort}", kinds, is_descending=bool(sign))
    for sort, kinds in _KINDS.items()
    for sign in ("", "-")
}

# Each uses its own index.
_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "login": users.c.login_key == bindparam("login"),
    "role": users.c.role_id == bindparam("role"),
    "active": users.c.active == bindparam("active"),
    "registered_from": users.c.registered_at >= bindparam("registered_from"),
    "registered_to": users.c.registered_at < bindparam("registered_to"),
}
# The grams of the part may be apart in the text, so the index is not enough.
_PART = IndexedFilter(
    func.strpos(users.c.search_text, bindparam("q")) > 0,
    func.att_grams(users.c.search_text, type_=ARRAY(Text)).contains(bindparam("grams")),
)
_users = select(*USER)

_FIND_USER = prepare(_users.where(users.c.id == bindparam("user_id")))
_FIND_USERS = prepare(_users.where(users.c.id == func.any(bindparam("user_ids", type_=ARRAY(Uuid)))))
_FIND_ROLE = prepare(select(roles.c.id).where(roles.c.name_key == bindparam("name_key")))
SHARES = prepare(
    select(
        text(
            "gram, share FROM pg_stats,"
            " unnest(most_common_elems::text::text[], most_common_elem_freqs) AS elements (gram, share)"
            " WHERE schemaname = current_schema() AND tablename = 'ix_users_search' AND gram IS NOT NULL"
        )
    )
)


class UserFilters(NamedTuple):
    """Filters of users; None matches all. ``q`` is a part of the login or a name; ``registered_to`` is exclusive."""

    login: str | None = None
    role: str | None = None
    active: bool | None = None
    q: str | None = None
    registered_from: datetime | None = None
    registered_to: datetime | None = None


class UserSearch:
    """Reads users. Times have a zone; ``att.core.names`` has normalised logins, names and parts of them."""

    def __init__(self, db: Engine) -> None:
        self._db = db
        self._shares: dict[str, float] = {}
        self._shares_expire_at = -math.inf

    async def find(self, user_id: UUID) -> User:
        """Return the user. Raise NoSuchUser."""
        row = await self._db.fetch_one(_FIND_USER, user_id=user_id)
        if row is None:
            raise NoSuchUser
        return User(*row)

    async def find_many(self, user_ids: Collection[UUID]) -> Sequence[User]:
        """Return those of these users who exist, in this order, each once."""
        rows = await self._db.fetch_all(_FIND_USERS, user_ids=[*user_ids])
        found = {row[0]: User(*row) for row in rows}
        return [found[user_id] for user_id in dict.fromkeys(user_ids) if user_id in found]

    async def list(self, filters: UserFilters, order: str, window: Window) -> Page[User]:
        """Return users that match all filters, in one of the ``ORDERS``. An unknown role matches no user."""
        given: dict[str, Any] = {name: value for name, value in filters._asdict().items() if value is not None}
        if filters.role is not None:
            # Looked up first, so that the planner knows how common the role is.
            row = await self._db.fetch_one(_FIND_ROLE, name_key=fold(filters.role))
            if row is None:
                return Page([], None)
            given["role"] = row[0]
        names = frozenset(given)
        if filters.login is not None:
            given["login"] = fold(filters.login)
        if filters.q is not None:
            given |= await self._text_params(fold(filters.q), window)
        page = await listing(order, names).read(self._db, window, **given)
        return page.map(lambda row: User(*row))

    async def _text_params(self, part: str, window: Window) -> dict[str, Any]:
        """Return the parameters of the text filter, with the rarest grams: common ones make the index slow."""
        shares = await self._shares_of_grams()
        rarest_first = sorted(grams_of(part), key=lambda gram: shares.get(gram, 0))
        is_rare = bool(shares) and shares.get(rarest_first[0], 0) * MAX_SCANNED_ROWS <= window.limit
        return {"q": part, "grams": rarest_first[:GRAMS], "is_rare": is_rare}

    async def _shares_of_grams(self) -> dict[str, float]:
        """Return the share of users by common gram, from the database's statistics; {} if it has none.

        Shares only choose how a page is read, so they may be old.
        """
        if time.monotonic() > self._shares_expire_at:
            self._shares_expire_at = time.monotonic() + SHARES_AGE
            self._shares = dict(await self._db.fetch_all(SHARES))
        return self._shares


@functools.cache
def listing(order: str, filters: frozenset[str]) -> Listing:
    """Return the listing with this order and these filters. Each combination is compiled once."""
    query = _users.where(*(_CONDITIONS[name] for name in sorted(filters - {"q"})))
    text_filter = _PART if "q" in filters else None
    return Listing(query, ORDERS[order], *_KEYS[order.lstrip("-")], indexed_filter=text_filter)


def grams_of(text: str) -> list[str]:
    """Return the sorted distinct three-character pieces of the text, or the text itself if it is shorter."""
    return [text] if len(text) < 3 else sorted({text[start : start + 3] for start in range(len(text) - 2)})
