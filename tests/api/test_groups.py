"""Rules of groups over HTTP: who may join, post and change the group, and what permissions allow beyond."""

import asyncio
from uuid import uuid4

import pytest
from aiohttp import ClientResponse, DummyCookieJar
from aiohttp.test_utils import TestClient

from att.app import create_app

NO_MEMBER = (403, "not a member")
NO_OWNER = (403, "not an owner")


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar: each request brings its own credentials."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def ann(sign_up):
    """The owner of the group tea."""
    ann = await sign_up("ann")
    await ann.make_group("tea")
    return ann


@pytest.fixture
async def bob(sign_up):
    return await sign_up("bob")


@pytest.fixture
async def zoe(sign_up):
    return await sign_up("zoe")


@pytest.fixture
def permit(sql):
    """Give a user a new role with these permissions."""

    def give(person, *permissions):
        query = """
            WITH role AS (INSERT INTO roles (name, name_key, permissions) VALUES (%s, %s, %s) RETURNING id)
            UPDATE users SET role_id = role.id FROM role WHERE users.id = %s
        """
        name = f"role {uuid4()}"
        sql(query, name, name, list(permissions), person.id)

    return give


async def outcome(response: ClientResponse) -> object:
    """Return status and code of an error, or status and body of a success."""
    if response.status < 400:
        return response.status, await response.json()
    assert response.content_type == "application/problem+json", await response.text()
    return response.status, (await response.json())["error"]


async def change(person, **rules) -> object:
    return await outcome(await person.request("PATCH", "/groups/tea", json=rules))


async def put(person, target, **body) -> object:
    """Return the status and the role of the added member, or the code of the error."""
    options = {"json": body} if body else {}
    status, answer = await outcome(await person.request("PUT", f"/groups/tea/members/{target.id}", **options))
    return status, answer if status >= 400 else answer["role"]


async def get(person, path) -> object:
    return await outcome(await person.request("GET", path))


async def visible(person) -> dict[str, str | None]:
    """Return the names of the listed groups with the user's role in each."""
    status, page = await get(person, "/groups")
    assert (status, page["next"]) == (200, None)
    return {group["name"]: group["role"] for group in page["items"]}


async def roles(person) -> dict[str, str]:
    """Return the members of tea with their roles."""
    _, page = await get(person, "/groups/tea/members")
    return {member["login"]: member["role"] for member in page["items"]}


# Rules


async def test_make_with_rules(client, ann):
    """A group can be created with its rules; an invalid rule is a 422 that names the field."""
    rules = {"join": "open", "post": "owners", "retention": 0}
    status, group = await outcome(await ann.request("POST", "/groups", json={"name": "coffee"} | rules))
    assert (status, group) == (201, group | rules | {"name": "coffee", "role": "owner"})
    assert await get(ann, "/groups/coffee") == (200, group)
    response = await ann.request("PATCH", "/groups/coffee", json={"retention": 5.0})
    assert (await outcome(response))[1]["retention"] == 5
    for rule in rules:
        for value in ("closed", "", None, True, ["open"], -1, 1_000_001, 2.5):
            response = await ann.request("POST", "/groups", json={"name": "milk", rule: value})
            assert await outcome(response) == (422, "invalid input"), (rule, value)
            assert [fault["field"] for fault in (await response.json())["errors"]] == [rule]


async def test_change_group(client, ann):
    """200 has the changed group, and the event of the change; other fields stay, and all of them if one is invalid."""
    _, tea = await get(ann, "/groups/tea")
    await ann.make_group("coffee")
    both = {"join": "invite", "post": "members"}
    for rules in ({}, {"join": "open"}, {"post": "owners"}, both, {"name": "TEA"}, {"retention": 1_000_000}):
        tea |= rules | {"seq": tea["seq"] + bool(rules)}
        assert await change(ann, **rules) == (200, tea)
        assert await get(ann, "/groups/tea") == (200, tea)
    for rules, error in (
        ({"name": "COFFEE", "join": "open"}, (409, "group name taken")),
        ({"name": "a/b", "join": "open"}, (422, "invalid input")),
        ({"name": None}, (422, "invalid input")),
        ({"join": "closed", "post": "owners"}, (422, "invalid input")),
        ({"retention": -1, "post": "owners"}, (422, "invalid input")),
        ({"join": "open", "role": "owner"}, (422, "invalid input")),
    ):
        assert await change(ann, **rules) == error
    assert await outcome(await ann.request("PATCH", "/groups/tea", data=b"{}")) == (415, "unsupported media type")
    assert await outcome(await ann.request("PATCH", "/groups/tea", json=[])) == (422, "invalid input")
    assert await get(ann, "/groups/tea") == (200, tea)


