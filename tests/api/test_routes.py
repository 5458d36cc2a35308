"""The route table: exactly its routes are served, to exactly the users it names."""

from typing import NamedTuple
from uuid import uuid4

import pytest
from aiohttp import ClientResponse, DummyCookieJar, WSServerHandshakeError
from aiohttp.test_utils import TestClient
from people import PASSWORD, Person
from route_requests import fill, request_for, served

from att.api.routes import ROUTES
from att.app import create_app
from att.config.settings import Settings
from att.core.permissions import Permission, Who

CALLERS = ("nobody", "stranger", "member", "owner", "oneself")
NOBODY = (401, "not signed in")
NOT_YOU = (403, "not you")
NO_MEMBER = (403, "not a member")
NO_OWNER = (403, "not an owner")
NOT_PERMITTED = (403, "not permitted")


class Row(NamedTuple):
    """The response that each caller gets: a status, and the code of an error.

    "oneself" is the user in the path, and a plain member of the group in the path, as "member" is. The role of a
    stranger with the permission ``by``, or one of these, or ``*``, gets ``permitted``.
    """

    nobody: object
    stranger: object
    member: object
    owner: object
    oneself: object
    by: str | tuple[str, ...] | None = None
    permitted: object = None

    def of(self, caller: str) -> object:
        """Return the response for a caller, who is named above or by a permission."""
        if caller in CALLERS:
            return getattr(self, caller)
        by = (self.by,) if isinstance(self.by, str) else self.by
        return self.permitted if by and caller in (*by, "*") else self.stranger


def anyone(status: int) -> Row:
    return Row(status, status, status, status, status)


def signed_in(status: int) -> Row:
    return Row(NOBODY, status, status, status, status)


def oneself(status: int, by: str | None) -> Row:
    return Row(NOBODY, NOT_YOU, NOT_YOU, NOT_YOU, status, by, status)


def fellows(status: int, by: tuple[str, ...]) -> Row:
    return Row(NOBODY, NOT_YOU, status, status, status, by, status)


def permitted(status: int, by: str) -> Row:
    return Row(NOBODY, NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, NOT_PERMITTED, by, status)


def members(status: int, by: str) -> Row:
    return Row(NOBODY, NO_MEMBER, status, status, status, by, status)


def owners(status: int, by: str) -> Row:
    return Row(NOBODY, NO_MEMBER, NO_OWNER, status, NO_OWNER, by, status)


EXPECTED = {
    ("POST", "/signup"): anyone(201),
    ("POST", "/login"): anyone(200),
    ("POST", "/logout"): signed_in(204),
    ("GET", "/users"): permitted(200, "users.read"),
    ("POST", "/users"): permitted(201, "users.write"),
    ("PATCH", "/users"): permitted(200, "users.write"),
    ("DELETE", "/users"): permitted(200, "users.write"),
    ("GET", "/users/{user_id}"): fellows(200, ("users.read", "groups.read")),
    ("PATCH", "/users/{user_id}"): oneself(200, "users.write"),
    ("DELETE", "/users/{user_id}"): oneself(204, "users.write"),
    ("GET", "/users/{user_id}/groups"): oneself(200, "groups.read"),
    ("GET", "/users/{user_id}/history"): oneself(200, "history.read"),
    ("GET", "/users/{user_id}/sessions"): oneself(200, "sessions.write"),
    ("DELETE", "/users/{user_id}/sessions"): oneself(200, "sessions.write"),
    ("DELETE", "/users/{user_id}/sessions/{session_id}"): oneself(204, "sessions.write"),
    ("GET", "/sessions"): signed_in(200),
    ("DELETE", "/sessions"): signed_in(200),
    ("DELETE", "/sessions/{session_id}"): signed_in(204),
    ("GET", "/roles"): permitted(200, "roles.read"),
    ("POST", "/roles"): permitted(201, "roles.write"),
    ("PATCH", "/roles"): permitted(200, "roles.write"),
    ("DELETE", "/roles"): permitted(200, "roles.write"),
    ("GET", "/roles/{role_id}"): permitted(200, "roles.read"),
    ("PATCH", "/roles/{role_id}"): permitted(200, "roles.write"),
    ("DELETE", "/roles/{role_id}"): permitted(204, "roles.write"),
    ("GET", "/history"): permitted(200, "history.read"),
    ("GET", "/groups"): signed_in(200),
    ("POST", "/groups"): signed_in(201),
    ("GET", "/groups/{group}"): members(200, "groups.read"),
    ("PATCH", "/groups/{group}"): owners(200, "groups.write"),
    ("DELETE", "/groups/{group}"): owners(204, "groups.write"),
    ("GET", "/groups/{group}/members"): members(200, "groups.read"),
    ("GET", "/groups/{group}/members/{user_id}"): members(200, "groups.read"),
    ("GET", "/groups/{group}/events"): members(200, "groups.read"),
    ("DELETE", "/groups/{group}/events/{seq}"): Row(NOBODY, NO_MEMBER, NO_OWNER, 204, NO_OWNER, "groups.write", 204),
    ("GET", "/groups/{group}/presence"): members(200, "groups.read"),
    ("GET", "/users/{user_id}/presence"): oneself(200, "users.read"),
    ("POST", "/groups/{group}/members"): owners(201, "groups.write"),
    ("PUT", "/groups/{group}/members/{user_id}"): owners(200, "groups.write"),
    ("DELETE", "/groups/{group}/members/{user_id}"): Row(NOBODY, NO_MEMBER, NO_OWNER, 204, 204, "groups.write", 204),
    ("PUT", "/groups/{group}/read"): Row(NOBODY, NO_MEMBER, 200, 200, 200),
    ("POST", "/broadcast/{group}"): members(200, "broadcast.any"),
    ("GET", "/listen/{user_id}"): oneself(101, None),
    ("GET", "/openapi.json"): anyone(200),
    ("GET", "/"): anyone(200),
    ("GET", "/docs"): anyone(200),
    ("GET", "/docs/{file}"): anyone(200),
}

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def name_of(route):
    return f"{route.method} {route.path}"


