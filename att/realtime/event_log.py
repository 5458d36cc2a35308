"""Each group's log: its messages, its members' joining and leaving, and its changes, in one order.

The database writes it (see the migration "Added event table"): ``att_append`` the messages, ``att_redact`` what takes
them back, triggers on ``members`` and ``groups`` the rest. ``seq`` counts 1, 2, 3 … within a group. Retention removes
events from the beginning only.

Seqs are of an epoch (see the migration "Added epochs of the log"). Each read of seqs, and each append, also asks the
database for the epoch, so what a method returns is of the epoch that ``EventLog.epoch`` then names.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from uuid import UUID

from msgspec import Struct
from msgspec.json import Decoder
from sqlalchemy import text

from att.core.batch_loader import BatchLoader
from att.core.names import RAW_LENGTH, fold
from att.core.quotas import Quota, Quotas
from att.db.direct_connection import DirectConnection
from att.db.engine import DriverError, Engine, Statement, planned_once, prepare
from att.errors import (
    AttError,
    ConnectionLost,
    DatabaseUnavailable,
    FieldError,
    InvalidInput,
    KeyReused,
    NoSuchGroup,
    NotAMember,
    NotAnOwner,
    QuotaExceeded,
    Unavailable,
)
from att.realtime.log_tail import Snapshot

Kind = Literal["message", "joined", "left", "changed", "role", "redacted"]

_SLICE = 200  # events of one group in one read
_TOGETHER = 4_000  # events of all groups in one read for listeners who catch up
_SCANNED = 2_000  # events that are read for a page of one kind
SLICE_BYTES = 1024**2  # of their bodies; the last one may exceed it
READ_BYTES = 8 * 1024**2  # of all groups in one read
COUNTED = 100  # groups of a user; one with more is read alone, and the unread messages are not counted
POSITIONS_READ = 1_000  # positions of a user with more in one read
_LONG_READS = 2  # users with more than these whose positions are read at the same time
_LOWEST, _HIGHEST = UUID(int=0), UUID(int=2**128 - 1)
JOININGS_PART = 500  # of a user that are converted at once
KEY_LENGTH = 200
REDACTED = b"null"  # the body of a redacted message; those of others are objects
READ_ATTEMPTS = 3  # at a read that another server of the database than the present one has answered
UNACCEPTABLE = ("22", "54")  # SQLSTATEs of JSON that is invalid, or nested too deeply

log = logging.getLogger("att")


class _Redaction(Struct):
    of: int


_FACTS = Decoder(_Redaction)


class LogEvent(NamedTuple):
    """An event. ``user_id`` sent the message (None: by SQL), joined or left; ``body`` is the message.

    Other kinds have no ``user_id``. Their ``body`` is a JSON object of facts, as that of a leaving is. ``person`` has
    the present login, first and last name of a user who joined; None if their account is deleted.

    The leaving of the group's own id is the end of a large group: it was deleted, and all its members have left.
    """

    group_id: UUID
    name: str
    seq: int
    kind: Kind
    user_id: UUID | None
    at: datetime
    body: bytes
    person: tuple[str, str, str] | None = None

    @property
    def is_end(self) -> bool:
        """Return True if all members have left by this event."""
        return self.kind == "left" and self.user_id == self.group_id

    def is_move_of(self, user_id: UUID | None) -> bool:
        """Return True if this user has joined or left by this event."""
        return self.kind != "message" and self.user_id == user_id and user_id is not None

    @property
    def redacts(self) -> int | None:
        """Return the seq of the message that this event redacts."""
        return _FACTS.decode(self.body).of if self.kind == "redacted" else None

    def redacted(self) -> "LogEvent":
        """Return the message without its body."""
        return self._replace(body=REDACTED)

    def seen_by(self, user_id: UUID) -> "LogEvent":
        """Return the event as a member gets it: the end of the group is their own leaving."""
        return self._replace(user_id=user_id) if self.is_end else self


class Publish(NamedTuple):
    """A message to the group with this id or name. With a key it is appended once, however often it is tried.

    The key belongs to these bytes: with it any other body is refused.
    """

    group: UUID | str
    actor_id: UUID
    body: bytes
    key: str | None = None


class PublishResult(NamedTuple):
    """The logged message, and the epoch. For a repeat it is the first one's event, with its ``seq`` and ``at``."""

    event: LogEvent
    is_repeat: bool
    epoch: str


class Position(NamedTuple):
    """The last seq of a group's log, whether the user is a member, and their read marker.

    ``unread`` counts the messages of others above it, up to 100; it is None if they were not counted.
    """

    group_id: UUID
    name: str
    seq: int
    is_member: bool
    read: int = 0
    unread: int | None = None


class LogMoment(NamedTuple):
    """A time of the database in microseconds since 1970, the oldest running transaction, and the next one to begin."""

    at: int
    oldest: int
    next: int
    epoch: str

    def is_settled(self, later: "LogMoment") -> bool:
        """Return True if by a later moment all transactions had ended that had begun to write before this one.

        Then the log has all events with a time up to this moment's: each is logged in a transaction that has an id.
        """
        return self.epoch == later.epoch and self.next <= later.oldest


class Slice(NamedTuple):
    """Consecutive events, oldest first, and the last seq of the log: 0 when it is empty."""

    events: list[LogEvent]
    head: int


