"""New names over HTTP: none is invisible or looks like another. Names from before stay usable."""

import pytest
from people import PASSWORD, Person

INVISIBLE = ("\u200b", "root\u200b", "ro\u00adot", "\u202e", "\u3164", "\u2800", "\ufeff")
LOOK_ALIKES = ("r\u043e\u043et", "RO\u041eT", "\uff52\uff4f\uff4f\uff54", "r00t")
OLD = "ro\u200bot"


@pytest.fixture
async def root(sign_up, sql):
    """An administrator."""
    root = await sign_up("root")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name_key = 'admin') WHERE id = %s", root.id)
    return root


async def outcome(person, method, path, body):
    """Return the status; of an error also its code, its index, and the fields at fault."""
    response = await person.request(method, path, json=body)
    problem = await response.json()
    if response.status < 400:
        return response.status
    faults = {fault["field"] for fault in problem.get("errors", ())}
    return response.status, problem["error"], problem.get("index"), faults


async def test_invisible_characters(root):
    """They are a 422 that names the field, wherever a name comes in."""
    tea = await root.make_group("tea")
    role = await (await root.request("POST", "/roles", json={"name": "guest"})).json()
    for text in INVISIBLE:
        for method, path, body, field in (
            ("POST", "/signup", {"login": text, "password": PASSWORD}, "login"),
            ("POST", "/users", {"login": text}, "login"),
            ("POST", "/users", [{"login": "x"}, {"login": text}], "1.login"),
            ("POST", "/users", {"login": "x", "first_name": text}, "first_name"),
            ("PATCH", f"/users/{root.id}", {"login": text}, "login"),
            ("PATCH", "/users/me", {"last_name": text}, "last_name"),
            ("PATCH", "/users", [{"id": str(root.id), "login": text}], "0.login"),
            ("POST", "/groups", {"name": text}, "name"),
            ("PATCH", f"/groups/{tea['id']}", {"name": text}, "name"),
            ("POST", "/roles", {"name": text}, "name"),
            ("PATCH", f"/roles/{role['id']}", {"name": text}, "name"),
        ):
            status, error, _, faults = await outcome(root, method, path, body)
            assert (status, error, faults) == (422, "invalid input", {field}), (text, method, path)


async def test_look_alikes(root, sign_up):
    """A name that looks like another is taken."""
    ann = await sign_up("ann")
    taken = (409, "login taken", None, set())
    for login in LOOK_ALIKES:
        assert await outcome(ann, "POST", "/signup", {"login": login, "password": PASSWORD}) == taken, login
        assert await outcome(ann, "PATCH", "/users/me", {"login": login}) == taken, login
        assert await outcome(root, "POST", "/users", [{"login": "x"}, {"login": login}]) == (
            409,
            "login taken",
            1,
            set(),
        )
    assert await outcome(root, "POST", "/users", [{"login": "bob"}, {"login": "b\u043eb"}]) == (
        409,
        "login taken",
        1,
        set(),
    )
    assert await outcome(root, "POST", "/users", [{"login": "x"}, {"login": "bob"}]) == 201
    await ann.make_group("tea")
    assert await outcome(ann, "POST", "/groups", {"name": "t\u0435a"}) == (409, "group name taken", None, set())
    assert await outcome(root, "POST", "/roles", {"name": "guest"}) == 201
    refused = await outcome(root, "POST", "/roles", [{"name": "x"}, {"name": "gu\u0435st"}])
    assert refused == (409, "role name taken", 1, set())


async def test_passed_on(root, sign_up):
    """In one change a user may take a login that looks like the one another gives up."""
    ann = await sign_up("ann")
    changes = [{"id": str(ann.id), "login": LOOK_ALIKES[0]}, {"id": str(root.id), "login": "x"}]
    assert await outcome(root, "PATCH", "/users", changes) == 200


async def test_emoji(root):
    """A group's name may be an emoji of several; the group is found by it, in either way to write it."""
    name = "\U0001f469\u200d\u2764\ufe0f\u200d\U0001f469 club"
    group = await root.make_group(name)
    assert group["name"] == name
    assert (await (await root.request("GET", f"/groups/{name}")).json())["id"] == group["id"]
    refused = await outcome(root, "POST", "/groups", {"name": name.replace("\ufe0f", "")})
    assert refused == (409, "group name taken", None, set())


async def test_full_width(client, sign_up):
    """Characters of full width are ordinary ones: in the login of a new user, and when they log in."""
    ann = await sign_up("\uff41nn")
    assert (await (await ann.request("GET", "/users/me")).json())["login"] == "ann"
    for login in ("ann", "\uff41nn", "an\uff2e"):
        response = await client.post("/login", json={"login": login, "password": PASSWORD})
        assert response.status == 200, login


async def test_names_from_before(client, root, sql):
    """Whoever has an invalid name logs in, is found, changes other values, and renames away."""
    response = await client.post("/signup", json={"login": "old", "password": PASSWORD})
    old = Person(client, OLD, await response.json())
    group = await old.make_group("tea")
    sql("UPDATE users SET login = %s, login_key = %s, first_name = %s WHERE id = %s", OLD, OLD, OLD, old.id)
    sql("UPDATE groups SET name = %s, name_key = %s", OLD, OLD)
    assert (await client.post("/login", json={"login": OLD, "password": PASSWORD})).status == 200
    page = await (await root.request("GET", f"/users?login={OLD}")).json()
    assert [user["id"] for user in page["items"]] == [str(old.id)]
    assert await outcome(old, "PATCH", "/users/me", {"login": OLD, "first_name": OLD, "last_name": "Lee"}) == 200
    assert await outcome(root, "PATCH", "/users", [{"id": str(old.id), "login": OLD, "birth_date": None}]) == 200
    assert await outcome(old, "PATCH", f"/groups/{OLD}", {"name": OLD, "post": "owners"}) == 200
    assert await old.broadcast(OLD, {}) == 0
    assert await outcome(old, "PATCH", f"/groups/{group['id']}", {"name": "tea"}) == 200
    assert await outcome(old, "PATCH", "/users/me", {"login": "old", "first_name": ""}) == 200
