"""Roles: their permissions, who may change them, and the last administrator."""

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from aiohttp import DummyCookieJar
from people import PASSWORD, Person
from waiting import eventually

from att.accounts.roles import RoleChange, Roles
from att.app import create_app
from att.core.permissions import Actor, Permission
from att.errors import LastAdministrator, NotPermitted

NOBODY_ELSE = (409, "last administrator")
NOT_PERMITTED = (403, "not permitted")
BUILT_IN = (409, "built-in role")
NO_SUCH_ROLE = (404, "no such role")


@pytest.fixture
async def client(settings, aiohttp_client):
    """A client without a cookie jar, of an application that has an administrator."""
    settings = replace(settings, admin_login="root", admin_password=PASSWORD)
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def root(client):
    """The administrator, signed in."""
    response = await client.post("/login", json={"login": "root", "password": PASSWORD})
    return Person(client, "root", await response.json())


@pytest.fixture
def give(postgresql):
    """Assign a role by name."""

    def go(person, role):
        postgresql.execute(
            "UPDATE users SET role_id = (SELECT id FROM roles WHERE name = %s) WHERE id = %s", (role, person.id)
        )
        postgresql.commit()

    return go


@pytest.fixture
def ids(postgresql):
    """Return the ids of the roles by name."""
    rows = postgresql.execute("SELECT name, id FROM roles").fetchall()
    postgresql.commit()
    return {name: str(role_id) for name, role_id in rows}


async def ask(person, method, path, **options):
    """Return the status and the body of the response."""
    response = await person.request(method, path, **options)
    return response.status, await response.json() if response.status != 204 else None


async def outcome(person, method, path, **options):
    """Return the status and code of an error, and its index if any."""
    status, answer = await ask(person, method, path, **options)
    return (status, answer["error"], *([answer["index"]] if "index" in answer else []))


async def make(person, name, *permissions):
    """Create a role as an actor who may; return its id."""
    status, role = await ask(person, "POST", "/roles", json={"name": name, "permissions": permissions})
    assert status == 201, role
    return role["id"]


async def names(person):
    """Return the names of all roles."""
    _, page = await ask(person, "GET", "/roles?limit=200")
    return [role["name"] for role in page["items"]]


async def test_one_by_one(root):
    """A role is created, shown, listed, changed and deleted; permissions are sorted without repetitions."""
    body = {"name": "Süpport", "permissions": ["users.read", "groups.read", "users.read"]}
    status, role = await ask(root, "POST", "/roles", json=body)
    assert (status, role) == (201, {**body, "id": role["id"], "permissions": ["groups.read", "users.read"]})
    path = f"/roles/{role['id']}"
    assert await ask(root, "GET", path) == (200, role)
    assert await ask(root, "GET", path.replace(role["id"], role["id"].upper())) == (200, role)
    assert await names(root) == ["Admin", "Süpport", "User"]

    assert await ask(root, "PATCH", path, json={}) == (200, role)
    role["name"] = "Aid"
    assert await ask(root, "PATCH", path, json={"name": "Aid"}) == (200, role)
    role["permissions"] = []
    assert await ask(root, "PATCH", path, json={"permissions": []}) == (200, role)
    assert await ask(root, "GET", path) == (200, role)
    assert await names(root) == ["Admin", "Aid", "User"]

    assert await ask(root, "DELETE", path) == (204, None)
    for method in ("GET", "PATCH", "DELETE"):
        assert await outcome(root, method, path, json={}) == NO_SUCH_ROLE


async def test_many(root):
    """Batches create, change and delete in order; a repeated deletion counts once."""
    status, made = await ask(root, "POST", "/roles", json=[{"name": "b"}, {"name": "a", "permissions": ["users.read"]}])
    assert (status, [role["name"] for role in made["items"]]) == (201, ["b", "a"])
    b, a = (role["id"] for role in made["items"])
    changes = [{"id": a, "name": "A"}, {"id": b, "permissions": ["history.read"]}]
    status, changed = await ask(root, "PATCH", "/roles", json=changes)
    expected = [
        {"id": a, "name": "A", "permissions": ["users.read"]},
        {"id": b, "name": "b", "permissions": ["history.read"]},
    ]
    assert (status, changed) == (200, {"items": expected})
    assert [await ask(root, "GET", f"/roles/{role['id']}") for role in expected] == [(200, role) for role in expected]
    assert await ask(root, "DELETE", f"/roles?id={a}&id={b}&id={a}") == (200, {"deleted": 2})
    assert await names(root) == ["Admin", "User"]


