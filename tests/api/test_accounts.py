"""Accounts, sessions, groups and broadcasts over HTTP: the exact shape of each response and the code of each error."""

import asyncio
import gzip
import io
import json
import zlib
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientResponse, DummyCookieJar, WSMsgType, WSServerHandshakeError
from aiohttp.test_utils import TestClient
from people import PASSWORD

from att.api.accounts import make_login_response
from att.api.keys import EVENT_LOG
from att.app import create_app
from att.http.bodies import BODY_LIMIT
from att.http.credentials import COOKIE
from att.protocol.frames import CloseCode
from att.sessions.store import Session, SignIn

SIGN_IN = {"user_id", "token", "expires_at"}
GROUP = {"id", "name", "join", "post", "retention", "history", "created_at", "seq", "role", "read", "unread"}
MEMBER = {"user_id", "login", "first_name", "last_name", "role", "joined_at"}
PAGE = {"items", "next"}

NOT_A_NAME = {
    "empty": "",
    "65 characters": "n" * 65,
    "space in front": " tea",
    "space behind": "tea ",
    "no-break space behind": "tea\xa0",
    "line feed": "te\na",
    "NUL": "te\0a",
    "delete": "te\x7fa",
    "C1 control": "te\x85a",
    "line separator": "te\u2028a",
    "number": 5,
    "null": None,
    "array": ["tea"],
}
NOT_A_GROUP_NAME = NOT_A_NAME | {
    "slash": "a/b",
    "dot": ".",
    "two dots": "..",
    "UUID": "6f1e9c1e-8f57-4a6c-9b5c-0c8a1f6d2e34",
    "UUID in capitals": "6F1E9C1E-8F57-4A6C-9B5C-0C8A1F6D2E34",
    "UUID without hyphens": "6f1e9c1e8f574a6c9b5c0c8a1f6d2e34",
    "UUID in braces": "{6f1e9c1e-8f57-4a6c-9b5c-0c8a1f6d2e34}",
}
NOT_AN_OBJECT = ("[]", '[{"a": 1}]', '"a"', "1", "-0.5", "true", "null")


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar: each request brings its own credentials."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def ann(sign_up):
    return await sign_up("ann")


@pytest.fixture
async def bob(sign_up):
    return await sign_up("bob")


@pytest.fixture
async def tea(ann):
    """A group that Ann owns."""
    return await ann.make_group("tea")


async def body_of(response: ClientResponse, status: int) -> dict:
    """Return the JSON body of a response, which must have this status."""
    assert response.status == status, await response.text()
    assert response.content_type == "application/json"
    return await response.json()


async def refusal(response: ClientResponse) -> tuple[int, str]:
    """Return status and code of an error."""
    assert response.content_type == "application/problem+json", await response.text()
    return response.status, (await response.json())["error"]


async def faulty_fields(response: ClientResponse) -> set[str]:
    """Return the fields that a 422 names."""
    assert await refusal(response) == (422, "invalid input")
    return {fault["field"] for fault in (await response.json())["errors"]}


async def refused_upgrade(attempt) -> int:
    """Return the status with which a WebSocket was refused."""
    with pytest.raises(WSServerHandshakeError) as refused:
        await attempt
    return refused.value.status


def is_moment(text: str) -> bool:
    """Return True for a time of RFC 3339 in UTC."""
    return text.endswith("Z") and datetime.fromisoformat(text).utcoffset() is not None


# Sign-up


async def test_signup(client, postgresql):
    """201 has exactly the id, the token and the expiry of the session; the cookie has the same token."""
    response = await client.post("/signup", json={"login": "ann", "password": PASSWORD})
    body = await body_of(response, 201)
    assert set(body) == SIGN_IN
    assert response.cookies[COOKIE].value == body["token"]
    user_id, expires_at = postgresql.execute("SELECT user_id, expires_at FROM sessions").fetchone()
    assert UUID(body["user_id"]) == user_id
    assert is_moment(body["expires_at"])
    assert datetime.fromisoformat(body["expires_at"]) == expires_at


async def test_signup_signs_in(client, sign_up):
    """The token of the sign-up works for the next request."""
    ann = await sign_up("ann")
    assert (await ann.request("GET", f"/users/{ann.id}/groups")).status == 200


async def test_signup_login_taken(client, sign_up):
    """Logins are equal whatever their case and normal form; the refusal signs no user in."""
    await sign_up("Zoë")
    for login in ("zoë", "ZOË", "zoe\u0308", "Zoe\u0308"):
        response = await client.post("/signup", json={"login": login, "password": PASSWORD})
        assert await refusal(response) == (409, "login taken")
        assert not response.cookies


