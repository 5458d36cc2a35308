"""Users over HTTP: the exact shape of each response and the code of each error."""

import asyncio
from datetime import datetime
from uuid import UUID, uuid4

import pytest
from aiohttp import DummyCookieJar, WSMsgType
from aiohttp.test_utils import TestClient
from people import PASSWORD

from att.api.query_schemas import IDS
from att.api.schemas import _PASSWORDS, MANY
from att.app import create_app
from att.protocol.frames import CloseCode

USER = ["id", "login", "first_name", "last_name", "birth_date", "registered_at", "role", "active"]


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar: each request brings its own credentials."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def boss(sign_up, postgresql):
    """The only administrator."""
    boss = await sign_up("boss")
    postgresql.execute("DELETE FROM users WHERE login_key = 'admin'")
    postgresql.execute(
        "UPDATE users SET role_id = (SELECT id FROM roles WHERE name_key = 'admin') WHERE id = %s", (boss.id,)
    )
    postgresql.commit()
    return boss


@pytest.fixture
def give(postgresql):
    """Give a user a new role with these permissions."""

    def go(person, *permissions):
        postgresql.execute(
            "WITH role AS (INSERT INTO roles (name, name_key, permissions) VALUES (%s, %s, %s) RETURNING id)"
            " UPDATE users SET role_id = role.id FROM role WHERE users.id = %s",
            (person.login, person.login, list(permissions), person.id),
        )
        postgresql.commit()

    return go


async def ask(person, method, path="/users", body=None, **options):
    """Return status and JSON body of the response."""
    if body is not None:
        options["json"] = body
    response = await person.request(method, path, **options)
    return response.status, await response.json() if response.content_type.endswith("json") else None


async def refusal(person, method, path="/users", body=None, **options):
    """Return status and code of an error, and the index of the item at fault."""
    status, problem = await ask(person, method, path, body, **options)
    return status, problem["error"], problem.get("index")


async def faults(person, method, path, body=None):
    """Return the fields that a 422 names."""
    status, problem = await ask(person, method, path, body)
    assert (status, problem["error"]) == (422, "invalid input"), problem
    return {fault["field"] for fault in problem["errors"]}


async def logins(person, query=""):
    """Return the logins of the page with this query."""
    status, page = await ask(person, "GET", f"/users{query}")
    assert status == 200, page
    return [user["login"] for user in page["items"]]


async def test_show(ann, boss, client):
    """A user is shown as 'me' and by id, others with users.read; the ETag changes with the user."""
    response = await ann.request("GET", "/users/me")
    user = await response.json()
    assert list(user) == USER
    assert user | {"registered_at": None} == {
        "id": str(ann.id),
        "login": "ann",
        "first_name": "",
        "last_name": "",
        "birth_date": None,
        "registered_at": None,
        "role": "User",
        "active": True,
    }
    assert user["registered_at"].endswith("Z")
    assert datetime.fromisoformat(user["registered_at"]).tzinfo
    tag = response.headers["ETag"]
    assert (tag[0], tag[-1], len(tag) > 10) == ('"', '"', True)
    for person in (ann, boss):
        again = await person.request("GET", f"/users/{ann.id}")
        assert (again.headers["ETag"], await again.json()) == (tag, user)
    changed = await ann.request("PATCH", "/users/me", json={"first_name": "Ann"})
    assert changed.headers["ETag"] not in (tag, None)
    assert changed.headers["ETag"] == (await ann.request("GET", "/users/me")).headers["ETag"]
    assert await refusal(ann, "GET", f"/users/{boss.id}") == (403, "not you", None)
    assert await refusal(boss, "GET", f"/users/{uuid4()}") == (404, "no such user", None)
    assert await refusal(boss, "GET", "/users/nobody") == (404, "no such user", None)
    assert (await client.get("/users/me")).status == 401


