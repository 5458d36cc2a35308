"""If-Match and If-None-Match (RFC 9110, section 13), on everything that is served; and unknown query parameters."""

import asyncio
from uuid import uuid4

import pytest
from aiohttp import DummyCookieJar
from aiohttp.test_utils import TestClient
from route_requests import fill, request_for

from att.api.routes import ROUTES
from att.app import create_app
from att.http.credentials import SAFE_METHODS

# Resources with a version, and a change of each.
VERSIONED = {
    "/users/{user_id}": {"first_name": "Zoe"},
    "/roles/{role_id}": {"permissions": ["users.read"]},
    "/groups/{group}": {"retention": 7},
}


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar: each request brings its own credentials."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def boss(sign_up, sql):
    """An administrator, who owns the group tea."""
    person = await sign_up("boss")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Admin') WHERE id = %s", person.id)
    await person.make_group("tea")
    return person


@pytest.fixture
async def places(sign_up, sql):
    """What the paths name: a user, a role, the group."""
    ann = await sign_up("ann")
    [[role_id]] = sql("INSERT INTO roles (name, name_key) VALUES ('Support', 'support') RETURNING id")
    return {"user_id": ann.id, "role_id": role_id, "session_id": uuid4()}


async def code_of(response):
    return response.status, None if response.status < 400 else (await response.json())["error"]


STALE = (412, "precondition failed")


@pytest.mark.parametrize("path", VERSIONED)
async def test_if_match(boss, places, path):
    """A stale If-Match neither changes nor deletes; the current one does, and the response has the next version."""
    change, path = {"json": VERSIONED[path]}, fill(path, **places)
    stale = (await boss.request("GET", path)).headers["ETag"]
    changed = await boss.request("PATCH", path, **change, headers={"If-Match": stale})
    current = changed.headers["ETag"]
    assert changed.status == 200
    assert current != stale
    assert (await boss.request("GET", path)).headers["ETag"] == current
    for method, options in (("PATCH", change), ("DELETE", {})):
        for header in (stale, '"x"', "", f"W/{current}", current.strip('"')):
            response = await boss.request(method, path, **options, headers={"If-Match": header})
            assert await code_of(response) == STALE, (method, header)
    assert (await boss.request("PATCH", path, **change, headers={"If-Match": "*"})).status == 200
    assert (await boss.request("DELETE", path, headers={"If-Match": f'"x", {current}'})).status == 204


@pytest.mark.parametrize("path", VERSIONED)
async def test_if_none_match(boss, places, path):
    """If-None-Match compares weakly: a GET with the current version is a 304, a change with it is refused."""
    path = fill(path, **places)
    tag = (await boss.request("GET", path)).headers["ETag"]
    for header in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        for method in ("GET", "HEAD"):
            response = await boss.request(method, path, headers={"If-None-Match": header})
            assert (response.status, response.headers["ETag"], await response.read()) == (304, tag, b""), header
        response = await boss.request("DELETE", path, headers={"If-None-Match": header})
        assert await code_of(response) == STALE, header
    assert (await boss.request("GET", path, headers={"If-None-Match": '"x"'})).status == 200
    assert (await boss.request("GET", path, headers={"If-Match": '"x"'})).status == 412
    assert (await boss.request("DELETE", path, headers={"If-None-Match": '"x"'})).status == 204


async def test_several_lines(boss, places):
    """Several lines of a header are one list (RFC 9110, section 5.3)."""
    path = fill("/groups/{group}")
    tag = (await boss.request("GET", path)).headers["ETag"]
    headers = [*boss.headers.items(), ("If-Match", '"x"'), ("If-Match", tag)]
    assert (await boss.client.patch(path, json={}, headers=headers)).status == 200


async def test_put(boss, places):
    """A member is only added with If-None-Match: *, and only changed with If-Match: *."""
    path = fill("/groups/tea/members/{user_id}", **places)
    new, old = {"If-None-Match": "*"}, {"If-Match": "*"}
    assert await code_of(await boss.request("PUT", path, headers=old)) == STALE
    assert (await boss.request("PUT", path, headers=new)).status == 201
    assert await code_of(await boss.request("PUT", path, headers=new)) == STALE
    assert await code_of(await boss.request("PUT", path, headers={"If-Match": '"x"'})) == STALE
    assert (await boss.request("PUT", path, headers=old)).status == 200


async def test_version_of_a_group(boss, places):
    """A broadcast does not change the version of a group, a change of one's own role does."""
    tag = (await boss.request("GET", "/groups/tea")).headers["ETag"]
    await boss.broadcast("tea", {})
    assert (await boss.request("GET", "/groups/tea")).headers["ETag"] == tag
    await boss.request("PUT", fill("/groups/tea/members/{user_id}", **places), json={"role": "owner"})
    await boss.request("PUT", f"/groups/tea/members/{boss.id}", json={"role": "member"})
    assert (await boss.request("GET", "/groups/tea")).headers["ETag"] != tag


async def test_at_once(boss):
    """Of many changes of one version at once exactly one is made."""
    headers = {"If-Match": (await boss.request("GET", "/groups/tea")).headers["ETag"]}
    changes = [boss.request("PATCH", "/groups/tea", json={"retention": n}, headers=headers) for n in range(1, 5)]
    assert sorted(response.status for response in await asyncio.gather(*changes)) == [200, 412, 412, 412]


async def test_refused_anyway(boss, sign_up, places):
    """Preconditions do not count where the response would be an error without them (RFC 9110, section 13.2.1)."""
    headers, ann = {"If-Match": '"x"'}, await sign_up("stranger")
    for person, method, path, status in (
        (ann, "PATCH", f"/users/{boss.id}", 403),
        (ann, "DELETE", "/groups/tea", 403),
        (boss, "DELETE", fill("/roles/{role_id}"), 404),
        (boss, "PATCH", "/groups/none", 404),
        (boss, "DELETE", fill("/users/{user_id}"), 404),
    ):
        options = {"json": {}} if method == "PATCH" else {}
        assert (await person.request(method, path, headers=headers, **options)).status == status, path


async def test_nothing_is_ignored(boss, places):
    """No request that changes something is carried out if its If-Match has another version, or its target has none."""
    for route in ROUTES:
        if route.method not in SAFE_METHODS:
            options = request_for(route.method, route.path, **places)
            response = await boss.request(
                route.method, fill(route.path, **places), headers={"If-Match": '"x"'}, **options
            )
            assert await code_of(response) == STALE, route.endpoint


async def test_unknown_parameter(boss, places):
    """A query parameter that the route does not know is named; nothing is done."""
    for route in ROUTES:
        options = request_for(route.method, route.path, **places)
        options["params"] = options.get("params", {}) | {"transient": "true"}
        path = fill(route.path, **places | ({"user_id": "me"} if route.upgrades else {}))
        response = await boss.request(route.method, path, **options)
        problem = await response.json()
        assert (response.status, problem["error"]) == (422, "invalid input"), route.endpoint
        assert problem["errors"] == [{"field": "transient", "detail": "is not known"}]
