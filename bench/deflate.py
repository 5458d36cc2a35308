"""Cost of broadcasts of 1 KB of JSON to sockets that inflate, against the same sockets and broadcasts uncompressed."""

import asyncio
import json
import random
import sys
from collections import defaultdict
from typing import NamedTuple
from uuid import UUID

from harness import REPEATS, Account, Database, att, database, figure, run, shuffled
from load import Arrivals, Sender, att_request, open_listener, open_many
from report import Report

SOCKETS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
ROUNDS = 60
WARM_UP = 20  # broadcasts
REST = 1.0  # seconds
SIZE = 1_024
TEAS = ("green tea", "oolong", "black tea", "white tea", "jasmine", "rooibos", "assam", "darjeeling", "sencha")


class Cost(NamedTuple):
    """Of one delivery: CPU of the server in µs, and bytes. Of one socket: KiB of the server."""

    cpu: float
    size: float
    memory: float


def order() -> bytes:
    """Build a JSON object of some 1 KB, with the members that an order has, and their usual variety."""
    items: list[dict] = []
    while len(body := json.dumps({"order": random.randrange(10**6), "items": items}).encode()) < SIZE:
        price, quantity = random.randrange(100, 9_999) / 100, random.randrange(1, 20)
        items.append(
            {
                "id": random.randrange(10**6),
                "name": random.choice(TEAS),
                "quantity": quantity,
                "price": price,
                "in_stock": random.random() < 0.7,
            }
        )
    return body


async def measure(db: Database, accounts: list[Account], group: UUID, *, inflates: bool) -> Cost:
    """Return the cost, with a fresh server."""
    async with att(db) as server:
        sender = await Sender(group, b"{}").open(server.port, accounts[-1])
        await asyncio.sleep(REST)
        before = server.memory()
        listeners = await open_many(
            SOCKETS, lambda number: open_listener(server.port, att_request(accounts[number], inflates=inflates))
        )
        arrivals, sizes = Arrivals(listeners), []
        for number in range(WARM_UP + ROUNDS):
            if number == WARM_UP:
                used = server.cpu().total
            arrivals.expect(1)
            sender.set_body(order())
            sender.say()
            await arrivals.wait()
            sizes.append(listeners[0].usual)
        used = server.cpu().total - used
        memory = (server.memory() - before) / SOCKETS / 1024
        return Cost(used / ROUNDS / SOCKETS * 1e6, sum(sizes) / len(sizes), memory)


async def main() -> None:
    """Measure both with servers of their own, in random order."""
    report, found = Report("deflate"), defaultdict(list)
    with database() as db:
        accounts = db.people(SOCKETS + 1)
        group = db.group("orders", accounts)

        async def once(case: str) -> None:
            found[case].append(await measure(db, accounts, group, inflates=case == "compressed"))

        await shuffled(("plain", "compressed"), REPEATS, once)
    plain = Cost(*(figure(values).median for values in zip(*found["plain"], strict=True)))
    for name, costs in sorted(found.items(), reverse=True):
        case = f"{SOCKETS:,} sockets, 1 KB, {name}"
        report.add(case, "CPU", "µs a delivery", figure([cost.cpu for cost in costs]))
        report.add(case, "times the uncompressed", "", figure([cost.cpu / plain.cpu for cost in costs]))
        report.add(case, "bytes", "a delivery", figure([cost.size for cost in costs]))
        report.add(case, "share of the uncompressed", "", figure([cost.size / plain.size for cost in costs]))
        report.add(case, "memory", "KiB a listener", figure([cost.memory for cost in costs]))
    report.save()


if __name__ == "__main__":
    run(main)