async def test_rename_group(client, ann, bob):
    """A renamed group is found by its new name, its old name is free, and listeners stay subscribed."""
    socket = await ann.listen()
    status, group = await change(ann, name="Cafe\u0301")
    assert (status, group["name"]) == (200, "Café")
    assert await get(ann, "/groups/tea") == (404, "no such group")
    assert (await bob.make_group("tea"))["id"] != group["id"]
    assert await ann.broadcast("CAFÉ", {"n": 1}) == 1
    assert await socket.receive_json(timeout=5) == {"n": 1}
    await socket.close()


async def test_owners_change_rules(client, ann, bob, zoe):
    """Only owners change a group, even an open one."""
    await change(ann, join="open")
    await ann.add("tea", bob)
    assert await change(bob, post="owners") == NO_OWNER
    assert await change(zoe, post="owners") == NO_MEMBER
    assert (await get(ann, "/groups/tea"))[1]["post"] == "members"


# Open groups


async def test_join_open_group(client, ann, bob):
    """Any user can join an open group, receives its messages at once, and can leave again."""
    path = f"/groups/tea/members/{bob.id}"
    assert await put(bob, bob) == NO_MEMBER
    await change(ann, join="open")
    socket = await bob.listen()
    assert await ann.broadcast("tea", {"n": 1}) == 0
    assert await outcome(await bob.request("PUT", "/groups/tea/members/me")) == (
        201,
        {
            "user_id": str(bob.id),
            "login": "bob",
            "first_name": "",
            "last_name": "",
            "role": "member",
            "joined_at": (await member(bob))["joined_at"],
        },
    )
    assert await put(bob, bob) == (200, "member")
    assert await ann.broadcast("tea", {"n": 2}) == 1
    assert (await bob.request("DELETE", path)).status == 204
    assert await ann.broadcast("tea", {"n": 3}) == 0
    await change(ann, join="invite")
    assert await put(bob, bob) == NO_MEMBER
    assert await socket.receive_json(timeout=5) == {"n": 2}
    await socket.close()


async def test_one_member(client, ann, bob, zoe):
    """A fellow member is found with their names, as the list has them; nobody else is, and not by a stranger."""
    await ann.add("tea", bob)
    await bob.request("PATCH", "/users/me", json={"first_name": "Bob", "last_name": "Lee"})
    _, page = await get(ann, "/groups/tea/members")
    assert page["items"][1] | {"first_name": "Bob", "last_name": "Lee"} == page["items"][1]
    for path in (str(bob.id), "me"):
        assert await get(bob, f"/groups/tea/members/{path}") == (200, page["items"][1])
    assert await get(ann, f"/groups/tea/members/{zoe.id}") == (404, "no such member")
    assert await get(zoe, f"/groups/tea/members/{bob.id}") == NO_MEMBER


async def member(person) -> dict[str, str]:
    """Return the user's own row of the members of tea."""
    _, page = await get(person, "/groups/tea/members")
    return next(item for item in page["items"] if item["user_id"] == str(person.id))


async def test_joining_makes_a_plain_member(client, ann, bob, zoe):
    """A user who joins an open group becomes a plain member and cannot change other members."""
    await change(ann, join="open")
    assert await put(bob, bob, role="owner") == NO_OWNER
    assert await roles(ann) == {"ann": "owner"}
    assert await put(bob, bob, role="member") == (201, "member")
    assert await put(bob, bob) == (200, "member")
    assert await put(bob, bob, role="owner") == NO_OWNER
    assert await put(bob, zoe) == await put(bob, ann, role="member") == NO_OWNER
    assert await put(zoe, bob) == NO_MEMBER
    assert await outcome(await bob.request("POST", "/groups/tea/members", json={"user_ids": [str(zoe.id)]})) == NO_OWNER
    assert (
        await outcome(await zoe.request("POST", "/groups/tea/members", json={"user_ids": [str(zoe.id)]})) == NO_MEMBER
    )
    assert await roles(ann) == {"ann": "owner", "bob": "member"}


async def test_open_group_to_strangers(client, ann, bob):
    """A non-member sees an open group, by name and in the list, but neither its members nor its messages."""
    _, tea = await get(ann, "/groups/tea")
    assert await get(bob, "/groups/tea") == NO_MEMBER
    await change(ann, join="open")
    assert await get(bob, "/groups/tea") == (200, tea | {"join": "open", "role": None, "seq": 2, "unread": None})
    assert await get(bob, "/groups/tea/members") == NO_MEMBER
    assert await outcome(await bob.request("POST", "/broadcast/tea", json={})) == NO_MEMBER
    assert await outcome(await bob.request("DELETE", f"/groups/tea/members/{bob.id}")) == NO_MEMBER
    assert await outcome(await bob.request("DELETE", "/groups/tea")) == NO_MEMBER
    await change(ann, join="invite")
    assert await get(bob, "/groups/tea") == NO_MEMBER


