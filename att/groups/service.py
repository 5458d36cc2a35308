"""Changes of groups and their members."""

from collections.abc import Collection, Sequence, Set as AbstractSet
from typing import NamedTuple, Protocol, TypedDict, Unpack
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, Text, Uuid, bindparam, delete, func, insert, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from att.core.names import fold
from att.core.permissions import (
    Actor,
    HistoryRule,
    Join,
    MemberRole,
    Permission,
    Permissions,
    Post,
    Standing,
    Who,
    check,
    permits,
)
from att.core.precis import check_group_name, check_rename
from att.core.preconditions import Preconditions
from att.core.quotas import EXEMPTING, Quota, Quotas
from att.db.engine import Engine, Transaction, prepare
from att.db.schema import events, groups, members, roles, users
from att.db.skeletons import OwnedName, take_names
from att.errors import Forbidden, LastOwner, NoSuchEvent, NoSuchGroup, NoSuchMember, NoSuchUser, at_index
from att.groups.queries import (
    FIND_BY_ID,
    FIND_MEMBER,
    GROUP_COLUMNS,
    IS_USER,
    MEMBER_COLUMNS,
    GroupQueries,
    GroupView,
    MemberView,
)


class GroupListener(Protocol):
    """Is called after a group's log has grown and that is committed."""

    def observe_head(self, group_id: UUID, seq: int) -> None:
        """Note that the log has reached this seq."""

    def joined(self, group_id: UUID, seq: int, user_id: UUID) -> None:
        """Note that a user has joined, by the event with this seq or a later one."""


class Rules(TypedDict, total=False):
    """Rules of a group: who may join, who may broadcast, how many events are stored, and which of them members read."""

    join: Join
    post: Post
    retention: int
    history: HistoryRule


class Values(Rules, total=False):
    """Changeable values of a group."""

    name: str


RULES = Rules(join="invite", post="members", retention=1_000, history="since_join")

_member = (members.c.group_id == bindparam("group_id"), members.c.user_id == bindparam("user_id"))
_user_ids = bindparam("user_ids", type_=ARRAY(Uuid))
_members = select(*MEMBER_COLUMNS).join(users, IS_USER)
_other_owner = (
    select(1)
    .select_from(members)
    .join(users, IS_USER)
    .where(
        members.c.group_id == bindparam("group_id"),
        members.c.user_id != bindparam("user_id"),
        members.c.role == "owner",
    )
    .exists()
)

