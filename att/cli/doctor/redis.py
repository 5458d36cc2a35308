"""Checks of a Redis or Valkey: version, memory, persistence, clock, rights, and whether announcements arrive."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, cast
from uuid import uuid4

from att.cli.doctor.checks import Finding, Level, Verdict, compare_clocks, fail, ok, run_checks, warn
from att.errors import RedisUnavailable
from att.redis.client import ACL_FILE, RedisClient
from att.sessions.redis_scripts import TRIAL

_OLDEST = 7  # has sharded channels
_ARRIVAL = 3.0  # seconds until an announcement must have come back
NEARLY_FULL = 0.9  # of maxmemory

Info = Mapping[str, Any]


async def check_redis(url: str) -> AsyncIterator[Finding]:
    """Yield the findings for the Redis at this URL. No key is left behind."""
    async with contextlib.AsyncExitStack() as stack:
        opened: list[RedisClient] = []
        infos: dict[str, Info] = {}

        async def connect() -> Verdict:
            redis = await RedisClient.connect(url)
            stack.push_async_callback(redis.close)
            opened.append(redis)
            try:
                infos.update(await _info(redis))
            except RedisUnavailable as error:
                return warn(error.why, f"grant +info, as {ACL_FILE} does, to check maxmemory-policy and appendonly")
            return worst(infos, judge_version)

        async for finding in run_checks({"Redis": connect}, remedy="start it, or correct --redis-url"):
            yield finding
        judges = {"memory": judge_memory, "persistence": judge_persistence, "clock": judge_clock} if infos else {}
        for name, judge in judges.items():
            yield Finding(f"Redis {name}", *worst(infos, judge))
        for redis in opened:
            probes = {"Redis rights": partial(_rights, redis), "Redis announcements": partial(_announcements, redis)}
            async for finding in run_checks(probes):
                yield finding


async def _info(redis: RedisClient) -> dict[str, Info]:
    """Return the answer to INFO of each server by its name, and our own time with it."""
    client: Any = redis.client
    began = time.time()
    async with redis.guarded():
        infos = (
            await client.info(target_nodes="primaries") if redis.is_cluster else {redis.address: await client.info()}
        )
    now = (began + time.time()) / 2
    return {name: {**info, "name": name, "our_time": now} for name, info in infos.items()}


def worst(infos: Mapping[str, Info], judge: Callable[[Info], Verdict]) -> Verdict:
    """Return the worst verdict on all servers; in a cluster with the name of its server."""
    verdicts = {name: judge(info) for name, info in infos.items()}
    name, verdict = max(verdicts.items(), key=lambda found: [*Level].index(found[1].level))
    return verdict if len(verdicts) == 1 else verdict._replace(found=f"{name} of {len(verdicts)}: {verdict.found}")


def judge_version(info: Info) -> Verdict:
    """Return the verdict on the version and the role of a server."""
    version = str(info.get("valkey_version", info["redis_version"]))
    found = f"{info.get('server_name', 'redis')} {version} at {info['name']}"
    if int(version.partition(".")[0]) < _OLDEST:
        return fail(found, f"version {_OLDEST} or later is needed: upgrade it")
    if info["role"] != "master":
        return fail(f"{found}, a replica", "give the primary, which accepts writes")
    return ok(found)


def judge_memory(info: Info) -> Verdict:
    """Return the verdict on maxmemory-policy and on the memory in use."""
    policy, limit, used = str(info["maxmemory_policy"]), int(info["maxmemory"]), int(info["used_memory"])
    shown = f"{used / 1024**2:,.0f} of {limit / 1024**2:,.0f} MiB used" if limit else "maxmemory not set"
    found = f"maxmemory-policy {policy}, {shown}"
    if policy != "noeviction":  # all our keys expire: also a volatile- policy evicts them
        judge = fail if limit and policy.startswith("allkeys-") else warn
        return judge(found, "set maxmemory-policy noeviction: other policies sign users out to make room")
    if limit and used > NEARLY_FULL * limit:
        return warn(found, "raise maxmemory: when it is used up nobody can sign in")
    return ok(found)


def judge_persistence(info: Info) -> Verdict:
    """Return the verdict on what survives a restart."""
    failed = [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(name, "ok") != "ok"]
    if failed:
        return fail(f"{', '.join(failed)}: the last write failed", "check its disk: Redis may refuse writes")
    if int(info.get("aof_enabled", 0)):
        return ok("appendonly yes")
    if snapshots := int(info.get("rdb_saves", 0)):
        return ok(f"appendonly no, {snapshots} snapshots so far: a crash signs out users who signed in since the last")
    return warn("appendonly no, and no snapshot so far", "set appendonly yes: else a restart may sign everybody out")


def judge_clock(info: Info) -> Verdict:
    """Return the verdict on the clock of a server."""
    return compare_clocks(int(info["server_time_usec"]) / 1e6 - info["our_time"])


async def _rights(redis: RedisClient) -> Verdict:
    """Run on each server the script that a starting server tries."""
    for name in await redis.servers():
        keys = (f"att:{{check-{number}}}" for number in itertools.count())
        key = next(key for key in keys if redis.server_of(key) == name)
        try:
            await redis.run(TRIAL, [key, f"{key}:set"])
        except RedisUnavailable as error:
            raise RedisUnavailable(why=error.why.replace(redis.address, name)) from error
    return ok("the user may do what a server does")


async def _announcements(redis: RedisClient) -> Verdict:
    """Publish on a channel of our own, and wait until it arrives."""
    channel, client = f"att:check:{uuid4()}", cast("Any", redis.client)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_ARRIVAL), redis.guarded(), client.pubsub() as pubsub:
            await pubsub.subscribe(channel)
            await client.publish(channel, "x")
            while (await anext(pubsub.listen()))["type"] != "message":
                pass
    except TimeoutError:
        return fail(f"nothing arrived within {_ARRIVAL:g} s", "connect to Redis itself: a proxy may be in between")
    return ok(f"arrived after {(time.perf_counter() - began) * 1000:.0f} ms")
