"""Deletion of a group with a million members, of a user in 100,000 groups, and of many users at once.

Others broadcast to groups of their own meanwhile; their time is that from a broadcast to its ack. Members have no
accounts, which a deletion does not read.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import aiohttp
from harness import Account, Database, Server, att, database, figure, percentile, run
from load import Sender, json_body
from report import Report

MEMBERS = int(os.environ.get("MEMBERS", "1000000"))
GROUPS = int(os.environ.get("MEMBERSHIPS", "100000"))
USERS, GROUPS_OF_EACH = 100, 100  # of a bulk deletion
SENDERS = 10
PAUSE = 0.01  # seconds between broadcasts
QUIET = 10.0  # seconds of broadcasts before anything is deleted
POLL = 0.05  # seconds

FILL_GROUP = """
INSERT INTO members (group_id, user_id, role) SELECT %s, gen_random_uuid(), 'member' FROM generate_series(1, %s)
"""
FILL_USER = """
WITH made AS (
    INSERT INTO groups (name, name_key)
    SELECT n.name, n.name FROM (SELECT %s || ' ' || i AS name FROM generate_series(1, %s) AS i) AS n RETURNING id
)
INSERT INTO members (group_id, user_id, role)
SELECT made.id, u, 'member' FROM made CROSS JOIN unnest(CAST(%s AS uuid[])) AS u
"""


def fill(db: Database, sql: str, *values: object) -> None:
    """Run a statement without triggers."""
    db.run("SET session_replication_role = replica")
    db.run(sql, *values)
    db.run("SET session_replication_role = DEFAULT")
    db.run("VACUUM ANALYZE members, groups")


class Others:
    """Broadcasts to other groups, one at a time in each."""

    def __init__(self, senders: list[Sender]) -> None:
        self._senders = senders
        self.times: list[float] = []  # milliseconds

    async def run(self) -> None:
        """Broadcast until cancelled."""
        while True:
            for sender in self._senders:
                began = time.perf_counter()
                await sender.broadcast()
                self.times.append((time.perf_counter() - began) * 1e3)
                await asyncio.sleep(PAUSE)

    def take(self) -> list[float]:
        """Return the times since the last call."""
        taken, self.times = self.times, []
        return taken


async def delete(server: Server, who: Account, path: str) -> tuple[int, float]:
    """Send a request. Return its status and the milliseconds."""
    began = time.perf_counter()
    url, headers = f"http://127.0.0.1:{server.port}{path}", {"Authorization": f"Bearer {who.token}"}
    async with aiohttp.request("DELETE", url, headers=headers) as response:
        await response.read()
    return response.status, (time.perf_counter() - began) * 1e3


async def measure(report: Report, case: str, others: Others, left: Callable[[], int], deleting: asyncio.Task) -> None:
    """Report the time of the answer, the time until nothing is left, and the others' times meanwhile."""
    others.take()
    began = time.perf_counter()
    status, answered = await deleting
    report.add(case, f"answer {status}", "ms", figure([answered]))
    while status < 300 and left():  # noqa: ASYNC110 - it is another process that removes them
        await asyncio.sleep(POLL)
    report.add(case, "until nothing is left", "s", figure([time.perf_counter() - began]))
    times(report, case, others.take())


def times(report: Report, case: str, found: list[float]) -> None:
    """Report the times of others' broadcasts."""
    for name, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
        report.add(case, f"others' broadcasts, {name}", "ms", figure([percentile(found, share)]))


async def main() -> None:
    """Delete each."""
    report = Report("deletion")
    with database() as db:
        admin, busy, *rest = db.people(2 + USERS + SENDERS)
        bulk, senders = rest[:USERS], rest[USERS:]
        db.run(
            "UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Admin') WHERE id = %s",
            str(admin.id),
        )
        groups = [db.group(f"of {sender.id}", [sender]) for sender in senders]
        crowd = db.group("crowd", [admin])
        fill(db, FILL_GROUP, str(crowd), MEMBERS)
        fill(db, FILL_USER, "busy", GROUPS, [str(busy.id)])
        fill(db, FILL_USER, "bulk", GROUPS_OF_EACH, [str(user.id) for user in bulk])
        async with att(db) as server:
            opened = [
                await Sender(group, json_body(100)).open(server.port, sender)
                for group, sender in zip(groups, senders, strict=True)
            ]
            others = Others(opened)
            broadcasting = asyncio.create_task(others.run())
            await asyncio.sleep(QUIET)
            times(report, "nothing is deleted", others.take())

            def left(column: str, ids: list[UUID]) -> Callable[[], int]:
                sql = f"SELECT count(*) FROM (SELECT FROM members WHERE {column} = ANY (%s::uuid[]) LIMIT 1) AS m"
                return lambda: db.run(sql, [str(each) for each in ids])[0][0]

            def ask(path: str) -> asyncio.Task:
                return asyncio.create_task(delete(server, admin, path))

            group_left, user_left = left("group_id", [crowd]), left("user_id", [busy.id])
            case = f"a group of {MEMBERS:,} members"
            await measure(report, case, others, group_left, ask(f"/groups/{crowd}"))
            case = f"a user in {GROUPS:,} groups"
            await measure(report, case, others, user_left, ask(f"/users/{busy.id}"))
            case = f"{USERS} users, each in {GROUPS_OF_EACH} groups"
            ids = [user.id for user in bulk]
            path = "/users?" + "&".join(f"id={user_id}" for user_id in ids)
            await measure(report, case, others, left("user_id", ids), ask(path))
            broadcasting.cancel()
            with suppress(asyncio.CancelledError):
                await broadcasting
    report.save()


if __name__ == "__main__":
    run(main)