ADD_GROUP = prepare(
    insert(groups)
    .values({name: bindparam(name) for name in ("id", "name", "name_key", *RULES)})
    .returning(*GROUP_COLUMNS)
)
CHANGE_GROUP = prepare(
    update(groups)
    .where(groups.c.id == bindparam("group_id"))
    .values({name: func.coalesce(bindparam(f"new_{name}"), groups.c[name]) for name in ("name", "name_key", *RULES)})
)
NAME_OF = prepare(select(groups.c.name).where(groups.c.id == bindparam("group_id")))
DELETE_GROUP = prepare(delete(groups).where(groups.c.id == bindparam("group_id")))
# Locked to the commit by every change of members, so that two owners who leave at once do not leave none.
LOCK_GROUP = prepare(
    select(groups.c.seq, groups.c.retention).where(groups.c.id == bindparam("group_id")).with_for_update(key_share=True)
)
# A deletion also waits for transactions that have just referred to the group but do not have the lock above yet, such
# as SQL that adds members to many groups at once.
LOCK_TO_DELETE = prepare(select(groups.c.seq).where(groups.c.id == bindparam("group_id")).with_for_update())
# Locked to the commit by everything that adds to the groups of these users, so that the counts below stay true. Ordered
# by id, as in deletions of users, so that there is no deadlock.
_LOCK_USERS = prepare(
    select(users.c.id).where(users.c.id == func.any(_user_ids)).order_by(users.c.id).with_for_update(key_share=True)
)
# The first of these users who is not in the group, is not exempt, and has too many groups. A count ends at its limit.
FULL_USER = prepare(
    text("""
    SELECT u.id FROM unnest(CAST(:user_ids AS uuid[])) WITH ORDINALITY AS i (id, place)
    JOIN users AS u ON u.id = i.id JOIN roles AS r ON r.id = u.role_id
    WHERE CASE WHEN r.permissions && CAST(:exempt AS text[]) THEN false ELSE
        EXISTS (
            SELECT FROM members AS m WHERE m.user_id = u.id AND (NOT :is_owner OR m.role = 'owner') OFFSET :others
        )
        AND NOT EXISTS (
            SELECT FROM members AS m WHERE m.user_id = u.id AND m.group_id = CAST(:group_id AS uuid)
            AND (NOT :is_owner OR m.role = 'owner')
        )
    END
    ORDER BY i.place LIMIT 1
    """)
)
# The numbers of these users who are not in the group, and of its members; the second count ends at the limit.
COUNT_MEMBERS = prepare(
    text("""
    SELECT
        (
            SELECT count(*) FROM unnest(CAST(:user_ids AS uuid[])) AS i (id)
            WHERE NOT EXISTS (
                SELECT FROM members AS m WHERE m.group_id = CAST(:group_id AS uuid) AND m.user_id = i.id
            )
        ),
        (SELECT count(*) FROM (SELECT FROM members AS m WHERE m.group_id = CAST(:group_id AS uuid) LIMIT :limit) AS m)
    """)
)
_permissions = select(roles.c.permissions).join(users).where(users.c.id == bindparam("actor_id"), users.c.active)
PERMISSIONS_OF_ACTOR = prepare(_permissions)
# The actor's current membership of a group, and the permissions of their role.
STANDING = prepare(
    select(
        members.c.role,
        groups.c.join,
        groups.c.post,
        _permissions.scalar_subquery(),
    )
    .select_from(groups)
    .outerjoin(members, (members.c.group_id == groups.c.id) & (members.c.user_id == bindparam("actor_id")))
    .where(groups.c.id == bindparam("group_id"))
)

FIND_MEMBERS = prepare(
    _members.where(members.c.group_id == bindparam("group_id"), members.c.user_id == func.any(_user_ids))
)
ADD_MEMBER = prepare(
    upsert(members)
    .values(group_id=bindparam("group_id"), user_id=bindparam("user_id"), role=bindparam("role"))
    .on_conflict_do_nothing()
)
ADD_MEMBERS = prepare(
    upsert(members)
    .from_select(
        ["group_id", "user_id", "role"],
        select(bindparam("group_id", type_=Uuid), func.unnest(_user_ids), literal("member")),
    )
    .on_conflict_do_nothing()
)
SET_ROLE = prepare(
    update(members)
    .where(*_member, or_(bindparam("role", type_=Text) == "owner", members.c.role != "owner", _other_owner))
    .values(role=bindparam("role"))
)
REMOVE_MEMBER = prepare(
    delete(members).where(*_member, or_(members.c.role != "owner", _other_owner)).returning(members.c.user_id)
)
SENDER_OF = prepare(
    select(events.c.actor_id).where(
        events.c.group_id == bindparam("group_id"), events.c.seq == bindparam("seq"), events.c.kind == "message"
    )
)
REDACT = prepare(text("SELECT att_redact(CAST(:group_id AS uuid), :seq)"))


