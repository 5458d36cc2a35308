"""CPU of a server and its database while 10,000 listeners in 10 groups each hear nothing.

``LISTENERS`` and ``SECONDS`` in the environment choose fewer, and another time than a minute.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack

from harness import Account, Database, Server, Valkey, att, database, figure, run, valkey
from load import att_request, close_all, open_listener, open_many
from nodes import sign_in
from report import Report

LISTENERS = int(os.environ.get("LISTENERS", "10000"))  # and as many groups
SECONDS = float(os.environ.get("SECONDS", "60"))
GROUPS = 10  # of each listener, and members of each group
REST = 120.0  # seconds: nothing of the start and of the connecting is left to do
MAKE_GROUPS = """
INSERT INTO groups (name, name_key, seq) SELECT 'group ' || i, 'group ' || i, 1 FROM generate_series(1, %s) AS i
RETURNING id
"""
MAKE_MEMBERS = """
INSERT INTO members (group_id, user_id, role)
SELECT g, u, 'member' FROM unnest(CAST(%s AS uuid[]), CAST(%s AS uuid[])) AS m (g, u)
"""
MAKE_EVENTS = """
INSERT INTO events (group_id, seq, kind, body) SELECT g, 1, 'message', '{}' FROM unnest(CAST(%s AS uuid[])) AS g
"""


def fill(db: Database) -> list[Account]:
    """Create the listeners and their groups, each with a message."""
    accounts = db.people(LISTENERS)
    db.run("SET session_replication_role = replica")
    groups = [str(row[0]) for row in db.run(MAKE_GROUPS, LISTENERS)]
    places = [((number + place) % len(groups), number) for number in range(LISTENERS) for place in range(GROUPS)]
    db.run(MAKE_MEMBERS, [groups[at] for at, _ in places], [str(accounts[who].id) for _, who in places])
    db.run(MAKE_EVENTS, groups)
    db.run("SET session_replication_role = DEFAULT")
    db.run("VACUUM ANALYZE")
    db.run("CHECKPOINT")
    return accounts


async def connect(server: Server, accounts: Sequence[Account]) -> list:
    """Open an att.v1 listener of each account, from now."""

    async def open_one(number: int) -> object:
        listener = await open_listener(server.port, att_request(accounts[number], is_v1=True))
        listener.send(b'{"type":"resume"}')
        return listener

    return await open_many(len(accounts), open_one)


async def measure(db: Database, redis: Valkey | None, accounts: Sequence[Account], report: Report) -> None:
    """Measure a fresh server."""
    async with att(db, redis.url if redis else None) as server:
        listeners = await connect(server, accounts)
        await asyncio.sleep(REST)
        before = server.cpu().total, db.cpu(), redis.cpu().total if redis else 0.0
        await asyncio.sleep(SECONDS)
        after = server.cpu().total, db.cpu(), redis.cpu().total if redis else 0.0
        lost = sum(listener.lost.done() for listener in listeners)
        if lost:
            raise RuntimeError(f"{lost} listeners were disconnected")
        await close_all(listeners)
    used = [100 * (now - then) / SECONDS for now, then in zip(after, before, strict=True)]
    case = f"{len(accounts):,} listeners{', on Redis' if redis else ''}"
    for name, share in zip(("server", "PostgreSQL", "Redis"), used, strict=True):
        if redis or name != "Redis":
            report.add(case, f"{name}'s CPU", "% of a core", figure([share]))
    report.add(case, "CPU of all", "% of a core", figure([sum(used)]))


async def main() -> None:
    """Measure without Redis and with it."""
    report = Report("idle")
    with ExitStack() as stack:
        db, redis = stack.enter_context(database()), stack.enter_context(valkey())
        accounts = fill(db)
        await sign_in(redis, accounts)
        for each in (None, redis):
            await measure(db, each, accounts, report)
    report.save()


if __name__ == "__main__":
    run(main)
