"""The skeletons of names in the database, so that no two users, groups or roles have names that look alike.

Names from before stay as they are, also those that look alike: the first that is found has the skeleton.
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Column, Uuid, bindparam, exists, func, select, text

from att.core.skeletons import skeletons as skeletons_of
from att.db.engine import Engine, Statement, Transaction, prepare
from att.db.schema import groups, roles, skeletons, users
from att.errors import AttError, Busy, GroupNameTaken, LoginTaken, RoleNameTaken, at_index

PAGE = 500  # names that one statement reads; the skeletons of so many take some 10 ms
_TURN = 100  # names whose skeletons are found before others have their turn
PAUSE = 0.02  # seconds between pages
_START = UUID(int=0)

_TAKEN: Mapping[str, type[AttError]] = MappingProxyType(
    {"users": LoginTaken, "groups": GroupNameTaken, "roles": RoleNameTaken}
)


class OwnedName(NamedTuple):
    """A name with the id of its owner; ``item`` is the index of the owner in a batch."""

    item: int | None
    owner_id: UUID
    name: str


class UnreservedNames(NamedTuple):
    """Statements that find names without skeletons: a page of all owners, and those of the page, locked."""

    page: Statement
    lock: Statement


# Ordered, so that two transactions do not deadlock. It waits for a transaction that adds the same skeleton.
RESERVE = prepare(
    text("""
    INSERT INTO skeletons (kind, skeleton, owner_id)
    SELECT :kind, i.skeleton, i.owner_id
    FROM unnest(CAST(:skeletons AS text[]), CAST(:owner_ids AS uuid[])) WITH ORDINALITY AS i (skeleton, owner_id, place)
    ORDER BY i.skeleton, i.place
    ON CONFLICT DO NOTHING
    """)
)
FIRST_TAKEN = prepare(
    text("""
    SELECT i.owner_id
    FROM unnest(CAST(:skeletons AS text[]), CAST(:owner_ids AS uuid[])) WITH ORDINALITY AS i (skeleton, owner_id, place)
    JOIN skeletons AS s ON s.kind = :kind AND s.skeleton = i.skeleton AND s.owner_id <> i.owner_id
    ORDER BY i.place LIMIT 1
    """)
)


def _find_unreserved(name: Column[str]) -> UnreservedNames:
    owner_id = name.table.c.id
    is_unreserved = ~exists().where(skeletons.c.owner_id == owner_id)
    page = select(owner_id, is_unreserved).where(owner_id > bindparam("after")).order_by(owner_id).limit(PAGE)
    # Locked, so that no name changes before its skeletons are stored. Broadcasts to a group go on meanwhile.
    lock = (
        select(owner_id, name)
        .where(owner_id == func.any(bindparam("owner_ids", type_=ARRAY(Uuid))), is_unreserved)
        .with_for_update(read=True, key_share=True, of=name.table, skip_locked=True)
    )
    return UnreservedNames(prepare(page), prepare(lock))


UNRESERVED = MappingProxyType(
    {name.table.name: _find_unreserved(name) for name in (users.c.login, groups.c.name, roles.c.name)}
)


async def take_names(transaction: Transaction, kind: str, names: Sequence[OwnedName]) -> None:
    """Reserve the skeletons of new names. Call it once, after all names are stored.

    Raise LoginTaken, GroupNameTaken or RoleNameTaken with the index of the first name that looks like another.
    """
    params = await _params(kind, names)
    if await transaction.execute(RESERVE, **params) == len(params["skeletons"]):
        return
    row = await transaction.fetch_one(FIRST_TAKEN, **params)
    if row is None:
        raise Busy  # the other name has just been given up
    (item,) = (name.item for name in names if name.owner_id == row[0])
    with at_index(item):
        raise _TAKEN[kind]


async def reserve_names(transaction: Transaction, kind: str, names: Sequence[OwnedName]) -> None:
    """Reserve those skeletons of the names that no other name has."""
    await transaction.execute(RESERVE, **await _params(kind, names))


async def reserve_old_names(db: Engine) -> None:
    """Reserve the skeletons of names that have none: those stored by earlier releases and by other programs."""
    for kind, statements in UNRESERVED.items():
        after = _START
        while rows := await db.fetch_all(statements.page, after=after):
            after = rows[-1][0]
            if owner_ids := [owner_id for owner_id, is_unreserved in rows if is_unreserved]:
                async with db.transaction() as transaction:
                    found = await transaction.fetch_all(statements.lock, owner_ids=owner_ids)
                    await reserve_names(transaction, kind, [OwnedName(None, *row) for row in found])
            await asyncio.sleep(PAUSE)


async def _params(kind: str, names: Sequence[OwnedName]) -> dict[str, Any]:
    pairs: list[tuple[str, UUID]] = []
    for number, name in enumerate(names):
        if number % _TURN == _TURN - 1:
            await asyncio.sleep(0)
        pairs += [(skeleton, name.owner_id) for skeleton in skeletons_of(name.name)]
    return {"kind": kind, "skeletons": [pair[0] for pair in pairs], "owner_ids": [pair[1] for pair in pairs]}
