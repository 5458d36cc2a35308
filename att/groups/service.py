"""Changes of groups and their members, and who is told of them."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol, TypedDict, Unpack
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, Text, Uuid, bindparam, delete, func, insert, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from att.core.names import fold
from att.core.permissions import Actor, Join, MemberRole, Permission, Post, Standing, Who, check, permits
from att.db.engine import Engine, Transaction, prepare
from att.db.schema import groups, members, roles, users
from att.errors import Forbidden, LastOwner, NoSuchGroup, NoSuchMember, NoSuchUser, at_index
from att.groups.queries import GROUP_COLUMNS, MEMBER_COLUMNS, GroupDirectory, GroupView, MemberView


class GroupListener(Protocol):
    """Is told that there is something new in a group's log, after it is committed."""

    def observe_head(self, group_id: UUID, seq: int) -> None:
        """The log has reached this seq."""

    def joined(self, group_id: UUID, seq: int, user_id: UUID) -> None:
        """A user has joined, by the event with this seq or a later one."""


class Rules(TypedDict, total=False):
    """Who may let themselves in, who may broadcast, and how many events are kept."""

    join: Join
    post: Post
    retention: int


class Values(Rules, total=False):
    """What can be changed of a group."""

    name: str


RULES = Rules(join="invite", post="members", retention=1_000)

_member = (members.c.group_id == bindparam("group_id"), members.c.user_id == bindparam("user_id"))
_their_ids = bindparam("user_ids", type_=ARRAY(Uuid))
_members = select(*MEMBER_COLUMNS).join(users)
_own_role = (
    select(members.c.role)
    .where(members.c.group_id == groups.c.id, members.c.user_id == bindparam("user_id"))
    .scalar_subquery()
)
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
    .values({name: bindparam(name) for name in ("id", "name", "name_key", *RULES)})
    .returning(*GROUP_COLUMNS)
)
CHANGE_GROUP = prepare(
    update(groups)
    .where(groups.c.id == bindparam("group_id"))
    .values({name: func.coalesce(bindparam(f"new_{name}"), groups.c[name]) for name in ("name", "name_key", *RULES)})
    .returning(*GROUP_COLUMNS, _own_role)
)
DELETE_GROUP = prepare(delete(groups).where(groups.c.id == bindparam("group_id")))
# Every change of members holds it to the commit, on whichever node: two owners who leave at once see each other go.
LOCK_GROUP = prepare(select(groups.c.seq).where(groups.c.id == bindparam("group_id")).with_for_update(key_share=True))
# Who deletes it waits besides for those who have just referred to it, before they want the lock above: such as SQL that
# adds members to many groups at once.
LOCK_TO_DELETE = prepare(select(groups.c.seq).where(groups.c.id == bindparam("group_id")).with_for_update())
# How the actor stands to a group, and what their role permits, when the change is made.
STANDING = prepare(
    select(
        members.c.role,
        groups.c.join,
        groups.c.post,
        select(roles.c.permissions)
        .join(users)
        .where(users.c.id == bindparam("actor_id"), users.c.active)
        .scalar_subquery(),
    )
    .select_from(groups)
    .outerjoin(members, (members.c.group_id == groups.c.id) & (members.c.user_id == bindparam("actor_id")))
    .where(groups.c.id == bindparam("group_id"))
)