class Groups(GroupQueries):
    """Reads and changes groups and members. Calls the listener after each change.

    A change that raises QuotaExceeded changes nothing. What is above a quota already may stay so.
    """

    def __init__(self, db: Engine, listener: GroupListener, quotas: Quotas | None = None) -> None:
        super().__init__(db)
        self._listener = listener
        self._quotas = quotas or Quotas()

    async def create(self, name: str, actor: Actor, **rules: Unpack[Rules]) -> GroupView:
        """Create a group, with the actor as its owner. Raise GroupNameTaken, QuotaExceeded."""
        default = min(RULES["retention"], self._quotas.limit(Quota.RETENTION) or RULES["retention"])
        group_id, retention = uuid4(), rules.get("retention", default)
        wanted = {**RULES, **rules, "retention": retention}
        async with self._db.transaction(actor) as transaction:
            await transaction.fetch_all(_LOCK_USERS, user_ids=[actor.user_id])
            if self._is_too_long(retention):
                row = await transaction.fetch_one(PERMISSIONS_OF_ACTOR, actor_id=actor.user_id)
                self._check_retention(row[0] if row else ())
            for quota in (Quota.GROUPS_OWNED, Quota.GROUPS_JOINED):
                await self._check_groups(transaction, quota, group_id, [actor.user_id])
            row = await transaction.fetch_one(ADD_GROUP, id=group_id, name=name, name_key=fold(name), **wanted)
            await take_names(transaction, "groups", [OwnedName(None, group_id, name)])
            await transaction.execute(ADD_MEMBER, group_id=group_id, user_id=actor.user_id, role="owner")
        self._listener.joined(group_id, 1, actor.user_id)
        return GroupView._make((*row, "owner", 0, None))._replace(seq=1)

    async def change(
        self, group_id: UUID, actor: Actor, preconditions: Preconditions | None = None, **values: Unpack[Values]
    ) -> GroupView:
        """Change the given values. Return the group as the actor sees it.

        Raise NoSuchGroup, GroupNameTaken, PreconditionFailed and QuotaExceeded.
        """
        new = {f"new_{name}": values.get(name) for name in ("name", *RULES)}
        new["new_name_key"] = fold(values["name"]) if "name" in values else None
        async with self._db.transaction(actor) as transaction:
            locked = await _lock(transaction, group_id, actor, Who.OWNER)
            await _check_version(transaction, group_id, actor, preconditions)
            if self._is_too_long(values.get("retention", 0), locked.retention):
                self._check_retention(locked.permissions)
            is_renamed = "name" in values and await _is_other_name(transaction, group_id, values["name"])
            await transaction.execute(CHANGE_GROUP, group_id=group_id, **new)
            if is_renamed:
                await take_names(transaction, "groups", [OwnedName(None, group_id, values["name"])])
            row = await transaction.fetch_one(FIND_BY_ID, group_id=group_id, user_id=actor.user_id)  # with its last seq
        if row is None:
            raise NoSuchGroup
        return GroupView(*row)

    async def delete(self, group_id: UUID, actor: Actor, preconditions: Preconditions | None = None) -> None:
        """Delete the group with its members. Raise NoSuchGroup and PreconditionFailed."""
        async with self._db.transaction(actor) as transaction:
            await transaction.fetch_one(LOCK_TO_DELETE, group_id=group_id)
            locked = await _lock(transaction, group_id, actor, Who.OWNER)
            await _check_version(transaction, group_id, actor, preconditions)
            was_deleted = await transaction.execute(DELETE_GROUP, group_id=group_id)
        if not was_deleted:
            raise NoSuchGroup
        self._listener.observe_head(group_id, locked.head + 1)

    async def add_member(
        self,
        group_id: UUID,
        user_id: UUID,
        actor: Actor,
        role: MemberRole | None = None,
        preconditions: Preconditions | None = None,
    ) -> tuple[MemberView, bool]:
        """Add a member or set their role. Return the member, and True if they are new.

        Without a role, a new member becomes a plain member, and others keep their role. Raise NoSuchUser, NoSuchGroup,
        PreconditionFailed, QuotaExceeded, and LastOwner if no owner would be left.
        """
        async with self._db.transaction(actor) as transaction:
            ids = {"group_id": group_id, "user_id": user_id}
            locked = await _lock(
                transaction, group_id, actor, Who.OWNER_OR_JOINER if role != "owner" else Who.OWNER, user_id
            )
            if preconditions is not None:
                is_member = await transaction.fetch_one(FIND_MEMBER, **ids) is not None
                preconditions.check(None, exists=is_member)
            await transaction.fetch_all(_LOCK_USERS, user_ids=[user_id])
            await self._check_joining(transaction, group_id, [user_id], locked.permissions)
            if role == "owner" and not permits(locked.permissions, Permission.QUOTAS_EXEMPT):
                await self._check_groups(transaction, Quota.GROUPS_OWNED, group_id, [user_id])
            is_new = bool(await transaction.execute(ADD_MEMBER, **ids, role=role or "member"))
            has_role = is_new or role is None or bool(await transaction.execute(SET_ROLE, **ids, role=role))
            row = await transaction.fetch_one(FIND_MEMBER, **ids)
            if row is None:
                raise NoSuchUser  # just deleted
            if not has_role:
                raise LastOwner
        if is_new:
            self._listener.joined(group_id, locked.head + 1, user_id)
        return MemberView(*row), is_new

    async def add_members(self, group_id: UUID, user_ids: Sequence[UUID], actor: Actor) -> list[MemberView]:
        """Add all users or none. Return the members in order without repetitions. Present members keep their role.

        Raise NoSuchGroup, QuotaExceeded, and NoSuchUser with the index of the first unknown user.
        """
        wanted = list(dict.fromkeys(user_ids))
        async with self._db.transaction(actor) as transaction:
            locked = await _lock(transaction, group_id, actor, Who.OWNER)
            known = {row[0] for row in await transaction.fetch_all(_LOCK_USERS, user_ids=wanted)}
            _check_known(user_ids, known)
            await self._check_joining(transaction, group_id, wanted, locked.permissions)
            added = await transaction.execute(ADD_MEMBERS, group_id=group_id, user_ids=wanted)
            rows = await transaction.fetch_all(FIND_MEMBERS, group_id=group_id, user_ids=wanted)
        for user_id in wanted if added else ():
            self._listener.joined(group_id, locked.head + 1, user_id)
        found = {row[0]: MemberView(*row) for row in rows}
        return [found[user_id] for user_id in wanted if user_id in found]

    async def remove_member(self, group_id: UUID, user_id: UUID, actor: Actor) -> None:
        """Remove a member. Raise NoSuchMember, and LastOwner if no owner would be left."""
        async with self._db.transaction(actor) as transaction:
            locked = await _lock(transaction, group_id, actor, Who.OWNER_OR_ONESELF, user_id)
            removed = await transaction.fetch_one(REMOVE_MEMBER, group_id=group_id, user_id=user_id)
            if not removed and await transaction.fetch_one(FIND_MEMBER, group_id=group_id, user_id=user_id):
                raise LastOwner
        if not removed:
            raise NoSuchMember
        self._listener.observe_head(group_id, locked.head + 1)

    async def redact(self, group_id: UUID, seq: int, actor: Actor) -> None:
        """Delete the body of a message for good. Raise NoSuchEvent. A message that is redacted already stays so."""
        async with self._db.transaction(actor) as transaction:
            message = await transaction.fetch_one(SENDER_OF, group_id=group_id, seq=seq)
            who, sender = (Who.MEMBER, None) if message is None else (Who.OWNER_OR_SENDER, message[0])
            await _lock(transaction, group_id, actor, who, sender)
            if message is None:
                raise NoSuchEvent
            (head,) = await transaction.fetch_one(REDACT, group_id=group_id, seq=seq)
        if head is not None:
            self._listener.observe_head(group_id, head)

    async def _check_joining(
        self, transaction: Transaction, group_id: UUID, user_ids: Sequence[UUID], granted: Collection[str]
    ) -> None:
        """Raise QuotaExceeded if these users cannot join the group, all of which are locked.

        ``granted`` are the actor's permissions.
        """
        if permits(granted, Permission.QUOTAS_EXEMPT):
            return
        limit = self._quotas.limit(Quota.MEMBERS)
        if limit is not None:
            new, size = await transaction.fetch_one(COUNT_MEMBERS, group_id=group_id, user_ids=[*user_ids], limit=limit)
            if new and size + new > limit:
                raise self._quotas.exceeded(Quota.MEMBERS)
        await self._check_groups(transaction, Quota.GROUPS_JOINED, group_id, user_ids)

    async def _check_groups(
        self, transaction: Transaction, quota: Quota, group_id: UUID, user_ids: Sequence[UUID]
    ) -> None:
        """Raise QuotaExceeded, with the index of the user if there are many, if a locked user has too many groups."""
        limit = self._quotas.limit(quota)
        if limit is None:
            return
        full = await transaction.fetch_one(
            FULL_USER,
            group_id=group_id,
            user_ids=[*user_ids],
            is_owner=quota is Quota.GROUPS_OWNED,
            others=limit - 1,
            exempt=EXEMPTING,
        )
        if full:
            with at_index(user_ids.index(full[0]) if len(user_ids) > 1 else None):
                raise self._quotas.exceeded(quota)

    def _is_too_long(self, retention: int, present: int = 0) -> bool:
        limit = self._quotas.limit(Quota.RETENTION)
        return limit is not None and retention > max(limit, present)

    def _check_retention(self, granted: Collection[str]) -> None:
        """Raise QuotaExceeded unless these permissions allow more than the quota."""
        if not any(permits(granted, each) for each in (Permission.GROUPS_WRITE, Permission.QUOTAS_EXEMPT)):
            raise self._quotas.exceeded(Quota.RETENTION)


