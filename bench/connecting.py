"""Cost of a new connection: CPU of the server and of PostgreSQL, beside a bare WebSocket handler of aiohttp.

Distinct users, each in 10 groups of 50, as after the restart of a server: it knows none of their sessions. One who
resumes in att.v1 has missed nothing, and has read everything, or nothing. A session that was not used for a minute is
prolonged.
"""

import sys
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from harness import REPEATS, Account, Database, Server, att, database, figure, peer, run, shuffled
from load import AT_ONCE, Resumer, att_request, open_listener, open_many, upgrade
from report import Report

CONNECTS = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
WARM_UP = 500  # connections of others before
GROUPS, MEMBERS = 10, 50
ALONE, CROWD = 1, AT_ONCE  # connections at the same time


class Case(NamedTuple):
    """Listeners, and how many of them connect at the same time."""

    name: str
    at_once: int = CROWD

    def __str__(self) -> str:
        return f"{self.name}, {self.at_once} at once"


BARE = "aiohttp, no database"
CASES = [
    *(Case(name, at_once) for name in (BARE, "plain", "att.v1, resuming") for at_once in (ALONE, CROWD)),
    Case("plain, one user"),
    Case("att.v1, resuming, prolonged"),
    Case("att.v1, resuming, nothing read"),
]


class Cost(NamedTuple):
    """One measurement: milliseconds of CPU of a connection, and connections a second."""

    server: float
    database: float
    a_second: float


class Stage:
    """Accounts, of which one half has read everything, and servers to connect to."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._readers = db.people(CONNECTS + WARM_UP)
        self._others = db.people(CONNECTS + WARM_UP)
        self._circles = {
            account.id: circles
            for accounts in (self._readers, self._others)
            for account, circles in zip(accounts, db.circles(accounts, MEMBERS, GROUPS), strict=True)
        }
        db.read_all(self._readers)

    async def measure(self, case: Case) -> Cost:
        """Connect to a fresh server."""
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(peer("aiohttp_websocket") if case.name == BARE else att(self._db))
            accounts = self._others if case.name.endswith("nothing read") else self._readers
            if case.name.endswith("one user"):
                accounts = accounts[:1] * len(accounts)
            self._db.set_last_use(60 if case.name.endswith("prolonged") else 0)
            open_one = partial(self._open, case, server)
            warm = await open_many(WARM_UP, lambda number: open_one(accounts[CONNECTS + number]), case.at_once)
            before, db_before, began = server.cpu(), self._db.cpu(), time.perf_counter()
            opened = await open_many(CONNECTS, lambda number: open_one(accounts[number]), case.at_once)
            took, used, db_used = time.perf_counter() - began, server.cpu() - before, self._db.cpu() - db_before
            for each in (*warm, *opened):
                each.transport.abort()
            scale = 1e3 / CONNECTS
            return Cost(used.total * scale, db_used * scale, CONNECTS / took)

    async def _open(self, case: Case, server: Server, account: Account) -> object:
        if case.name == BARE:
            return await open_listener(server.port, upgrade("/listen/me", f"Authorization: Bearer {account.token}"))
        if case.name.startswith("plain"):
            return await open_listener(server.port, att_request(account))
        return (await Resumer(account, self._circles[account.id]).open(server.port)).listener


async def main() -> None:
    """Measure each case with fresh servers, in random order."""
    found: dict[Case, list[Cost]] = defaultdict(list)
    with database() as db:
        stage = Stage(db)

        async def go(case: Case) -> None:
            found[case].append(await stage.measure(case))

        await shuffled(CASES, REPEATS, go)
    report = Report("connecting")
    for case in CASES:
        costs, bare = found[case], found[Case(BARE, case.at_once)]
        report.add(str(case), "server's CPU", "ms", figure([cost.server for cost in costs]))
        if case.name != BARE:
            base = figure([cost.server for cost in bare]).median
            report.add(str(case), "times aiohttp", "", figure([cost.server / base for cost in costs]))
            report.add(str(case), "PostgreSQL's CPU", "ms", figure([cost.database for cost in costs]))
        report.add(str(case), "connections", "a second", figure([cost.a_second for cost in costs]))
    report.save()


if __name__ == "__main__":
    run(main)