async def test_list_groups(client, ann, bob, permit):
    """The list has the user's own and open groups, oldest first; all groups with groups.read only."""
    await bob.make_group("coffee")
    await bob.make_group("milk")
    await change(ann, join="open")
    assert await visible(ann) == {"tea": "owner"}
    assert await visible(bob) == {"tea": None, "coffee": "owner", "milk": "owner"}
    await bob.add("milk", ann)
    assert await visible(ann) == {"tea": "owner", "milk": "member"}
    _, page = await get(ann, "/groups")
    assert page["items"] == [(await get(ann, f"/groups/{n}"))[1] for n in ("tea", "milk")]
    permit(ann, "groups.write", "broadcast.any", "users.read")
    assert await visible(ann) == {"tea": "owner", "milk": "member"}
    permit(ann, "groups.read")
    assert await visible(ann) == {"tea": "owner", "coffee": None, "milk": "member"}
    assert list(await visible(ann)) == ["tea", "coffee", "milk"]
    assert await outcome(await client.get("/groups")) == (401, "not signed in")


# Who may post


async def test_owners_post(client, ann, bob, zoe, permit):
    """If only owners may post, plain members are refused from the next request on, but still receive messages."""
    await ann.add("tea", bob)
    socket = await bob.listen()
    assert await bob.broadcast("tea", {"n": 1}) == 1
    await change(ann, post="owners")
    assert await outcome(await bob.request("POST", "/broadcast/tea", json={"n": 2})) == NO_OWNER
    assert await outcome(await zoe.request("POST", "/broadcast/tea", json={"n": 2})) == NO_MEMBER
    assert await ann.broadcast("tea", {"n": 3}) == 1
    assert await put(ann, bob, role="owner") == (200, "owner")
    assert await bob.broadcast("tea", {"n": 4}) == 1
    assert await put(ann, bob, role="member") == (200, "member")
    assert await outcome(await bob.request("POST", "/broadcast/tea", json={"n": 5})) == NO_OWNER
    permit(zoe, "broadcast.any")
    assert await zoe.broadcast("tea", {"n": 6}) == 1
    await change(ann, post="members")
    assert await bob.broadcast("tea", {"n": 7}) == 1
    assert [(await socket.receive_json(timeout=5))["n"] for _ in range(5)] == [1, 3, 4, 6, 7]
    await socket.close()


async def test_rule_that_changes_under_way(client, ann, bob):
    """The right to post is checked when the whole body has arrived, so that a rule changed meanwhile applies."""
    await ann.add("tea", bob)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly():
        yield b'{"n":'
        begun.set()
        await go_on.wait()
        yield b"1}"

    headers = {"Content-Type": "application/json"}
    sending = asyncio.create_task(bob.request("POST", "/broadcast/tea", data=slowly(), headers=headers))
    await begun.wait()
    await change(ann, post="owners")
    go_on.set()
    assert await outcome(await sending) == NO_OWNER


# Roles in a group


async def test_give_roles(client, ann, bob, zoe):
    """Owners make owners and undo it: 201 for a new member, 200 for a present one; the last owner stays."""
    assert await put(ann, bob, role="owner") == (201, "owner")
    assert await put(bob, zoe, role="member") == (201, "member")
    assert await put(bob, ann, role="member") == (200, "member")
    assert await put(ann, bob, role="member") == NO_OWNER
    assert await put(bob, bob, role="member") == (409, "last owner")
    assert await put(bob, bob) == (200, "owner")
    assert await roles(zoe) == {"ann": "member", "bob": "owner", "zoe": "member"}


async def test_two_owners_demote_each_other(client, ann, bob):
    """If two owners demote each other at once, exactly one succeeds and stays owner."""
    await put(ann, bob, role="owner")
    for _ in range(10):
        outcomes = await asyncio.gather(put(ann, bob, role="member"), put(bob, ann, role="member"))
        assert outcomes.count((200, "member")) == 1
        assert set(outcomes) - {(200, "member")} <= {NO_OWNER, (409, "last owner")}
        owner, other = (ann, bob) if outcomes[0][0] == 200 else (bob, ann)
        assert await roles(ann) == {owner.login: "owner", other.login: "member"}
        await put(owner, other, role="owner")


# Many members


async def test_add_members(client, ann, bob, zoe):
    """201 has the members in the order of the request, each once; all of them receive the next message."""
    await put(ann, bob, role="owner")
    socket = await zoe.listen()
    ids = [str(person.id) for person in (zoe, bob, zoe)]
    ids[2] = ids[2].upper()
    status, answer = await outcome(await ann.request("POST", "/groups/tea/members", json={"user_ids": ids}))
    assert (status, set(answer)) == (201, {"items"})
    assert [(item["login"], item["role"]) for item in answer["items"]] == [("zoe", "member"), ("bob", "owner")]
    _, page = await get(ann, "/groups/tea/members")
    assert sorted(item["login"] for item in page["items"]) == ["ann", "bob", "zoe"]
    assert all(item in page["items"] for item in answer["items"])
    assert await ann.broadcast("tea", {"n": 1}) == 1
    assert await socket.receive_json(timeout=5) == {"n": 1}
    await socket.close()