async def test_profiles(ann, boss, sign_up):
    """A fellow member's profile is shown, one by one and many by their ids; whoever may not be seen is left out."""
    bob, zoe = await sign_up("bob"), await sign_up("zoe")
    assert await refusal(ann, "GET", f"/users/{bob.id}") == (403, "not you", None)
    await ann.make_group("tea")
    await ann.add("tea", bob)
    await ask(bob, "PATCH", "/users/me", {"first_name": "Bob"})
    profile = {"id": str(bob.id), "login": "bob", "first_name": "Bob", "last_name": ""}
    own = {"id": str(ann.id), "login": "ann", "first_name": "", "last_name": ""}
    assert await ask(ann, "GET", f"/users/{bob.id}") == (200, profile)
    for user_id in (zoe.id, boss.id, uuid4()):
        assert await refusal(ann, "GET", f"/users/{user_id}") == (403, "not you", None)
    path = "/users?" + "&".join(f"id={each}" for each in (zoe.id, bob.id, uuid4(), ann.id, bob.id))
    assert await ask(ann, "GET", path) == (200, {"items": [profile, own], "next": None})
    _, page = await ask(boss, "GET", path)
    assert [list(user) for user in page["items"]] == [USER] * 3
    assert [user["login"] for user in page["items"]] == ["zoe", "bob", "ann"]
    assert await ask(ann, "GET", f"/users?id={zoe.id}") == (200, {"items": [], "next": None})
    await ann.remove("tea", bob)
    assert await refusal(ann, "GET", f"/users/{bob.id}") == (403, "not you", None)
    for query in ("id=x", "id=", f"id={bob.id}&login=bob", f"id={bob.id}&limit=1", "&".join([f"id={bob.id}"] * 101)):
        assert set(await faults(ann, "GET", f"/users?{query}")) <= {"id", "id.0"}, query


async def test_plain_users_have_themselves_alone(ann, boss):
    """Without permissions a user has only their own account, and cannot set its role or activity."""
    for method in ("GET", "POST", "PATCH", "DELETE"):
        assert await refusal(ann, method) == (403, "not permitted", None)
    for method in ("PATCH", "DELETE"):
        assert await refusal(ann, method, f"/users/{boss.id}", {}) == (403, "not you", None)
    for body in ({"role": "Admin"}, {"role": "User"}, {"active": False}, {"active": True}):
        status, problem = await ask(ann, "PATCH", "/users/me", body)
        assert (status, problem["error"]) == (403, "not permitted")
        assert "may not change your own role" in problem["detail"]


async def test_a_role_counts_from_the_next_request(ann, boss, give):
    """users.read allows listing and nothing more; without the role the next request is refused."""
    give(ann, "users.read")
    assert await logins(ann) == ["ann", "boss"]
    assert await refusal(ann, "POST", body={"login": "x"}) == (403, "not permitted", None)
    assert await refusal(ann, "PATCH", f"/users/{boss.id}", {}) == (403, "not you", None)
    assert (await ask(boss, "PATCH", f"/users/{ann.id}", {"role": "User"}))[0] == 200
    assert await refusal(ann, "GET") == (403, "not permitted", None)


async def test_list(ann, boss):
    """Filters and orders work alone and together; a page names the following one, also in a Link."""
    new = [{"login": f"u{n}", "first_name": "Zoë", "last_name": "Straße", "active": n != 2} for n in range(4)]
    assert (await ask(boss, "POST", body=new))[0] == 201
    assert await logins(boss, "?q=STRASSE&sort=-login&active=true") == ["u3", "u1", "u0"]
    assert await logins(boss, "?active=false") == ["u2"]
    assert await logins(boss, "?login=U1") == ["u1"]
    assert await logins(boss, "?role=ADMIN") == ["boss"]
    assert await logins(boss, "?role=nix") == []
    _, me = await ask(ann, "GET", "/users/me")
    assert await logins(boss, f"?registered_from={me['registered_at']}&registered_to={me['registered_at']}") == []
    assert (await logins(boss, f"?registered_from={me['registered_at']}"))[0] == "ann"
    assert "ann" in await logins(
        boss, "?registered_to=2999-01-01T00:00:00%2B02:00&registered_from=0001-01-01t00:00:00z"
    )
    response = await boss.request("GET", "/users?sort=-login&limit=3&q=u")
    page = await response.json()
    assert (list(page), [list(user) for user in page["items"]]) == (["items", "next"], [USER] * 3)
    link = response.headers["Link"]
    assert link.endswith('>; rel="next"')
    assert f"after={page['next']}" in link
    follows = await (await boss.request("GET", link[1 : link.index(">")])).json()
    assert ([user["login"] for user in follows["items"]], follows["next"]) == (["u0"], None)


