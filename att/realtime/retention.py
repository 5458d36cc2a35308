"""Trimming of the log: events beyond a group's retention, events and epochs that are too old, logs of deleted groups.

Each statement deletes few events, and locks nothing that an append waits for. One node trims at a time.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from att.db.engine import Engine, Statement, prepare

GRACE = timedelta(minutes=1)  # kept at any retention, so that every node can read new events
AFTERLIFE = timedelta(hours=1)  # how long a deleted group's log is kept, so that its last members can read it
BATCH = 1_000  # events that one statement deletes
_PAGE = 5_000  # groups that one statement checks
PAGES = 20  # in one call; ten calls check a million groups
START = UUID(int=0)

# Reads the oldest event alone: the row of most groups shows that they have no surplus.
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
# Steps from one group to the next by the index, however many events lie between them.
_DELETED_GROUPS = prepare(
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
"""  # the number is "attlog"; a node that does not get the lock leaves the work to the one that has it
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
TRIM_EPOCHS = prepare(text("SELECT att_trim_epochs(CAST(:age AS interval), :batch)"))
DELETE_LOGS = prepare(text(_DELETE.format(_OF_GROUPS)))


class RetentionTask:
    """Trims the log to events not older than ``age``."""

    def __init__(self, db: Engine, age: timedelta) -> None:
        self._db = db
        self._age = max(age, GRACE)
        self._after_overfull = self._after_deleted = START

    async def trim(self) -> None:
        """Delete what retention does not cover. With very many groups, each call continues where the last stopped."""
        await self._delete(DELETE_OLD, age=self._age)
        while (await self._db.fetch_one(TRIM_EPOCHS, age=self._age, batch=BATCH))[0] == BATCH:
            pass
        for _ in range(PAGES):
            self._after_overfull = await self._trim_page(OVERFULL, DELETE_OVERFULL, self._after_overfull, grace=GRACE)
            if self._after_overfull == START:
                break

    async def delete_logs(self) -> None:
        """Delete the logs of groups that were deleted a while ago. To find them takes longer, and is less urgent."""
        for _ in range(PAGES):
            self._after_deleted = await self._trim_page(
                _DELETED_GROUPS, DELETE_LOGS, self._after_deleted, afterlife=AFTERLIFE
            )
            if self._after_deleted == START:
                break

    async def _trim_page(self, find: Statement, delete: Statement, after: UUID, **spared: timedelta) -> UUID:
        """Find groups in one page of them, and delete their surplus. Return the group after which to continue."""
        last, group_ids = await self._db.fetch_one(find, after=after, page=_PAGE, **spared)
        if group_ids:
            await self._delete(delete, group_ids=group_ids, **spared)
        return last or START

    async def _delete(self, statement: Statement, **params: object) -> None:
        while await self._db.execute(statement, batch=BATCH, **params) == BATCH:
            pass