async def test_signup_bad_login(client):
    """An invalid login is a 422 that names the field."""
    for case, login in NOT_A_NAME.items():
        response = await client.post("/signup", json={"login": login, "password": PASSWORD})
        assert await faulty_fields(response) == {"login"}, case


async def test_signup_good_login(client):
    """A valid login can be signed up once."""
    for login in ("n", "n" * 64, "e\u0301" * 64, "a/b", "李 小龙", "🍵", "%s'\"\\;--"):
        for status in (201, 409):
            response = await client.post("/signup", json={"login": login, "password": PASSWORD})
            assert response.status == status, login


async def test_signup_bad_password(client):
    """A password that is too short or too long is a 422 that names the field."""
    for password in ("", "12345", "e\u0301" * 5, "x" * 1025, "é" * 513, 123456, None):
        response = await client.post("/signup", json={"login": "ann", "password": password})
        assert await faulty_fields(response) == {"password"}, password


async def test_signup_good_password(client):
    """A password of allowed size can be signed up and logs in."""
    for number, password in enumerate(("123456", "x" * 1024, "é" * 512, "      ", "\0\0\0\0\0\0")):
        account = {"login": f"user {number}", "password": password}
        assert (await client.post("/signup", json=account)).status == 201, password
        assert (await client.post("/login", json=account)).status == 200, password


@pytest.mark.parametrize("path", ["/signup", "/login"])
async def test_account_bad_members(client, path):
    """Missing and unknown fields are named."""
    cases = [
        ({}, {"login", "password"}),
        ({"login": "ann"}, {"password"}),
        ({"login": "ann", "password": PASSWORD, "role": "owner", "user_id": 1}, {"role", "user_id"}),
        ({"Login": "ann", "password": PASSWORD}, {"login", "Login"}),
        ([], {"body"}),
        ("ann", {"body"}),
        (5, {"body"}),
    ]
    for body, fields in cases:
        assert await faulty_fields(await client.post(path, json=body)) == fields, body


# Log-in


async def test_login(client, ann):
    """200 has the same user and another session; the cookie has its token."""
    response = await client.post("/login", json={"login": "ann", "password": PASSWORD})
    body = await body_of(response, 200)
    assert set(body) == SIGN_IN
    assert body["user_id"] == str(ann.id)
    assert body["token"] != ann.token
    assert response.cookies[COOKIE].value == body["token"]
    assert is_moment(body["expires_at"])


async def test_login_wrong(client, ann):
    """A wrong password and an unknown login give the same 401 and set no cookie."""
    answers = []
    for login, password in [("ann", "wrong horse"), ("nobody", PASSWORD), ("ann", "x"), ("ann", "")]:
        response = await client.post("/login", json={"login": login, "password": password})
        assert await refusal(response) == (401, "auth failed")
        assert not response.cookies
        answers.append(await response.text())
    assert len(set(answers)) == 1


async def test_login_invalid(client):
    """A login that is invalid, or a password that cannot be hashed, is invalid input."""
    for login, password, field in [("", PASSWORD, "login"), ("ann", "x" * 1025, "password")]:
        response = await client.post("/login", json={"login": login, "password": password})
        assert await faulty_fields(response) == {field}


@pytest.mark.parametrize("user_id", [UUID(int=7), str(UUID(int=7))])
def test_make_login_response(user_id):
    """With a user and no session the body is exactly the user's id."""
    response = make_login_response(user_id)
    assert response.status == 200
    assert json.loads(response.text) == {"user_id": "00000000-0000-0000-0000-000000000007"}


def test_make_login_response_with_session():
    """With a session the body has the token and the expiry, too."""
    expires_at = datetime.fromisoformat("2026-01-02T03:04:05.000006+00:00")
    sign_in = SignIn("token", Session(uuid4(), UUID(int=7), expires_at))
    assert json.loads(make_login_response(UUID(int=7), sign_in).text) == {
        "user_id": "00000000-0000-0000-0000-000000000007",
        "token": "token",
        "expires_at": "2026-01-02T03:04:05.000006Z",
    }


def test_make_login_response_without_user():
    """Without a user the response is the 401."""
    response = make_login_response(None)
    assert response.status == 401
    assert json.loads(response.text)["error"] == "auth failed"


# Log-out


