"""Groups and their members."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from sqlalchemy import and_, bindparam, delete, insert, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert

from att.db.engine import Engine, prepare
from att.db.pages import Listing
from att.db.schema import groups, members, users
from att.errors import Busy, DatabaseUnavailable, LastOwner, NoSuchGroup, NoSuchMember
from att.names import fold, parse_uuid
from att.paging import Order, Page, Window
from att.permissions import Actor, Join, Post, Role

CHANGE_TIMEOUT = 10.0  # seconds that a change waits for those before it in the same group


class Group(NamedTuple):
    """A group as one user sees it: ``role`` is theirs, None when they are not a member."""

    id: UUID
    name: str
    join: Join
    post: Post
    created_at: datetime
    role: Role | None


class Member(NamedTuple):
    """A member of a group."""

    user_id: UUID
    login: str
    role: Role
    joined_at: datetime


class Audience(Protocol):
    """Is told of every change of membership, after it is committed, in the order of the commits in each group."""

    def joined(self, group_id: UUID, user_id: UUID) -> None:
        """The user is a member from now on."""

    def left(self, group_id: UUID, user_id: UUID) -> None:
        """The user is no member from now on."""

    def dropped(self, group_id: UUID) -> None:
        """The group is gone."""

    def uncertain(self, group_id: UUID, user_id: UUID | None) -> None:
        """The connection was lost at the commit: the user (None: any member) may have joined or left, or not."""


_own = and_(members.c.group_id == groups.c.id, members.c.user_id == bindparam("user_id"))
_group = (groups.c.id, groups.c.name, groups.c.join, groups.c.post, groups.c.created_at)
_find = select(*_group, members.c.role).outerjoin(members, _own)
_member = and_(members.c.group_id == bindparam("group_id"), members.c.user_id == bindparam("user_id"))
_members = select(members.c.user_id, users.c.login, members.c.role, members.c.joined_at).join(users)
_other_owner = (
    select(1)
    .where(
        members.c.group_id == bindparam("group_id"),
        members.c.user_id != bindparam("user_id"),
        members.c.role == "owner",
    )
    .exists()
)

ADD_GROUP = prepare(
    insert(groups)
    .values(id=bindparam("group_id"), name=bindparam("name"), name_key=bindparam("name_key"))
    .returning(*_group)
)
FIND_BY_ID = prepare(_find.where(groups.c.id == bindparam("group_id")))
FIND_BY_NAME = prepare(_find.where(groups.c.name_key == bindparam("name_key")))
DELETE_GROUP = prepare(delete(groups).where(groups.c.id == bindparam("group_id")))
# Every change of members holds it to the commit, on whichever node: two owners who leave at once see each other go.
LOCK_GROUP = prepare(select(groups.c.id).where(groups.c.id == bindparam("group_id")).with_for_update())

GROUPS_OF_USER = Listing(
    select(*_group, members.c.role).join(members, _own),
    Order("groups of user", (datetime, UUID)),
    members.c.joined_at,
    members.c.group_id,
)
IDS_OF_USER = prepare(select(members.c.group_id).where(members.c.user_id == bindparam("user_id")))
MEMBERS_OF_GROUP = Listing(
    _members.where(members.c.group_id == bindparam("group_id")),
    Order("members", (datetime, UUID)),
    members.c.joined_at,
    members.c.user_id,
)
FIND_MEMBER = prepare(_members.where(_member))
ADD_MEMBER = prepare(
    upsert(members)
    .values(group_id=bindparam("group_id"), user_id=bindparam("user_id"), role=bindparam("role"))
    .on_conflict_do_nothing()
)
REMOVE_MEMBER = prepare(
    delete(members).where(_member, or_(members.c.role != "owner", _other_owner)).returning(members.c.user_id)
)


class Groups:
    """Groups and members in the database, and an audience that is told of each change."""

    def __init__(self, db: Engine, audience: Audience) -> None:
        self._db = db
        self._audience = audience
        self._changing: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def create(self, name: str, actor: Actor) -> Group:
        """A new group, with the actor as its owner. Raises GroupNameTaken."""
        group_id = uuid4()
        async with self._change(group_id, actor.user_id):
            async with self._db.transaction(actor) as transaction:
                row = await transaction.fetch_one(ADD_GROUP, group_id=group_id, name=name, name_key=fold(name))
                await transaction.execute(ADD_MEMBER, group_id=group_id, user_id=actor.user_id, role="owner")
            self._audience.joined(group_id, actor.user_id)
        return Group._make((*row, "owner"))

    async def find(self, reference: str, user_id: UUID) -> Group:
        """The group with this id or name, as that user sees it. Raises NoSuchGroup."""
        if group_id := parse_uuid(reference):
            row = await self._db.fetch_one(FIND_BY_ID, group_id=group_id, user_id=user_id)
        elif "\0" in reference:
            row = None
        else:
            row = await self._db.fetch_one(FIND_BY_NAME, name_key=fold(reference), user_id=user_id)
        if row is None:
            raise NoSuchGroup
        return Group(*row)

    async def delete(self, group_id: UUID, actor: Actor) -> None:
        """Delete it, and with it its members. Raises NoSuchGroup."""
        async with self._change(group_id, None):
            async with self._db.transaction(actor) as transaction:
                was_there = await transaction.execute(DELETE_GROUP, group_id=group_id)
            # Told even when it was not there: an earlier attempt, of which this is not known, may have deleted it.
            self._audience.dropped(group_id)
        if not was_there:
            raise NoSuchGroup

    async def of_user(self, user_id: UUID, window: Window) -> Page[Group]:
        """The groups that the user is a member of, longest first."""
        page = await GROUPS_OF_USER.read(self._db, window, user_id=user_id)
        return page.map(lambda row: Group(*row))

    async def ids_of_user(self, user_id: UUID) -> list[UUID]:
        """The ids of all groups that the user is a member of."""
        return [row[0] for row in await self._db.fetch_all(IDS_OF_USER, user_id=user_id)]

    async def members(self, group_id: UUID, window: Window) -> Page[Member]:
        """The members, longest first."""
        page = await MEMBERS_OF_GROUP.read(self._db, window, group_id=group_id)
        return page.map(lambda row: Member(*row))

    async def add_member(self, group_id: UUID, user_id: UUID, actor: Actor) -> tuple[Member, bool]:
        """The member, and whether they are new. Raises NoSuchUser, NoSuchGroup."""
        async with self._change(group_id, user_id):
            async with self._db.transaction(actor) as transaction:
                await transaction.fetch_one(LOCK_GROUP, group_id=group_id)
                added = await transaction.execute(ADD_MEMBER, group_id=group_id, user_id=user_id, role="member")
                row = await transaction.fetch_one(FIND_MEMBER, group_id=group_id, user_id=user_id)
            self._audience.joined(group_id, user_id)
        return Member(*row), bool(added)

    async def remove_member(self, group_id: UUID, user_id: UUID, actor: Actor) -> None:
        """Remove them. Raises NoSuchMember, and LastOwner rather than leave the group without one."""
        async with self._change(group_id, user_id):
            async with self._db.transaction(actor) as transaction:
                await transaction.fetch_one(LOCK_GROUP, group_id=group_id)
                removed = await transaction.fetch_one(REMOVE_MEMBER, group_id=group_id, user_id=user_id)
                if not removed and await transaction.fetch_one(FIND_MEMBER, group_id=group_id, user_id=user_id):
                    raise LastOwner
            # Told even when there was none: an earlier attempt, of which this is not known, may have removed them.
            self._audience.left(group_id, user_id)
        if not removed:
            raise NoSuchMember

    @contextlib.asynccontextmanager
    async def _change(self, group_id: UUID, user_id: UUID | None) -> AsyncIterator[None]:
        """One change at a time in each group, so that the audience hears of them in the order of their commits."""
        lock = self._changing.setdefault(group_id, asyncio.Lock())
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT):
                await lock.acquire()
        except TimeoutError as error:
            raise Busy from error
        try:
            yield
        except DatabaseUnavailable:
            self._audience.uncertain(group_id, user_id)
            raise
        finally:
            lock.release()
