"""Cost to the server of delivering a broadcast to one more socket.

One broadcast at a time, sent by a client of its own: the next one when all have received the last. All work of the
server counts, att's appending to the log included. PostgreSQL's work is shown beside it.
"""

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from harness import REPEATS, Account, Cpu, Database, Server, att, database, figure, peer, run
from load import Arrivals, Listener, Sender, att_request, json_body, open_listener, open_many, upgrade
from report import Report

COUNTS = [int(count) for count in sys.argv[1:]] or [100, 1_000, 5_000]
SIZES = {"100 B": 100, "4 KB": 4_096}
DELIVERIES = 40_000  # of one measurement, of at least ROUNDS broadcasts
ROUNDS = 12
WARM_UP = 20  # broadcasts
REST = 3.0  # seconds between the last listener and the first broadcast; then att knows that it is alone
SERVERS = ("att", "bare", "websockets", "starlette", "socketio")

Say = Callable[[bytes], None]
Figures = dict[tuple[int, str, str], list[tuple[Cpu, float]]]  # by sockets, size and server


async def say_to_att(port: int, account: Account, group: UUID) -> Say:
    """Return a function that broadcasts to a group of att."""
    sender = await Sender(group, b"{}").open(port, account)

    def say(body: bytes) -> None:
        sender.set_body(body)
        sender.say()

    return say


async def say_to_peer(port: int) -> Say:
    """Return a function that sends to a peer, from a client that does not listen."""
    listener = await open_listener(port, upgrade("/sender"))
    return listener.send


async def join_socketio(port: int) -> Listener:
    """Open a listener in the room of python-socketio."""
    listener = await _socketio(port)
    listener.send(b'42["join",{}]')
    return listener


async def say_to_socketio(port: int) -> Say:
    """Return a function that sends to the room, from a client outside it."""
    listener = await _socketio(port)
    return lambda body: listener.send(b'42["say",' + body + b"]")


async def _socketio(port: int) -> Listener:
    listener = await open_listener(port, upgrade("/socket.io/?EIO=4&transport=websocket"))
    await _has_received(listener, 1)
    listener.send(b"40")
    await _has_received(listener, 2)
    return listener


async def _has_received(listener: Listener, count: int) -> None:
    async with asyncio.timeout(10):
        while listener.received < count:  # noqa: ASYNC110 - before anything is measured
            await asyncio.sleep(0.001)


class Rounds:
    """Broadcasts to the listeners of one server, one after the other."""

    def __init__(self, server: Server, db: Database, listeners: list[Listener], say: Say) -> None:
        self._server = server
        self._db = db
        self._arrivals = Arrivals(listeners)
        self._count = len(listeners)
        self._say = say

    async def broadcast(self, body: bytes, rounds: int) -> None:
        """Broadcast this many times."""
        for _ in range(rounds):
            self._arrivals.expect(1)
            self._say(body)
            await self._arrivals.wait()

    async def measure(self, size: int) -> tuple[Cpu, float]:
        """Return the server's and the database's microseconds of a delivery."""
        rounds = max(ROUNDS, DELIVERIES // self._count)
        body = json_body(size)
        await self.broadcast(body, WARM_UP)
        before, db_before = self._server.cpu(), self._db.cpu()
        await self.broadcast(body, rounds)
        used, db_used = self._server.cpu() - before, self._db.cpu() - db_before
        scale = 1e6 / (rounds * self._count)
        return Cpu(used.total * scale, used.user * scale), db_used * scale


class Crowd(NamedTuple):
    """Accounts of att's listeners, the last of which also sends, and their group."""

    accounts: list[Account]
    group: UUID


async def with_listeners(server: Server, count: int, crowd: Crowd) -> tuple[list[Listener], Say]:
    """Open a server's listeners, and a client that sends."""
    port = server.port
    if server.name == "att":
        listeners = await open_many(count, lambda number: open_listener(port, att_request(crowd.accounts[number])))
        return listeners, await say_to_att(port, crowd.accounts[-1], crowd.group)
    if server.name == "socketio":
        return await open_many(count, lambda _: join_socketio(port)), await say_to_socketio(port)
    return await open_many(count, lambda _: open_listener(port, upgrade("/"))), await say_to_peer(port)


async def main() -> None:
    """Measure each server alone with its listeners, in random order."""
    figures: Figures = defaultdict(list)
    with database() as db:
        accounts = db.people(max(COUNTS) + 1)
        for count in COUNTS:
            group = db.group(f"group {count}", [*accounts[:count], accounts[-1]])
            order = [name for name in SERVERS for _ in range(REPEATS)]
            random.shuffle(order)
            for name in order:
                async with att(db) if name == "att" else peer(name) as server:
                    listeners, say = await with_listeners(server, count, Crowd(accounts, group))
                    await asyncio.sleep(REST)
                    rounds = Rounds(server, db, listeners, say)
                    for size in random.sample([*SIZES], len(SIZES)):
                        figures[count, size, name].append(await rounds.measure(SIZES[size]))
    show(Report("fanout"), figures)


def show(report: Report, figures: Figures) -> None:
    """Report the figures, and their ratio to the bare loop."""
    for (count, size, name), measured in sorted(figures.items(), key=lambda item: _rank(item[0])):
        case = f"{count:,} sockets, {size}, {name}"
        report.add(case, "CPU", "µs a delivery", figure([cpu.total for cpu, _ in measured]))
        report.add(case, "of it in user mode", "µs a delivery", figure([cpu.user for cpu, _ in measured]))
        bare = figure([cpu.total for cpu, _ in figures[count, size, "bare"]]).median
        report.add(case, "times the bare loop", "", figure([cpu.total / bare for cpu, _ in measured]))
        if name == "att":
            report.add(case, "PostgreSQL's CPU, besides", "µs a delivery", figure([db for _, db in measured]))
    report.save()


def _rank(case: tuple[int, str, str]) -> tuple[int, int, int]:
    count, size, name = case
    return count, SIZES[size], SERVERS.index(name)


if __name__ == "__main__":
    run(main)