class Replay(NamedTuple):
    """A slice, whether the user was a member before it, and the group's name.

    If the user ``reads_all``, they may read what was logged while they were not a member, too.
    """

    slice: Slice
    was_member: bool
    name: str
    reads_all: bool = False

    def visible_to(self, user_id: UUID) -> Iterator[LogEvent]:
        """Yield the events that the user of the replay may see: those while a member, and their own joining and
        leaving.
        """
        is_in = self.was_member
        for event in (event.seen_by(user_id) for event in self.slice.events):
            is_own = event.is_move_of(user_id)
            if is_own:
                is_in = event.kind == "joined"
            if is_in or is_own or self.reads_all:
                yield event


class RecentEvents(NamedTuple):
    """The heads of the logs with recent events, and recent joinings: group, seq and user; by a read of this snapshot.

    ``number`` is that of the events.
    """

    snapshot: Snapshot
    number: int
    heads: Mapping[UUID, int]
    joined: Sequence[tuple[UUID, int, UUID]]


class LogPart(NamedTuple):
    """A part of a log: at most ``limit`` events after a seq, oldest first; or before one, newest first.

    With a ``kind`` only events of it.
    """

    after: int = 0
    before: int | None = None
    limit: int = 100
    kind: Literal["message"] | None = None


class LogPage(NamedTuple):
    """Events of a part of a log, and the ``after`` or ``before`` of the next part, None at the end."""

    events: Sequence[LogEvent]
    next: int | None


_REFUSALS: Mapping[str, type[AttError]] = MappingProxyType(
    {error.code: error for error in (NoSuchGroup, NotAMember, NotAnOwner)}
)


def _reading(sql: str) -> Statement:
    return prepare(text(sql))._replace(is_read=True)


# Arrays of ids are sent as text, which costs the driver less than a value for each.
APPEND = planned_once(
    prepare(
        text("""
    SELECT item, refusal, CAST(group_id AS text), name, seq, at, is_repeat, (SELECT c.id FROM att_current_epoch() AS c)
    FROM att_append(
        CAST(:group_ids AS uuid[]), CAST(:name_keys AS text[]), CAST(:actor_ids AS uuid[]),
        CAST(:bodies AS text[]), CAST(:keys AS text[]), CAST(:log_limit AS bigint)
    )
        """)
    ),
    "att_append",
)

FIRST_BODIES = _reading("""
    SELECT e.group_id, e.key, sha256(convert_to(CAST(e.body AS text), 'UTF8'))
    FROM unnest(CAST(:group_ids AS uuid[]), CAST(:keys AS text[])) AS w (group_id, key)
    JOIN events AS e ON e.group_id = w.group_id AND e.key = w.key
    WHERE CAST(e.body AS text) <> 'null'
""")

_NAMED = "(g.id = ANY (CAST(:group_ids AS uuid[])) OR g.name_key = ANY (CAST(:name_keys AS text[])))"
LOCK_HOLDERS = _reading(f"""
    WITH free AS (SELECT g.id FROM groups AS g WHERE {_NAMED} FOR NO KEY UPDATE SKIP LOCKED)
    SELECT g.id, g.name_key, CAST(g.xmax AS text) FROM groups AS g WHERE {_NAMED} AND g.id NOT IN (SELECT id FROM free)
""")  # noqa: S608 - of constants