async def test_pages(root):
    """The list is by name, without regard to case, in pages that lead to the next."""
    await ask(root, "POST", "/roles", json=[{"name": name} for name in ("b", "A", "C", "zeta", "Äpfel")])
    path, found = "/roles?limit=3", []
    while path:
        response = await root.request("GET", path)
        page = await response.json()
        found += [role["name"] for role in page["items"]]
        path = str(response.links["next"]["url"].relative()) if page["next"] else None
        assert ("next" in response.links) is (page["next"] is not None)
    assert found == ["A", "Admin", "b", "C", "User", "zeta", "Äpfel"]


async def test_all_or_none(root, ids, sign_up, give, postgresql):
    """One bad item fails the whole batch; the error has its index."""
    a, b = await make(root, "a"), await make(root, "b", "users.read")
    give(await sign_up("ann"), "b")
    unknown = str(uuid4())
    before = postgresql.execute("SELECT * FROM roles ORDER BY name").fetchall()
    postgresql.commit()
    refused = [
        ("POST", "", [{"name": "c"}, {"name": "B"}], (409, "role name taken", 1)),
        ("POST", "", [{"name": "c"}, {"name": "d"}, {"name": "C"}], (409, "role name taken", 2)),
        ("PATCH", "", [{"id": a, "name": "c"}, {"id": unknown}], (*NO_SUCH_ROLE, 1)),
        ("PATCH", "", [{"id": a, "name": "c"}, {"id": b, "name": "C"}], (409, "role name taken", 1)),
        ("PATCH", "", [{"id": a, "name": "c"}, {"id": ids["User"], "name": "d"}], (*BUILT_IN, 1)),
        ("PATCH", "", [{"id": a, "name": "c"}, {"id": a, "name": "d"}], (422, "invalid input")),
        ("DELETE", f"?id={a}&id={a}&id={unknown}", None, (*NO_SUCH_ROLE, 2)),
        ("DELETE", f"?id={a}&id={ids['Admin']}", None, (*BUILT_IN, 1)),
        ("DELETE", f"?id={a}&id={b}", None, (409, "role in use", 1)),
    ]
    for method, query, body, expected in refused:
        assert await outcome(root, method, f"/roles{query}", json=body) == expected, (method, query, body)
    after = postgresql.execute("SELECT * FROM roles ORDER BY name").fetchall()
    assert after == before


BAD_INPUT = [
    ("POST", "/roles", {}, "name: is missing"),
    ("POST", "/roles", {"name": ""}, "name: must have 1 to 64 characters"),
    ("POST", "/roles", {"name": "x", "permissions": ["fly"]}, "permissions.0: must be"),
    ("POST", "/roles", {"name": "x", "permissions": "*"}, "permissions: must be a valid list"),
    ("POST", "/roles", {"name": "x", "id": str(uuid4())}, "id: is not known"),
    ("POST", "/roles", [], "body: must have at least 1 item"),
    ("POST", "/roles", [{"name": "x"}, {"name": " "}], "1.name: must not begin"),
    ("POST", "/roles", [{"name": str(n)} for n in range(1001)], "at most 1000 items"),
    ("POST", "/roles", [[]], "0: must be a JSON object"),
    ("POST", "/roles", 1, "body: must be a JSON object"),
    ("PATCH", "/roles", {"id": str(uuid4())}, "body: must be a valid list"),
    ("PATCH", "/roles", [{"name": "x"}], "0.id: is missing"),
    ("PATCH", "/roles", [{"id": "x"}], "0.id: must be a UUID"),
    ("PATCH", "/roles/{}", {"name": None}, "name: must be a valid string"),
    ("PATCH", "/roles/{}", {"permissions": None}, "permissions: must be a valid list"),
    ("DELETE", "/roles", None, "id: is missing"),
    ("DELETE", "/roles?id=x", None, "id.0: must be a UUID"),
    ("DELETE", "/roles?id=&id=", None, "id.1: must be a UUID"),
    ("DELETE", "/roles?" + "&".join(f"id={uuid4()}" for _ in range(201)), None, "at most 200 items"),
    ("DELETE", f"/roles?id={uuid4()}&all=1", None, "all: is not known"),
    ("GET", "/roles?limit=0", None, "limit: must be greater"),
    ("GET", "/roles?limit=1&limit=2", None, "limit: must not be given twice"),
    ("GET", "/roles?tea=1&tea=2", None, "tea: is not known"),
    ("GET", "/roles?after=x", None, "after: is not a cursor"),
]


