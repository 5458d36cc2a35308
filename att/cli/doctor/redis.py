"""What a server needs of a Redis or Valkey: that it does what we ask of it, and forgets nothing before its time."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

from att.cli.doctor.checks import Finding, Level, Verdict, compare_clocks, fail, look, ok, warn
from att.errors import RedisUnavailable
from att.redis.client import ACL_FILE, Complaint, RedisLink, missing_right

_OLDEST = 7  # has channels that a cluster does not tell all its servers of
SLOTS = 16_384
_HEARING = 3.0  # seconds until an announcement must have come back
_CLOCK_WELL, _CLOCK_BEARABLE = 1.0, 60.0  # seconds
NEARLY_FULL = 0.9  # of maxmemory

KEY = object()  # stands for a key that nobody has
# What we ask of a server, given so that it changes nothing: the key is not there, XX makes none, and "x" is no number.
COMMANDS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "PING": (),
        "TIME": (),
        "GET": (KEY,),
        "MGET": (KEY,),
        "SET": (KEY, "x", "XX"),
        "DEL": (KEY,),
        "INCRBY": (KEY, "x"),
        "EXPIRE": (KEY, "1"),
        "PEXPIRE": (KEY, "1"),
        "PTTL": (KEY,),
        "SCAN": ("0", "COUNT", "1"),
        "ZADD": (KEY, "XX", "1", "x"),
        "ZREM": (KEY, "x"),
        "ZCARD": (KEY,),
        "ZCOUNT": (KEY, "0", "1"),
        "ZRANGE": (KEY, "0", "0"),
        "ZRANGEBYSCORE": (KEY, "0", "0"),
        "ZREVRANGE": (KEY, "0", "0"),
        "EVAL": ("return 0", "1", KEY),
        "EVALSHA": ("0" * 40, "1", KEY),
    }
)


class Words(NamedTuple):
    """What publishing and hearing are called, of one kind of channels."""

    subscribe: str
    publish: str
    message: str
    unsubscribe: str


PLAIN = Words("subscribe", "PUBLISH", "message", "unsubscribe")
SHARDED = Words("ssubscribe", "SPUBLISH", "smessage", "sunsubscribe")  # in a cluster


class RedisFacts(NamedTuple):
    """One of the servers that the link leads to: ``node`` is the cluster's word for it. ``key`` would be kept there."""

    link: RedisLink
    name: str
    key: str
    node: Any = None

    async def ask(self, *words: Any) -> Any:
        """Its answer. Raises RedisUnavailable, and Complaint for what it does not take."""
        has_key = KEY in words
        where = {} if self.node is None or has_key else {"target_nodes": self.node}
        async with self.link.guarded():
            return await self.link.client.execute_command(
                *(self.key if word is KEY else word for word in words), **where
            )


async def check_redis(url: str) -> AsyncIterator[Finding]:
    """The checks of the Redis at this URL. It is left as it is."""
    async with contextlib.AsyncExitStack() as stack:
        opened: list[RedisLink] = []

        async def connect() -> Verdict:
            opened.append(await RedisLink.connect(url))
            stack.push_async_callback(opened[0].close)
            return await _of_each(_servers_of(opened[0]), _identity)

        async for finding in look({"Redis": partial(_explained, connect)}):
            yield finding
        if opened:
            async for finding in look(_probes(opened[0])):
                yield finding


def _probes(link: RedisLink) -> dict[str, Callable[[], Awaitable[Verdict]]]:
    servers = _servers_of(link)
    probes: dict[str, Callable[[], Awaitable[Verdict]]] = {
        "Redis rights": partial(_of_each, servers, _rights),
        "Redis announcements": partial(_announcements, link),
        "Redis memory": partial(_of_each, servers, _memory),
        "Redis persistence": partial(_of_each, servers, _persistence),
        "Redis clock": partial(_of_each, servers, _clock),
    }
    if link.is_cluster:
        probes["Redis cluster"] = partial(_slots, servers)
    return {name: partial(_explained, probe) for name, probe in probes.items()}