# The log of a deleted group is read up to its end, if it has one. Whoever was a member then leaves by events behind it,
# in batches: these tell who was a member.
_HEAD = """coalesce(
    g.seq,
    (
        SELECT e.seq FROM events AS e
        WHERE e.actor_id = w.group_id AND e.group_id = w.group_id AND e.kind <> 'message' LIMIT 1
    ),
    (SELECT max(e.seq) FROM events AS e WHERE e.group_id = w.group_id),
    0
)"""
_EPOCH = "(SELECT att_epoch())"
# A subquery for each joining: a join might read all users.
_PERSON = """CASE WHEN f.kind = 'joined' THEN (
    SELECT ARRAY[u.login, u.first_name, u.last_name] FROM users AS u WHERE u.id = f.actor_id
) END"""
# Bodies are stored uncompressed, so their size is known without reading them.
READ = _reading(f"""
    SELECT w.group_id, coalesce(g.name, ''), h.seq, f.seq, f.kind, f.actor_id, f.at, f.body, {_PERSON}, {_EPOCH}
    FROM unnest(CAST(:group_ids AS uuid[]), CAST(:afters AS bigint[])) AS w (group_id, after)
    LEFT JOIN groups AS g ON g.id = w.group_id
    CROSS JOIN LATERAL (SELECT {_HEAD} AS seq OFFSET 0) AS h
    LEFT JOIN LATERAL (
        SELECT s.seq, s.kind, s.actor_id, s.at, CAST(s.body AS text) AS body
        FROM (
            SELECT n.*, sum(n.size) OVER (ORDER BY n.seq) - n.size AS size_before
            FROM (
                SELECT e.*, coalesce(pg_column_size(e.body), 0) AS size
                FROM events AS e
                WHERE e.group_id = w.group_id AND e.seq > w.after AND e.seq <= h.seq
                ORDER BY e.seq LIMIT :limit
            ) AS n
        ) AS s
        WHERE s.size_before < :size
    ) AS f ON true
    ORDER BY w.group_id, f.seq
""")  # noqa: S608 - of constants
_OWN_EVENTS = "e.group_id = w.group_id AND e.actor_id = :user_id AND e.kind <> 'message'"
_WAS_MEMBER = f"""coalesce(
    (SELECT e.kind = 'joined' FROM events AS e WHERE {_OWN_EVENTS} AND e.seq <= w.after ORDER BY e.seq DESC LIMIT 1),
    (SELECT e.kind = 'left' FROM events AS e WHERE {_OWN_EVENTS} AND e.seq > w.after ORDER BY e.seq LIMIT 1),
    EXISTS (SELECT FROM members AS m WHERE m.group_id = w.group_id AND m.user_id = :user_id)
)"""  # noqa: S608 - of constants
_READS_ALL = """coalesce(
    g.history = 'all' AND EXISTS (SELECT FROM members AS m WHERE m.group_id = w.group_id AND m.user_id = :user_id),
    false
)"""
# Of many users, a row for each: the driver would convert every value by itself.
READ_FROM = planned_once(
    _reading(f"""
    SELECT w.place, coalesce(g.name, ''), h.seq, {_WAS_MEMBER.replace(":user_id", "w.user_id")},
        {_READS_ALL.replace(":user_id", "w.user_id")}, (
            SELECT CAST(json_agg(json_build_array(f.seq, f.kind, f.actor_id, f.at, f.body, {_PERSON}) ORDER BY f.seq)
                AS text)
            FROM (
                SELECT s.seq, s.kind, s.actor_id, s.at, CAST(s.body AS text) AS body
                FROM (
                    SELECT n.*, sum(n.size) OVER (ORDER BY n.seq) - n.size AS size_before
                    FROM (
                        SELECT e.*, coalesce(pg_column_size(e.body), 0) AS size
                        FROM events AS e
                        WHERE e.group_id = w.group_id AND e.seq > w.after AND e.seq <= h.seq
                        ORDER BY e.seq LIMIT w.most
                    ) AS n
                ) AS s
                WHERE s.size_before < w.size
            ) AS f
        ), {_EPOCH}
    FROM unnest(
        CAST(:group_ids AS uuid[]), CAST(:user_ids AS uuid[]), CAST(:afters AS bigint[]), CAST(:limits AS bigint[]),
        CAST(:sizes AS bigint[])
    ) WITH ORDINALITY AS w (group_id, user_id, after, most, size, place)
    LEFT JOIN groups AS g ON g.id = w.group_id
    CROSS JOIN LATERAL (SELECT {_HEAD} AS seq OFFSET 0) AS h
"""),  # noqa: S608 - of constants
    "att_read_from",
)

# A page of one group, in either direction. The moves of the user are read with it, whatever its kind, since they tell
# what the user may see. Seqs have no gaps, so a range of them has as many events as it is long, at most.
_PAGE = f"""
    SELECT h.seq, o.seq, {_WAS_MEMBER}, {_READS_ALL}, f.size_to,
        w.group_id, coalesce(g.name, ''), f.seq, f.kind, f.actor_id, f.at, f.body, {_EPOCH}
    FROM (SELECT CAST(:group_id AS uuid) AS group_id, CAST(:after AS bigint) AS after) AS w
    LEFT JOIN groups AS g ON g.id = w.group_id
    CROSS JOIN LATERAL (SELECT {_HEAD} AS seq OFFSET 0) AS h
    CROSS JOIN LATERAL (
        SELECT coalesce(
            (SELECT e.seq FROM events AS e WHERE e.group_id = w.group_id ORDER BY e.seq LIMIT 1), h.seq + 1
        ) AS seq OFFSET 0
    ) AS o
    LEFT JOIN LATERAL (
        SELECT s.seq, s.kind, s.actor_id, s.at, CAST(s.body AS text) AS body, s.size_to
        FROM (
            SELECT n.*, sum(n.size) OVER (ORDER BY n.seq %(order)s) AS size_to
            FROM (
                SELECT e.*, coalesce(pg_column_size(e.body), 0) AS size
                FROM events AS e
                WHERE e.group_id = w.group_id AND e.seq > %(low)s AND e.seq <= %(high)s
                    AND (:kind IS NULL OR e.kind = :kind OR e.actor_id = :user_id)
                ORDER BY e.seq %(order)s LIMIT :limit
            ) AS n
        ) AS s
        WHERE s.size_to - s.size < :size
    ) AS f ON true
    ORDER BY f.seq
"""  # noqa: S608 - of constants
PAGE_AFTER = _reading(
    _PAGE
    % {
        "order": "ASC",
        "low": "w.after",
        "high": f"least(h.seq, least(h.seq, greatest(w.after, o.seq - 1)) + {_SCANNED})",
    }
)
PAGE_BEFORE = _reading(
    _PAGE % {"order": "DESC", "low": f"least(w.after, h.seq) - {_SCANNED}", "high": "least(w.after, h.seq)"}
)
_LAST_MOVE = _reading(f"""
    SELECT e.seq, {_EPOCH} FROM events AS e
    WHERE e.group_id = :group_id AND e.actor_id = :user_id AND e.kind <> 'message' AND e.seq < :before
    ORDER BY e.seq DESC LIMIT 1
""")  # noqa: S608 - of constants