async def test_swap_names(root):
    """One change of many may pass names on in any order, also round in a circle."""
    ids = [await make(root, name) for name in ("A", "B", "Ω")]
    for names in (["B", "A", "Ω"], ["Ω", "B", "A"], ["a", "Ω", "B"], ["B", "a", "Ω"]):
        body = [{"id": role_id, "name": name} for role_id, name in zip(ids, names, strict=True)]
        status, changed = await ask(root, "PATCH", "/roles", json=body)
        assert (status, [role["name"] for role in changed["items"]]) == (200, names)
    body = [{"id": ids[0], "name": "Admin"}, {"id": ids[1], "name": "B"}]
    assert await outcome(root, "PATCH", "/roles", json=body) == (409, "role name taken", 0)


async def test_bad_input(root, ids):
    """Invalid input is a 422 that names the member."""
    for method, path, body, says in BAD_INPUT:
        status, answer = await ask(root, method, path.format(ids["User"]), json=body)
        assert (status, answer["error"]) == (422, "invalid input"), (method, path, body)
        assert says in answer["detail"]


async def test_names_and_ids(root):
    """A name is taken in any case; an invalid id is an unknown role; invalid JSON is a 400."""
    await make(root, "Straße")
    assert await outcome(root, "POST", "/roles", json={"name": "STRASSE"}) == (409, "role name taken")
    assert await outcome(root, "POST", "/roles", json={"name": "admin"}) == (409, "role name taken")
    for role_id in ("x", "me", "%00", "Admin", uuid4(), "00000000000000000000000000000000"):
        for method in ("GET", "PATCH", "DELETE"):
            assert await outcome(root, method, f"/roles/{role_id}", json={}) == NO_SUCH_ROLE
    headers = {"Content-Type": "application/json"}
    assert await outcome(root, "POST", "/roles", data="[", headers=headers) == (400, "not json")


async def test_built_in(root, ids):
    """Admin and User cannot be deleted or renamed, and Admin permits everything; User may permit more."""
    for name in ("Admin", "User"):
        path = f"/roles/{ids[name]}"
        assert await outcome(root, "DELETE", path) == BUILT_IN
        for other in ("Chief", name.upper()):
            assert await outcome(root, "PATCH", path, json={"name": other}) == BUILT_IN
        assert (await ask(root, "PATCH", path, json={"name": name}))[0] == 200
    for permissions in ([], ["users.read"], ["*", "users.read"]):
        answer = await ask(root, "PATCH", f"/roles/{ids['Admin']}", json={"permissions": permissions})
        assert (answer[0], answer[1]["error"]) == BUILT_IN
        assert "'*'" in answer[1]["detail"]
    assert (await ask(root, "PATCH", f"/roles/{ids['Admin']}", json={"permissions": ["*"]}))[0] == 200
    status, user = await ask(root, "PATCH", f"/roles/{ids['User']}", json={"permissions": ["groups.read"]})
    assert (status, user["permissions"]) == (200, ["groups.read"])


async def test_in_use(root, sign_up, give):
    """A role with users cannot be deleted, and the error has their number."""
    role = await make(root, "Support")
    for login, says in [("ann", "1 user has"), ("ben", "2 users have")]:
        give(await sign_up(login), "Support")
        status, answer = await ask(root, "DELETE", f"/roles/{role}")
        assert (status, answer["error"]) == (409, "role in use")
        assert answer["detail"].startswith(says)
        assert "index" not in answer


async def test_counts_from_the_next_request(root, sign_up, give, postgresql):
    """A new role counts from the next request, and so does its removal."""
    role = await make(root, "Support", "roles.read")
    ann = await sign_up("ann")
    assert await outcome(ann, "GET", "/roles") == NOT_PERMITTED
    give(ann, "Support")
    assert (await ask(ann, "GET", "/roles"))[0] == (await ask(ann, "GET", f"/roles/{role}"))[0] == 200
    for method, path in [("POST", ""), ("PATCH", ""), ("DELETE", ""), ("PATCH", f"/{role}"), ("DELETE", f"/{role}")]:
        assert await outcome(ann, method, f"/roles{path}", json={}) == NOT_PERMITTED
    await ask(root, "PATCH", f"/roles/{role}", json={"permissions": []})
    assert await outcome(ann, "GET", "/roles") == NOT_PERMITTED
    await ask(root, "PATCH", f"/roles/{role}", json={"permissions": ["roles.read"]})
    assert (await ask(ann, "GET", "/roles"))[0] == 200
    give(ann, "User")
    assert await outcome(ann, "GET", "/roles") == NOT_PERMITTED
    give(ann, "Admin")
    assert (await ask(ann, "GET", "/roles"))[0] == 200
    postgresql.execute("UPDATE users SET active = false WHERE id = %s", (ann.id,))
    postgresql.commit()
    assert (await ask(ann, "GET", "/roles"))[0] in (401, 403)


