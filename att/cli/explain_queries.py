"""Queries of the command ``why``: everything that the database knows about a user and a group."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, bindparam, func, select

from att.accounts.history import History, HistoryEntry
from att.core.names import fold, parse_uuid
from att.core.pagination import Window
from att.core.permissions import HistoryRule
from att.db.engine import Engine, prepare
from att.db.schema import events, groups, members, sessions, users
from att.errors import NoSuchGroup, NoSuchUser
from att.realtime.presence import Presence, Stay

CHANGES = 200  # changes of the membership that are read
SHOWN = 10  # of them

_user = select(users.c.id, users.c.login, users.c.active)
_group = select(groups.c.id, groups.c.name, groups.c.seq, groups.c.retention, groups.c.history)
_in_log = events.c.group_id == bindparam("group_id")

USER_BY_ID = prepare(_user.where(users.c.id == bindparam("user_id")))
USER_BY_LOGIN = prepare(_user.where(users.c.login_key == bindparam("login_key")))
GROUP_BY_ID = prepare(_group.where(groups.c.id == bindparam("group_id")))
GROUP_BY_NAME = prepare(_group.where(groups.c.name_key == bindparam("name_key")))
MEMBER = prepare(
    select(members.c.role, members.c.joined_at).where(
        members.c.group_id == bindparam("group_id"), members.c.user_id == bindparam("user_id")
    )
)
MOVES = prepare(
    select(events.c.kind, events.c.at, events.c.seq)
    .where(_in_log, events.c.actor_id == bindparam("user_id"), events.c.kind != "message")
    .order_by(events.c.seq.desc())
    .limit(CHANGES)
)
LAST = prepare(select(events.c.at).where(_in_log, events.c.seq == bindparam("seq")))
_OLDEST = prepare(select(events.c.seq).where(_in_log).order_by(events.c.seq).limit(1))
LOGINS = prepare(select(users.c.id, users.c.login).where(users.c.id == func.any(bindparam("ids", type_=ARRAY(Uuid)))))
LIVE_SESSIONS = prepare(
    select(func.count()).where(sessions.c.user_id == bindparam("user_id"), sessions.c.expires_at > func.now())
)

_KINDS = {"INSERT": "joined", "DELETE": "left", "UPDATE": "changed"}


@dataclass(frozen=True, slots=True)
class ExplainedUser:
    """An account. An inactive one cannot sign in."""

    id: UUID
    login: str
    active: bool


@dataclass(frozen=True, slots=True)
class ExplainedLog:
    """A group and its log, which ends with ``seq`` at ``at`` and is kept from ``oldest`` on.

    ``at`` is None if the last event is not kept, ``oldest`` if none is. ``history`` says what of it members read.
    """

    id: UUID
    name: str
    seq: int
    retention: int
    history: HistoryRule
    at: datetime | None
    oldest: int | None


@dataclass(frozen=True, slots=True)
class ExplainedActor:
    """The author of a change: a user, or only a database role. ``login`` is None if the account is deleted."""

    user_id: UUID | None
    login: str | None
    database_role: str


@dataclass(frozen=True, slots=True)
class Step:
    """A change of the membership: ``joined``, ``left`` or, of the role, ``changed``; ``role`` is the one after it.

    ``seq`` is its position in the group's log, None if that is no longer kept or has no event for it.
    """

    at: datetime
    kind: str
    role: str | None
    seq: int | None
    by: ExplainedActor


@dataclass(frozen=True, slots=True)
class Membership:
    """A present membership. ``by`` is None if it is older than the history."""

    role: str
    since: datetime
    by: ExplainedActor | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation: ``steps`` are the last ones, newest first; ``sessions`` is None if Redis keeps them."""

    user: ExplainedUser
    group: ExplainedLog
    membership: Membership | None
    steps: Sequence[Step]
    sockets: Sequence[Stay]
    sessions: int | None


async def explain(db: Engine, user: str, group: str, *, has_sessions: bool = True) -> Explanation:
    """Explain the user with this id or login and the group with this id or name. Raise NoSuchUser, NoSuchGroup.

    ``has_sessions`` is True if the database keeps the sessions.
    """
    found_user, log = await _find_user(db, user), await _find_group(db, group)
    steps = await _steps(db, found_user.id, log.id)
    row = await db.fetch_one(MEMBER, user_id=found_user.id, group_id=log.id)
    by = next((step.by for step in steps if step.kind == "joined"), None)
    return Explanation(
        user=found_user,
        group=log,
        membership=None if row is None else Membership(row[0], row[1], by),
        steps=steps[:SHOWN],
        sockets=await Presence(db).stays(found_user.id),
        sessions=(await db.fetch_one(LIVE_SESSIONS, user_id=found_user.id))[0] if has_sessions else None,
    )


async def _find_user(db: Engine, reference: str) -> ExplainedUser:
    user_id = parse_uuid(reference)
    row = await db.fetch_one(USER_BY_ID, user_id=user_id) if user_id else None
    row = row or await db.fetch_one(USER_BY_LOGIN, login_key=fold(reference))
    if row is None:
        raise NoSuchUser(f"there is no user with the login or id {reference!r}")
    return ExplainedUser(*row)


async def _find_group(db: Engine, reference: str) -> ExplainedLog:
    group_id = parse_uuid(reference)
    row = await (
        db.fetch_one(GROUP_BY_ID, group_id=group_id)
        if group_id
        else db.fetch_one(GROUP_BY_NAME, name_key=fold(reference))
    )
    if row is None:
        raise NoSuchGroup(f"there is no group with the name or id {reference!r}")
    group_id, name, seq, retention, history = row
    last = await db.fetch_one(LAST, group_id=group_id, seq=seq)
    oldest = await db.fetch_one(_OLDEST, group_id=group_id)
    return ExplainedLog(group_id, name, seq, retention, history, last and last[0], oldest and oldest[0])


async def _steps(db: Engine, user_id: UUID, group_id: UUID) -> list[Step]:
    window = Window(CHANGES)
    changes = (await History(db).page(window, {"table": "members", "row": f"{group_id}/{user_id}"})).items
    moves = await db.fetch_all(MOVES, user_id=user_id, group_id=group_id)
    logins = dict(await db.fetch_all(LOGINS, ids=[change.actor_id for change in changes if change.actor_id]))
    return [
        Step(change.at, _KINDS[change.operation], _role(change), seq, _actor(change, logins))
        for change, seq in _placed(changes, moves)
    ]


def _role(change: HistoryEntry) -> str | None:
    return None if change.new is None else change.new.get("role", "another")


def _actor(change: HistoryEntry, logins: dict[UUID, str]) -> ExplainedActor:
    login = logins.get(change.actor_id) if change.actor_id else None
    return ExplainedActor(change.actor_id, login, change.database_role)


def _placed(
    changes: Sequence[HistoryEntry], moves: Sequence[tuple[str, datetime, int]]
) -> Iterator[tuple[HistoryEntry, int | None]]:
    """Yield each change, newest first, with its seq in the log.

    One statement writes both, the history first; the next change of the row comes after its commit.
    """
    until: datetime | None = None
    for change in changes:
        kind, since = _KINDS[change.operation], change.at
        seqs = [seq for what, at, seq in moves if what == kind and at >= since and (until is None or at < until)]
        yield change, seqs[0] if seqs else None
        until = since
