"""The permissions in ``deploy/redis.acl.example``: sufficient, alone and in a cluster, and no more than needed."""

import contextlib
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from aiohttp.test_utils import TestClient, TestServer
from brokers import RecordingHandler
from people import PASSWORD
from valkey_servers import Valkey, ValkeyCluster
from waiting import eventually

from att.accounts.redis_rate_limits import RedisCounts
from att.app import create_app, open_backends
from att.cli.doctor.checks import Level
from att.cli.doctor.redis import check_redis
from att.errors import CannotStart
from att.realtime.brokers import redis as redis_broker, subscriptions
from att.realtime.brokers.redis import RedisBroker
from att.redis.client import RedisClient

EXAMPLE = Path(__file__).parents[2] / "deploy" / "redis.acl.example"
OPERATOR = "user operator on >operator ~* &* +@all\n"


@contextlib.contextmanager
def servers_of(kind, directory):
    """Servers with these users, loaded by ACL LOAD after the fixtures have used them."""
    path = directory / f"{kind.__name__}.acl"
    path.write_text("user default on nopass ~* &* +@all\n")
    whole = kind(aclfile=str(path))
    whole.start()
    try:
        servers = getattr(whole, "servers", [whole])
        path.write_text(EXAMPLE.read_text() + OPERATOR)
        for server in servers:
            server.ask("ACL", "LOAD")
        yield servers
    finally:
        whole.stop()


@pytest.fixture
def alone(tmp_path):
    with servers_of(Valkey, tmp_path) as (server,):
        yield server


def url_of(server, database=""):
    """Return the URL with the example's user and password."""
    return f"redis://att:change-me@127.0.0.1:{server.port}{database}"


def by_operator(server, *command):
    """Return the log lines for the operator."""
    with redis.Redis(port=server.port, username="operator", password="operator", protocol=2) as client:
        return client.execute_command(*command)


async def use_everything(url, settings, login):
    """Use every feature that needs Redis, on two nodes."""
    async with contextlib.AsyncExitStack() as stack:
        settings = replace(settings, redis_url=url, session_ttl=timedelta(seconds=4))
        apps = [create_app(settings) for _ in range(2)]
        here, there = [await stack.enter_async_context(TestClient(TestServer(app))) for app in apps]
        who = {"login": login, "password": PASSWORD}
        ann_is = await sign_in(here, "/signup", who)
        assert (await here.post("/login", json=who | {"password": "wrong one"})).status == 401
        phone_is = await sign_in(there, "/login", who)
        assert (await here.post("/groups", json={"name": login}, headers=ann_is)).status == 201
        async with there.ws_connect("/listen/me", headers=phone_is) as socket:
            assert (await here.post(f"/broadcast/{login}", json={"n": 1}, headers=ann_is)).status == 200
            assert await socket.receive_json(timeout=5) == {"n": 1}
            page = await (await here.get("/sessions?limit=1", headers=ann_is)).json()
            assert len((await (await here.get(f"/sessions?after={page['next']}", headers=ann_is)).json())["items"]) == 1
            assert (await here.delete("/sessions", headers=ann_is)).status == 200
            assert (await socket.receive(timeout=5)).data == 4500
        assert (await there.get("/sessions", headers=phone_is)).status == 401
        assert (await here.delete("/users/me", headers=ann_is)).status in (204, 403)


async def sign_in(client, path, who):
    """Return the headers of a signed-in user."""
    response = await client.post(path, json=who)
    assert response.status in (200, 201), await response.text()
    return {"Authorization": f"Bearer {(await response.json())['token']}"}


