"""Growth of costs: a broadcast with members, connecting with groups, resuming with what was missed."""

import asyncio
import json
import random
import time
from collections import defaultdict
from uuid import UUID

from harness import REPEATS, Account, Database, Server, att, database, figure, run
from load import Arrivals, Listener, Sender, att_request, close_all, json_body, open_listener, open_many
from report import Report

MEMBERS = (100, 10_000, 1_000_000)
SOCKETS = 100
GROUPS = (1, 100, 1_000)
MISSED = (0, 100, 10_000)
BROADCASTS = 100  # of one measurement
CONNECTS = 20
BODY = json_body(100)
# These members never connect, so they need not be users.
FILL = (
    "INSERT INTO members (group_id, user_id, role) SELECT %s, gen_random_uuid(), 'member' FROM generate_series(1, %s)"
)


async def broadcasts(db: Database, server: Server, report: Report) -> None:
    """Broadcast to the same sockets, in groups of very different size."""
    people = db.people(SOCKETS + 1)
    groups = {count: await asyncio.to_thread(_group_of, db, count, people) for count in MEMBERS}
    db.run("VACUUM ANALYZE members")
    listeners = await open_many(SOCKETS, lambda number: open_listener(server.port, att_request(people[number])))
    arrivals = Arrivals(listeners)
    senders = {}
    for count, group in groups.items():
        senders[count] = await Sender(group, BODY).open(server.port, people[-1])
        await _broadcast(arrivals, senders[count])
    found = defaultdict(list)
    order = [count for count in MEMBERS for _ in range(REPEATS)]
    random.shuffle(order)
    for count in order:
        before, db_before, began = server.cpu(), db.cpu(), time.perf_counter()
        await _broadcast(arrivals, senders[count])
        took, used, db_used = time.perf_counter() - began, server.cpu() - before, db.cpu() - db_before
        found[count].append((used.total, db_used, took))
    for count in MEMBERS:
        for place, what in enumerate(("server's CPU", "PostgreSQL's CPU", "time to the last")):
            values = figure([one[place] / BROADCASTS * 1e6 for one in found[count]])
            report.add(f"{count:,} members, {SOCKETS} sockets", what, "µs a broadcast", values)
    await close_all([*listeners, *(sender.listener for sender in senders.values())])


def _group_of(db: Database, count: int, people: list[Account]) -> UUID:
    group = db.group(f"{count} members", people)
    db.run("SET session_replication_role = replica")
    db.run(FILL, str(group), max(0, count - len(people)))
    db.run("SET session_replication_role = DEFAULT")
    return group


async def _broadcast(arrivals: Arrivals, sender: Sender) -> None:
    for _ in range(BROADCASTS):
        arrivals.expect(1)
        sender.say()
        await arrivals.wait()


class Greeted:
    """An att.v1 listener that waits for a frame."""

    def __init__(self) -> None:
        self.hello: asyncio.Future[dict] = asyncio.get_running_loop().create_future()
        self.ponged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.messages = 0
        self.wanted = -1
        self.has_all = asyncio.Event()

    def receive(self, payload: bytes) -> None:
        """Take a frame."""
        if payload.startswith(b'{"type":"message"'):
            self.messages += 1
            if self.messages == self.wanted:
                self.has_all.set()
        elif payload.startswith(b'{"type":"hello"'):
            self.hello.set_result(json.loads(payload))
        elif payload.startswith(b'{"type":"pong"'):
            self.ponged.set_result(None)


async def _connect(server: Server, account: Account) -> tuple[Listener, Greeted]:
    greeted = Greeted()
    listener = await open_listener(server.port, att_request(account, is_v1=True), greeted.receive)
    await asyncio.wait_for(greeted.hello, 10)
    return listener, greeted


async def connecting(db: Database, server: Server, report: Report) -> None:
    """Measure from the first byte to the answer to the first frame."""
    accounts = dict(zip(GROUPS, db.people(len(GROUPS)), strict=True))
    for count in GROUPS:
        for number in range(count):
            db.group(f"{count} groups, {number}", [accounts[count]])
    found = defaultdict(list)
    order = [count for count in GROUPS for _ in range(REPEATS)]
    random.shuffle(order)
    for count in [*GROUPS, *order]:
        before, db_before, began = server.cpu(), db.cpu(), time.perf_counter()
        for _ in range(CONNECTS):
            listener, greeted = await _connect(server, accounts[count])
            listener.send(b'{"type":"resume"}')
            listener.send(b'{"type":"ping"}')
            await asyncio.wait_for(greeted.ponged, 10)
            await close_all([listener])
        took, used, db_used = time.perf_counter() - began, server.cpu() - before, db.cpu() - db_before
        found[count].append((used.total, db_used, took))
    for count in GROUPS:
        for place, what in enumerate(("server's CPU", "PostgreSQL's CPU", "time")):
            values = figure([one[place] / CONNECTS * 1e3 for one in found[count][1:]])
            report.add(f"connecting, {count:,} groups", what, "ms", values)


async def resuming(db: Database, server: Server, report: Report) -> None:
    """Measure from the first byte to the last missed event."""
    [account] = db.people(1)
    group = db.group("resumed", [account], retention=1_000_000)
    sender = await Sender(group, BODY).open(server.port, account)
    for _ in range(max(MISSED) // 100):
        await asyncio.gather(*(sender.broadcast() for _ in range(100)))
    await close_all([sender.listener])
    found = defaultdict(list)
    order = [count for count in MISSED for _ in range(REPEATS)]
    random.shuffle(order)
    for count in [*MISSED, *order]:
        before, db_before, began = server.cpu(), db.cpu(), time.perf_counter()
        listener, greeted = await _connect(server, account)
        greeted.wanted = count
        listener.send(json.dumps({"type": "resume", "groups": {str(group): max(MISSED) - count}}).encode())
        listener.send(b'{"type":"ping"}')
        await asyncio.wait_for(greeted.has_all.wait() if count else greeted.ponged, 60)
        took, used, db_used = time.perf_counter() - began, server.cpu() - before, db.cpu() - db_before
        found[count].append((used.total, db_used, took))
        await close_all([listener])
        await asyncio.sleep(0.05)
    for count in MISSED:
        for place, what in enumerate(("server's CPU", "PostgreSQL's CPU", "time")):
            values = figure([one[place] * 1e3 for one in found[count][1:]])
            report.add(f"resuming after {count:,} missed", what, "ms", values)


async def main() -> None:
    """Measure all of it on one server."""
    report = Report("growth")
    with database() as db:
        async with att(db) as server:
            await connecting(db, server, report)
            await resuming(db, server, report)
            await broadcasts(db, server, report)
    report.save()


if __name__ == "__main__":
    run(main)
