"""A Redis, as it is and broken in turn: each fault is told, with what mends it, and nothing is changed."""

import contextlib
import re
import socket
from pathlib import Path

import pytest
import redis.asyncio
from valkey_servers import Valkey

from att.cli.doctor import redis as module
from att.cli.doctor.checks import Level
from att.cli.doctor.redis import check_redis, judge_clock, judge_memory, judge_persistence, judge_version

NAMES = ["Redis", "Redis memory", "Redis persistence", "Redis clock", "Redis rights", "Redis announcements"]
MIB = 1024**2
ACL = next(
    line.split()[2:]
    for line in (Path(__file__).parents[2] / "deploy" / "redis.acl.example").read_text().splitlines()
    if line.startswith("user att ")
)


async def check(url):
    """What is found, by name."""
    return {finding.name: finding async for finding in check_redis(url)}


def faults(found):
    """What fails there."""
    return [name for name, finding in found.items() if finding.level is Level.FAIL]


@contextlib.contextmanager
def user_of(servers, url, *rules):
    """The URL of a user who has the rights of the example, and then these rules, on each of the servers."""
    for server in servers:
        server.ask("ACL", "SETUSER", "clerk", "reset", *ACL, ">hush", *rules)
    try:
        yield url.replace("redis://", "redis://clerk:hush@")
    finally:
        for server in servers:
            server.ask("ACL", "DELUSER", "clerk")


async def test_one_that_serves(valkey_url):
    found = await check(valkey_url)
    assert [*found] == NAMES
    assert faults(found) == []
    assert re.fullmatch(r"valkey \d+\.\d+\.\d+ at 127\.0\.0\.1:\d+", found["Redis"].found)
    assert found["Redis memory"][1:3] == (Level.OK, "maxmemory-policy noeviction, maxmemory not set")
    assert found["Redis persistence"].level is Level.WARN  # the tests' own keeps nothing
    assert found["Redis clock"].level is Level.OK


async def test_no_key_is_left(valkey_url, valkey):
    valkey.ask("SET", "att:theirs", "x")
    await check(valkey_url)
    assert valkey.ask("KEYS", "*") == [b"att:theirs"]


async def test_a_cluster(cluster_url):
    """Each of its servers is checked."""
    found = await check(cluster_url)
    assert [*found] == NAMES
    assert faults(found) == []
    assert " of 3: valkey " in found["Redis"].found


# Rights


async def test_a_user_with_the_rights_of_the_example(valkey_url, valkey):
    """It is enough to find all that an administrator finds, and nothing is tried that is refused."""
    valkey.ask("ACL", "LOG", "RESET")
    with user_of([valkey], valkey_url) as url:
        found = await check(url)
    assert valkey.ask("ACL", "LOG") == []
    of_administrator = await check(valkey_url)
    for name in ("Redis rights", "Redis memory", "Redis persistence"):
        assert found[name] == of_administrator[name]
    assert [finding.level for finding in found.values()].count(Level.WARN) == 1  # the tests' own keeps nothing
    assert faults(found) == []


async def test_a_user_who_may_not_read_info(valkey_url, valkey):
    """A server runs as well; the finding says how to have the rest checked."""
    with user_of([valkey], valkey_url, "-info") as url:
        found = await check(url)
    assert faults(found) == []
    assert [*found] == ["Redis", "Redis rights", "Redis announcements"]
    assert (found["Redis"].level, "'info' command" in found["Redis"].found) == (Level.WARN, True)
    assert "grant +info" in found["Redis"].remedy


@pytest.mark.parametrize(
    ("rules", "name", "words"),
    [
        (["-subscribe"], "Redis announcements", "'subscribe' command"),
        (["-publish"], "Redis rights", "'publish' command"),
        (["-zadd"], "Redis rights", "'zadd' command"),
        (["resetchannels", "&other:*"], "Redis rights", "to access a channel"),
        (["resetkeys", "~other:*"], "Redis rights", "to access a key"),
        (["-ping"], "Redis", "'ping' command"),
        (["nopass", "resetpass", ">another"], "Redis", "rejects the user or password in --redis-url"),
        (["off"], "Redis", "rejects the user or password in --redis-url"),
    ],
)
async def test_rules_that_are_missing(valkey_url, valkey, rules, name, words):
    with user_of([valkey], valkey_url, *rules) as url:
        found = await check(url)
    assert faults(found) == [name]
    assert words in found[name].found
    assert "hush" not in " ".join(map(str, found.values()))


async def test_one_server_of_a_cluster_has_other_rules(cluster_url, valkey_cluster):
    """Rules are each server's own; which one lacks them is told."""
    with user_of(valkey_cluster.servers, cluster_url) as url:
        assert faults(await check(url)) == []
        last = valkey_cluster.servers[-1]
        last.ask("ACL", "SETUSER", "clerk", "-zadd")
        found = await check(url)
        assert faults(found) == ["Redis rights"]
        assert f"Redis at 127.0.0.1:{last.port}: " in found["Redis rights"].found
        last.ask("ACL", "SETUSER", "clerk", "+zadd")
        for server in valkey_cluster.servers:
            server.ask("ACL", "SETUSER", "clerk", "-subscribe")
        assert faults(await check(url)) == ["Redis announcements"]


