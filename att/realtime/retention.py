"""Trims the log: what is beyond a group's retention, what is too old, and what is left of groups that are gone.

Each statement removes few events, and locks nothing that an append waits for. Of many nodes one trims at a time.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from att.db.engine import Engine, Statement, prepare

GRACE = timedelta(minutes=1)  # however little is retained: in this time every node has read what is new
AFTERLIFE = timedelta(hours=1)  # how long the log of a group that is gone is kept: its last members read that they left
BATCH = 1_000  # events that one statement removes
_PAGE = 5_000  # groups that one statement looks at
PAGES = 20  # in one go, the next of which goes on from there: a million groups are looked at in ten
PAGES_GONE = 4  # likewise, to find those that are gone; this takes longer, and is less urgent
START = UUID(int=0)

# Looks at the oldest event alone: most groups have no more than they retain, and this tells it from their own rows.
OVERFULL = prepare(
    text("""
    WITH page AS (SELECT id, seq - retention AS last FROM groups WHERE id > :after ORDER BY id LIMIT :page)
    SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), ARRAY(
        SELECT p.id FROM page AS p WHERE p.last > 0 AND (
            SELECT e.seq <= p.last AND e.at < now() - CAST(:grace AS interval)
            FROM events AS e WHERE e.group_id = p.id ORDER BY e.seq LIMIT 1
        )
    )
    """)
)._replace(is_read=True)
# From one group to the next by the index, however many events lie between them.
_GONE = prepare(
    text("""
    WITH RECURSIVE walk (id) AS (
        (SELECT group_id FROM events WHERE group_id > :after ORDER BY group_id LIMIT 1)
        UNION ALL
        SELECT n.group_id FROM walk AS w CROSS JOIN LATERAL (
            SELECT e.group_id FROM events AS e WHERE e.group_id > w.id ORDER BY e.group_id LIMIT 1
        ) AS n
    ), page AS (SELECT id FROM walk LIMIT :page)
    SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), ARRAY(
        SELECT p.id FROM page AS p WHERE NOT EXISTS (SELECT FROM groups AS g WHERE g.id = p.id) AND (
            SELECT e.at < now() - CAST(:afterlife AS interval)
            FROM events AS e WHERE e.group_id = p.id ORDER BY e.seq DESC LIMIT 1
        )
    )
    """)
)._replace(is_read=True)

_DELETE = """
    DELETE FROM events AS e USING (
        SELECT d.group_id, d.seq FROM ({}) AS d
        WHERE (SELECT pg_try_advisory_xact_lock(107152797364071)) LIMIT :batch
    ) AS d
    WHERE e.group_id = d.group_id AND e.seq = d.seq
"""  # the number is "attlog"; whoever does not get the lock leaves it to those who have it
DELETE_OVERFULL = prepare(
    text(
        _DELETE.format("""
        SELECT o.group_id, o.seq FROM groups AS g CROSS JOIN LATERAL (
            SELECT e.group_id, e.seq, e.at FROM events AS e
            WHERE e.group_id = g.id AND e.seq <= g.seq - g.retention ORDER BY e.seq LIMIT :batch
        ) AS o
        WHERE g.id = ANY (CAST(:group_ids AS uuid[])) AND o.at < now() - CAST(:grace AS interval)
        """)
    )
)
DELETE_OLD = prepare(
    text(_DELETE.format("SELECT group_id, seq FROM events WHERE at < now() - CAST(:age AS interval) ORDER BY at, seq"))
)
_OF_GROUPS = "SELECT group_id, seq FROM events WHERE group_id = ANY (CAST(:group_ids AS uuid[])) ORDER BY group_id, seq"
DELETE_GONE = prepare(text(_DELETE.format(_OF_GROUPS)))


class RetentionTask:
    """Trims the log in the database to events that are no older than ``age``."""

    def __init__(self, db: Engine, age: timedelta) -> None:
        self._db = db
        self._age = max(age, GRACE)
        self._after_overfull = self._after_gone = START

    async def trim(self) -> None:
        """Remove what is not to be kept; of very many groups a part at a time, the next part when called again."""
        await self._delete(DELETE_OLD, age=self._age)
        for _ in range(PAGES):
            self._after_overfull = await self._trim_page(OVERFULL, DELETE_OVERFULL, self._after_overfull, grace=GRACE)
            if self._after_overfull == START:
                break
        for _ in range(PAGES_GONE):
            self._after_gone = await self._trim_page(_GONE, DELETE_GONE, self._after_gone, afterlife=AFTERLIFE)
            if self._after_gone == START:
                break

    async def _trim_page(self, find: Statement, delete: Statement, after: UUID, **spared: timedelta) -> UUID:
        """Find groups in a page of them, and delete what they have to give. After which group to go on."""
        last, group_ids = await self._db.fetch_one(find, after=after, page=_PAGE, **spared)
        if group_ids:
            await self._delete(delete, group_ids=group_ids, **spared)
        return last or START

    async def _delete(self, statement: Statement, **params: object) -> None:
        while await self._db.execute(statement, batch=BATCH, **params) == BATCH:
            pass