async def test_nobody_raises_themselves(root, sign_up, give, ids):
    """With roles.write alone an actor changes only roles within their own permissions; the 403 says what is missing."""
    own = await make(root, "Clerk", "roles.write", "users.read")
    strong, equal = await make(root, "Strong", "users.write"), await make(root, "Equal", "users.read")
    ann = await sign_up("ann")
    give(ann, "Clerk")
    refused = [
        ("POST", "/roles", {"name": "x", "permissions": ["users.write"]}, ()),
        ("POST", "/roles", {"name": "x", "permissions": ["*"]}, ()),
        ("POST", "/roles", [{"name": "x"}, {"name": "y", "permissions": ["history.read"]}], (1,)),
        ("PATCH", f"/roles/{own}", {"permissions": ["*"]}, ()),
        ("PATCH", f"/roles/{own}", {"permissions": ["roles.write", "users.write"]}, ()),
        ("PATCH", f"/roles/{strong}", {"permissions": []}, ()),
        ("PATCH", f"/roles/{strong}", {"name": "Weak"}, ()),
        ("PATCH", f"/roles/{ids['User']}", {"permissions": ["sessions.write"]}, ()),
        ("PATCH", f"/roles/{ids['Admin']}", {"permissions": []}, ()),
        ("PATCH", "/roles", [{"id": equal, "name": "x"}, {"id": strong, "name": "y"}], (1,)),
        ("DELETE", f"/roles/{strong}", None, ()),
        ("DELETE", f"/roles?id={equal}&id={strong}", None, (1,)),
    ]
    for method, path, body, index in refused:
        assert await outcome(ann, method, path, json=body) == (*NOT_PERMITTED, *index), (method, path, body)
    _, answer = await ask(ann, "DELETE", f"/roles/{strong}")
    assert "users.write" in answer["detail"]
    assert await make(ann, "Peer", "roles.write", "users.read")
    assert (await ask(ann, "PATCH", f"/roles/{equal}", json={"name": "x", "permissions": []}))[0] == 200
    assert (await ask(ann, "DELETE", f"/roles/{equal}"))[0] == 204
    # Their own role as well: what they take from themselves they cannot give back.
    assert (await ask(ann, "PATCH", f"/roles/{own}", json={"permissions": ["roles.write"]}))[0] == 200
    body = {"permissions": ["roles.write", "users.read"]}
    assert await outcome(ann, "PATCH", f"/roles/{own}", json=body) == NOT_PERMITTED


async def test_nobody_raises_others(root, sign_up, give, ids):
    """New permissions of others' role take users.write, as giving them a role does; those of the role User take '*'."""
    clerk, aid = await make(root, "Clerk", "roles.write", "users.read"), await make(root, "Aid")
    user, mine = f"/roles/{ids['User']}", {"permissions": ["roles.write"]}
    ann, bob = await sign_up("ann"), await sign_up("bob")
    give(ann, "Clerk")
    assert await outcome(ann, "PATCH", user, json=mine) == NOT_PERMITTED
    assert await outcome(ann, "PATCH", "/roles", json=[{"id": aid}, {"id": ids["User"], **mine}]) == (*NOT_PERMITTED, 1)
    assert (await ask(ann, "PATCH", f"/roles/{aid}", json=mine))[0] == 200
    give(bob, "Aid")
    for permissions in ([], ["roles.write", "users.read"]):
        assert await outcome(ann, "PATCH", f"/roles/{aid}", json={"permissions": permissions}) == NOT_PERMITTED
    assert (await ask(ann, "PATCH", f"/roles/{aid}", json={"name": "Help", **mine}))[0] == 200
    assert (await ask(root, "PATCH", f"/roles/{clerk}", json={"permissions": ["roles.write", "users.write"]}))[0] == 200
    assert (await ask(ann, "PATCH", f"/roles/{aid}", json={"permissions": []}))[0] == 200
    assert await outcome(ann, "PATCH", user, json=mine) == NOT_PERMITTED
    assert (await ask(root, "PATCH", user, json={"permissions": ["users.read"]}))[0] == 200