async def outcome(response: ClientResponse) -> int | tuple[int, str]:
    """Return the status, and for an error its code."""
    if response.status < 400:
        return response.status
    return response.status, (await response.json())["error"]


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar: each request brings its own credentials."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
def give_role(postgresql):
    """Give a user a new role with exactly these permissions."""

    def go(user_id: object, *permissions: str) -> None:
        name = uuid4().hex
        postgresql.execute(
            "WITH role AS (INSERT INTO roles (name, name_key, permissions) VALUES (%s, %s, %s) RETURNING id)"
            " UPDATE users SET role_id = role.id FROM role WHERE users.id = %s",
            (name, name, list(permissions), user_id),
        )
        postgresql.commit()

    return go


@pytest.fixture
def new_role(postgresql):
    """Create a role that no user has; return its id."""

    def go() -> object:
        name = uuid4().hex
        row = postgresql.execute("INSERT INTO roles (name, name_key) VALUES (%s, %s) RETURNING id", (name, name))
        role_id = row.fetchone()[0]
        postgresql.commit()
        return role_id

    return go


@pytest.fixture
async def administrator(sign_up, give_role):
    """A user who may do everything."""
    person = await sign_up("administrator")
    give_role(person.id, "*")
    return person


# The table against the router


def test_nothing_else_is_served():
    """The router serves the table twice, HEAD beside GET, OPTIONS for each path, and nothing else."""
    router = create_app(Settings()).router
    found = [(route.method, route.resource.canonical) for route in router.routes()]
    table = [(method, path) for path, methods in served().items() for method in methods]
    assert sorted(found) == sorted([*table, *((method, f"/api{path}") for method, path in table)])


async def test_unknown_path(client):
    """A path that is not in the table is a 404 for every method."""
    for path in (
        "/api",
        "/users/",
        "/groups/",
        "/signup/",
        "/groups/a/b",
        "/listen",
        "/docs/",
        "/x//signup",
        "/Signup",
    ):
        for method in METHODS:
            response = await client.request(method, path)
            assert response.status == 404, (method, path)
            assert response.content_type == "application/problem+json"


async def test_options(client):
    """OPTIONS names the methods of a path, for anyone."""
    for path, methods in served().items():
        response = await client.options(fill(path))
        assert response.status == 204
        assert set(response.headers["Allow"].split(", ")) == methods, path


async def test_other_methods(client):
    """A method that a path does not have is a 405 that names those it has."""
    for path, methods in served().items():
        for method in set(METHODS) - methods:
            response = await client.request(method, fill(path))
            assert response.status == 405, (method, path)
            allow = response.headers["Allow"]
            assert set(allow.split(", ")) == methods, path
            assert response.content_type == "application/problem+json"
            if method != "HEAD":
                problem = await response.json()
                assert problem["error"] == "method not allowed"
                assert problem["detail"] == f"This address does not allow the method. It allows {allow}."


async def test_head(client, administrator, new_role):
    """HEAD is answered like GET, without the body."""
    await administrator.make_group("tea")
    places = {"user_id": administrator.id, "role_id": new_role(), "seq": 2}
    who = {route.path: route.who for route in ROUTES if route.method == "GET"}
    paths = [path for path, methods in served().items() if "HEAD" in methods]
    for template in paths:
        path = fill(template, **places)
        get, head = await administrator.request("GET", path), await administrator.request("HEAD", path)
        assert (get.status, head.status) == (200, 200), path
        assert await head.read() == b""
        assert head.headers["Content-Type"] == get.headers["Content-Type"]
        assert head.headers["Content-Length"] == get.headers["Content-Length"]
        assert (await client.head(path)).status == (200 if who[template] is Who.ANYONE else 401), path
    assert len(paths) == len([route for route in ROUTES if route.method == "GET"]) - 1


# Who may


def test_each_route_has_a_row():
    """Each route has its expectation here."""
    assert set(EXPECTED) == {(route.method, route.path) for route in ROUTES}


async def test_not_signed_in(client):
    """Without credentials the response shows neither whether group or user exist nor faults of the body."""
    for route in ROUTES:
        if route.who is not Who.ANYONE:
            for path in (fill(route.path), fill(route.path, group="%00", user_id="x")):
                response = await client.request(route.method, path, data=b"no json")
                assert await outcome(response) == NOBODY, (route.method, path)