BAD_QUERIES = [
    ("active=yes", "active"),
    ("active=1", "active"),
    ("active=", "active"),
    ("q=", "q"),
    ("q=%00", "q"),
    ("q=%0A", "q"),
    (f"q={'x' * 65}", "q"),
    ("login=%00", "login"),
    ("role=", "role"),
    ("registered_from=2026-01-01", "registered_from"),
    ("registered_from=2026-01-01T00:00:00", "registered_from"),
    ("registered_from=1767225600", "registered_from"),
    ("registered_to=2026-02-30T00:00:00Z", "registered_to"),
    ("registered_to=2026-01-01T00:00:00Z&registered_to=2026-01-01T00:00:00Z", "registered_to"),
    ("registered_to=%D9%A2026-01-01T00:00:00Z", "registered_to"),
    ("sort=id", "sort"),
    ("sort=--login", "sort"),
    ("limit=0", "limit"),
    ("limit=201", "limit"),
    ("after=x", "after"),
    ("nix=1", "nix"),
]


async def test_bad_queries(boss):
    """An invalid filter is named."""
    for query, field in BAD_QUERIES:
        found = await faults(boss, "GET", f"/users?{query}")
        assert {name.partition(".")[0] for name in found} == {field}, query


async def test_cursor_of_another_order(ann, boss):
    """A cursor is valid only for the order that it came from."""
    _, page = await ask(boss, "GET", "/users?limit=1&sort=login")
    assert await logins(boss, f"?sort=login&after={page['next']}") == ["boss"]
    for sort in ("-login", "last_name", "registered_at"):
        assert await faults(boss, "GET", f"/users?sort={sort}&after={page['next']}") == {"after"}


async def test_create(boss, client):
    """An object creates a user, with an ETag; an array creates many, in order."""
    given = {"login": "Zoë", "first_name": "Z", "last_name": "Y", "birth_date": "1999-12-31", "active": True}
    response = await boss.request("POST", "/users", json=given | {"password": PASSWORD, "role": "ADMIN"})
    user = await response.json()
    assert (response.status, list(user), response.headers["ETag"][0]) == (201, USER, '"')
    assert user | given | {"role": "Admin"} == user
    assert (await client.post("/login", json={"login": "ZOË", "password": PASSWORD})).status == 200
    status, answer = await ask(boss, "POST", body=[{"login": "b"}, {"login": "a", "password": PASSWORD}])
    assert (status, list(answer), [user["login"] for user in answer["items"]]) == (201, ["items"], ["b", "a"])
    assert [list(user) for user in answer["items"]] == [USER, USER]
    assert (await client.post("/login", json={"login": "a", "password": PASSWORD})).status == 200


async def test_create_all_or_none(ann, boss, give):
    """With one bad item no user is created; the error has its index, an invalid field its path."""
    for bad, refused in (
        ({"login": "ANN"}, (409, "login taken", 1)),
        ({"login": "X"}, (409, "login taken", 1)),
        ({"login": "y", "role": "nix"}, (404, "no such role", 1)),
    ):
        assert await refusal(boss, "POST", body=[{"login": "x"}, bad]) == refused
    assert await refusal(boss, "POST", body={"login": "ann"}) == (409, "login taken", None)
    give(ann, "users.write")
    assert await refusal(ann, "POST", body=[{"login": "x"}, {"login": "y", "role": "Admin"}]) == (
        403,
        "not permitted",
        1,
    )
    assert await logins(boss) == ["ann", "boss"]


BAD_USERS = [
    ({}, {"login"}),
    ({"login": " x"}, {"login"}),
    ({"login": "x", "password": "short"}, {"password"}),
    ({"login": "x", "birth_date": "1999-02-29"}, {"birth_date"}),
    ({"login": "x", "birth_date": 0}, {"birth_date"}),
    ({"login": "x", "first_name": None, "last_name": "y\n"}, {"first_name", "last_name"}),
    ({"login": "x", "active": "true", "role": 1}, {"active", "role"}),
    ({"login": "x", "id": str(UUID(int=1))}, {"id"}),
    ([], {"body"}),
    ([{"login": "x"}, {"login": ""}, 5], {"1.login", "2"}),
    ([{"login": "x"}, {}, []], {"1.login", "2"}),
    ("x", {"body"}),
    ([{"login": f"x{n}"} for n in range(MANY + 1)], {"body"}),
    ([{"login": f"x{n}", "password": PASSWORD} for n in range(_PASSWORDS + 1)], {"body"}),
]