async def _explained(probe: Callable[[], Awaitable[Verdict]]) -> Verdict:
    """A right that is missing is told as such."""
    try:
        return await probe()
    except RedisUnavailable as error:
        if error.__cause__ is None or not (missing := _missing(error)):
            raise
        return fail(missing, f"give the user the rights of {ACL_FILE}")


def _missing(error: RedisUnavailable) -> str | None:
    cause = error.__cause__
    said = missing_right(cause) if isinstance(cause, Exception) else None
    return said.partition(";")[0] if said else None


def _servers_of(link: RedisLink) -> list[RedisFacts]:
    word = f"att:check:{uuid4()}"
    if not link.is_cluster:
        return [RedisFacts(link, link.place, word)]
    servers = []
    client: Any = link.client
    for node in client.get_primaries():
        keys = (f"{word}:{number}" for number in itertools.count())
        key = next(key for key in keys if client.get_node_from_key(key).name == node.name)
        servers.append(RedisFacts(link, node.name, key, node))
    return servers


async def _of_each(servers: list[RedisFacts], probe: Callable[[RedisFacts], Awaitable[Verdict]]) -> Verdict:
    """The worst that is found on any server, and its name; what is found on the first one if all is well."""
    verdicts = [(await probe(server), server.name) for server in servers]
    worst, name = max(verdicts, key=lambda found: [*Level].index(found[0].level))
    if worst.level is Level.OK or len(servers) == 1:
        return worst if len(servers) == 1 else worst._replace(found=f"{worst.found}, and so on all {len(servers)}")
    return worst._replace(found=f"{name}: {worst.found}")


async def _identity(server: RedisFacts) -> Verdict:
    return judge_identity(await server.ask("HELLO"), server.name)


def judge_identity(told: list[Any], place: str) -> Verdict:
    """The verdict on what the server at this place answers to HELLO: names, each followed by its value."""
    said = {key.decode(): value for key, value in zip(told[::2], told[1::2], strict=True) if isinstance(key, bytes)}
    name, version = (said[word].decode() for word in ("server", "version"))
    found = f"{name} {version} at {place}"
    if int(version.partition(".")[0]) < _OLDEST:
        return fail(found, f"version {_OLDEST} or later is needed: upgrade it")
    if said["role"] != b"master":
        return fail(f"{found}, a replica", "give the primary, which can be written to")
    return ok(found)


async def _rights(server: RedisFacts) -> Verdict:
    missing: dict[str, None] = {}
    for command, arguments in COMMANDS.items():
        try:
            await server.ask(command, *arguments)
        except Complaint:
            continue  # of the arguments: the command itself is granted
        except RedisUnavailable as error:
            if not (said := _missing(error)):
                raise
            missing[said] = None
    if missing:
        return fail("; ".join(missing), f"give the user the rights of {ACL_FILE}")
    return ok("the user may do what a server does")


async def _announcements(link: RedisLink) -> Verdict:
    began = time.perf_counter()
    for words in (PLAIN, SHARDED) if link.is_cluster else (PLAIN,):
        async with link.guarded():
            if not await _is_heard(link.client, words):
                return fail(
                    f"nothing was heard for {_HEARING:g} s", "look whether a proxy is between, and give Redis itself"
                )
    return ok(f"heard after {(time.perf_counter() - began) * 1000:.0f} ms")


async def _is_heard(client: Any, words: Words) -> bool:
    subscribe, publish, message, unsubscribe = words
    channel = f"att:check:{uuid4()}"
    hearing = client.pubsub()
    # Of a cluster's servers the one is to be asked that has a sharded channel.
    get = hearing.get_sharded_message if subscribe == "ssubscribe" else hearing.get_message
    try:
        await getattr(hearing, subscribe)(channel)
        if not await _comes(get, subscribe):
            return False
        await client.execute_command(publish, channel, "x")
        if not await _comes(get, message):
            return False
        await getattr(hearing, unsubscribe)(channel)
        return await _comes(get, unsubscribe)
    finally:
        await hearing.aclose()