async def test_who_may(*, client, sign_up, give_role, new_role, administrator):
    """Each caller gets the response of the table above, for each permission of their role."""
    people = {name: await sign_up(name) for name in CALLERS[1:4]}
    for permission in Permission:
        people[permission] = await sign_up(f"may {permission}")
        give_role(people[permission].id, permission)

    async def new_target():
        """Make a user, a group that they are a member of, and whatever else stands in a path."""
        target, group = await sign_up(uuid4().hex), uuid4().hex[:12] + "g"
        await people["owner"].make_group(group)
        await people["owner"].broadcast(group, {})  # its event has the seq 2
        for guest in (people["member"], target):
            await people["owner"].add(group, guest)
        return target, {"user_id": target.id, "group": group, "role_id": new_role(), "seq": 2}

    answers, target = {}, None
    for route in ROUTES:
        for name in ("nobody", *people, "oneself"):
            if target is None:
                target, places = await new_target()
            caller = people.get(name, target)
            if "{session_id}" in route.path:
                is_own = not route.path.startswith("/users")
                places["session_id"] = await session_id_of(administrator, caller if is_own else target)
            answer = await answer_to(client, route, {} if name == "nobody" else caller.headers, places)
            answers.setdefault(name_of(route), {})[name] = answer
            if route.method != "GET" and isinstance(answer, int):  # it may have ended them, or the caller's session
                target = None
                if name in people:
                    people[name] = await sign_in(client, caller.login)
    expected = {f"{method} {path}": row for (method, path), row in EXPECTED.items()}
    assert answers == {
        name: {caller: expected[name].of(caller) for caller in by_caller} for name, by_caller in answers.items()
    }
    assert {len(by_caller) for by_caller in answers.values()} == {len(CALLERS) + len(Permission)}
    assert answers.keys() == expected.keys()


async def answer_to(client, route, headers, places):
    """Return the outcome of a valid request to a route; for a WebSocket 101."""
    path = fill(route.path, **places)
    options = request_for(route.method, route.path, **places)
    if not route.upgrades:
        return await outcome(await client.request(route.method, path, headers=headers, **options))
    try:
        async with client.ws_connect(path, headers=headers):
            return 101
    except WSServerHandshakeError:
        return await outcome(await client.request(route.method, path, headers=headers, **options))


async def session_id_of(administrator, person) -> str:
    """Return the id of a session of the user."""
    page = await (await administrator.request("GET", f"/users/{person.id}/sessions")).json()
    return page["items"][0]["id"]


async def sign_in(client, login: str) -> Person:
    """Sign a user in with a new session."""
    answer = await (await client.post("/login", json={"login": login, "password": PASSWORD})).json()
    return Person(client, login, answer)


async def test_upgrade_is_guarded(client, sign_up, administrator):
    """As a WebSocket, too, only the user may listen, not even an administrator."""
    ann = await sign_up("ann")
    for headers, status in (({}, 401), ((await sign_up("stranger")).headers, 403), (administrator.headers, 403)):
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect(f"/listen/{ann.id}", headers=headers)
        assert refused.value.status == status


# What stands in a path

NOT_A_UUID = (
    "x",
    "0",
    "Me",
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
    """An invalid UUID is a 404 on every route, never 400 or 500."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    for route in USER_ROUTES:
        for user_id in NOT_A_UUID:
            response = await ann.request(route.method, fill(route.path, user_id=user_id))
            assert await outcome(response) == (404, "no such user"), (name_of(route), user_id)


async def test_braces_in_path(client, sign_up):
    """Braces in a path are ordinary characters."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    braces = "%7B00000000-0000-0000-0000-000000000000%7D"
    answers = {
        name_of(route): await outcome(await ann.request(route.method, fill(route.path, user_id=braces)))
        for route in USER_ROUTES
    }
    assert answers == dict.fromkeys(answers, (404, "no such user"))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/roles/{id}", "no such role"),
        ("/sessions/{id}", "no such session"),
        ("/users/me/sessions/{id}", "no such session"),
    ],
)
async def test_other_malformed_ids(administrator, path, code):
    """An invalid UUID is no id of a role or a session."""
    for method in ("GET", "PATCH", "DELETE"):
        for place in NOT_A_UUID:
            options = {"json": {}} if method == "PATCH" else {}
            answer = await outcome(await administrator.request(method, path.format(id=place), **options))
            assert answer in ((404, code), (405, "method not allowed")), (method, place)


async def test_me(client, sign_up):
    """In a path `me` is the user who asks."""
    ann = await sign_up("ann")
    assert (await (await ann.request("GET", "/users/me")).json())["id"] == str(ann.id)
    assert (await client.get("/users/me")).status == 401


async def test_user_id_in_capitals(client, sign_up):
    """A UUID is read in either case (RFC 9562, section 4)."""
    ann = await sign_up("ann")
    assert (await ann.request("GET", f"/users/{str(ann.id).upper()}/groups")).status == 200
