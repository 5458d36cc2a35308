"""Cost of a second node: the same sockets on one server and on two, which announce over PostgreSQL or over Redis.

Broadcasts are sent on the first node: one at a time, and with many in flight. The rate is that of all together, where
load, PostgreSQL, Redis and all nodes share this machine's cores; compare the CPU time. With two sockets, one on each
node, hardly anything is delivered: what is left is the cost of a broadcast to the node that sends it, and to the one
that receives its announcement.
"""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

from harness import REPEATS, Account, Database, Valkey, att, database, figure, run, shuffled, valkey
from load import Arrivals, Sender, att_request, json_body, open_listener, open_many
from report import Report

from att.redis.client import RedisClient
from att.sessions.redis_keys import SessionKeys
from att.sessions.store import ClientInfo, hash_token, slack_of

SOCKETS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
FEW = 2
BODY = json_body(100)
WARM_UP = 20  # broadcasts
DELIVERIES = 40_000  # of one measurement, of at least ROUNDS broadcasts and at most MOST
ROUNDS, MOST = 40, 2_000
IN_FLIGHT = 20
LIFETIME = timedelta(days=1)  # of sessions
REST = 1.0  # seconds between the last listener and the first broadcast

SUBSCRIBERS = (1, 2, 4, 8, 16)
PUBLISHED = 20_000
AT_ONCE = 20  # messages in one write
CHANNEL = "att:group:00000000-0000-4000-8000-000000000000"
PAYLOAD = "x" * 250


class Case(NamedTuple):
    """The number of sockets and of nodes, with Redis or without."""

    sockets: int
    nodes: int
    on_redis: bool

    def __str__(self) -> str:
        nodes = "one node" if self.nodes == 1 else "two nodes"
        return f"{self.sockets:,} sockets, {nodes}{' on Redis' if self.on_redis else ''}"


CASES = [Case(sockets, nodes, on_redis) for sockets in (SOCKETS, FEW) for nodes in (1, 2) for on_redis in (False, True)]


class Cost(NamedTuple):
    """One measurement: microseconds of CPU of a broadcast, and broadcasts a second."""

    first: float  # of the node that sends
    other: float
    database: float
    redis: float
    a_second: float


class Found(NamedTuple):
    """The cost one at a time, and with many in flight."""

    alone: Cost
    together: Cost


class Crowd(NamedTuple):
    """Accounts of the listeners, the last of which sends, and their group."""

    accounts: list[Account]
    group: UUID


