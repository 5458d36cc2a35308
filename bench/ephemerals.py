"""Rate and cost of ephemeral messages over att.v1 on one server, each to one listener: its sender's own socket."""

import asyncio
import sys
import time
from uuid import UUID

from harness import REPEATS, Account, Database, Server, att, database, figure, run
from load import Listener, Sender, json_body, mask
from report import Report

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0  # of one measurement
WARM_UP = 0.5
SENDERS = 20  # each in a group of its own
IN_FLIGHT = 20  # messages of each
BODY = json_body(100)


async def keep_sending(server: Server, account: Account, group: UUID) -> Listener:
    """Open a socket that sends a message for each that it receives."""
    sender = await Sender(group, BODY).open(server.port, account)
    frame = mask(b'{"type":"broadcast","ephemeral":true,"group":"%s","data":%s}' % (str(group).encode(), BODY))
    sender.listener.on_count = lambda _: sender.listener.transport.write(frame)
    sender.listener.transport.write(frame * IN_FLIGHT)
    return sender.listener


async def measure(server: Server, db: Database, listeners: list[Listener]) -> tuple[float, float, float]:
    """Return messages a second, and microseconds of CPU of each in the server and in PostgreSQL."""
    await asyncio.sleep(WARM_UP)
    count, began = sum(each.received for each in listeners), time.perf_counter()
    used, db_used = server.cpu().total, db.cpu()
    await asyncio.sleep(SECONDS)
    done, took = sum(each.received for each in listeners) - count, time.perf_counter() - began
    return done / took, (server.cpu().total - used) / done * 1e6, (db.cpu() - db_used) / done * 1e6


async def main() -> None:
    """Measure with a fresh server each time."""
    report, found = Report("ephemerals"), []
    with database() as db:
        people = db.people(SENDERS)
        groups = [db.group(f"group {number}", [account]) for number, account in enumerate(people)]
        for _ in range(REPEATS):
            async with att(db) as server:
                pairs = zip(people, groups, strict=True)
                listeners = [await keep_sending(server, account, group) for account, group in pairs]
                found.append(await measure(server, db, listeners))
                for listener in listeners:
                    listener.transport.abort()
    for name, unit, values in zip(
        ("messages", "server's CPU", "PostgreSQL's CPU"),
        ("a second", "µs a message", "µs a message"),
        zip(*found, strict=True),
        strict=True,
    ):
        report.add("to one listener each", name, unit, figure(values))
    report.save()


if __name__ == "__main__":
    run(main)
