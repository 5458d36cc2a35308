"""Cost of a broadcast that few hear: 1, 10 and 100 sockets, one broadcast at a time, over HTTP and over att.v1.

The next broadcast follows when all have received the last, and its sender has the answer. All work of the server
counts, att's appending to the log included; the log is on, and so is fsync. PostgreSQL's work is shown beside it.
"""

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from harness import REPEATS, Account, Cpu, Database, Server, att, database, figure, peer, run, shuffled
from load import (
    TIMEOUT,
    Arrivals,
    Listener,
    Poster,
    Sender,
    att_request,
    connect,
    json_body,
    open_listener,
    open_many,
    post_request,
    upgrade,
)
from report import Report

COUNTS = [int(count) for count in sys.argv[1:]] or [1, 10, 100]
ROUNDS = 500  # broadcasts of one measurement
WARM_UP = 50
REST = 3.0  # seconds between the last listener and the first broadcast; then a server knows that it is alone
BODY = json_body(100)

Broadcast = Callable[[], Awaitable[None]]  # returns when the sender has the answer


class Crowd(NamedTuple):
    """Accounts of att's listeners, the last of which also sends, and their group."""

    accounts: list[Account]
    group: UUID


async def over_http(server: Server, crowd: Crowd) -> Broadcast:
    """Return a function that broadcasts over a persistent HTTP connection."""
    answered = asyncio.Event()
    poster = Poster(post_request(f"/broadcast/{crowd.group}", crowd.accounts[-1], BODY), lambda _: answered.set())
    await connect(server.port, poster)

    async def broadcast() -> None:
        answered.clear()
        poster.post()
        async with asyncio.timeout(TIMEOUT):
            await answered.wait()

    return broadcast


async def over_v1(server: Server, crowd: Crowd) -> Broadcast:
    """Return a function that broadcasts over a socket of att.v1, which is no member's."""
    sender = await Sender(crowd.group, BODY).open(server.port, crowd.accounts[-1])
    return sender.broadcast


async def over_socket(server: Server, _: Crowd) -> Broadcast:
    """Return a function that sends to a peer, which answers nothing, from a client that does not listen."""
    sender = await open_listener(server.port, upgrade("/sender"))

    async def broadcast() -> None:
        sender.send(BODY)

    return broadcast


CASES: dict[str, tuple[str, Callable[[Server, Crowd], Awaitable[Broadcast]]]] = {
    "att, HTTP": ("att", over_http),
    "att, att.v1": ("att", over_v1),
    "aiohttp, HTTP": ("aiohttp_websocket", over_http),
    "aiohttp, a socket": ("aiohttp_websocket", over_socket),
    "websockets": ("websockets", over_socket),
    "bare": ("bare", over_socket),
}


class Cost(NamedTuple):
    """Microseconds of a broadcast: the server's, and the database's."""

    server: Cpu
    database: float


async def measure(server: Server, db: Database, listeners: list[Listener], broadcast: Broadcast) -> Cost:
    """Broadcast one after the other, and return what each costs."""
    arrivals = Arrivals(listeners)

    async def go(rounds: int) -> None:
        for _ in range(rounds):
            arrivals.expect(1)
            await broadcast()
            await arrivals.wait()

    await go(WARM_UP)
    before, db_before = server.cpu(), db.cpu()
    await go(ROUNDS)
    used, db_used = server.cpu() - before, db.cpu() - db_before
    scale = 1e6 / ROUNDS
    return Cost(Cpu(used.total * scale, used.user * scale), db_used * scale)


async def main() -> None:
    """Measure each server alone with its listeners, in random order."""
    costs: dict[tuple[int, str], list[Cost]] = defaultdict(list)
    with database() as db:
        accounts = db.people(max(COUNTS) + 1)
        crowds = {
            count: Crowd(
                [*accounts[:count], accounts[-1]], db.group(f"group {count}", [*accounts[:count], accounts[-1]])
            )
            for count in COUNTS
        }

        async def go(case: str) -> None:
            name, start = CASES[case]
            for count in random.sample(COUNTS, len(COUNTS)):
                async with att(db) if name == "att" else peer(name) as server:
                    requests = [att_request(each) if name == "att" else upgrade("/") for each in crowds[count].accounts]
                    listeners = await open_many(
                        count, lambda number, port=server.port, all_=requests: open_listener(port, all_[number])
                    )
                    broadcast = await start(server, crowds[count])
                    await asyncio.sleep(REST)
                    costs[count, case].append(await measure(server, db, listeners, broadcast))

        await shuffled([*CASES], REPEATS, go)
    show(Report("few"), costs)


def show(report: Report, costs: dict[tuple[int, str], list[Cost]]) -> None:
    """Report the figures, and their ratio to the bare loop and to ``websockets.broadcast``."""
    for count in COUNTS:
        for case in CASES:
            row, found = f"{count} sockets, {case}", costs[count, case]
            report.add(row, "CPU", "µs a broadcast", figure([cost.server.total for cost in found]))
            report.add(row, "of it in user mode", "µs a broadcast", figure([cost.server.user for cost in found]))
            report.add(row, "CPU", "µs a delivery", figure([cost.server.total / count for cost in found]))
            for other in ("bare", "websockets"):
                usual = figure([cost.server.total for cost in costs[count, other]]).median
                report.add(row, f"times {other}", "", figure([cost.server.total / usual for cost in found]))
            if case.startswith("att"):
                report.add(row, "PostgreSQL's CPU", "µs a broadcast", figure([cost.database for cost in found]))
    report.save()


if __name__ == "__main__":
    run(main)