# One page of them. Both parts are read in the order of an index. joined_at is NULL for the groups of the second part,
# and is_member in a last row, which has the end of that part if there may be more of it.
POSITIONS = _reading(f"""
    WITH here AS MATERIALIZED (
        SELECT m.group_id, m.joined_at FROM members AS m
        WHERE m.user_id = :user_id
            AND (m.joined_at, m.group_id) > (CAST(:joined_at AS timestamp with time zone), CAST(:joined_id AS uuid))
        ORDER BY m.joined_at, m.group_id LIMIT :limit
    ), logged AS MATERIALIZED (
        SELECT DISTINCT e.group_id FROM events AS e
        WHERE e.actor_id = :user_id AND e.kind <> 'message' AND e.group_id > CAST(:logged_id AS uuid)
        ORDER BY e.group_id LIMIT :limit
    )
    SELECT w.group_id, coalesce(g.name, ''), {_HEAD}, g.id IS NOT NULL, w.joined_at, coalesce(r.seq, 0),
        CASE
            WHEN r.seq >= g.seq THEN 0
            WHEN :counts AND g.id IS NOT NULL AND (SELECT count(*) FROM here) <= :most_counted
                THEN att_unread(g.id, :user_id, coalesce(r.seq, 0), g.seq, g.history = 'all')
        END,
        {_EPOCH}
    FROM here AS w LEFT JOIN groups AS g ON g.id = w.group_id
    LEFT JOIN read_markers AS r ON r.user_id = :user_id AND r.group_id = w.group_id
    UNION ALL
    SELECT w.group_id, coalesce(g.name, ''), {_HEAD}, false, NULL, 0, NULL, {_EPOCH}
    FROM logged AS w LEFT JOIN groups AS g ON g.id = w.group_id
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.group_id = w.group_id AND m.user_id = :user_id)
    UNION ALL
    SELECT CASE
        WHEN (SELECT count(*) FROM logged) = :limit
            THEN (SELECT l.group_id FROM logged AS l ORDER BY l.group_id DESC LIMIT 1)
    END, '', 0, NULL, NULL, 0, NULL, {_EPOCH}
""")  # noqa: S608 - of constants
# Those of many users, a row for each: the driver would convert every value by itself. Of a user with more than a few
# it only tells that.
POSITIONS_OF_MANY = planned_once(
    _reading(f"""
    SELECT u.place, p.is_more, p.positions, {_EPOCH}
    FROM unnest(CAST(:user_ids AS uuid[]), CAST(:counts AS boolean[])) WITH ORDINALITY AS u (user_id, counts, place)
    CROSS JOIN LATERAL (
        WITH here AS MATERIALIZED (
            SELECT m.group_id FROM members AS m WHERE m.user_id = u.user_id
            ORDER BY m.joined_at, m.group_id LIMIT CAST(:counted AS bigint) + 1
        ), logged AS MATERIALIZED (
            SELECT DISTINCT e.group_id FROM events AS e WHERE e.actor_id = u.user_id AND e.kind <> 'message'
            ORDER BY e.group_id LIMIT CAST(:counted AS bigint) + 1
        )
        SELECT s.is_more, CASE WHEN NOT s.is_more THEN (
            SELECT CAST(json_agg(json_build_array(a.group_id, a.name, a.seq, a.is_member, a.read, a.unread)) AS text)
            FROM (
                SELECT w.group_id, coalesce(g.name, '') AS name, {_HEAD} AS seq, g.id IS NOT NULL AS is_member,
                    coalesce(r.seq, 0) AS read,
                    CASE
                        WHEN r.seq >= g.seq THEN 0
                        WHEN u.counts AND g.id IS NOT NULL
                            THEN att_unread(g.id, u.user_id, coalesce(r.seq, 0), g.seq, g.history = 'all')
                    END AS unread
                FROM here AS w LEFT JOIN groups AS g ON g.id = w.group_id
                LEFT JOIN read_markers AS r ON r.user_id = u.user_id AND r.group_id = w.group_id
                UNION ALL
                SELECT w.group_id, coalesce(g.name, ''), {_HEAD}, false, 0, NULL
                FROM logged AS w LEFT JOIN groups AS g ON g.id = w.group_id
                WHERE NOT EXISTS (
                    SELECT FROM members AS m WHERE m.group_id = w.group_id AND m.user_id = u.user_id
                )
            ) AS a
        ) END AS positions
        FROM (
            SELECT (SELECT count(*) FROM here) > CAST(:counted AS bigint)
                OR (SELECT count(*) FROM logged) > CAST(:counted AS bigint) AS is_more
            OFFSET 0
        ) AS s
    ) AS p
"""),  # noqa: S608 - of constants
    "att_positions",
)
CURRENT_EPOCH = prepare(text("SELECT c.id FROM att_current_epoch() AS c"))
_HELD = _reading(f"""
    SELECT h.group_id, h.held, {_EPOCH} FROM att_held(CAST(:group_ids AS uuid[]), CAST(:epoch AS text)) AS h
""")  # noqa: S608 - of constants
# The xmax of a snapshot is only above the last transaction that has ended; the age counts from the next one to begin.
_MOMENT = _reading(f"""
    SELECT CAST(1e6 * extract(epoch FROM statement_timestamp()) AS bigint), CAST(CAST(s.xmin AS text) AS bigint),
        CAST(CAST(s.xmax AS text) AS bigint) + age(CAST(s.xmax AS xid)), {_EPOCH}
    FROM (SELECT pg_snapshot_xmin(n), pg_snapshot_xmax(n) FROM pg_current_snapshot() AS n) AS s (xmin, xmax)
""")  # noqa: S608 - of constants
# Where no event of that time is kept, what retention has removed was of before it if the database keeps any event of
# that time (events are removed by age in the order of time), and the group has not had too many since.
_SEQS_AT = _reading(f"""
    SELECT w.group_id, coalesce(
        (
            SELECT e.seq FROM events AS e
            WHERE e.group_id = w.group_id AND e.at <= t.at ORDER BY e.seq DESC LIMIT 1
        ),
        CASE WHEN o.seq > g.seq - g.retention + 1 AND (SELECT min(e.at) FROM events AS e) <= t.at THEN o.seq - 1 END,
        0
    ), {_EPOCH}
    FROM unnest(CAST(:group_ids AS uuid[])) AS w (group_id)
    CROSS JOIN (SELECT to_timestamp(0) + CAST(:at AS bigint) * interval '1 microsecond' AS at OFFSET 0) AS t
    LEFT JOIN groups AS g ON g.id = w.group_id
    CROSS JOIN LATERAL (
        SELECT coalesce(
            (SELECT e.seq FROM events AS e WHERE e.group_id = w.group_id ORDER BY e.seq LIMIT 1), g.seq + 1
        ) AS seq OFFSET 0
    ) AS o
""")  # noqa: S608 - of constants
_HEADS = _reading(f"""
    SELECT w.group_id, {_HEAD}, {_EPOCH}
    FROM unnest(CAST(:group_ids AS uuid[])) AS w (group_id) LEFT JOIN groups AS g ON g.id = w.group_id
""")  # noqa: S608 - of constants
# A later read may find the same events again. Clocks are set back by less than a second, or rarely. The third column is
# the number of the next transaction; xmax is only above the last one that has ended.
READ_RECENT = _reading(f"""
    WITH tail AS MATERIALIZED (
        SELECT e.group_id, e.seq, CASE WHEN e.kind = 'joined' THEN e.actor_id END AS joined FROM events AS e
        WHERE e.at > CAST(:since AS timestamp with time zone) - interval '1 second' LIMIT :limit
    )
    SELECT now(), CAST(CAST(pg_snapshot_xmin(s.it) AS text) AS bigint),
        CAST(CAST(pg_snapshot_xmax(s.it) AS text) AS bigint) + age(CAST(pg_snapshot_xmax(s.it) AS xid)),
        (SELECT count(*) FROM tail), w.group_id, {_HEAD}, w.seqs, w.joined, {_EPOCH}
    FROM pg_current_snapshot() AS s (it)
    LEFT JOIN (
        SELECT t.group_id, array_agg(t.seq) FILTER (WHERE t.joined IS NOT NULL) AS seqs,
            array_agg(t.joined) FILTER (WHERE t.joined IS NOT NULL) AS joined
        FROM tail AS t GROUP BY t.group_id
    ) AS w ON true
    LEFT JOIN groups AS g ON g.id = w.group_id
""")  # noqa: S608 - of constants
# A row for each user, as text: the driver converts all rows at once, and there may be very many groups.
JOININGS = _reading(f"""
    SELECT o.user_id, string_agg(concat_ws(',', o.group_id, o.seqs), ' '), {_EPOCH} FROM (
        SELECT j.user_id, j.group_id, string_agg(CAST(j.seq AS text), ',' ORDER BY j.seq) AS seqs FROM (
            SELECT m.user_id, m.group_id, NULL AS seq FROM members AS m JOIN groups AS g ON g.id = m.group_id
            WHERE m.user_id = ANY (CAST(:user_ids AS uuid[]))
            UNION ALL
            SELECT e.actor_id, e.group_id, e.seq FROM events AS e
            WHERE e.actor_id = ANY (CAST(:user_ids AS uuid[])) AND e.kind <> 'message' AND e.kind = 'joined'
        ) AS j
        GROUP BY j.user_id, j.group_id
    ) AS o
    GROUP BY o.user_id
""")  # noqa: S608 - of constants