async def hear_for_a_moment(redis_client, servers):
    """A broker that has begun to hear of a group, and then does not need to any more."""
    broker, handler, group_id = RedisBroker(redis_client), RecordingHandler(), uuid4()
    async with broker.running(handler):
        broker.subscribe(group_id)
        await handler.until(lambda: handler.subscribed == [group_id])
        broker.unsubscribe(group_id)
        broker.announce_sweep()
        await handler.until(lambda: handler.sweeps)

        async def is_deaf():
            kinds = ("SHARDCHANNELS", "CHANNELS")
            return not any(by_operator(server, "PUBSUB", kind, "att:group:*") for server in servers for kind in kinds)

        assert await eventually(is_deaf)


async def test_all_that_is_needed(settings, tmp_path, monkeypatch):
    """Two nodes and ``att-server check`` work with these permissions, and need each of them."""
    monkeypatch.setattr(subscriptions, "LINGER", 0.0)
    monkeypatch.setattr(redis_broker, "_TICK", 0.05)
    used = set()
    for kind, database in [(Valkey, "/1"), (ValkeyCluster, "")]:
        with servers_of(kind, tmp_path) as servers:
            for server in servers:
                by_operator(server, "ACL", "LOG", "RESET")
            url = url_of(servers[0], database)
            await use_everything(url, settings, login=kind.__name__)
            redis_client = await RedisClient.connect(url)
            await hear_for_a_moment(redis_client, servers)
            await RedisCounts(redis_client, "login").reset()
            await redis_client.close()
            assert [found async for found in check_redis(url) if found.level is Level.FAIL] == []
            for server in servers:
                assert by_operator(server, "ACL", "LOG") == []
                used |= {name.removeprefix("cmdstat_") for name in by_operator(server, "INFO", "commandstats")}
    assert set(re.findall(r"\+(\S+)", EXAMPLE.read_text())) - used == set()


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("SHUTDOWN",),
        ("SCRIPT", "FLUSH"),
        ("GET", "another:key"),
        ("EVAL", "return redis.call('GET', 'another:key')", "0"),
        ("PUBLISH", "another", "x"),
        ("SUBSCRIBE", "another"),
    ],
    ids=" ".join,
)
async def test_forbidden(alone, command):
    """Other commands, keys and channels are refused."""
    with (
        redis.Redis(port=alone.port, username="att", password="change-me", protocol=2) as client,
        pytest.raises(redis.RedisError, match="ermission"),
    ):
        client.execute_command(*command)


@pytest.mark.parametrize("right", ["ping", "evalsha", "eval", "time", "get", "zrangebyscore", "publish"])
async def test_a_right_is_missing(alone, settings, right):
    """A server that starts without a permission names it in one line."""
    by_operator(alone, "ACL", "SETUSER", "att", f"-{right}")
    with pytest.raises(CannotStart) as caught:
        async with open_backends(replace(settings, redis_url=url_of(alone))):
            pytest.fail("is taken for whole")
    mend = "deploy/redis.acl.example has all needed permissions"
    place = f"127.0.0.1:{alone.port}"
    assert caught.value.detail == (
        f"Redis at {place} refuses: User att has no permissions to run the '{right}' command; {mend}"
    )


async def test_a_trial_leaves_nothing(valkey, valkey_url, settings):
    """The trial at the start leaves no keys."""
    async with open_backends(replace(settings, redis_url=valkey_url)):
        assert valkey.ask("KEYS", "*") == []


async def test_other_keys(alone, settings):
    """A user for other keys or channels is refused, too."""
    for pattern, says in [("resetkeys", "access a key"), ("resetchannels", "access a channel")]:
        by_operator(alone, "ACL", "LOAD")
        by_operator(alone, "ACL", "SETUSER", "att", pattern)
        with pytest.raises(CannotStart, match=f"refuses: No permissions to {says}; deploy/"):
            async with open_backends(replace(settings, redis_url=url_of(alone))):
                pytest.fail("is taken for whole")


async def test_nobody_else(alone):
    """Other users are refused."""
    with pytest.raises(CannotStart, match="rejects the user or password in --redis-url"):
        await RedisClient.connect(f"redis://127.0.0.1:{alone.port}")
