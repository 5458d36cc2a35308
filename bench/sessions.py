"""Cost of sessions in Redis and in PostgreSQL: begin one, find it, check that many are alive, end all of a user's.

The stores run in this process, as they do in a server, without the cache that saves a server most of the finding. CPU
time is this process's, PostgreSQL's and Redis's.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import NamedTuple, TypeVar

from harness import REPEATS, Account, Database, Valkey, cpu_of, database, figure, run, shuffled, valkey
from report import Report

from att.db.engine import Engine
from att.realtime.log_reader import _CHUNK
from att.redis.client import RedisClient
from att.sessions.redis_store import RedisSessions
from att.sessions.store import ClientInfo, PostgresSessions, SessionStore, Verified

USERS = 400
EACH = 5  # sessions of each of them: 2 times CHUNK of all
TIMES = 4  # that each session is found
AT_ONCE = 32  # calls in flight
HASH = "x"  # of the password that they sign in with
NOBODY = ClientInfo("127.0.0.1", "bench")
VERBS = ("create", "find", "living", "end_all")

T = TypeVar("T")


class Cost(NamedTuple):
    """One measurement: calls a second, and microseconds of CPU of a call."""

    a_second: float
    here: float
    database: float
    redis: float


class Meter:
    """Measures calls."""

    def __init__(self, db: Database, redis: Valkey) -> None:
        self._db = db
        self._redis = redis

    async def measure(self, call: Callable[[T], Awaitable[object]], items: Sequence[T]) -> tuple[list, Cost]:
        """Return the results of the calls and their cost, with this many in flight."""
        left = iter(enumerate(items))
        answers: list = [None] * len(items)

        async def go() -> None:
            for place, item in left:
                answers[place] = await call(item)

        before, began = self._cpu(), time.perf_counter()
        await asyncio.gather(*(go() for _ in range(AT_ONCE)))
        took = time.perf_counter() - began
        used = [(now - then) / len(items) * 1e6 for now, then in zip(self._cpu(), before, strict=True)]
        return answers, Cost(len(items) / took, *used)

    def _cpu(self) -> list[float]:
        return [cpu_of(os.getpid()).total, self._db.cpu(), self._redis.cpu().total]


async def verbs(store: SessionStore, meter: Meter, accounts: Sequence[Account]) -> dict[str, Cost]:
    """Measure each operation: begin sessions, find them, end them."""
    users = [Verified(account.id, HASH) for account in accounts for _ in range(EACH)]
    signed_in, create = await meter.measure(lambda user: store.create(user, NOBODY), users)
    tokens = [each.token for each in signed_in] * TIMES
    found, find = await meter.measure(store.find, tokens)
    assert all(session is not None for session in found)
    owners = [(each.session.id, each.session.user_id) for each in signed_in]
    parts = [dict(owners[start : start + _CHUNK]) for start in range(0, len(owners), _CHUNK)]
    alive, living = await meter.measure(store.living, parts)
    assert sum(map(len, alive)) == len(owners)
    ended, end_all = await meter.measure(store.end_all, [account.id for account in accounts])
    assert sum(map(len, ended)) == len(users)
    each = Cost(living.a_second * _CHUNK, *(cost / _CHUNK for cost in living[1:]))
    return {"create": create, "find": find, "living": each, "end_all": end_all}


async def main() -> None:
    """Measure both stores, in random order."""
    found: dict[str, list[dict[str, Cost]]] = defaultdict(list)
    with database() as db, valkey() as redis:
        accounts = db.people(USERS)
        db.run("UPDATE users SET password_hash = %s", HASH)
        db.run("DELETE FROM sessions")
        engine, redis_client = await Engine.connect(db.dsn), await RedisClient.connect(redis.url)
        stores: dict[str, SessionStore] = {
            "PostgreSQL": PostgresSessions(engine, timedelta(days=30)),
            "Redis": RedisSessions(redis_client, engine, timedelta(days=30)),
        }
        meter = Meter(db, redis)

        async def go(name: str) -> None:
            found[name].append(await verbs(stores[name], meter, accounts))

        try:
            for store in stores.values():
                await verbs(store, meter, accounts[:AT_ONCE])
            await shuffled([*stores], REPEATS, go)
        finally:
            await redis_client.close()
            await engine.close()
    show(Report("sessions"), found)


def show(report: Report, found: dict[str, list[dict[str, Cost]]]) -> None:
    """Report each operation, in one store and in the other."""
    for verb in VERBS:
        for name, measured in found.items():
            costs = [each[verb] for each in measured]
            case = f"{verb}, in {name}"
            report.add(case, "calls", "a second", figure([cost.a_second for cost in costs]))
            report.add(case, "server's CPU", "µs a call", figure([cost.here for cost in costs]))
            report.add(case, "PostgreSQL's CPU", "µs a call", figure([cost.database for cost in costs]))
            if name == "Redis":
                report.add(case, "Redis's CPU", "µs a call", figure([cost.redis for cost in costs]))
    report.save()


if __name__ == "__main__":
    run(main)
