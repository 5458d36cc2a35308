"""Reads of groups and their members, one by one and in pages."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import and_, bindparam, func, or_, select, text, true

from att.core.names import fold, parse_uuid
from att.core.pagination import Order, Page, Window
from att.core.permissions import HistoryRule, Join, MemberRole, Post
from att.core.preconditions import version_of
from att.db.engine import Engine, prepare
from att.db.keyset import Listing, MergedListing
from att.db.schema import groups, members, users
from att.errors import NoSuchGroup, NoSuchMember, NoSuchUser


class GroupView(NamedTuple):
    """A group as one user sees it: ``role`` is the user's, None if they are not a member.

    ``retention`` is the number of stored events, ``seq`` that of the last one. A view ``with_markers`` has the user's
    marker, 0 without one, and as ``unread`` the number of messages of others above it, up to 100, None for non-members.
    """

    id: UUID
    name: str
    join: Join
    post: Post
    retention: int
    history: HistoryRule
    created_at: datetime
    seq: int
    role: MemberRole | None
    read: int = 0
    unread: int | None = None

    @property
    def version(self) -> str:
        """Return a hash of all fields that are not of the log, so a version is that of one user's view."""
        return version_of(self._replace(seq=0, read=0, unread=None))


class MemberView(NamedTuple):
    """A member of a group."""

    user_id: UUID
    login: str
    first_name: str
    last_name: str
    role: MemberRole
    joined_at: datetime


GROUP_COLUMNS = tuple(groups.c[name] for name in GroupView._fields if name not in ("role", "read", "unread"))
MEMBER_COLUMNS = (
    members.c.user_id,
    users.c.login,
    users.c.first_name,
    users.c.last_name,
    members.c.role,
    members.c.joined_at,
)
IS_USER = users.c.id == members.c.user_id

_own = and_(members.c.group_id == groups.c.id, members.c.user_id == bindparam("user_id"))
_seen = select(*GROUP_COLUMNS, members.c.role).outerjoin(members, _own)
_joined = select(*GROUP_COLUMNS, members.c.role).join(members, _own)

FIND_BY_ID = prepare(_seen.where(groups.c.id == bindparam("group_id")))
FIND_BY_NAME = prepare(_seen.where(groups.c.name_key == bindparam("name_key")))
FIND_MEMBER = prepare(
    select(*MEMBER_COLUMNS)
    .join(users, IS_USER)
    .where(members.c.group_id == bindparam("group_id"), members.c.user_id == bindparam("user_id"))
)
MARKERS_OF_USER = prepare(
    text("""
    SELECT g.id, coalesce(r.seq, 0), att_unread(g.id, m.user_id, coalesce(r.seq, 0), g.seq, g.history = 'all')
    FROM groups AS g JOIN members AS m ON m.group_id = g.id AND m.user_id = :user_id
    LEFT JOIN read_markers AS r ON r.group_id = g.id AND r.user_id = m.user_id
    WHERE g.id = ANY (CAST(:group_ids AS uuid[]))
    """)
)._replace(is_read=True)
_FIND_USER = prepare(select(users.c.id).where(users.c.id == bindparam("user_id")))

GROUPS_OF_USER = Listing(_joined, Order("groups of user", (datetime, UUID)), members.c.joined_at, members.c.group_id)
MEMBERS_OF_GROUP = Listing(
    select(*MEMBER_COLUMNS).join(users, IS_USER).where(members.c.group_id == bindparam("group_id")),
    Order("members", (datetime, UUID)),
    members.c.joined_at,
    members.c.user_id,
)

