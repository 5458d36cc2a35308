"""The route table: what is served is what it says, to those whom it says, and nothing else is."""

from collections import defaultdict
from types import SimpleNamespace
from uuid import uuid4

import pytest
from aiohttp import ClientResponse, DummyCookieJar, WSServerHandshakeError
from aiohttp.test_utils import TestClient
from conftest import PASSWORD

from att.app import create_app
from att.permissions import Who
from att.routes import ROUTES
from att.settings import Settings

CALLERS = ("nobody", "stranger", "member", "owner", "oneself")
NOBODY = (401, "not signed in")
NOT_YOU = (403, "not you")
NO_MEMBER = (403, "not a member")
NO_OWNER = (403, "not an owner")

# What each caller is answered: a status, and the phrase of an error. The user in the path is "oneself", who is a plain
# member of the group in the path, as "member" is.
EXPECTED = {
    ("POST", "/signup"): (201, 201, 201, 201, 201),
    ("POST", "/login"): (200, 200, 200, 200, 200),
    ("POST", "/logout"): (NOBODY, 204, 204, 204, 204),
    ("GET", "/users/{user_id}/groups"): (NOBODY, NOT_YOU, NOT_YOU, NOT_YOU, 200),
    ("POST", "/groups"): (NOBODY, 201, 201, 201, 201),
    ("GET", "/groups/{group}"): (NOBODY, NO_MEMBER, 200, 200, 200),
    ("DELETE", "/groups/{group}"): (NOBODY, NO_MEMBER, NO_OWNER, 204, NO_OWNER),
    ("GET", "/groups/{group}/members"): (NOBODY, NO_MEMBER, 200, 200, 200),
    ("PUT", "/groups/{group}/members/{user_id}"): (NOBODY, NO_MEMBER, NO_OWNER, 200, NO_OWNER),
    ("DELETE", "/groups/{group}/members/{user_id}"): (NOBODY, NO_MEMBER, NO_OWNER, 204, 204),
    ("POST", "/broadcast/{group}"): (NOBODY, NO_MEMBER, 200, 200, 200),
    ("GET", "/listen/{user_id}"): (NOBODY, NOT_YOU, NOT_YOU, NOT_YOU, 101),
}

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def name_of(route):
    return f"{route.method} {route.path}"


def served() -> dict[str, set[str]]:
    """The methods of each path, as the table and HTTP have it."""
    methods = defaultdict(lambda: {"OPTIONS"})
    for route in ROUTES:
        methods[route.path] |= {"GET", "HEAD"} if route.method == "GET" and not route.upgrades else {route.method}
    return methods


def fill(path: str, *, group: object = "tea", user_id: object = None) -> str:
    return path.format(group=group, user_id=user_id or uuid4())


def body_for(path: str) -> dict[str, str]:
    """A good body for a POST to this path, that is not used twice."""
    unique = uuid4().hex[:12]
    bodies = {
        "/signup": {"login": unique, "password": PASSWORD},
        "/login": {"login": "owner", "password": PASSWORD},
        "/groups": {"name": unique + "g"},
    }
    return bodies.get(path, {})


async def outcome(response: ClientResponse) -> int | tuple[int, str]:
    """The status, and for an error its phrase."""
    if response.status < 400:
        return response.status
    return response.status, (await response.json())["error"]


@pytest.fixture
async def client(aiohttp_client, settings) -> TestClient:
    """A client that keeps no cookies: who asks is told by each request alone."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def callers(client, sign_up):
    """The people of the table by name, and nobody."""
    nobody = SimpleNamespace(headers={}, id=None)
    return {"nobody": nobody} | {name: await sign_up(name) for name in CALLERS[1:]}


# The table against the router


def test_nothing_else_is_served():
    """The router serves the table, HEAD beside GET, OPTIONS for each path, and nothing else."""
    router = create_app(Settings()).router
    found = [(route.method, route.resource.canonical) for route in router.routes()]
    assert sorted(found) == sorted((method, path) for path, methods in served().items() for method in methods)


async def test_unknown_path(client):
    """What is not in the table is a 404 by every method."""
    for path in ("/", "/users", "/groups/", "/signup/", "/groups/a/b", "/listen", "/docs", "/x//signup", "/Signup"):
        for method in METHODS:
            response = await client.request(method, path)
            assert response.status == 404, (method, path)
            assert response.content_type == "application/problem+json"


async def test_options(client):
    """OPTIONS tells, to anyone, which methods a path knows."""
    for path, methods in served().items():
        response = await client.options(fill(path))
        assert response.status == 204
        assert set(response.headers["Allow"].split(", ")) == methods, path


async def test_other_methods(client):
    """Every method that a path does not know is a 405 that tells those it does."""
    for path, methods in served().items():
        for method in set(METHODS) - methods:
            response = await client.request(method, fill(path))
            assert response.status == 405, (method, path)
            assert {word.strip() for word in response.headers["Allow"].split(",")} == methods, path
            assert response.content_type == "application/problem+json"
            if method != "HEAD":
                assert (await response.json())["error"] == "method not allowed"


async def test_head(client, sign_up):
    """HEAD is answered as GET is, without the body."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    paths = [fill(path, user_id=ann.id) for path, methods in served().items() if "HEAD" in methods]
    for path in paths:
        get, head = await ann.request("GET", path), await ann.request("HEAD", path)
        assert (get.status, head.status) == (200, 200), path
        assert await head.read() == b""
        assert head.headers["Content-Type"] == get.headers["Content-Type"]
        assert head.headers["Content-Length"] == get.headers["Content-Length"]
        assert (await client.head(path)).status == 401, path
    assert len(paths) == 3