ReadHeld = Callable[[Collection[UUID]], Awaitable[dict[UUID, int]]]
EpochHandler = Callable[[str, ReadHeld], Awaitable[None]]


async def _keep_nothing(_epoch: str, _read_held: ReadHeld) -> None:
    pass


class _From(NamedTuple):
    """A part of a group's log that a user has missed."""

    group_id: UUID
    user_id: UUID
    after: int
    limit: int
    size: int


class _Entry(NamedTuple):
    """An event as the database writes it."""

    seq: int
    kind: Kind
    user_id: UUID | None
    at: datetime
    body: str | None
    person: tuple[str, str, str] | None


_ENTRIES = Decoder(list[_Entry])
_POSITIONS = Decoder(list[Position])


class _PositionsRead(NamedTuple):
    """The positions of a user in an epoch; None if there are more than a few."""

    positions: list[Position] | None
    epoch: str


@dataclass
class _PositionsPage:
    """The keys after which the next page of positions begins."""

    joined_at: datetime | str = "-infinity"
    joined_id: UUID = _LOWEST
    logged_id: UUID = _LOWEST


class EventLog:
    """The logs in the database. ``epoch`` is that of the last answer, and empty before the first.

    ``on_new_epoch`` is called with each later one, before anything of it is returned, and with a function that reads up
    to which seq what was known of groups still holds.
    """

    def __init__(self, db: Engine, quotas: Quotas | None = None) -> None:
        self.epoch = ""
        self.on_new_epoch: EpochHandler = _keep_nothing
        self._db = db
        self._writer = DirectConnection(db)
        self._quotas = quotas or Quotas()
        self._changing = asyncio.Lock()
        self._long_reads = asyncio.Semaphore(_LONG_READS)
        self._replays = BatchLoader(self._read_many_from, db.batches)
        self._few_positions = BatchLoader(self._read_few_positions, db.batches)

    async def append(self, publishes: Sequence[Publish]) -> list[PublishResult | AttError]:
        """Append in this order, in one transaction. Return a result or the reason of the refusal for each.

        Raise what the engine raises, and InvalidInput if the database rejects a body: then nothing was appended, and
        each is to be tried alone. Raise ConnectionLost if they may have been appended to a log that is not the present.
        """
        results: list[Any] = [_fault(publish) for publish in publishes]
        indexes = [index for index, fault in enumerate(results) if fault is None]
        rows = await self._append([publishes[index] for index in indexes]) if indexes else []
        for row in rows:
            index = indexes[row[0] - 1]
            results[index] = self._outcome(publishes[index], row)
        await self._refuse_reused_keys(publishes, results)
        return results

    async def lock_holders(self, groups: Collection[UUID | str]) -> list[tuple[UUID, str, str]]:
        """Return those of these groups that another transaction has locked: id, name key and transaction."""
        ids = _array(group for group in groups if isinstance(group, UUID))
        keys = [key for group in groups if (key := key_of(group))]
        return await self._db.fetch_all(LOCK_HOLDERS, group_ids=ids, name_keys=keys)

    async def read(self, positions: Mapping[UUID, int]) -> dict[UUID, Slice]:
        """Return events above each position: at most ``_SLICE``, ``SLICE_BYTES`` each, ``READ_BYTES`` in all."""
        size = min(SLICE_BYTES, READ_BYTES // max(len(positions), 1))
        rows = await self._read(
            READ, group_ids=_array(positions), afters=_array(positions.values()), limit=_SLICE, size=size
        )
        slices: dict[UUID, Slice] = {}
        for row in rows:
            slices.setdefault(row[0], Slice([], row[2])).events.extend(_events(row))
        return slices

    async def read_from(
        self, group_id: UUID, user_id: UUID, after: int, limit: int = _SLICE, size: int = SLICE_BYTES
    ) -> Replay:
        """Read one group like ``read``, and find whether the user was a member after the event ``after``.

        The bodies have about ``size`` bytes; at least one event is read. With many others there may be fewer.
        """
        while True:
            replay, epoch = await self._replays.load(_From(group_id, user_id, after, limit, max(size, 1)))
            if epoch == self.epoch:
                return replay

    async def page(self, group_id: UUID, user_id: UUID | None, part: LogPart) -> LogPage:
        """Return a part of one group's log, as far as the user may read it; None may read all.

        A page may have fewer events than its limit, or none, though more follow.
        """
        after = part.after if part.before is None else part.before - 1
        where = {"group_id": group_id, "user_id": user_id, "after": after, "kind": part.kind}
        statement = PAGE_AFTER if part.before is None else PAGE_BEFORE
        rows = await self._read(statement, **where, limit=part.limit, size=SLICE_BYTES)
        head, oldest, was_member, reads_all, *_ = rows[0]
        events = [_event(*row[5:-1], None) for row in rows if row[7] is not None]
        if move := next((event for event in events if event.is_move_of(user_id)), None):
            was_member = move.kind == "left"  # before the first event; above it is as of ``after``
        replay = Replay(Slice(events, head), was_member, rows[0][6], reads_all or user_id is None)
        seen = events if user_id is None else [*replay.visible_to(user_id)]
        wanted = [event for event in seen if part.kind in (None, event.kind)]
        is_full = len(events) == part.limit or max(row[4] or 0 for row in rows) >= SLICE_BYTES
        if part.before is None:
            last = events[-1].seq if is_full else min(max(after, oldest - 1) + _SCANNED, head)
            return LogPage(wanted, last if last < head else None)
        first = events[0].seq if is_full else min(after, head) - _SCANNED + 1
        if not (replay.was_member or replay.reads_all):  # of all that is below, only their earlier times
            moves = await self._read(_LAST_MOVE, group_id=group_id, user_id=user_id, before=first)
            first = moves[0][0] + 1 if moves else oldest
        return LogPage(wanted[::-1], first if first > oldest else None)

    async def positions(self, user_id: UUID, *, counts: bool = False) -> list[Position]:
        """Return the positions of the user's groups, and of those whose log has their joining or leaving.

        They are those of one moment after the call, unless there are more than ``POSITIONS_READ``. ``counts`` asks for
        the numbers of unread messages, of a user in at most ``COUNTED`` groups.
        """
        while True:
            few = await self._few_positions.load((user_id, counts))
            if few.positions is not None and few.epoch == self.epoch:
                return few.positions
            if few.positions is not None:
                continue
            page = _PositionsPage()
            found: dict[UUID, Position] = {}
            is_more, epoch = await self._read_positions(user_id, page, found, counts=counts), self.epoch
            if is_more:
                async with self._long_reads:
                    while await self._read_positions(user_id, page, found):
                        pass
            if epoch == self.epoch:
                return [*found.values()]

    async def heads(self, group_ids: Collection[UUID]) -> dict[UUID, int]:
        """Return the last seq of each log, 0 when it is empty."""
        return {row[0]: row[1] for row in await self._read(_HEADS, group_ids=_array(group_ids))}

    async def recent(self, since: datetime | None, limit: int) -> RecentEvents:
        """Return what at most ``limit`` events from a time on tell; nothing without a time."""
        rows = await self._read(READ_RECENT, since=since, limit=limit)
        found = [row[4:8] for row in rows if row[4] is not None]
        joined = [
            (group_id, seq, user_id)
            for group_id, _, seqs, user_ids in found
            for seq, user_id in zip(seqs or (), user_ids or (), strict=True)
        ]
        return RecentEvents(Snapshot(*rows[0][:3]), rows[0][3], {row[0]: row[1] for row in found}, joined)

    async def held(self, epoch: str, group_ids: Collection[UUID]) -> dict[UUID, int]:
        """Return up to which seq positions of an epoch hold in the present one: 0 if the epoch is not known."""
        rows = await self._read(_HELD, group_ids=_array(group_ids), epoch=epoch)
        return {row[0]: row[1] for row in rows}

    async def moment(self) -> LogMoment:
        """Return the present moment."""
        [row] = await self._read(_MOMENT)
        return LogMoment(*row)

    async def seqs_at(self, group_ids: Sequence[UUID], at: int) -> dict[UUID, int]:
        """Return the last seq of each group at this time, or a lower one if that is not known any more."""
        rows: list[Any] = []
        for start in range(0, len(group_ids), POSITIONS_READ):
            rows += await self._read(_SEQS_AT, group_ids=_array(group_ids[start : start + POSITIONS_READ]), at=at)
        return {row[0]: row[1] for row in rows}

    async def joinings(self, user_ids: Collection[UUID]) -> AsyncIterator[tuple[UUID, UUID, list[int]]]:
        """Yield each of these users with each group that they belong to, or joined according to the log.

        With them come the seqs of their joinings in order; none if they are no longer in the log.
        """
        for user_id, items, _ in await self._read(JOININGS, user_ids=_array(user_ids)):
            for number, item in enumerate(items.split(" ")):
                if number % JOININGS_PART == JOININGS_PART - 1:
                    await asyncio.sleep(0)
                group_id, *seqs = item.split(",")
                yield user_id, UUID(group_id), [*map(int, seqs)]

    async def _read(self, statement: Statement, **params: Any) -> list[Any]:
        """Return the rows, whose last column is the epoch, from the server that has the present one."""
        for _ in range(READ_ATTEMPTS):
            rows = await self._db.fetch_all(statement, **params)
            if not rows or await self._is_present(rows[0][-1]):
                return rows
        raise DatabaseUnavailable("the servers of the database do not have the same log")

    async def _is_present(self, epoch: str | None) -> bool:
        """Return True if an answer of this epoch is of the present one. None is one that has ended."""
        if epoch != self.epoch:
            async with self._changing:
                if epoch != self.epoch:
                    await self._find_epoch()
        return epoch == self.epoch

    async def _find_epoch(self) -> None:
        """Ask the server to which new connections lead, and tell the handler if its epoch is a new one."""
        if self.epoch:
            await self._db.reconnect()
        (present,) = await self._db.fetch_one(CURRENT_EPOCH)
        if self.epoch not in ("", present):
            before = self.epoch

            async def read_held(group_ids: Collection[UUID]) -> dict[UUID, int]:
                rows = await self._db.fetch_all(_HELD, group_ids=_array(group_ids), epoch=before)
                if any(row[-1] != present for row in rows):
                    raise DatabaseUnavailable  # it has changed once more: whoever has asked tries again
                return {row[0]: row[1] for row in rows}

            log.warning("the log has a new epoch, %s", present)
            await self.on_new_epoch(present, read_held)
        self.epoch = present

    async def _read_many_from(self, parts: Sequence["_From"]) -> list[tuple[Replay, str]]:
        """Read all of these parts, together no more than one read may have."""
        groups, users, afters, limits, sizes = zip(*parts, strict=True)
        most, most_bytes = max(_TOGETHER // len(parts), 1), READ_BYTES // len(parts)
        rows = await self._read(
            READ_FROM,
            group_ids=_array(groups),
            user_ids=_array(users),
            afters=_array(afters),
            limits=_array(min(limit, most) for limit in limits),
            sizes=_array(min(size, most_bytes) for size in sizes),
        )
        found = {}
        for place, name, head, was_member, reads_all, entries, epoch in rows:
            group_id = groups[place - 1]
            events = [
                LogEvent(group_id, name, seq, kind, user_id, at, (body or "").encode(), person)
                for seq, kind, user_id, at, body, person in _ENTRIES.decode(entries or "[]")
            ]
            found[place] = Replay(Slice(events, head), was_member, name, reads_all), epoch
        return [found[place] for place in range(1, len(parts) + 1)]

    async def _read_few_positions(self, keys: Sequence[tuple[UUID, bool]]) -> list[_PositionsRead]:
        """Read the positions of these users, with or without unread messages."""
        users, counts = zip(*keys, strict=True)
        rows = await self._read(POSITIONS_OF_MANY, user_ids=_array(users), counts=_array(counts), counted=COUNTED)
        found = {
            place: _PositionsRead(None if is_more else _POSITIONS.decode(few or "[]"), epoch)
            for place, is_more, few, epoch in rows
        }
        return [found[place] for place in range(1, len(keys) + 1)]

    async def _read_positions(
        self, user_id: UUID, page: "_PositionsPage", found: dict[UUID, Position], *, counts: bool = False
    ) -> bool:
        """Read a page of positions. Return True if there may be more."""
        rows = await self._read(
            POSITIONS, user_id=user_id, limit=POSITIONS_READ, most_counted=COUNTED, counts=counts, **vars(page)
        )
        for row in rows:
            if row[3] is not None:
                found.setdefault(row[0], Position(*row[:4], *row[5:7]))
        here = [(row[4], row[0]) for row in rows if row[4] is not None]
        rest = [row[0] for row in rows if row[3] is None and row[0] is not None]
        page.joined_at, page.joined_id = max(here) if len(here) == POSITIONS_READ else ("infinity", _HIGHEST)
        page.logged_id = rest[0] if rest else _HIGHEST
        return page != _PositionsPage("infinity", _HIGHEST, _HIGHEST)

    async def _refuse_reused_keys(self, publishes: Sequence[Publish], results: list[Any]) -> None:
        """Replace the result of each repeat whose body is not that of the first message, if that is not redacted."""
        repeats = [index for index, result in enumerate(results) if getattr(result, "is_repeat", False)]
        if not repeats:
            return
        groups, keys = [results[index].event.group_id for index in repeats], [publishes[index].key for index in repeats]
        try:
            rows = await self._db.fetch_all(FIRST_BODIES, group_ids=_array(groups), keys=keys)
        except Unavailable as error:  # the other messages are in the log
            rows = []
            for index in repeats:
                results[index] = error
        digests = {(group_id, key): bytes(digest) for group_id, key, digest in rows}
        for index, group_id, key in zip(repeats, groups, keys, strict=True):
            own = hashlib.sha256(publishes[index].body).digest()
            if digests.get((group_id, key), own) != own:
                results[index] = KeyReused()

    async def _append(self, publishes: Sequence[Publish]) -> list[Any]:
        rows = await self._send(publishes)
        try:
            is_present = await self._is_present(rows[0][-1])
        except Unavailable as error:  # any other error than this would say that nothing was appended
            raise ConnectionLost from error
        if not is_present:
            raise ConnectionLost
        return rows

    async def _send(self, publishes: Sequence[Publish]) -> list[Any]:
        groups = [publish.group for publish in publishes]
        keys = [publish.key for publish in publishes]
        is_named = any(isinstance(group, str) for group in groups)
        try:
            return await self._writer.fetch_all(
                APPEND,
                group_ids=_array("NULL" if isinstance(group, str) else group for group in groups),
                name_keys=[key_of(group) for group in groups] if is_named else None,
                actor_ids=_array(publish.actor_id for publish in publishes),
                bodies=[publish.body.decode() for publish in publishes],
                keys=keys if any(keys) else None,
                log_limit=self._quotas.limit(Quota.GROUP_LOG),
            )
        except DriverError as error:
            if not (error.pgcode or "").startswith(UNACCEPTABLE):
                raise
            raise _invalid("body", "is not JSON that the database accepts") from error

    def _outcome(self, publish: Publish, row: Any) -> PublishResult | AttError:
        _, refusal, group_id, name, seq, at, is_repeat, epoch = row
        if refusal == QuotaExceeded.code:
            return self._quotas.exceeded(Quota.GROUP_LOG)
        if refusal:
            return _REFUSALS[refusal]()
        group = publish.group if isinstance(publish.group, UUID) else UUID(group_id)
        event = LogEvent(group, name, seq, "message", publish.actor_id, at, publish.body)
        return PublishResult(event, is_repeat, epoch)


def key_of(group: UUID | str) -> str | None:
    """Return the key of a group's name; None for an id, and for an impossible name."""
    return None if isinstance(group, UUID) or not _is_sendable(group, RAW_LENGTH) else fold(group)


def _array(values: Iterable[object]) -> str:
    return f"{{{','.join(map(str, values))}}}"


def _events(row: Any) -> Iterable[LogEvent]:
    group_id, name, _, seq, *rest, _ = row
    if seq is not None:
        yield _event(group_id, name, seq, *rest)


def _event(*row: Any) -> LogEvent:
    *members, body, person = row
    return LogEvent._make((*members, (body or "").encode(), person and tuple(person)))


def _fault(publish: Publish) -> AttError | None:
    """Return why the driver cannot send it, if so: PostgreSQL's text has no NUL and nothing but Unicode."""
    if isinstance(publish.group, str) and not _is_sendable(publish.group, RAW_LENGTH):
        return NoSuchGroup()
    if publish.key is not None and not (publish.key and _is_sendable(publish.key, KEY_LENGTH)):
        return _invalid("key", f"must have 1 to {KEY_LENGTH} characters")
    try:
        publish.body.decode()
    except UnicodeDecodeError:
        return _invalid("body", "must be UTF-8")
    return _invalid("body", "must not contain NUL") if b"\0" in publish.body else None


def _is_sendable(text: str, limit: int) -> bool:
    if len(text) > limit or "\0" in text:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput([FieldError(field, message)])