async def test_bad_users(boss):
    """Each invalid field of a user is named."""
    for body, fields in BAD_USERS:
        assert await faults(boss, "POST", "/users", body) == fields, body
    assert await logins(boss) == ["boss"]


async def test_change_on_condition(boss, ann):
    """If-Match accepts the current version: one tag, several, or any; weak ones never."""
    tag = (await ann.request("GET", "/users/me")).headers["ETag"]
    for header, status in (
        (tag, 200),
        (f'"x", {tag}', 200),
        ("*", 200),
        ('"x"', 412),
        (f"W/{tag}", 412),
        ('"*"', 412),
        (tag.strip('"'), 412),
        ("nonsense", 412),
    ):
        response = await ann.request("PATCH", "/users/me", json={}, headers={"If-Match": header})
        assert response.status == status, header
    assert (await response.json())["error"] == "precondition failed"
    headers = {"If-Match": tag}
    assert (await ask(boss, "PATCH", f"/users/{ann.id}", {"last_name": "A"}, headers=headers))[0] == 200
    assert await refusal(ann, "PATCH", "/users/me", {"last_name": "B"}, headers=headers) == (
        412,
        "precondition failed",
        None,
    )


async def test_change(ann, boss):
    """The given fields change, to null where allowed; unknown and forbidden fields are named."""
    status, user = await ask(ann, "PATCH", "/users/me", {"birth_date": "1999-12-31", "login": "Ann", "first_name": "A"})
    assert (status, user["birth_date"], user["login"], user["first_name"]) == (200, "1999-12-31", "Ann", "A")
    status, user = await ask(boss, "PATCH", f"/users/{ann.id}", {"birth_date": None, "role": "Admin"})
    assert (status, user["birth_date"], user["role"], user["first_name"]) == (200, None, "Admin", "A")
    assert await refusal(ann, "PATCH", "/users/me", {"login": "boss"}) == (409, "login taken", None)
    assert await refusal(ann, "PATCH", "/users/me", {"role": "nix"}) == (404, "no such role", None)
    assert await refusal(boss, "PATCH", f"/users/{uuid4()}", {}) == (404, "no such user", None)
    assert await faults(ann, "PATCH", "/users/me", {"id": str(ann.id), "first_name": None}) == {"id", "first_name"}
    assert await faults(ann, "PATCH", "/users/me", []) == {"body"}


async def test_new_password(ann, boss, client):
    """One's own needs the current one and keeps this session; the others end and their sockets close."""
    other = await client.post("/login", json={"login": "ann", "password": PASSWORD})
    headers = {"Authorization": f"Bearer {(await other.json())['token']}"}
    there = await client.ws_connect(f"/listen/{ann.id}", headers=headers)
    here = await ann.listen()
    assert await faults(ann, "PATCH", "/users/me", {"password": "secret1"}) == {"current_password"}
    assert await faults(boss, "PATCH", f"/users/{ann.id}", {"password": "secret1", "current_password": PASSWORD}) == {
        "current_password"
    }
    wrong = {"password": "secret1", "current_password": "wrong"}
    assert await refusal(ann, "PATCH", "/users/me", wrong) == (403, "wrong password", None)
    assert await refusal(boss, "PATCH", "/users", [{"id": str(ann.id)}, {"id": str(boss.id)} | wrong]) == (
        403,
        "wrong password",
        1,
    )
    assert (await ask(ann, "PATCH", "/users/me", wrong | {"current_password": PASSWORD}))[0] == 200
    assert await closing(there) == CloseCode.SESSION_ENDED
    assert (await client.get("/users/me", headers=headers)).status == 401
    assert (await ask(ann, "GET", "/users/me"))[0] == 200
    assert (await ask(boss, "PATCH", f"/users/{ann.id}", {"password": "secret2"}))[0] == 200
    assert await closing(here) == CloseCode.SESSION_ENDED
    assert (await ask(ann, "GET", "/users/me"))[0] == 401
    assert (await client.post("/login", json={"login": "ann", "password": "secret1"})).status == 401
    assert (await client.post("/login", json={"login": "ann", "password": "secret2"})).status == 200