async def test_logout(client, ann):
    """204 has no body; the session and the cookie are gone."""
    response = await ann.request("POST", "/logout")
    assert response.status == 204
    assert await response.read() == b""
    assert response.cookies[COOKIE].value == ""
    assert response.cookies[COOKIE]["path"] == "/"
    assert await refusal(await ann.request("POST", "/logout")) == (401, "not signed in")


async def test_logout_closes_sockets(client, ann):
    """All sockets of the session are closed with a code that says not to reconnect; other sessions keep theirs."""
    other = await body_of(await client.post("/login", json={"login": "ann", "password": PASSWORD}), 200)
    sockets = [await ann.listen(), await ann.listen()]
    bystander = await client.ws_connect(f"/listen/{ann.id}", headers={"Authorization": f"Bearer {other['token']}"})
    await ann.make_group("tea")
    await ann.request("POST", "/logout")
    for socket in sockets:
        assert (await socket.receive(timeout=5)).type is WSMsgType.CLOSE
        assert socket.close_code == CloseCode.SESSION_ENDED
    headers = {"Authorization": f"Bearer {other['token']}"}
    assert (await client.post("/broadcast/tea", json={"a": 1}, headers=headers)).status == 200
    assert await bystander.receive_json(timeout=5) == {"a": 1}
    await bystander.close()


# Groups


async def test_user_groups(client, ann, bob):
    """A page lists the user's groups, oldest membership first, each with the user's role."""
    tea = await ann.make_group("tea")
    coffee = await bob.make_group("coffee")
    await bob.add("coffee", ann)
    body = await body_of(await ann.request("GET", f"/users/{ann.id}/groups"), 200)
    assert body == {"items": [tea, coffee | {"role": "member", "seq": 2}], "next": None}


async def test_user_groups_empty(client, ann):
    body = await body_of(await ann.request("GET", f"/users/{ann.id}/groups"), 200)
    assert body == {"items": [], "next": None}


async def test_user_groups_refused(client, ann, bob):
    """Only the user may list them; others get the same error whether the user exists or not."""
    assert await refusal(await client.get(f"/users/{ann.id}/groups")) == (401, "not signed in")
    for other in (bob.id, uuid4()):
        assert await refusal(await ann.request("GET", f"/users/{other}/groups")) == (403, "not you")
    assert await refusal(await ann.request("GET", "/users/ann/groups")) == (404, "no such user")


async def test_create_group(client, ann):
    """201 has the group; its creator is its owner and only member."""
    body = await body_of(await ann.request("POST", "/groups", json={"name": "Tea"}), 201)
    assert set(body) == GROUP
    assert UUID(body["id"])
    assert (body["name"], body["join"], body["post"], body["role"]) == ("Tea", "invite", "members", "owner")
    assert is_moment(body["created_at"])
    page = await body_of(await ann.request("GET", "/groups/Tea/members"), 200)
    assert [(member["login"], member["role"]) for member in page["items"]] == [("ann", "owner")]


async def test_create_group_normalises(client, ann):
    """A name is stored in NFC."""
    assert (await ann.make_group("Cafe\u0301"))["name"] == "Café"


async def test_group_name_taken(client, ann, bob):
    """Names are equal whatever their case, for all users."""
    await ann.make_group("Strasse")
    for name in ("Strasse", "Straße", "STRASSE"):
        response = await bob.request("POST", "/groups", json={"name": name})
        assert await refusal(response) == (409, "group name taken"), name


async def test_bad_group_name(client, ann):
    """An invalid group name is a 422 that names the field."""
    for case, name in NOT_A_GROUP_NAME.items():
        assert await faulty_fields(await ann.request("POST", "/groups", json={"name": name})) == {"name"}, case


async def test_create_group_bad_members(client, ann):
    """Missing and unknown fields are named."""
    for body, fields in [({}, {"name"}), ({"name": "tea", "role": "x", "id": 1}, {"role", "id"}), ([], {"body"})]:
        assert await faulty_fields(await ann.request("POST", "/groups", json=body)) == fields, body


async def test_get_group(client, ann, bob, tea):
    """A group is found by id and by name in any case, exactly as it was created, with the user's role."""
    await ann.add("tea", bob)
    for reference in (tea["id"], tea["id"].upper(), "tea", "TEA"):
        assert await body_of(await ann.request("GET", f"/groups/{reference}"), 200) == tea | {"seq": 2}
        assert await body_of(await bob.request("GET", f"/groups/{reference}"), 200) == tea | {
            "seq": 2,
            "role": "member",
        }