async def test_the_last_administrator_stays(root, sign_up, give, postgresql):
    """The role of the last active administrator cannot lose '*', also not in a batch."""
    chiefs, others = await make(root, "Chiefs", "*"), await make(root, "Others", "*")
    ann = await sign_up("ann")
    give(ann, "Others")
    postgresql.execute("UPDATE users SET active = false WHERE id = %s", (ann.id,))
    postgresql.commit()
    give(root, "Chiefs")
    assert await outcome(root, "PATCH", f"/roles/{chiefs}", json={"permissions": ["users.read"]}) == NOBODY_ELSE
    changes = [{"id": others, "name": "x"}, {"id": chiefs, "permissions": []}, {"id": others, "name": "y"}]
    assert await outcome(root, "PATCH", "/roles", json=changes[:2]) == (*NOBODY_ELSE, 1)
    assert (await ask(root, "PATCH", f"/roles/{others}", json={"permissions": []}))[0] == 200
    give(ann, "Admin")
    postgresql.execute("UPDATE users SET active = true WHERE id = %s", (ann.id,))
    postgresql.commit()
    assert (await ask(root, "PATCH", f"/roles/{chiefs}", json={"permissions": []}))[0] == 200


async def test_two_administrators_at_once(db, postgresql):
    """Of two administrators who concurrently take '*' from each other's role, one is refused."""
    roles, sides = Roles(db), []
    for name in ("one", "two"):
        role_id, user_id = uuid4(), uuid4()
        postgresql.execute("INSERT INTO roles (id, name, name_key) VALUES (%s, %s, %s)", (role_id, name, name))
        postgresql.execute(
            "INSERT INTO users (id, login, login_key, search_text, password_hash, role_id)"
            " VALUES (%s, %s, %s, %s, 'none', %s)",
            (user_id, name, name, name, role_id),
        )
        sides.append((role_id, Actor(user_id, None, "test")))
    (one, ann), (two, ben) = sides
    for _ in range(20):
        postgresql.execute("UPDATE roles SET permissions = '{*}' WHERE id IN (%s, %s)", (one, two))
        postgresql.commit()
        outcomes = await asyncio.gather(
            roles.change(RoleChange(two, permissions=[]), ann),
            roles.change(RoleChange(one, permissions=[]), ben),
            return_exceptions=True,
        )
        # Whoever comes second has lost the right to; without a right to lose it would be the last administrator.
        assert sum(isinstance(outcome, NotPermitted) for outcome in outcomes) == 1, outcomes
    for _ in range(20):
        postgresql.execute("UPDATE roles SET permissions = '{*}' WHERE id IN (%s, %s)", (one, two))
        postgresql.commit()
        outcomes = await asyncio.gather(
            roles.change(RoleChange(one, permissions=[]), ann),
            roles.change(RoleChange(two, permissions=[]), ben),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, LastAdministrator) for outcome in outcomes) == 1, outcomes


async def test_a_holder_who_comes_while_it_is_deleted(db, postgresql, root):
    """A deletion waits for a concurrent assignment of the role, then counts its user."""
    role = await make(root, "Support")
    postgresql.execute("UPDATE users SET role_id = %s WHERE login = 'root'", (role,))  # not yet committed
    deleting = asyncio.create_task(ask(root, "DELETE", f"/roles/{role}"))

    async def waits():
        return postgresql.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone()

    await eventually(waits)
    postgresql.commit()
    status, answer = await deleting
    assert (status, answer["error"]) == (409, "role in use")
    assert answer["detail"].startswith("1 user has")


async def test_the_actor_is_recorded(root, postgresql):
    """A thousand roles created by one request are a thousand changes with the actor."""
    postgresql.execute(
        "CREATE TABLE seen AS SELECT ''::text AS actor LIMIT 0;"
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN INSERT INTO seen VALUES (current_setting('att.actor_id', true)); RETURN NULL; END $$;"
        "CREATE TRIGGER see AFTER INSERT ON roles FOR EACH ROW EXECUTE FUNCTION see()"
    )
    postgresql.commit()
    status, _ = await ask(root, "POST", "/roles", json=[{"name": f"r{n}"} for n in range(1000)])
    assert status == 201
    rows = postgresql.execute("SELECT actor, count(*) FROM seen GROUP BY actor").fetchall()
    assert [(UUID(actor), count) for actor, count in rows] == [(root.id, 1000)]


async def test_what_means_nothing_permits_nothing(root, sign_up, give, postgresql):
    """An unknown permission stored by an operator is ignored."""
    role = await make(root, "Support", "roles.read")
    postgresql.execute("UPDATE roles SET permissions = '{roles.read,fly,roles.read}' WHERE id = %s", (role,))
    postgresql.commit()
    ann = await sign_up("ann")
    give(ann, "Support")
    status, shown = await ask(ann, "GET", f"/roles/{role}")
    assert (status, shown["permissions"]) == (200, ["roles.read"])
    assert all(permission in list(Permission) for permission in shown["permissions"])