async def closing(socket):
    """Return the code with which the server closes the socket."""
    message = await socket.receive(timeout=5)
    assert message.type is WSMsgType.CLOSE
    return message.data


async def test_disabling(ann, boss, client):
    """A disabled user is signed out everywhere and cannot log in; once enabled again, they log in again."""
    socket = await ann.listen()
    assert (await ask(boss, "PATCH", f"/users/{ann.id}", {"active": False}))[1]["active"] is False
    assert await closing(socket) == CloseCode.SESSION_ENDED
    assert (await ask(ann, "GET", "/users/me"))[0] == 401
    credentials = {"login": "ann", "password": PASSWORD}
    assert (await client.post("/login", json=credentials)).status == 401
    assert (await ask(boss, "PATCH", f"/users/{ann.id}", {"active": True}))[0] == 200
    assert (await client.post("/login", json=credentials)).status == 200
    assert (await ask(ann, "GET", "/users/me"))[0] == 401


async def test_change_many(ann, boss):
    """A thousand users change at once; and of several none, if one of the changes is refused."""
    new = [{"login": f"u{n}"} for n in range(MANY)]
    _, made = await ask(boss, "POST", body=new)
    changes = [{"id": user["id"], "last_name": "Straße", "active": False} for user in made["items"]]
    for bad, refused in (
        ({"id": str(uuid4())}, (404, "no such user", 2)),
        ({"id": str(ann.id), "login": "boss"}, (409, "login taken", 2)),
        ({"id": str(ann.id), "role": "nix"}, (404, "no such role", 2)),
        ({"id": str(boss.id), "active": False}, (409, "last administrator", None)),
    ):
        assert await refusal(boss, "PATCH", body=[*changes[:2], bad, changes[3]]) == refused
    assert await logins(boss, "?active=false") == []
    assert await recorded(boss) == []
    status, answer = await ask(boss, "PATCH", body=changes)
    assert (status, list(answer), len(answer["items"])) == (200, ["items"], MANY)
    assert [(user["id"], user["last_name"], user["active"]) for user in answer["items"]] == [
        (change["id"], "Straße", False) for change in changes
    ]
    assert await logins(boss, "?active=true") == ["ann", "boss"]
    found = await recorded(boss)
    assert sorted(change["row"] for change in found) == sorted(change["id"] for change in changes)
    assert all(change["new"] == {"active": False, "last_name": "Straße"} for change in found)
    [session] = (await (await boss.request("GET", "/sessions")).json())["items"]
    assert {(change["actor_id"], change["session_id"]) for change in found} == {(str(boss.id), session["id"])}
    assert len({change["request_id"] for change in found}) == 1


async def test_swap_logins(ann, boss):
    """One change of many may pass logins on in any order, whatever their alphabet, also round in a circle.

    The history has one change of each.
    """
    await ask(boss, "POST", body=[{"login": login} for login in ("Ωmega", "b", "c")])
    users = (await ask(boss, "GET", "/users?sort=login"))[1]["items"]
    ids = {user["login"]: user["id"] for user in users}

    async def rename(**logins):
        return await boss.request("PATCH", "/users", json=[{"id": ids[o], "login": n} for o, n in logins.items()])

    for names in ({"ann": "boss", "boss": "ann"}, {"b": "c", "c": "B"}, {"c": "Ωmega", "Ωmega": "ann", "ann": "c"}):
        before = await recorded(boss)
        response = await rename(**names)
        assert response.status == 200, await response.text()
        changes = [change for change in await recorded(boss) if change not in before]
        assert sorted((change["old"]["login"], change["new"]["login"]) for change in changes) == sorted(names.items())
        assert all(change["new"].get("login_key", "")[:1] != " " for change in changes)
        assert [user["login"] for user in (await response.json())["items"]] == [*names.values()]
        back = [{"id": ids[name], "login": name} for name in names]
        assert (await boss.request("PATCH", "/users", json=back)).status == 200
    # Passed on in a row, from the last to the first and the other way round.
    assert (await rename(b="c", c="d")).status == 200
    assert (await rename(c="b", b="a")).status == 200
    assert (await (await rename(ann="boss", b="x")).json())["error"] == "login taken"