# Who may


def test_each_route_has_a_row():
    """Whoever adds a route says here who may call it."""
    assert set(EXPECTED) == {(route.method, route.path) for route in ROUTES}


async def test_not_signed_in(client):
    """Without credentials nothing is told: neither whether group or user exist, nor what is wrong with the body."""
    for route in ROUTES:
        if route.who is not Who.ANYONE:
            for path in (fill(route.path), fill(route.path, group="%00", user_id="x")):
                response = await client.request(route.method, path, data=b"no json")
                assert await outcome(response) == NOBODY, (route.method, path)


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
async def test_who_may(client, callers, route):
    """Each caller is answered as the table above says."""
    answers = []
    for number, name in enumerate(CALLERS):
        caller, group = callers[name], f"tea {number}"
        await callers["owner"].make_group(group)
        for guest in ("member", "oneself"):
            await callers["owner"].add(group, callers[guest])
        path = fill(route.path, group=group, user_id=callers["oneself"].id)
        if route.upgrades and name == "oneself":
            socket = await client.ws_connect(path, headers=caller.headers)
            answers.append(socket._response.status)
            await socket.close()
            continue
        # A session of its own, since log-out ends it.
        headers = await fresh_session(client, name) if name != "nobody" else {}
        options = {"json": body_for(route.path)} if route.method == "POST" else {}
        answers.append(await outcome(await client.request(route.method, path, headers=headers, **options)))
    assert dict(zip(CALLERS, answers, strict=True)) == dict(
        zip(CALLERS, EXPECTED[route.method, route.path], strict=True)
    )


async def fresh_session(client, login: str) -> dict[str, str]:
    """The headers of one more session."""
    answer = await (await client.post("/login", json={"login": login, "password": PASSWORD})).json()
    return {"Authorization": f"Bearer {answer['token']}"}


async def test_upgrade_is_guarded(client, callers):
    """As WebSocket requests as well, only oneself may listen."""
    path = f"/listen/{callers['oneself'].id}"
    for name, status in [("nobody", 401), ("stranger", 403), ("member", 403), ("owner", 403)]:
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect(path, headers=callers[name].headers)
        assert refused.value.status == status


# What stands in a path

NOT_A_UUID = (
    "x",
    "0",
    "me",
    "%00",
    "00000000000000000000000000000000",
    "00000000-0000-0000-0000-00000000000",
    "00000000-0000-0000-0000-0000000000000",
    "00000000-0000-0000-0000-00000000000g",
    "0000000-00000-0000-0000-000000000000",
    "urn:uuid:00000000-0000-0000-0000-000000000000",
    "%2000000000-0000-0000-0000-000000000000",
    "00000000-0000-0000-0000-000000000000%0A",
    "%EF%BC%90" * 8 + "-0000-0000-0000-000000000000",
    "%FF",
    "a%2Fb",
)
USER_ROUTES = [route for route in ROUTES if "{user_id}" in route.path]


async def test_malformed_user_id(client, sign_up):
    """What is no UUID is nobody's on every route: 404, never 400 or 500."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    for route in USER_ROUTES:
        for user_id in NOT_A_UUID:
            response = await ann.request(route.method, fill(route.path, user_id=user_id))
            assert await outcome(response) == (404, "no such user"), (name_of(route), user_id)


async def test_braces_in_path(client, sign_up):
    """Braces in a path are characters like any others."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    braces = "%7B00000000-0000-0000-0000-000000000000%7D"
    answers = {
        name_of(route): await outcome(await ann.request(route.method, fill(route.path, user_id=braces)))
        for route in USER_ROUTES
    }
    assert answers == dict.fromkeys(answers, (404, "no such user"))


async def test_user_id_in_capitals(client, sign_up):
    """A UUID is read in either case (RFC 9562, section 4)."""
    ann = await sign_up("ann")
    assert (await ann.request("GET", f"/users/{str(ann.id).upper()}/groups")).status == 200
