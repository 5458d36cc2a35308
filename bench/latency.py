"""Latency of a broadcast to the last of 1,000 listeners, and of a removal to the other of two servers.

Broadcasts are sent at even intervals, whether or not earlier ones have arrived, and are timed from the moment at which
each was due. The highest rate is reached when the next one is sent as soon as one of a few has arrived.
"""

import asyncio
import json
import random
import sys
import time
from collections import defaultdict

from harness import REPEATS, Account, Database, Server, att, database, figure, percentile, run
from load import Listener, Sender, att_request, close_all, json_body, open_listener, open_many
from report import Report

LISTENERS = 1_000
BODY = json_body(100)
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0  # at each rate
WINDOW = 4  # broadcasts in flight while the highest rate is measured
SHARES = {"a tenth": 0.1, "half": 0.5, "nine tenths": 0.9}
REMOVALS = 300
BROADCAST_PAUSE = 0.005  # seconds between the broadcasts during which members are removed


class LastOf:
    """When the last listener received each broadcast. Every listener receives all of them in order."""

    def __init__(self, listeners: list[Listener]) -> None:
        self._count = len(listeners)
        self._received: defaultdict[int, int] = defaultdict(int)
        self.times: dict[int, float] = {}
        self.arrived = asyncio.Event()
        for listener in listeners:
            listener.received = 0
            listener.on_count = self._on_count

    def _on_count(self, number: int) -> None:
        self._received[number] += 1
        if self._received[number] == self._count:
            self.times[number] = time.perf_counter()
            self.arrived.set()

    async def wait(self, number: int) -> None:
        """Wait until all have received that many."""
        async with asyncio.timeout(60):
            while number and number not in self.times:
                self.arrived.clear()
                await self.arrived.wait()


async def highest_rate(sender: Sender, listeners: list[Listener]) -> float:
    """Return the broadcasts a second that reach all listeners."""
    last = LastOf(listeners)
    began, sent = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        await last.wait(max(0, sent - WINDOW + 1))
        sender.say()
        sent += 1
    await last.wait(sent)
    return sent / (time.perf_counter() - began)


async def at_rate(sender: Sender, listeners: list[Listener], rate: float) -> list[float]:
    """Return the milliseconds from the moment at which each broadcast was due."""
    last, count = LastOf(listeners), max(20, int(rate * SECONDS))
    began = time.perf_counter() + 0.01
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        sender.say()
    await last.wait(count)
    return [(last.times[number + 1] - began - number / rate) * 1e3 for number in range(count)]


async def to_the_last(db: Database, server: Server, report: Report) -> None:
    """Measure one server, with many listeners of one group."""
    accounts = db.people(LISTENERS + 1)
    group = db.group("many", accounts)
    listeners = await open_many(LISTENERS, lambda number: open_listener(server.port, att_request(accounts[number])))
    sender = await Sender(group, BODY).open(server.port, accounts[-1])
    await highest_rate(sender, listeners)
    rates = [await highest_rate(sender, listeners) for _ in range(REPEATS)]
    report.add(f"{LISTENERS:,} listeners", "highest rate", "broadcasts a second", figure(rates))
    found = defaultdict(list)
    order = [share for share in SHARES for _ in range(REPEATS)]
    random.shuffle(order)
    for share in order:
        found[share].append(await at_rate(sender, listeners, figure(rates).median * SHARES[share]))
        await asyncio.sleep(0.5)
    for share in SHARES:
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            values = [percentile(times, part) for times in found[share]]
            report.add(f"{share} of the highest rate", f"to the last, {name}", "ms", figure(values))
    await close_all([*listeners, sender.listener])


class Watch:
    """An att.v1 listener that is removed, and the last frame that it received."""

    def __init__(self, account: Account) -> None:
        self._me = str(account.id)
        self.seqs: list[int] = []
        self.left: asyncio.Future[tuple[float, int]] = asyncio.get_running_loop().create_future()
        self.joined = asyncio.Event()
        self.greeted = asyncio.Event()

    def receive(self, payload: bytes) -> None:
        """Take a frame."""
        frame = json.loads(payload)
        if frame["type"] == "hello":
            self.greeted.set()
        elif frame["type"] == "message":
            self.seqs.append(frame["seq"])
        elif frame.get("user") == self._me and frame["type"] == "left":
            self.left.set_result((time.perf_counter(), frame["seq"]))
        elif frame.get("user") == self._me:
            self.joined.set()


async def removals(db: Database, server: Server, other: Server, report: Report) -> None:
    """Broadcast on one server; on the other a member listens, who is removed by a SQL statement."""
    sending, listening = db.people(2)
    group = db.group("few", [sending, listening], retention=1_000_000)
    sender = await Sender(group, BODY).open(server.port, sending)
    watch = Watch(listening)
    listener = await open_listener(other.port, att_request(listening, is_v1=True), watch.receive)
    await watch.greeted.wait()
    listener.send(b'{"type":"resume"}')
    broadcasting = asyncio.create_task(_keep_broadcasting(sender))
    times, above = [], 0
    for _ in range(REMOVALS):
        times.append(await _remove(db, str(group), str(listening.id), watch))
        above += await _rejoin(db, str(group), str(listening.id), watch)
    broadcasting.cancel()
    for name, part in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
        report.add("removed, two servers", f"commit to the last frame, {name}", "ms", figure([percentile(times, part)]))
    report.add("removed, two servers", "received above the removal's seq", "messages", figure([above]))


async def _keep_broadcasting(sender: Sender) -> None:
    while True:
        sender.say()
        await asyncio.sleep(BROADCAST_PAUSE)


async def _remove(db: Database, group: str, user: str, watch: Watch) -> float:
    watch.left = asyncio.get_running_loop().create_future()
    await asyncio.sleep(random.uniform(0.01, 0.03))
    db.run("BEGIN")
    db.run("DELETE FROM members WHERE group_id = %s AND user_id = %s", group, user)
    began = time.perf_counter()  # before the commit, so that nothing is left out
    db.run("COMMIT")
    received_at, _ = await asyncio.wait_for(watch.left, 10)
    return (received_at - began) * 1e3


async def _rejoin(db: Database, group: str, user: str, watch: Watch) -> int:
    """Add the member again. Return how many messages they received wrongly meanwhile."""
    _, seq = watch.left.result()
    await asyncio.sleep(0.03)
    above = sum(received > seq for received in watch.seqs)
    watch.joined.clear()
    db.run("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", group, user)
    await asyncio.wait_for(watch.joined.wait(), 10)
    watch.seqs.clear()
    return above


async def main() -> None:
    """Measure both."""
    report = Report("latency")
    with database() as db:
        async with att(db) as server:
            await to_the_last(db, server, report)
            async with att(db) as other:
                await removals(db, server, other, report)
    report.save()


if __name__ == "__main__":
    run(main)