async def test_add_members_or_none(client, ann, bob):
    """An unknown user is named by index, an invalid list by its field; no member is added."""
    ids = [str(bob.id), str(uuid4()), str(bob.id), str(uuid4())]
    response = await ann.request("POST", "/groups/tea/members", json={"user_ids": ids})
    assert await outcome(response) == (404, "no such user")
    assert (await response.json())["index"] == 1
    for body, field in (
        ({}, "user_ids"),
        ({"user_ids": []}, "user_ids"),
        ({"user_ids": [str(bob.id)] * 1001}, "user_ids"),
        ({"user_ids": [str(bob.id), "me"]}, "user_ids.1"),
        ({"user_ids": [str(bob.id)], "role": "owner"}, "role"),
        ([str(bob.id)], "body"),
    ):
        response = await ann.request("POST", "/groups/tea/members", json=body)
        assert await outcome(response) == (422, "invalid input")
        assert [fault["field"] for fault in (await response.json())["errors"]] == [field]
    assert await outcome(await ann.request("POST", "/groups/tea/members")) == (400, "not json")
    assert await roles(ann) == {"ann": "owner"}


# What a role permits beyond


async def test_groups_read(client, ann, bob, permit):
    """groups.read shows any group, its members, and any user's groups; it allows no change and delivers nothing."""
    permit(bob, "groups.read")
    _, tea = await get(ann, "/groups/tea")
    assert await get(bob, "/groups/tea") == (200, tea | {"role": None, "unread": None})
    assert await roles(bob) == {"ann": "owner"}
    _, page = await get(bob, f"/users/{ann.id}/groups")
    assert page["items"] == [tea]
    assert await get(bob, f"/users/{uuid4()}/groups") == (404, "no such user")
    assert await change(bob, join="open") == NO_MEMBER
    assert await put(bob, bob) == NO_MEMBER
    assert await outcome(await bob.request("DELETE", "/groups/tea")) == NO_MEMBER
    assert await outcome(await bob.request("POST", "/broadcast/tea", json={})) == NO_MEMBER
    permit(bob)
    assert await get(bob, "/groups/tea") == NO_MEMBER


async def test_groups_write(client, ann, bob, zoe, permit):
    """groups.write allows what an owner may do in any group, and does not count as an owner: the last one stays."""
    permit(zoe, "groups.write")
    status, tea = await change(zoe, post="owners")
    assert (status, tea["post"], tea["role"]) == (200, "owners", None)
    assert await put(zoe, bob, role="owner") == (201, "owner")
    assert await put(zoe, ann, role="member") == (200, "member")
    assert await put(zoe, bob, role="member") == (409, "last owner")
    assert await outcome(await zoe.request("DELETE", f"/groups/tea/members/{bob.id}")) == (409, "last owner")
    ids = {"user_ids": [str(zoe.id)]}
    assert (await outcome(await zoe.request("POST", "/groups/tea/members", json=ids)))[0] == 201
    assert await roles(zoe) == {"ann": "member", "bob": "owner", "zoe": "member"}
    assert (await zoe.request("DELETE", f"/groups/tea/members/{ann.id}")).status == 204
    assert await put(zoe, zoe, role="owner") == (200, "owner")
    permit(zoe)
    assert (await change(zoe, post="members"))[0] == 200
    assert await put(bob, zoe, role="member") == (200, "member")
    assert await change(zoe, post="owners") == NO_OWNER


async def test_group_without_owner(*, client, sql, ann, bob, zoe, permit):
    """If a group's only owner is deleted, groups.write gives it a new one; until then no member can change it."""
    await ann.add("tea", bob)
    sql("DELETE FROM users WHERE id = %s", ann.id)
    assert await change(bob, join="open") == NO_OWNER
    assert await put(bob, bob, role="owner") == NO_OWNER
    permit(zoe, "groups.write")
    assert await put(zoe, bob, role="owner") == (200, "owner")
    assert (await change(bob, join="open"))[0] == 200


async def test_everything(client, ann, bob, permit):
    """A role that permits everything allows all of it in any group."""
    permit(bob, "*")
    assert await visible(bob) == {"tea": None}
    assert await roles(bob) == {"ann": "owner"}
    assert await bob.broadcast("tea", {}) == 0
    assert await put(bob, bob, role="owner") == (201, "owner")
    assert (await bob.request("DELETE", "/groups/tea")).status == 204
