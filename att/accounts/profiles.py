"""Public profiles: what users see of others whom they share a group with, or of whom they may read a message."""

from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Uuid, bindparam, text

from att.db.engine import Engine, prepare


class UserProfile(NamedTuple):
    """A user as others see them."""

    id: UUID
    login: str
    first_name: str
    last_name: str


# Everything is looked up from the user who is asked for, by scalar subqueries, one by one in an index: so an unknown id
# costs nothing, in however many groups the viewer is. Members of deleted groups may still have rows.
_READS = ":reads_all OR (SELECT true FROM members AS o WHERE o.group_id = g.id AND o.user_id = :viewer_id LIMIT 1)"
_FELLOW = f"""(
    SELECT true FROM members AS m CROSS JOIN LATERAL (SELECT t.id FROM groups AS t WHERE t.id = m.group_id LIMIT 1) AS g
    WHERE m.user_id = u.id AND ({_READS}) LIMIT 1
)"""  # noqa: S608 - of constants
_OWN_MOVES = "FROM events AS e WHERE e.actor_id = :viewer_id AND e.group_id = g.id AND e.kind <> 'message'"
# The logs that may have a message of somebody who is not a member, and the last seq that it may have: those that they
# have left, or were never in. Of each the parts that the viewer may read, who is a member now, and in these a message.
_SENDER = f"""(
    SELECT true
    FROM (
        SELECT e.group_id, max(e.seq) FROM events AS e
        WHERE e.actor_id = u.id AND e.kind <> 'message' GROUP BY e.group_id
        UNION ALL
        SELECT o.group_id, o.seq FROM outside_senders AS o WHERE o.user_id = u.id
    ) AS l (group_id, last)
    CROSS JOIN LATERAL (SELECT t.id, t.history FROM groups AS t WHERE t.id = l.group_id LIMIT 1) AS g
    CROSS JOIN LATERAL (
        SELECT CASE WHEN :reads_all OR g.history = 'all' THEN 0 ELSE coalesce((SELECT max(e.seq) {_OWN_MOVES}), 0) END,
            l.last
        UNION ALL
        SELECT t.low, t.high
        FROM (SELECT coalesce(lag(e.seq) OVER (ORDER BY e.seq), 0) AS low, e.seq AS high, e.kind {_OWN_MOVES}) AS t
        WHERE t.kind = 'left'
    ) AS p (low, high)
    WHERE ({_READS}) AND (
        SELECT true FROM events AS e
        WHERE e.group_id = g.id AND e.seq > p.low AND e.seq <= least(p.high, l.last)
            AND e.kind = 'message' AND e.actor_id = u.id
        ORDER BY e.seq DESC LIMIT 1
    )
    LIMIT 1
)"""  # noqa: S608 - of constants
VISIBLE = prepare(
    text(f"""
    SELECT u.id, u.login, u.first_name, u.last_name FROM users AS u
    WHERE u.id = ANY (:user_ids)
        AND CASE WHEN u.id = :viewer_id THEN true WHEN {_FELLOW} THEN true ELSE {_SENDER} END
    """).bindparams(bindparam("user_ids", type_=ARRAY(Uuid)), bindparam("reads_all", type_=Boolean))  # noqa: S608
)._replace(is_read=True)


class Profiles:
    """Reads the profiles that a user may see."""

    def __init__(self, db: Engine) -> None:
        self._db = db

    async def visible(self, viewer_id: UUID, user_ids: Collection[UUID], *, reads_all: bool) -> list[UserProfile]:
        """Return the profiles of those users whom the viewer may see, in this order, each once.

        ``reads_all`` is True if the viewer may read the logs of all groups.
        """
        rows = await self._db.fetch_all(VISIBLE, viewer_id=viewer_id, user_ids=[*user_ids], reads_all=reads_all)
        found = {row[0]: UserProfile(*row) for row in rows}
        return [found[user_id] for user_id in dict.fromkeys(user_ids) if user_id in found]
