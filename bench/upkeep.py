"""Cost of idle listeners, and of data on the disk: the inputs of scaling.py that no other question measures.

The periodic comparison with the log (att/realtime/log_reader.py) runs in this process, with the statements and the hub
of a server, so the server's CPU time is this process's.
"""

import gc
import itertools
import os
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import UUID

from harness import REPEATS, Account, Database, cpu_of, database, figure, run, shuffled
from load import json_body
from report import Report

from att.db.engine import Engine
from att.realtime.event_log import EventLog, Position, Publish
from att.realtime.hub import Hub
from att.realtime.log_reader import _CHUNK, _USERS
from att.realtime.registry import Dialect, Listener, Registry

USERS = 1_000  # that listen
GROUPS = 20  # of each of them, of its own
EVENTS = 20_000
BATCH = 64  # events that are appended at once
BODY = json_body(100)
MAKE_GROUPS = """
INSERT INTO groups (name, name_key)
SELECT 'of ' || i || ' ' || u, 'of ' || i || ' ' || u
FROM unnest(CAST(%s AS uuid[])) AS u, generate_series(1, %s) AS i RETURNING id
"""
MAKE_MEMBERS = """
INSERT INTO members (group_id, user_id, role)
SELECT g, u, 'owner' FROM unnest(CAST(%s AS uuid[]), CAST(%s AS uuid[])) AS m (g, u)
"""
TABLES = ("users", "groups", "members", "events", "history")

T = TypeVar("T")


class Silent:
    """A ``ListenerConnection`` that accepts everything."""

    def send(self, _frame: bytes) -> bool:
        """Accept it."""
        return True


def sizes(db: Database) -> dict[str, int]:
    """Return the bytes of each table with its indexes, and under ``wal`` all bytes ever written to the WAL."""
    [(wal,)] = db.run("SELECT CAST(pg_current_wal_insert_lsn() - '0/0' AS bigint)")
    return {"wal": wal} | {table: db.run("SELECT pg_total_relation_size(%s)", table)[0][0] for table in TABLES}


def grown(db: Database, work: Callable[[], T]) -> tuple[T, dict[str, int]]:
    """Return the result of the work, and the bytes that it has added."""
    before = sizes(db)
    result = work()
    return result, {name: size - before[name] for name, size in sizes(db).items()}


def members(db: Database, report: Report) -> tuple[list[Account], dict[UUID, list[UUID]]]:
    """Create users, and groups of each of them. Return the bytes of these."""
    accounts = db.people(USERS)
    ids = [str(account.id) for account in accounts]
    rows, made = grown(db, lambda: db.run(MAKE_GROUPS, ids, GROUPS))
    report.add("the disk", "a group", "bytes", figure([made["groups"] / len(rows)]))
    report.add("the disk", "history of a new group", "bytes", figure([made["history"] / len(rows)]))
    groups = [str(row[0]) for row in rows]
    owners = [ids[place // GROUPS] for place in range(len(groups))]
    _, joined = grown(db, lambda: _join(db, groups, owners))
    for what in ("members", "history", "events"):
        report.add("the disk", f"a joining, in {what}", "bytes", figure([joined[what] / len(groups)]))
    report.add("the disk", "a joining, in the WAL", "bytes", figure([joined["wal"] / len(groups)]))
    theirs = iter(map(UUID, groups))
    return accounts, {account.id: list(itertools.islice(theirs, GROUPS)) for account in accounts}


def _join(db: Database, groups: Sequence[str], owners: Sequence[str]) -> None:
    for some, theirs in zip(_chunks(groups), _chunks(owners), strict=True):
        db.run(MAKE_MEMBERS, [*some], [*theirs])


async def events(db: Database, log: EventLog, account: Account, group: UUID, report: Report) -> None:
    """Append messages, and remove them."""
    drafts = [Publish(group, account.id, BODY)] * BATCH
    before, [(began,)] = sizes(db), db.run("SELECT clock_timestamp()")
    for _ in range(EVENTS // BATCH):
        await log.append(drafts)
    after = sizes(db)
    count = EVENTS // BATCH * BATCH
    report.add("the disk", "an event of 100 B", "bytes", figure([(after["events"] - before["events"]) / count]))
    report.add("the WAL", "an event of 100 B", "bytes", figure([(after["wal"] - before["wal"]) / count]))
    _, there = await cost(db, lambda: log.recent(began, EVENTS))
    report.add("reading a recent event", "PostgreSQL's CPU", "µs", figure([there / count * 1e6]))
    _, trimmed = grown(db, lambda: db.run("DELETE FROM events WHERE group_id = %s", str(group)))
    report.add("the WAL", "its removal", "bytes", figure([trimmed["wal"] / count]))


def hub_of(groups: dict[UUID, list[UUID]], count: int) -> tuple[Hub, float]:
    """Fill a hub in which each user listens to their first few groups. Return KiB of memory a user."""
    gc.collect()
    tracemalloc.start()
    hub = Hub(Registry())
    for user_id, theirs in groups.items():
        listener = Listener(user_id, user_id, Silent(), Dialect.V1)
        hub.attach(listener)
        hub.start(listener, [Position(group_id, "", 1, is_member=True) for group_id in theirs[:count]], {})
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return hub, used / 1024 / len(groups)


async def looks(db: Database, log: EventLog, groups: dict[UUID, list[UUID]], report: Report) -> None:
    """Compare all groups that have listeners, and all memberships of the listeners."""
    hub, _ = hub_of(groups, GROUPS)
    count = USERS * GROUPS

    async def heads() -> None:
        for chunk in _chunks([*hub.heads().items()]):
            found = await log.heads([group_id for group_id, _ in chunk])
            for group_id, known in chunk:
                hub.compare(group_id, known, found.get(group_id, 0))

    async def joinings() -> None:
        for chunk in _chunks(hub.registry.started_users(), _USERS):
            async for user_id, group_id, seqs in log.joinings(chunk):
                assert not hub.registry.lacks(user_id, group_id), seqs

    cases = {"comparing a group": heads, "comparing a membership": joinings}
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}

    async def measure(name: str) -> None:
        costs[name].append(await cost(db, cases[name]))

    await heads()
    await joinings()
    await shuffled([*cases], REPEATS, measure)
    for name, found in costs.items():
        report.add(name, "server's CPU", "µs", figure([here / count * 1e6 for here, _ in found]))
        report.add(name, "PostgreSQL's CPU", "µs", figure([there / count * 1e6 for _, there in found]))


async def cost(db: Database, work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Return seconds of CPU of this process, and of PostgreSQL."""
    here, there = cpu_of(os.getpid()).total, db.cpu()
    await work()
    return cpu_of(os.getpid()).total - here, db.cpu() - there


def _chunks(items: Sequence[T], size: int = _CHUNK) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


async def main() -> None:
    """Measure all on one database."""
    report = Report("upkeep")
    with database() as db:
        accounts, groups = members(db, report)
        db.run("VACUUM ANALYZE")
        engine = await Engine.connect(db.dsn)
        try:
            log = EventLog(engine)
            await looks(db, log, groups, report)
            await events(db, log, accounts[0], db.group("one", accounts[:1]), report)
        finally:
            await engine.close()
    _, one = hub_of(groups, 1)
    _, all_ = hub_of(groups, GROUPS)
    report.add("memory", "a group of a listener, alone there", "KiB", figure([(all_ - one) / (GROUPS - 1)]))
    report.save()


if __name__ == "__main__":
    run(main)