async def test_announcements_that_do_not_arrive(valkey_url, monkeypatch):
    """As behind a proxy that does not pass them on."""
    monkeypatch.setattr(module, "_ARRIVAL", 0.2)

    async def dropped(*_):
        pass

    monkeypatch.setattr(redis.asyncio.Redis, "publish", dropped)
    finding = (await check(valkey_url))["Redis announcements"]
    assert finding[1:3] == (Level.FAIL, "nothing arrived within 0.2 s")


# Memory, persistence, clock


async def test_eviction(valkey_url, valkey):
    """As the server has it."""
    try:
        valkey.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "100mb")
        finding = (await check(valkey_url))["Redis memory"]
        assert finding.level is Level.FAIL
        assert finding.found.startswith("maxmemory-policy allkeys-lru, ")
        assert "set maxmemory-policy noeviction" in finding.remedy
    finally:
        valkey.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "0")


@pytest.mark.parametrize(
    ("policy", "most", "used", "level"),
    [
        ("noeviction", 0, 10**12, Level.OK),
        ("noeviction", 100 * MIB, 89 * MIB, Level.OK),
        ("noeviction", 100 * MIB, 91 * MIB, Level.WARN),
        ("allkeys-lru", 0, MIB, Level.WARN),
        ("allkeys-random", 100 * MIB, MIB, Level.FAIL),
        ("volatile-ttl", 100 * MIB, MIB, Level.WARN),
    ],
)
def test_memory(policy, most, used, level):
    verdict = judge_memory({"maxmemory_policy": policy, "maxmemory": most, "used_memory": used})
    assert verdict.level is level
    assert bool(verdict.remedy) is (level is not Level.OK)


async def test_persistence_as_the_server_has_it(valkey_url, valkey):
    try:
        valkey.ask("CONFIG", "SET", "appendonly", "yes")
        assert (await check(valkey_url))["Redis persistence"][1:3] == (Level.OK, "appendonly yes")
    finally:
        valkey.ask("CONFIG", "SET", "appendonly", "no")


@pytest.mark.parametrize(
    ("info", "level", "words"),
    [
        ({"aof_enabled": 1}, Level.OK, "appendonly yes"),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, Level.FAIL, "aof_last_write_status"),
        ({"aof_enabled": 0, "rdb_saves": 2, "rdb_last_bgsave_status": "err"}, Level.FAIL, "rdb_last_bgsave_status"),
        ({"aof_enabled": 0, "rdb_saves": 2}, Level.OK, "2 snapshots"),
        ({"aof_enabled": 0, "rdb_saves": 0}, Level.WARN, "no snapshot"),
        ({"aof_enabled": 0}, Level.WARN, "no snapshot"),
    ],
)
def test_persistence(info, level, words):
    verdict = judge_persistence(info)
    assert verdict.level is level
    assert words in verdict.found


@pytest.mark.parametrize(("ahead", "level"), [(0, Level.OK), (5, Level.WARN), (-600, Level.FAIL)])
def test_the_clock(ahead, level):
    verdict = judge_clock({"server_time_usec": (1_000_000 + ahead) * 1_000_000, "our_time": 1_000_000.0})
    assert verdict.level is level


# Servers that cannot be used


async def only(url):
    """The one finding, when nothing more can be looked at."""
    [finding] = (await check(url)).values()
    assert finding[:2] == ("Redis", Level.FAIL)
    assert "hush" not in str(finding)
    return finding.found


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://me:hush@127.0.0.1:1/0", "cannot use Redis at 127.0.0.1:1"),
        ("redis://me:hush@no-such-host.invalid:1", "no-such-host.invalid"),
        ("unix:///no/such/socket?password=hush", "/no/such/socket"),
    ],
)
async def test_none(url, words):
    assert words in await only(url)


async def test_one_that_says_nothing():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "cannot use Redis" in await only(f"redis://me:hush@127.0.0.1:{silent.getsockname()[1]}")


async def test_one_that_is_killed_meanwhile(monkeypatch):
    """The finding says so once, and no other check is tried."""
    own = Valkey()
    own.start()
    try:
        rights = module._rights

        async def kill(link):
            own.kill()
            return await rights(link)

        monkeypatch.setattr(module, "_rights", kill)
        found = await check(own.url)
        assert [*found] == NAMES[:-1]
        assert faults(found) == ["Redis rights"]
    finally:
        own.stop()


async def test_a_replica(valkey_url, valkey):
    """It does not accept writes."""
    own = Valkey()
    own.start()
    try:
        own.ask("REPLICAOF", "127.0.0.1", valkey.port)
        finding = (await check(own.url))["Redis"]
        assert finding.level is Level.FAIL
        assert finding.found.endswith(", a replica")
    finally:
        own.stop()


@pytest.mark.parametrize(
    ("version", "role", "level"),
    [("6.2.14", "master", Level.FAIL), ("7.0.0", "slave", Level.FAIL), ("7.0.0", "master", Level.OK)],
)
def test_version(version, role, level):
    verdict = judge_version({"redis_version": version, "role": role, "name": "here"})
    assert verdict.level is level
    assert verdict.found.startswith(f"redis {version} at here")