class Stage:
    """Nodes with sockets on each of them, and a sender on the first."""

    def __init__(self, case: Case, db: Database, redis: Valkey) -> None:
        self._sockets = case.sockets
        self._servers = [att(db, redis.url if case.on_redis else None) for _ in range(case.nodes)]
        self._db, self._redis = db, redis
        self._arrivals: Arrivals
        self._sender: Sender

    @asynccontextmanager
    async def open(self, crowd: Crowd) -> AsyncIterator["Stage"]:
        """Run them while the block runs."""
        async with AsyncExitStack() as stack:
            for server in self._servers:
                await stack.enter_async_context(server)

            async def open_one(number: int) -> object:
                port = self._servers[number % len(self._servers)].port
                return await open_listener(port, att_request(crowd.accounts[number]))

            self._arrivals = Arrivals(await open_many(self._sockets, open_one))
            self._sender = await Sender(crowd.group, BODY).open(self._servers[0].port, crowd.accounts[-1])
            await asyncio.sleep(REST)
            await self._broadcast(WARM_UP, 1)
            yield self

    async def measure(self, in_flight: int) -> Cost:
        """Broadcast with this many in flight."""
        turns = min(max(ROUNDS, DELIVERIES // self._sockets), MOST) // in_flight
        before, began = self._cpu(), time.perf_counter()
        await self._broadcast(turns, in_flight)
        took, after = time.perf_counter() - began, self._cpu()
        count = turns * in_flight
        return Cost(*((now - then) * 1e6 / count for now, then in zip(after, before, strict=True)), count / took)

    def _cpu(self) -> list[float]:
        first, *others = (server.cpu().total for server in self._servers)
        return [first, sum(others), self._db.cpu(), self._redis.cpu().total]

    async def _broadcast(self, turns: int, at_once: int) -> None:
        for _ in range(turns):
            self._arrivals.expect(at_once)
            for _ in range(at_once):
                self._sender.say()
            await self._arrivals.wait()


async def channels(redis: Valkey, subscribers: int) -> float:
    """Return Redis's microseconds of a message to this many connections."""
    loop = asyncio.get_running_loop()
    hearing = []
    for _ in range(subscribers):
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", redis.port)
        transport.write(_command("SUBSCRIBE", CHANNEL))
        hearing.append(transport)
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
    message = _command("PUBLISH", CHANNEL, PAYLOAD)
    await _publish(reader, writer, message, WARM_UP)
    before = redis.cpu()
    await _publish(reader, writer, message, PUBLISHED // AT_ONCE)
    used = redis.cpu() - before
    for transport in (writer.transport, *hearing):
        transport.abort()
    return used.total * 1e6 / PUBLISHED


async def _publish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes, times: int) -> None:
    for _ in range(times):
        writer.write(message * AT_ONCE)
        for _ in range(AT_ONCE):
            await reader.readline()


def _command(*words: str) -> bytes:
    return "\r\n".join([f"*{len(words)}", *(f"${len(word)}\r\n{word}" for word in words), ""]).encode()


async def main() -> None:
    """Measure each case with fresh servers, in random order."""
    found: dict[Case | int, list] = defaultdict(list)
    with database() as db, valkey() as redis:
        accounts = db.people(SOCKETS + 1)
        await sign_in(redis, accounts)
        crowds = {
            count: Crowd([*accounts[:count], accounts[-1]], db.group(f"of {count}", [*accounts[:count], accounts[-1]]))
            for count in (SOCKETS, FEW)
        }

        async def go(case: Case | int) -> None:
            if isinstance(case, int):
                found[case].append(await channels(redis, case))
            else:
                async with Stage(case, db, redis).open(crowds[case.sockets]) as stage:
                    found[case].append(Found(await stage.measure(1), await stage.measure(IN_FLIGHT)))

        await shuffled([*CASES, *SUBSCRIBERS], REPEATS, go)
    show(Report("nodes"), found)


async def sign_in(redis: Valkey, accounts: Sequence[Account]) -> None:
    """Begin the sessions of these accounts in Redis, as they are in PostgreSQL."""
    redis_client = await RedisClient.connect(redis.url)
    try:
        keys = SessionKeys(redis_client, LIFETIME, slack_of(LIFETIME))
        for account in accounts:
            digest, session_id = hash_token(account.token).hex(), uuid4()
            await keys.add_pointers(digest, account.id, session_id)
            await keys.create(digest, account.id, session_id, ClientInfo(None, None))
    finally:
        await redis_client.close()


def show(report: Report, found: dict[Case | int, list]) -> None:
    """Report the figures, and the ratio of two nodes to one."""
    for case in CASES:
        one = [each.alone for each in found[case._replace(nodes=1, on_redis=False)]]
        base = figure([cost.first for cost in one]).median
        for place, how in enumerate(("", f", {IN_FLIGHT} in flight")):
            report_costs(report, f"{case}{how}", case, [each[place] for each in found[case]])
        shares = [(each.alone.first + each.alone.other) / base for each in found[case]]
        report.add(str(case), "servers' CPU, times one node's", "", figure(shares))
    for count in SUBSCRIBERS:
        report.add(f"a message to {count} nodes", "Redis's CPU", "µs", figure(found[count]))
    report.save()


def report_costs(report: Report, name: str, case: Case, costs: list[Cost]) -> None:
    """Report one way to broadcast."""
    report.add(name, "servers' CPU", "µs a delivery", figure([(c.first + c.other) / case.sockets for c in costs]))
    report.add(name, "of the node that sends", "µs a broadcast", figure([cost.first for cost in costs]))
    if case.nodes > 1:
        report.add(name, "of the other", "µs a broadcast", figure([cost.other for cost in costs]))
    report.add(name, "PostgreSQL's CPU", "µs a broadcast", figure([cost.database for cost in costs]))
    if case.on_redis:
        report.add(name, "Redis's CPU", "µs a broadcast", figure([cost.redis for cost in costs]))
    report.add(name, "deliveries", "a second", figure([cost.a_second * case.sockets for cost in costs]))


if __name__ == "__main__":
    run(main)