async def _comes(get: Callable[..., Awaitable[Any]], kind: str) -> bool:
    """Whether a message of this kind comes in time."""
    until = time.monotonic() + _HEARING
    while (left := until - time.monotonic()) > 0:
        message = await get(timeout=left)
        if message is not None and message["type"] == kind:
            return True
    return False


async def _info(server: RedisFacts, section: str) -> dict[str, Any] | None:
    """What the server tells of itself; None when the user may not know."""
    try:
        told: dict[str, Any] = await server.ask("INFO", section)
    except RedisUnavailable as error:
        if not _missing(error):
            raise
        return None
    return told


def _unknown(what: str) -> Verdict:
    return warn("the user may not read INFO", f"grant +info, as {ACL_FILE} does: {what}")


async def _memory(server: RedisFacts) -> Verdict:
    info = await _info(server, "memory")
    if info is None:
        return _unknown("maxmemory-policy must be noeviction")
    return judge_memory(str(info["maxmemory_policy"]), int(info["maxmemory"]), int(info["used_memory"]))


def judge_memory(policy: str, most: int, used: int) -> Verdict:
    """The verdict on maxmemory-policy, and on bytes that are used of those that may be (0: all that there are)."""
    limit = f"{used / 1024**2:,.0f} of {most / 1024**2:,.0f} MiB used" if most else "maxmemory not set"
    found = f"maxmemory-policy {policy}, {limit}"
    if policy != "noeviction":
        # All our keys expire, so that a policy that spares those that do not spares nothing.
        judge = fail if most and policy.startswith("allkeys-") else warn
        return judge(found, "set maxmemory-policy noeviction: else people are signed out to make room")
    if most and used > NEARLY_FULL * most:
        return warn(found, "raise maxmemory: when it is used up nobody can sign in")
    return ok(found)


async def _persistence(server: RedisFacts) -> Verdict:
    info = await _info(server, "persistence")
    if info is None:
        return _unknown("appendonly should be yes, or a restart signs everybody out")
    return judge_persistence(info)


def judge_persistence(info: Mapping[str, Any]) -> Verdict:
    """The verdict on what INFO tells of the disk. Only CONFIG, which is not ours, would tell of ``save``."""
    failed = [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(name, "ok") != "ok"]
    if failed:
        return fail(f"{', '.join(failed)}: the last try failed", "see to its disk: it may refuse to be written to")
    if int(info.get("aof_enabled", 0)):
        return ok("appendonly yes")
    if snapshots := int(info.get("rdb_saves", 0)):
        return ok(f"appendonly no, {snapshots} snapshots so far: a crash signs those out who have signed in since")
    return warn("appendonly no, and no snapshot so far", "set appendonly yes: else a restart may sign everybody out")


async def _clock(server: RedisFacts) -> Verdict:
    began = time.time()
    seconds, micros = await server.ask("TIME")
    ahead = int(seconds) + int(micros) / 1e6 - (began + time.time()) / 2
    return compare_clocks(ahead, well=_CLOCK_WELL, bearable=_CLOCK_BEARABLE)


async def _slots(servers: list[RedisFacts]) -> Verdict:
    ranges = await servers[0].ask("CLUSTER", "SLOTS")
    return judge_slots([(int(first), int(last)) for first, last, *_ in ranges], len(servers))


def judge_slots(ranges: list[tuple[int, int]], servers: int) -> Verdict:
    """The verdict on the slots that somebody has, from the first of a range to its last."""
    covered = sum(last - first + 1 for first, last in ranges)
    found = f"{covered:,} of {SLOTS:,} slots, on {servers} servers"
    return ok(found) if covered == SLOTS else fail(found, "mend the cluster: redis-cli --cluster check, then fix")