async def test_delete_group(client, ann, tea):
    """204 has no body; the group is gone everywhere, and its name is free."""
    response = await ann.request("DELETE", "/groups/tea")
    assert (response.status, await response.read()) == (204, b"")
    assert await refusal(await ann.request("GET", f"/groups/{tea['id']}")) == (404, "no such group")
    assert (await body_of(await ann.request("GET", f"/users/{ann.id}/groups"), 200))["items"] == []
    assert (await ann.make_group("tea"))["id"] != tea["id"]


GROUP_REQUESTS = (
    ("GET", "/groups/{}"),
    ("PATCH", "/groups/{}"),
    ("DELETE", "/groups/{}"),
    ("GET", "/groups/{}/members"),
    ("POST", "/groups/{}/members"),
    ("PUT", "/groups/{}/members/{user}"),
    ("DELETE", "/groups/{}/members/{user}"),
    ("POST", "/broadcast/{}"),
)
CHANGES = ("PUT", "DELETE")


async def test_no_such_group(client, ann):
    """An unknown id and an unknown name give the same 404 on every path."""
    for method, path in GROUP_REQUESTS:
        for reference in (uuid4(), "coffee", "%00", "n" * 65):
            response = await ann.request(method, path.format(reference, user=ann.id), json={})
            assert await refusal(response) == (404, "no such group"), (method, path, reference)


async def test_group_of_others(client, ann, bob, tea):
    """A non-member may do nothing with the group, not even leave it."""
    for method, path in GROUP_REQUESTS:
        response = await bob.request(method, path.format("tea", user=bob.id), json={})
        assert await refusal(response) == (403, "not a member"), (method, path)


async def test_owners_only(client, ann, bob, tea):
    """A plain member may neither delete the group nor change its members, and nothing changes."""
    await ann.add("tea", bob)
    whole_group = [("PATCH", "/groups/tea"), ("DELETE", "/groups/tea"), ("POST", "/groups/tea/members")]
    for method, path in [*whole_group, *((method, f"/groups/tea/members/{ann.id}") for method in CHANGES)]:
        assert await refusal(await bob.request(method, path)) == (403, "not an owner"), (method, path)
    page = await body_of(await ann.request("GET", "/groups/tea/members"), 200)
    assert [member["login"] for member in page["items"]] == ["ann", "bob"]


# Members


async def test_members(client, ann, bob, tea):
    """A page lists the members, oldest first, the same for each member."""
    await ann.add("tea", bob)
    body = await body_of(await bob.request("GET", "/groups/tea/members"), 200)
    assert set(body) == PAGE
    assert body["next"] is None
    assert all(set(member) == MEMBER and is_moment(member["joined_at"]) for member in body["items"])
    assert [(member["user_id"], member["login"], member["role"]) for member in body["items"]] == [
        (str(ann.id), "ann", "owner"),
        (str(bob.id), "bob", "member"),
    ]


async def test_put_member(client, ann, bob, tea):
    """201 has the new member; 200 the same for a present one, and an owner stays an owner."""
    path = f"/groups/tea/members/{bob.id}"
    member = await body_of(await ann.request("PUT", path), 201)
    assert set(member) == MEMBER
    assert (member["user_id"], member["login"], member["role"]) == (str(bob.id), "bob", "member")
    assert await body_of(await ann.request("PUT", path), 200) == member
    assert (await body_of(await ann.request("PUT", f"/groups/tea/members/{ann.id}"), 200))["role"] == "owner"


async def test_put_unknown_user(client, ann, tea):
    assert await refusal(await ann.request("PUT", f"/groups/tea/members/{uuid4()}")) == (404, "no such user")


async def test_put_member_body(client, ann, bob, tea):
    """The body may be missing or empty; an invalid one is refused, and nothing changes."""
    headers = {"Content-Type": "application/json"}
    for body, status in [
        (b'{"role": "admin"}', 422),
        (b'{"role": null}', 422),
        (b'{"name": "bob"}', 422),
        (b"[]", 422),
        (b"x", 400),
        (b"{}", 201),
        (b" {} ", 200),
        (b"", 200),
    ]:
        response = await ann.request("PUT", f"/groups/tea/members/{bob.id}", data=body, headers=headers)
        assert response.status == status, body


async def empty() -> bytes:
    """A body without bytes whose length is not announced."""
    for chunk in ():
        yield chunk


async def test_put_member_empty_chunked_body(client, ann, bob, tea):
    """An empty body counts as none, however its length is announced."""
    headers = {"Content-Type": "application/json"}
    response = await ann.request("PUT", f"/groups/tea/members/{bob.id}", data=empty(), headers=headers)
    assert response.status == 201