# Materialised: otherwise the planner scans all groups by age until it has found enough of the user's, possibly a
# million. So a page costs no more than the user's memberships. With many of these, groups by age are scanned first.
_closed = _joined.where(groups.c.join != "open").cte("closed").prefix_with("MATERIALIZED")
_age = Order("groups", (datetime, UUID))
# Lateral: so that all memberships are not read first, for a join with all groups.
_probe = select(members.c.role).where(_own).limit(1).correlate(groups).lateral("probe")
_probed = select(*GROUP_COLUMNS, _probe.c.role).outerjoin(_probe, true())
ALL_GROUPS = Listing(_seen, _age, groups.c.created_at, groups.c.id)
VISIBLE_GROUPS = MergedListing(
    _age,
    (select(_closed), (_closed.c.created_at, _closed.c.id)),
    (_seen.where(groups.c.join == "open"), (groups.c.created_at, groups.c.id)),
    walked=(_probed, (groups.c.created_at, groups.c.id), or_(groups.c.join == "open", _probe.c.role.is_not(None))),
)
_FEW_GROUPS = 1_000  # of a user, which are sorted faster than others are scanned
_COUNT_GROUPS = prepare(
    select(func.count()).select_from(
        select(members.c.group_id).where(members.c.user_id == bindparam("user_id")).limit(_FEW_GROUPS + 1).subquery()
    )
)


class GroupQueries:
    """Reads groups and members."""

    def __init__(self, db: Engine) -> None:
        self._db = db

    async def find(self, reference: str, user_id: UUID) -> GroupView:
        """Return the group with this id or name, as the user sees it. Raise NoSuchGroup."""
        if group_id := parse_uuid(reference):
            row = await self._db.fetch_one(FIND_BY_ID, group_id=group_id, user_id=user_id)
        elif "\0" in reference:
            row = None
        else:
            row = await self._db.fetch_one(FIND_BY_NAME, name_key=fold(reference), user_id=user_id)
        if row is None:
            raise NoSuchGroup
        return GroupView(*row)

    async def with_markers(self, views: Sequence[GroupView], user_id: UUID) -> list[GroupView]:
        """Return the groups with the user's read markers, and what is unread above them."""
        group_ids = [view.id for view in views if view.role is not None]
        rows = await self._db.fetch_all(MARKERS_OF_USER, group_ids=group_ids, user_id=user_id) if group_ids else []
        markers = {group_id: {"read": read, "unread": unread} for group_id, read, unread in rows}
        return [view._replace(**markers.get(view.id, {})) for view in views]

    async def visible_to(self, user_id: UUID, window: Window) -> Page[GroupView]:
        """Return the open groups and the groups of the user, oldest first."""
        (joined,) = await self._db.fetch_one(_COUNT_GROUPS, user_id=user_id)
        page = await VISIBLE_GROUPS.read(self._db, window, is_rare=joined <= _FEW_GROUPS, user_id=user_id)
        return await self._viewed(page, user_id)

    async def all(self, user_id: UUID, window: Window) -> Page[GroupView]:
        """Return all groups as the user sees them, oldest first."""
        return await self._viewed(await ALL_GROUPS.read(self._db, window, user_id=user_id), user_id)

    async def of_user(self, user_id: UUID, window: Window) -> Page[GroupView]:
        """Return the groups of the user, longest membership first. Raise NoSuchUser."""
        page = await GROUPS_OF_USER.read(self._db, window, user_id=user_id)
        if not page.items and not await self._db.fetch_one(_FIND_USER, user_id=user_id):
            raise NoSuchUser
        return await self._viewed(page, user_id)

    async def find_member(self, group_id: UUID, user_id: UUID) -> MemberView:
        """Return the member. Raise NoSuchMember."""
        row = await self._db.fetch_one(FIND_MEMBER, group_id=group_id, user_id=user_id)
        if row is None:
            raise NoSuchMember
        return MemberView(*row)

    async def members(self, group_id: UUID, window: Window) -> Page[MemberView]:
        """Return the members, longest membership first."""
        page = await MEMBERS_OF_GROUP.read(self._db, window, group_id=group_id)
        return page.map(lambda row: MemberView(*row))

    async def _viewed(self, page: Page[Any], user_id: UUID) -> Page[GroupView]:
        """Return a page of rows as the user's views."""
        return Page(await self.with_markers([GroupView(*row) for row in page.items], user_id), page.next)
