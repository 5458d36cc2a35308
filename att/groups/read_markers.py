"""Read markers: up to which seq each user has read a group's log. They never go back."""

from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from att.core.names import fold
from att.db.engine import Engine, prepare
from att.errors import NoSuchGroup, NotAMember


class MarkerPosition(NamedTuple):
    """A user's marker in a group."""

    user_id: UUID
    group_id: UUID
    name: str
    seq: int


class ReadMarker(NamedTuple):
    """A marker, the number of unread messages above it, and whether it has just moved."""

    position: MarkerPosition
    unread: int
    has_moved: bool


_UNREAD = "att_unread(g.id, :user_id, {}, g.seq, g.history = 'all')"
# Writes only a marker that moves, and of members alone. One that is above the log's head is cut to the head.
_MARK = f"""
    WITH g AS (
        SELECT g.id, g.name, g.seq, g.history, m.user_id IS NOT NULL AS is_member
        FROM groups AS g LEFT JOIN members AS m ON m.group_id = g.id AND m.user_id = :user_id
        WHERE %s
    ), moved AS (
        INSERT INTO read_markers AS r (user_id, group_id, seq)
        SELECT :user_id, g.id, least(CAST(:seq AS bigint), g.seq) FROM g
        WHERE g.is_member AND least(CAST(:seq AS bigint), g.seq) > 0
        ON CONFLICT (user_id, group_id) DO UPDATE SET seq = EXCLUDED.seq, at = EXCLUDED.at WHERE r.seq < EXCLUDED.seq
        RETURNING r.seq
    )
    SELECT g.id, g.name, g.is_member, moved.seq, CASE WHEN moved.seq IS NOT NULL THEN {_UNREAD.format("moved.seq")} END
    FROM g LEFT JOIN moved ON true
"""  # noqa: S608 - of constants
MARK_BY_ID = prepare(text(_MARK % "g.id = CAST(:group AS uuid)"))
MARK_BY_NAME = prepare(text(_MARK % "g.name_key = :group"))
UNMOVED = prepare(
    text(f"""
    SELECT coalesce(r.seq, 0), {_UNREAD.format("coalesce(r.seq, 0)")}
    FROM groups AS g LEFT JOIN read_markers AS r ON r.group_id = g.id AND r.user_id = :user_id
    WHERE g.id = CAST(:group_id AS uuid)
    """)  # noqa: S608 - of constants
)._replace(is_read=True)
MOVED_SINCE = prepare(
    text("""
    SELECT r.user_id, r.group_id, g.name, r.seq FROM read_markers AS r JOIN groups AS g ON g.id = r.group_id
    WHERE r.user_id = ANY (CAST(:user_ids AS uuid[])) AND r.at > clock_timestamp() - make_interval(secs => :seconds)
    """)
)._replace(is_read=True)


class ReadMarkers:
    """Moves and reads markers."""

    def __init__(self, db: Engine) -> None:
        self._db = db

    async def move(self, group: UUID | str, user_id: UUID, seq: int) -> ReadMarker:
        """Move a member's marker of the group with this id or name, unless it is there already.

        Raise NoSuchGroup and NotAMember.
        """
        if isinstance(group, UUID):
            row = await self._db.fetch_one(MARK_BY_ID, group=group, user_id=user_id, seq=seq)
        else:
            row = await self._db.fetch_one(MARK_BY_NAME, group=fold(group), user_id=user_id, seq=seq)
        if row is None:
            raise NoSuchGroup
        group_id, name, is_member, moved_to, unread = row
        if not is_member:
            raise NotAMember
        has_moved = moved_to is not None
        if not has_moved:
            row = await self._db.fetch_one(UNMOVED, group_id=group_id, user_id=user_id)
            if row is None:
                raise NoSuchGroup
            moved_to, unread = row
        return ReadMarker(MarkerPosition(user_id, group_id, name, moved_to), unread, has_moved)

    async def moved_since(self, user_ids: Collection[UUID], seconds: float) -> list[MarkerPosition]:
        """Return the markers of these users that have moved within the last seconds."""
        rows = await self._db.fetch_all(MOVED_SINCE, user_ids=[*user_ids], seconds=seconds)
        return [MarkerPosition(*row) for row in rows]
