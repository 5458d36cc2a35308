"""Return of a crowd: one of two servers stops, and all its listeners come back on the other within their hints.

They are distinct users, each in 10 groups of 50, and resume in att.v1, with and without missed events. The time is that
from the stop to the last one who is up to date, without the longest hint. `HERD=2000 make bench ARGS=herd` has fewer
listeners than 10,000. Load, PostgreSQL and servers share this machine's cores, in one case with two programs that only
count; in all of them a user broadcasts meanwhile, and signs in again and again.
"""

import asyncio
import os
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import aiohttp
from harness import REPEATS, Database, Server, att, database, figure, run, shuffled
from load import Resumer, open_many
from report import Report

LISTENERS = int(os.environ.get("HERD", "10000"))
GROUPS, MEMBERS = 10, 50
LONGEST_HINT = 5.0  # seconds
RETRY = 1.0  # seconds after a refusal without a hint
PATIENCE = 600.0  # seconds
BROADCAST_PAUSE, LOGIN_PAUSE = 0.05, 0.5  # seconds
BUSY_PROGRAMS = 2
REST = 2.0  # seconds between the last listener and the stop
CREDENTIALS = {"login": "ann", "password": "correct horse battery staple"}
_HINT = re.compile(rb"retry in ([0-9.]+) s")


class Case(NamedTuple):
    """Events that each listener misses in each group, and whether the machine does other work as well."""

    missed: int
    is_busy: bool = False

    def __str__(self) -> str:
        missed = f"{self.missed * GROUPS} missed each" if self.missed else "nothing missed"
        return f"{LISTENERS:,}, {missed}{', busy' if self.is_busy else ''}"


CASES = (Case(0), Case(5), Case(0, is_busy=True))


class Herd(NamedTuple):
    """One return: seconds, CPU of server and PostgreSQL in ms for each listener, and refusals of all kinds."""

    seconds: float
    server: float
    database: float
    refusals: Counter[str]


class Stage:
    """Accounts in their groups."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._accounts = db.people(LISTENERS)
        self._circles = db.circles(self._accounts, MEMBERS, GROUPS)
        db.read_all(self._accounts)

    async def measure(self, case: Case) -> Herd:
        """Stop one server, and wait until all are back on the other."""
        refusals: Counter[str] = Counter()
        who = zip(self._accounts, self._circles, strict=True)
        resumers = [Resumer(account, circles) for account, circles in who]
        async with att(self._db) as stopped, att(self._db) as other, _others(other, refusals):
            await open_many(LISTENERS, lambda number: resumers[number].open(stopped.port))
            self._db.set_last_use(60)
            await asyncio.sleep(REST)
            before, db_before, began = other.cpu(), self._db.cpu(), time.perf_counter()
            os.kill(stopped.pid, signal.SIGTERM)
            async with asyncio.timeout(PATIENCE), _programs(BUSY_PROGRAMS if case.is_busy else 0):
                ends = await asyncio.gather(*(_come_back(each, other, case.missed, refusals) for each in resumers))
            used, db_used = other.cpu() - before, self._db.cpu() - db_before
            for each in resumers:
                each.listener.transport.abort()
        scale = 1e3 / LISTENERS
        return Herd(max(ends) - began - LONGEST_HINT, used.total * scale, db_used * scale, refusals)


async def _come_back(resumer: Resumer, other: Server, missed: int, refusals: Counter[str]) -> float:
    """Return the time when the listener is up to date on the other server."""
    await resumer.listener.lost
    hint = _HINT.search(resumer.listener.close_reason)
    while True:
        await asyncio.sleep(float(hint[1]) if hint else RETRY)
        try:
            await resumer.open(other.port, missed)
        except OSError as error:
            refusals[f"listener: {error}"] += 1
            hint = _HINT.search(str(error).encode())
        else:
            return time.perf_counter()


@asynccontextmanager
async def _others(server: Server, refusals: Counter[str]) -> AsyncIterator[None]:
    """Broadcast and sign in while the block runs."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        await (await session.post("/signup", json=CREDENTIALS)).read()
        async with session.post("/login", json=CREDENTIALS) as response:
            token = (await response.json())["token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with session.post("/groups", json={"name": f"of {server.port}"}, headers=headers) as response:
            group = (await response.json())["id"]
        broadcast = partial(session.post, f"/broadcast/{group}", json={}, headers=headers)
        login = partial(session.post, "/login", json=CREDENTIALS)
        tasks = [
            asyncio.create_task(_repeat("broadcast", broadcast, BROADCAST_PAUSE, refusals)),
            asyncio.create_task(_repeat("log-in", login, LOGIN_PAUSE, refusals)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _repeat(name: str, ask: Callable[[], object], pause: float, refusals: Counter[str]) -> None:
    while True:
        async with ask() as response:
            if response.status >= 400:
                refusals[f"{name}: {response.status}"] += 1
        await asyncio.sleep(pause)


@asynccontextmanager
async def _programs(count: int) -> AsyncIterator[None]:
    """Keep so many cores busy while the block runs."""
    programs = [await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass") for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            await program.wait()


async def main() -> None:
    """Measure each case, in random order."""
    found: dict[Case, list[Herd]] = defaultdict(list)
    with database() as db:
        stage = Stage(db)

        async def go(case: Case) -> None:
            found[case].append(herd := await stage.measure(case))
            print(case, *herd, file=sys.stderr)

        await shuffled(CASES, REPEATS, go)
    report = Report("herd")
    for case in CASES:
        herds = found[case]
        report.add(str(case), "to the last, beyond the hints", "s", figure([herd.seconds for herd in herds]))
        report.add(str(case), "server's CPU", "ms a listener", figure([herd.server for herd in herds]))
        report.add(str(case), "PostgreSQL's CPU", "ms a listener", figure([herd.database for herd in herds]))
        report.add(str(case), "refusals", "", figure([herd.refusals.total() for herd in herds]))
    report.save()


if __name__ == "__main__":
    run(main)