async def test_owner_removes_member(client, ann, bob, tea):
    """204 has no body; the user is no member any more. To remove a non-member is a 404."""
    await ann.add("tea", bob)
    path = f"/groups/tea/members/{bob.id}"
    response = await ann.request("DELETE", path)
    assert (response.status, await response.read()) == (204, b"")
    assert await refusal(await bob.request("GET", "/groups/tea")) == (403, "not a member")
    assert await refusal(await ann.request("DELETE", path)) == (404, "no such member")
    assert await refusal(await ann.request("DELETE", f"/groups/tea/members/{uuid4()}")) == (404, "no such member")


async def test_member_leaves(client, ann, bob, tea):
    """A member may remove themselves."""
    await ann.add("tea", bob)
    await bob.remove("tea", bob)
    assert (await body_of(await bob.request("GET", f"/users/{bob.id}/groups"), 200))["items"] == []


async def test_last_owner_stays(client, ann, bob, tea):
    """The last owner cannot leave, even with other members, and is still the owner afterwards."""
    await ann.add("tea", bob)
    assert await refusal(await ann.request("DELETE", f"/groups/tea/members/{ann.id}")) == (409, "last owner")
    assert (await body_of(await ann.request("GET", "/groups/tea"), 200))["role"] == "owner"


# Broadcast


async def test_broadcast(client, ann, bob, tea):
    """200 has the position in the log and the number of sockets: all sockets of members, and no others."""
    await ann.add("tea", bob)
    assert await ann.broadcast("tea", {}) == 0
    sockets = [await ann.listen(), await bob.listen(), await bob.listen()]
    for seq, reference in enumerate(("tea", "TEA", tea["id"]), start=4):
        response = await bob.request("POST", f"/broadcast/{reference}", json={"by": reference})
        body = await body_of(response, 200)
        assert datetime.fromisoformat(body.pop("at")).tzinfo == UTC
        assert body.pop("epoch") == client.app[EVENT_LOG].epoch
        assert body == {"group": tea["id"], "seq": seq, "delivered": 3, "dropped": 0}
        for socket in sockets:
            assert await socket.receive_json(timeout=5) == {"by": reference}
    await asyncio.gather(*(socket.close() for socket in sockets))


BROADCASTS = (
    b"{}",
    b' {"b" : 1,\t"a": 1.50}\r\n',
    b'{"a": 1, "a": 2}',
    b'{"big": 123456789012345678901234567890, "small": 1e-400}',
    b'{"escaped": "\\u00e9\\/\\u0000\\n", "raw": "\xc3\xa9\xf0\x9f\x8d\xb5"}',
    b'{"type": "close"}',
    b'{"long": "' + b"x" * 70_000 + b'"}',
)


async def test_broadcast_bytes(client, ann, tea):
    """Messages arrive byte for byte as they were sent, in order."""
    socket = await ann.listen()
    headers = {"Content-Type": "application/json"}
    for body in BROADCASTS:
        assert (await ann.request("POST", "/broadcast/tea", data=body, headers=headers)).status == 200
    for body in BROADCASTS:
        message = await socket.receive(timeout=5)
        assert (message.type, message.data.encode()) == (WSMsgType.TEXT, body)
    await socket.close()


async def test_broadcast_refused(client, ann, bob, tea):
    """Each refusal has its code, and no socket receives the message."""
    socket = await ann.listen()
    cases = [
        (ann, "tea", b"{", "application/json", (400, "not json")),
        (ann, "tea", b"", "application/json", (400, "not json")),
        (ann, "tea", b'{"a": NaN}', "application/json", (400, "not json")),
        (ann, "tea", b'{"a": "\xff"}', "application/json", (400, "not json")),
        *((ann, "tea", text.encode(), "application/json", (422, "not an object")) for text in NOT_AN_OBJECT),
        (ann, "tea", b"{}", "text/plain", (415, "unsupported media type")),
        (ann, "tea", b'{"a": "' + b"x" * BODY_LIMIT + b'"}', "application/json", (413, "body too large")),
        (bob, "tea", b"{}", "application/json", (403, "not a member")),
        (ann, "coffee", b"{}", "application/json", (404, "no such group")),
    ]
    for person, group, body, content_type, expected in cases:
        headers = {"Content-Type": content_type}
        response = await person.request("POST", f"/broadcast/{group}", data=io.BytesIO(body), headers=headers)
        assert await refusal(response) == expected
    assert await ann.broadcast("tea", {"a": "first"}) == 1
    assert await socket.receive_json(timeout=5) == {"a": "first"}
    await socket.close()


