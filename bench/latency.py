"""How long a broadcast takes to the last of 1,000 listeners, and a removal to the other of two servers.

Broadcasts are sent at even intervals, whether those before have arrived or not, and are timed from the moment at which
each was due. The highest rate is what is reached when the next one is sent as soon as one of a few has arrived.
"""

import asyncio
import json
import random
import sys
import time
from collections import defaultdict

from harness import REPEATS, Account, Database, Server, att, database, figure, percentile, run
from load import Ear, Speaker, att_request, close_all, json_body, open_ear, open_many
from report import Report

LISTENERS = 1_000
BODY = json_body(100)
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0  # at each rate
WINDOW = 4  # broadcasts on their way when the highest rate is looked for
SHARES = {"a tenth": 0.1, "half": 0.5, "nine tenths": 0.9}
REMOVALS = 300
CHATTER = 0.005  # seconds between the broadcasts during which members are removed


class LastOf:
    """When each broadcast was heard by the last of the listeners, who hear all of them in order."""

    def __init__(self, ears: list[Ear]) -> None:
        self._count = len(ears)
        self._heard: defaultdict[int, int] = defaultdict(int)
        self.times: dict[int, float] = {}
        self.arrived = asyncio.Event()
        for ear in ears:
            ear.heard = 0
            ear.on_count = self._on_count

    def _on_count(self, number: int) -> None:
        self._heard[number] += 1
        if self._heard[number] == self._count:
            self.times[number] = time.perf_counter()
            self.arrived.set()

    async def wait(self, number: int) -> None:
        """Until that many were heard by all."""
        async with asyncio.timeout(60):
            while number and number not in self.times:
                self.arrived.clear()
                await self.arrived.wait()


async def highest_rate(speaker: Speaker, ears: list[Ear]) -> float:
    """Broadcasts a second that reach all."""
    last = LastOf(ears)
    began, sent = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        await last.wait(max(0, sent - WINDOW + 1))
        speaker.say()
        sent += 1
    await last.wait(sent)
    return sent / (time.perf_counter() - began)


async def at_rate(speaker: Speaker, ears: list[Ear], rate: float) -> list[float]:
    """Milliseconds from the moment at which each was due."""
    last, count = LastOf(ears), max(20, int(rate * SECONDS))
    began = time.perf_counter() + 0.01
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        speaker.say()
    await last.wait(count)
    return [(last.times[number + 1] - began - number / rate) * 1e3 for number in range(count)]


async def to_the_last(db: Database, server: Server, report: Report) -> None:
    """One server, and many who listen to one group."""
    accounts = db.people(LISTENERS + 1)
    group = db.group("many", accounts)
    ears = await open_many(LISTENERS, lambda number: open_ear(server.port, att_request(accounts[number])))
    speaker = await Speaker(group, BODY).open(server.port, accounts[-1])
    await highest_rate(speaker, ears)
    rates = [await highest_rate(speaker, ears) for _ in range(REPEATS)]
    report.add(f"{LISTENERS:,} listeners", "highest rate", "broadcasts a second", figure(rates))
    found = defaultdict(list)
    order = [share for share in SHARES for _ in range(REPEATS)]
    random.shuffle(order)
    for share in order:
        found[share].append(await at_rate(speaker, ears, figure(rates).median * SHARES[share]))
        await asyncio.sleep(0.5)
    for share in SHARES:
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            values = [percentile(times, part) for times in found[share]]
            report.add(f"{share} of the highest rate", f"to the last, {name}", "ms", figure(values))
    await close_all([*ears, speaker.ear])


class Watch:
    """A listener in att.v1 who is removed, and what the last thing was that it heard."""

    def __init__(self, account: Account) -> None:
        self._me = str(account.id)
        self.seqs: list[int] = []
        self.left: asyncio.Future[tuple[float, int]] = asyncio.get_running_loop().create_future()
        self.joined = asyncio.Event()
        self.greeted = asyncio.Event()

    def hear(self, payload: bytes) -> None:
        """A frame."""
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
    """One server is broadcast to; on the other a member listens, who is removed by a statement of SQL."""
    speaking, listening = db.people(2)
    group = db.group("few", [speaking, listening], retention=1_000_000)
    speaker = await Speaker(group, BODY).open(server.port, speaking)
    watch = Watch(listening)
    ear = await open_ear(other.port, att_request(listening, is_v1=True), watch.hear)
    await watch.greeted.wait()
    ear.send(b'{"type":"resume"}')
    chatter = asyncio.create_task(_chatter(speaker))
    times, above = [], 0
    for _ in range(REMOVALS):
        times.append(await _remove(db, str(group), str(listening.id), watch))
        above += await _rejoin(db, str(group), str(listening.id), watch)
    chatter.cancel()
    for name, part in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
        report.add("removed, two servers", f"commit to the last frame, {name}", "ms", figure([percentile(times, part)]))
    report.add("removed, two servers", "heard above the removal's seq", "messages", figure([above]))


async def _chatter(speaker: Speaker) -> None:
    while True:
        speaker.say()
        await asyncio.sleep(CHATTER)


async def _remove(db: Database, group: str, user: str, watch: Watch) -> float:
    watch.left = asyncio.get_running_loop().create_future()
    await asyncio.sleep(random.uniform(0.01, 0.03))
    db.run("BEGIN")
    db.run("DELETE FROM members WHERE group_id = %s AND user_id = %s", group, user)
    began = time.perf_counter()  # before the commit, so that nothing is left out
    db.run("COMMIT")
    heard_at, _ = await asyncio.wait_for(watch.left, 10)
    return (heard_at - began) * 1e3


async def _rejoin(db: Database, group: str, user: str, watch: Watch) -> int:
    """Make them a member again. How many messages they heard meanwhile that they should not have."""
    _, seq = watch.left.result()
    await asyncio.sleep(0.03)
    above = sum(heard > seq for heard in watch.seqs)
    watch.joined.clear()
    db.run("INSERT INTO members (group_id, user_id, role) VALUES (%s, %s, 'member')", group, user)
    await asyncio.wait_for(watch.joined.wait(), 10)
    watch.seqs.clear()
    return above


async def main() -> None:
    """Both questions."""
    report = Report("latency")
    with database() as db:
        async with att(db) as server:
            await to_the_last(db, server, report)
            async with att(db) as other:
                await removals(db, server, other, report)
    report.save()


if __name__ == "__main__":
    run(main)