class _Locked(NamedTuple):
    """A locked group: the head of its log and its retention, 0 if it does not exist; the actor's permissions."""

    head: int
    retention: int
    permissions: Permissions


async def _lock(
    transaction: Transaction, group_id: UUID, actor: Actor, who: Who, target: UUID | None = None
) -> _Locked:
    """Lock the group until the commit.

    Raise NotAMember and NotAnOwner: the earlier check may be outdated by a change that held the lock.
    """
    locked = await transaction.fetch_one(LOCK_GROUP, group_id=group_id)
    row = await transaction.fetch_one(STANDING, group_id=group_id, actor_id=actor.user_id)
    if locked is None or row is None:
        return _Locked(0, 0, frozenset())
    *standing, permissions = row
    granted = frozenset(permissions or ())
    try:
        check(who, actor=actor.user_id, target=target, standing=Standing(*standing))
    except Forbidden:
        if not permits(granted, Permission.GROUPS_WRITE):
            raise
    head, retention = locked
    return _Locked(head, retention, granted)


async def _is_other_name(transaction: Transaction, group_id: UUID, name: str) -> bool:
    """Return True if the group gets another name by this one. Raise InvalidInput if that is not allowed.

    A name from an earlier release may stay as it is.
    """
    row = await transaction.fetch_one(NAME_OF, group_id=group_id)
    if row is None or row[0] == name:
        return False
    check_rename(check_group_name, name)
    return True


async def _check_version(
    transaction: Transaction, group_id: UUID, actor: Actor, preconditions: Preconditions | None
) -> None:
    """Raise PreconditionFailed unless the locked group, as the actor sees it, has the version that is wanted."""
    if preconditions is None:
        return
    row = await transaction.fetch_one(FIND_BY_ID, group_id=group_id, user_id=actor.user_id)
    if row is not None:
        preconditions.check(GroupView(*row).version)


def _check_known(user_ids: Sequence[UUID], known: AbstractSet[UUID]) -> None:
    for index, user_id in enumerate(user_ids):
        with at_index(index):
            if user_id not in known:
                raise NoSuchUser
