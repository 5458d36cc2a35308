"""Quotas of users, over HTTP and att.v1."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp import WSServerHandshakeError
from aiohttp.test_utils import TestClient
from metric_samples import counts
from people import PASSWORD, Person

from att.api.keys import RATE_QUOTAS
from att.app import QUOTAS, RETENTION, create_app
from att.config.settings import Rate, Settings
from att.core.quotas import Quota
from att.protocol.frames import CloseCode

DEADLINE = 20
SLOW = Rate(3, timedelta(hours=1))  # three at once, and the next one after 20 minutes
FEW = {"quota_groups_owned": 2, "quota_groups_joined": 3, "quota_members": 2, "quota_retention": 50}


@pytest.fixture
def serve(settings, aiohttp_client):
    """Start an application with these quotas; return a function that signs a new user up."""

    async def go(**quotas):
        client = await aiohttp_client(create_app(replace(settings, **quotas)))

        async def sign_up(login):
            answer = await client.post("/signup", json={"login": login, "password": PASSWORD})
            return Person(client, login, await answer.json())

        return sign_up

    return go


@pytest.fixture
def exempt(sql):
    """Exempt a user from quotas, by their role."""

    def go(person, name="Exempt"):
        sql("INSERT INTO roles (name, name_key, permissions) VALUES (%s, %s, '{quotas.exempt}')", name, name.lower())
        sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = %s) WHERE id = %s", name, person.id)

    return go


async def refusal(response):
    """Return the status, the code, the quota, and the time to wait."""
    problem = await response.json()
    assert response.content_type == "application/problem+json"
    return response.status, problem["error"], problem["quota"], response.headers.get("Retry-After")


def exceeded(quota):
    return 403, "quota exceeded", quota, None


async def try_listen(person, **options):
    """Return a socket, or the response that refuses it."""
    try:
        return await person.listen(**options)
    except WSServerHandshakeError as error:
        return error


def refusals(client: TestClient):
    """Return the counts of refusals, without those that are 0."""
    return {quota: count for (quota,), count in counts(client.app[QUOTAS].refusals).items() if count}


def test_defaults():
    """Every quota has a limit unless the operator chooses otherwise, and each option is a quota."""
    defaults = Settings()
    assert all(getattr(defaults, f"quota_{quota.replace('-', '_')}") for quota in Quota)
    assert len([name for name in vars(defaults) if name.startswith("quota_")]) == len(Quota)


async def test_groups(serve, exempt):
    """A request above a quota is a 403 that names the quota; a role with quotas.exempt has none."""
    sign_up = await serve(**FEW)
    ann, bob, cat = [await sign_up(login) for login in ("ann", "bob", "cat")]
    tea = await ann.make_group("tea")
    assert tea["retention"] == 50
    await ann.make_group("coffee")
    assert await refusal(await ann.request("POST", "/groups", json={"name": "milk"})) == exceeded("groups-owned")
    await ann.add("tea", bob)
    answer = await ann.request("PUT", f"/groups/tea/members/{cat.id}")
    assert await refusal(answer) == exceeded("members")
    answer = await ann.request("POST", "/groups/tea/members", json={"user_ids": [str(cat.id)]})
    assert await refusal(answer) == exceeded("members")
    for answer in (
        await ann.request("PATCH", "/groups/tea", json={"retention": 51}),
        await bob.request("POST", "/groups", json={"name": "milk", "retention": 51}),
    ):
        assert await refusal(answer) == exceeded("retention")
    await bob.make_group("milk")
    await bob.make_group("water")
    await cat.make_group("wine")
    answer = await cat.request("PUT", f"/groups/wine/members/{bob.id}")
    assert await refusal(answer) == exceeded("groups-joined")
    expected = {"groups-owned": 1, "members": 2, "retention": 2, "groups-joined": 1}
    assert refusals(ann.client) == expected
    exempt(ann)
    assert (await ann.request("POST", "/groups", json={"name": "juice", "retention": 51})).status == 201
    await ann.add("tea", cat)


async def test_sessions(serve):
    """The session of a device that signed in first ends when one too many signs in."""
    sign_up = await serve(quota_sessions=2)
    ann = await sign_up("ann")
    socket = await ann.listen()
    for _ in range(2):
        response = await ann.client.post("/login", json={"login": "ann", "password": PASSWORD})
        assert response.status == 200
    assert (await socket.receive(timeout=DEADLINE)).data == CloseCode.SESSION_ENDED
    assert (await ann.request("GET", "/users/me")).status == 401


async def test_requests(serve, exempt):
    """Too many requests of one user are a 429 that says how long to wait; other users are not concerned."""
    sign_up = await serve(quota_requests=SLOW)
    ann, bob = await sign_up("ann"), await sign_up("bob")
    answers = [await ann.request("GET", "/users/me") for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 3 + [429]
    status, code, quota, wait = await refusal(answers[3])
    assert (status, code, quota) == (429, "quota exhausted", "requests")
    assert 1_190 <= int(wait) <= 1_200
    assert (await ann.client.get("/openapi.json")).status == 200  # a request of nobody
    exempt(bob)
    assert {(await bob.request("GET", "/users/me")).status for _ in range(5)} == {200}
    assert refusals(ann.client) == {"requests": 1}


async def test_exempt_from_now_on(serve, exempt):
    """A role that becomes exempt counts as soon as it is read again."""
    sign_up = await serve(quota_requests=SLOW)
    ann = await sign_up("ann")
    assert [(await ann.request("GET", "/users/me")).status for _ in range(4)] == [200] * 3 + [429]
    exempt(ann)
    assert (await ann.request("GET", "/users/me")).status == 429
    ann.client.app[RATE_QUOTAS]._clock = lambda: asyncio.get_running_loop().time() + 1e6
    assert (await ann.request("GET", "/users/me")).status == 200


async def test_broadcasts(serve):
    """Broadcasts of a user count together, over HTTP and att.v1; a refused one is not in the log."""
    sign_up = await serve(quota_broadcasts=SLOW)
    ann = await sign_up("ann")
    await ann.make_group("tea")
    await ann.broadcast("tea", {})
    socket = await ann.listen(protocols=("att.v1",))
    await socket.receive_json(timeout=DEADLINE)
    await socket.send_json({"type": "resume"})
    for number in range(5):
        await socket.send_json({"type": "broadcast", "id": number, "group": "tea", "data": {}})
    frames = {}
    while len(frames) < 5:
        frame = await socket.receive_json(timeout=DEADLINE)
        if "id" in frame:
            frames[frame["id"]] = frame
    assert [frames[number]["type"] for number in range(5)] == ["ack"] * 2 + ["error"] * 3
    error = frames[4]
    wait = error.pop("retry_after")
    assert 1_190 <= wait <= 1_200
    detail = f"This user sends too many broadcasts in a short time. Try again in {wait} seconds."
    expected = {"type": "error", "id": 4, "error": "quota exhausted", "quota": "broadcasts", "detail": detail}
    assert error == expected
    answer = await ann.request("POST", "/broadcast/tea", json={})
    assert (await refusal(answer))[:3] == (429, "quota exhausted", "broadcasts")
    page = await (await ann.request("GET", "/groups/tea/events")).json()
    assert [event["kind"] for event in page["items"]] == ["joined"] + ["message"] * 3
    assert refusals(ann.client) == {"broadcasts": 4}


async def test_bytes_of_a_log(serve, sql):
    """A broadcast to a group whose log is full is a 403 over HTTP, and an error over att.v1, that names the quota."""
    sign_up = await serve(quota_group_log=20)
    ann = await sign_up("ann")
    await ann.make_group("tea")
    await ann.broadcast("tea", {"n": 1})
    await ann.broadcast("tea", {"n": 12})
    answer = await ann.request("POST", "/broadcast/tea", json={"n": 3})
    assert await refusal(answer) == exceeded("group-log")
    socket = await ann.listen(protocols=("att.v1",))
    await socket.receive_json(timeout=DEADLINE)
    await socket.send_json({"type": "resume"})
    await socket.send_json({"type": "broadcast", "id": 1, "group": "tea", "data": {"n": 4}})
    error = await socket.receive_json(timeout=DEADLINE)
    detail = "The log of a group can have at most 20 bytes. Its owners make room by a lower retention."
    assert error == {"type": "error", "id": 1, "error": "quota exceeded", "quota": "group-log", "detail": detail}
    assert refusals(ann.client) == {"group-log": 2}
    assert (await ann.request("PATCH", "/groups/tea", json={"retention": 1})).status == 200
    sql("UPDATE events SET at = now() - interval '2 minutes'")
    await ann.client.app[RETENTION].trim()
    await ann.broadcast("tea", {"n": 5})


async def test_exempt_broadcasts(serve, exempt):
    """A user with quotas.exempt broadcasts over att.v1 without a limit, in order."""
    sign_up = await serve(quota_broadcasts=SLOW)
    ann = await sign_up("ann")
    exempt(ann)
    await ann.make_group("tea")
    socket = await ann.listen(protocols=("att.v1",))
    await socket.receive_json(timeout=DEADLINE)
    await socket.send_json({"type": "resume"})
    for number in range(20):
        await socket.send_json({"type": "broadcast", "id": number, "group": "tea", "data": {}})
    acks = []
    while len(acks) < 20:
        frame = await socket.receive_json(timeout=DEADLINE)
        acks += [frame["id"]] if frame["type"] == "ack" else []
        assert frame["type"] != "error"
    assert acks == list(range(20))


async def test_sockets(serve, exempt):
    """One socket too many is a 429 before the upgrade, also when many are opened at once; a closed one makes room."""
    sign_up = await serve(quota_sockets=3)
    ann, bob = await sign_up("ann"), await sign_up("bob")
    opened = await asyncio.gather(*(try_listen(ann) for _ in range(8)))
    sockets = [one for one in opened if not isinstance(one, WSServerHandshakeError)]
    refused = [one for one in opened if isinstance(one, WSServerHandshakeError)]
    assert len(sockets) == 3
    assert {(error.status, error.headers["Retry-After"]) for error in refused} == {(429, "38")}
    assert refusals(ann.client) == {"sockets": 5}
    await bob.listen()
    await sockets[0].close()
    assert not (await ann.listen()).closed
    exempt(bob)
    assert all([not (await bob.listen()).closed for _ in range(5)])