FIND_MEMBER = prepare(_members.where(*_member))
FIND_MEMBERS = prepare(
    _members.where(members.c.group_id == bindparam("group_id"), members.c.user_id == func.any(_their_ids))
)
# They stay until the commit. In the order of their ids, so that one who deletes them in that order meets no deadlock.
_LOCK_USERS = prepare(
    select(users.c.id)
    .where(users.c.id == func.any(_their_ids))
    .order_by(users.c.id)
    .with_for_update(read=True, key_share=True)
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
        select(bindparam("group_id", type_=Uuid), func.unnest(_their_ids), literal("member")),
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


class Groups(GroupDirectory):
    """The directory, and its changes, of each of which an audience is told."""

    def __init__(self, db: Engine, audience: GroupListener) -> None:
        super().__init__(db)
        self._audience = audience

    async def create(self, name: str, actor: Actor, **rules: Unpack[Rules]) -> GroupView:
        """A new group, with the actor as its owner. Raises GroupNameTaken."""
        group_id, wanted = uuid4(), {**RULES, **rules}
        async with self._db.transaction(actor) as transaction:
            row = await transaction.fetch_one(ADD_GROUP, id=group_id, name=name, name_key=fold(name), **wanted)
            await transaction.execute(ADD_MEMBER, group_id=group_id, user_id=actor.user_id, role="owner")
        self._audience.joined(group_id, 1, actor.user_id)
        return GroupView._make((*row, "owner"))

    async def change(self, group_id: UUID, actor: Actor, **values: Unpack[Values]) -> GroupView:
        """The group with what is given, as the actor sees it; the rest stays. Raises NoSuchGroup, GroupNameTaken."""
        new = {f"new_{name}": values.get(name) for name in ("name", *RULES)}
        new["new_name_key"] = fold(values["name"]) if "name" in values else None
        async with self._db.transaction(actor) as transaction:
            await _lock(transaction, group_id, actor, Who.OWNER)
            row = await transaction.fetch_one(CHANGE_GROUP, group_id=group_id, user_id=actor.user_id, **new)
        if row is None:
            raise NoSuchGroup
        return GroupView(*row)

    async def delete(self, group_id: UUID, actor: Actor) -> None:
        """Delete it, and with it its members. Raises NoSuchGroup."""
        async with self._db.transaction(actor) as transaction:
            await transaction.fetch_one(LOCK_TO_DELETE, group_id=group_id)
            head = await _lock(transaction, group_id, actor, Who.OWNER)
            was_there = await transaction.execute(DELETE_GROUP, group_id=group_id)
        if not was_there:
            raise NoSuchGroup
        self._audience.observe_head(group_id, head + 1)

    async def add_member(
        self, group_id: UUID, user_id: UUID, actor: Actor, role: MemberRole | None = None
    ) -> tuple[MemberView, bool]:
        """The member, with this role if one is given, and whether they are new.

        Without one who is new is a plain member, and others stay what they are. Raises NoSuchUser, NoSuchGroup, and
        LastOwner rather than leave the group without an owner.
        """
        async with self._db.transaction(actor) as transaction:
            who = {"group_id": group_id, "user_id": user_id}
            head = await _lock(
                transaction, group_id, actor, Who.OWNER_OR_JOINER if role != "owner" else Who.OWNER, user_id
            )
            is_new = bool(await transaction.execute(ADD_MEMBER, **who, role=role or "member"))
            is_as_asked = is_new or role is None or bool(await transaction.execute(SET_ROLE, **who, role=role))
            row = await transaction.fetch_one(FIND_MEMBER, **who)
            if row is None:
                raise NoSuchUser  # deleted a moment ago
            if not is_as_asked:
                raise LastOwner
        if is_new:
            self._audience.joined(group_id, head + 1, user_id)
        return MemberView(*row), is_new

    async def add_members(self, group_id: UUID, user_ids: Sequence[UUID], actor: Actor) -> list[MemberView]:
        """Make all of them members or none. The members, in this order, each once; who was one stays what they are.

        Raises NoSuchGroup, and NoSuchUser with the index of the first who is not there.
        """
        wanted = list(dict.fromkeys(user_ids))
        async with self._db.transaction(actor) as transaction:
            head = await _lock(transaction, group_id, actor, Who.OWNER)
            known = {row[0] for row in await transaction.fetch_all(_LOCK_USERS, user_ids=wanted)}
            _check_known(user_ids, known)
            added = await transaction.execute(ADD_MEMBERS, group_id=group_id, user_ids=wanted)
            rows = await transaction.fetch_all(FIND_MEMBERS, group_id=group_id, user_ids=wanted)
        for user_id in wanted if added else ():
            self._audience.joined(group_id, head + 1, user_id)
        found = {row[0]: MemberView(*row) for row in rows}
        return [found[user_id] for user_id in wanted if user_id in found]

    async def remove_member(self, group_id: UUID, user_id: UUID, actor: Actor) -> None:
        """Remove them. Raises NoSuchMember, and LastOwner rather than leave the group without one."""
        async with self._db.transaction(actor) as transaction:
            head = await _lock(transaction, group_id, actor, Who.OWNER_OR_ONESELF, user_id)
            removed = await transaction.fetch_one(REMOVE_MEMBER, group_id=group_id, user_id=user_id)
            if not removed and await transaction.fetch_one(FIND_MEMBER, group_id=group_id, user_id=user_id):
                raise LastOwner
        if not removed:
            raise NoSuchMember
        self._audience.observe_head(group_id, head + 1)


async def _lock(transaction: Transaction, group_id: UUID, actor: Actor, who: Who, target: UUID | None = None) -> int:
    """Hold the group until the commit, and tell where its log stands: 0 when it is not there.

    Raises NotAMember and NotAnOwner: the actor was asked before, but may have been removed by the change that this one
    has waited for.
    """
    locked = await transaction.fetch_one(LOCK_GROUP, group_id=group_id)
    row = await transaction.fetch_one(STANDING, group_id=group_id, actor_id=actor.user_id)
    if locked is None or row is None:
        return 0
    *standing, held = row
    try:
        check(who, actor=actor.user_id, target=target, standing=Standing(*standing))
    except Forbidden:
        if not permits(held or (), Permission.GROUPS_WRITE):
            raise
    head: int = locked[0]
    return head


def _check_known(user_ids: Sequence[UUID], known: AbstractSet[UUID]) -> None:
    for index, user_id in enumerate(user_ids):
        with at_index(index):
            if user_id not in known:
                raise NoSuchUser