async def test_broadcast_compressed(ann, tea):
    """A compressed body is decompressed; one that cannot be is refused."""
    socket = await ann.listen()
    headers = {"Content-Type": "application/json"}
    for encoding, body, expected in [
        ("gzip", gzip.compress(b'{"a": 1}'), 200),
        ("deflate", zlib.compress(b'{"a": 2}'), 200),
        ("identity", b'{"a": 3}', 200),
        ("lzma", b'{"a": 4}', 415),
        ("gzip, gzip", b'{"a": 5}', 415),
        ("gzip", b'{"a": 6}', 400),
    ]:
        given = headers | {"Content-Encoding": encoding}
        response = await ann.request("POST", "/broadcast/tea", data=io.BytesIO(body), headers=given)
        assert response.status == expected, encoding
    assert [await socket.receive_json(timeout=5) for _ in range(3)] == [{"a": 1}, {"a": 2}, {"a": 3}]
    await socket.close()


async def test_a_body_that_is_too_large(client, ann, tea):
    """A body whose announced length is too large is not read."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"POST /broadcast/tea HTTP/1.1\r\nHost: att\r\nAuthorization: Bearer {ann.token}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 9999999999\r\n\r\n{{".encode())
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


# Listening


async def test_listens(client, ann, tea):
    """A member receives a broadcast, and nothing from before."""
    socket = await ann.listen()
    assert await ann.broadcast("tea", {"a": 1}) == 1
    assert await socket.receive_str(timeout=5) == '{"a": 1}'
    await socket.close()


async def test_listens_to_changes(client, ann, bob, tea):
    """Joins and leaves apply to an open socket before they are answered."""
    socket = await bob.listen()
    assert await ann.broadcast("tea", {"n": 1}) == 0
    await ann.add("tea", bob)
    assert await ann.broadcast("tea", {"n": 2}) == 1
    await ann.remove("tea", bob)
    assert await ann.broadcast("tea", {"n": 3}) == 0
    await ann.add("tea", bob)
    assert await ann.broadcast("tea", {"n": 4}) == 1
    assert [await socket.receive_json(timeout=5) for _ in range(2)] == [{"n": 2}, {"n": 4}]
    await socket.close()


async def test_listens_to_new_group_only(client, ann, tea):
    """A new group with the name of a deleted one delivers only to its own members."""
    socket = await ann.listen()
    await ann.request("DELETE", "/groups/tea")
    await ann.make_group("tea")
    assert await ann.broadcast("tea", {"n": 1}) == 1
    assert await socket.receive_json(timeout=5) == {"n": 1}
    await socket.close()


async def test_listen_refused(client, ann, bob):
    """A WebSocket request gets 401 when not signed in, 403 for another user, 404 for an invalid id."""
    assert await refused_upgrade(client.ws_connect(f"/listen/{ann.id}")) == 401
    assert await refused_upgrade(client.ws_connect(f"/listen/{ann.id}", headers=bob.headers)) == 403
    assert await refused_upgrade(client.ws_connect("/listen/ann", headers=ann.headers)) == 404


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


NO_UPGRADE = {
    "nothing": {},
    "another protocol": UPGRADE | {"Upgrade": "h2c"},
    "another version": UPGRADE | {"Sec-WebSocket-Version": "12"},
    "short key": UPGRADE | {"Sec-WebSocket-Key": "AAAA"},
    "malformed key": UPGRADE | {"Sec-WebSocket-Key": "!!!"},
    "no key": {name: value for name, value in UPGRADE.items() if name != "Sec-WebSocket-Key"},
}


async def test_listen_without_upgrade(client, ann):
    """A request without upgrade gets 426 (RFC 9110, section 15.5.22)."""
    for case, headers in NO_UPGRADE.items():
        response = await ann.request("GET", f"/listen/{ann.id}", headers=headers)
        assert await refusal(response) == (426, "websocket required"), case
        assert response.headers["Upgrade"] == "websocket"
        assert response.headers["Connection"] == "Upgrade"


async def test_listen_without_upgrade_by_others(client, ann, bob):
    """Permission is checked before the upgrade."""
    assert await refusal(await client.get(f"/listen/{ann.id}")) == (401, "not signed in")
    assert await refusal(await bob.request("GET", f"/listen/{ann.id}")) == (403, "not you")