async def recorded(boss):
    """Return every change of a user by a signed-in user from the history."""
    changes, path = [], "/history?table=users&operation=UPDATE&limit=200"
    while path:
        response = await boss.request("GET", path)
        changes += [change for change in (await response.json())["items"] if change["session_id"]]
        path = response.links["next"]["url"].path_qs if "next" in response.links else None
    return changes


async def test_bad_changes(ann, boss):
    """There is a limit of changes; each has an id, and no user occurs twice."""
    me = str(boss.id)
    for body, fields in (
        ([{"id": me}, {"id": me.upper()}], {"1.id"}),
        ([], {"body"}),
        ({}, {"body"}),
        ([{"first_name": "x"}, {"id": "me"}, {"id": me, "active": None}], {"0.id", "1.id", "2.active"}),
        ([{"id": str(uuid4())} for _ in range(MANY + 1)], {"body"}),
        ([{"id": str(uuid4()), "password": PASSWORD} for _ in range(_PASSWORDS + 1)], {"body"}),
        ([{"id": str(ann.id)}, {"id": me, "password": PASSWORD}], {"1.current_password"}),
    ):
        assert await faults(boss, "PATCH", "/users", body) == fields


async def test_delete(ann, boss, client):
    """A user can delete themselves, users.write others; sockets close. A second time it is a 404."""
    socket = await ann.listen()
    assert await ask(ann, "DELETE", "/users/me") == (204, None)
    assert await closing(socket) == CloseCode.SESSION_ENDED
    assert (await ask(ann, "GET", "/users/me"))[0] == 401
    assert await refusal(boss, "DELETE", f"/users/{ann.id}") == (404, "no such user", None)
    assert (await client.post("/signup", json={"login": "ann", "password": PASSWORD})).status == 201
    assert await refusal(boss, "DELETE", "/users/me") == (409, "last administrator", None)


async def test_delete_many(ann, boss):
    """All users are deleted, with their number, or none; the error has the index."""
    _, made = await ask(boss, "POST", body=[{"login": f"u{n}"} for n in range(3)])
    ids = [user["id"] for user in made["items"]]
    for others, refused in (
        ([str(uuid4())], (404, "no such user", 3)),
        ([ids[0], str(boss.id)], (409, "last administrator", None)),
    ):
        query = "&id=".join([*ids, *others])
        assert await refusal(boss, "DELETE", f"/users?id={query}") == refused
    assert len(await logins(boss)) == 5
    assert await ask(boss, "DELETE", f"/users?id={ids[0]}&id={ids[1]}&id={ids[0]}") == (200, {"deleted": 2})
    assert await ask(boss, "DELETE", f"/users?id={ids[2]}") == (200, {"deleted": 1})
    assert await logins(boss) == ["ann", "boss"]
    assert await faults(boss, "DELETE", "/users") == {"id"}
    assert await faults(boss, "DELETE", f"/users?id={ids[0]}&id=me") == {"id.1"}
    assert await faults(boss, "DELETE", f"/users?{'&'.join(['id=' + ids[0]] * (IDS + 1))}") == {"id"}


async def test_two_administrators_at_once(ann, boss):
    """If two administrators demote each other at the same time, one stays."""
    assert (await ask(boss, "PATCH", f"/users/{ann.id}", {"role": "Admin"}))[0] == 200
    answers = await asyncio.gather(
        ask(boss, "PATCH", f"/users/{ann.id}", {"role": "User"}),
        ask(ann, "PATCH", f"/users/{boss.id}", {"role": "User"}),
    )
    # The second is refused in either way: before the first has committed, or after.
    assert sorted(status for status, _ in answers) in ([200, 409], [200, 403])
    left = [person for person in (ann, boss) if (await ask(person, "GET"))[0] == 200]
    assert len(left) == 1
