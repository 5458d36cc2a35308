"""HTTP around the handlers: problems, headers, bodies and credentials."""

import asyncio
import gzip
import io
import json
import re
import ssl
from pathlib import Path

import pytest
from aiohttp import ClientResponse, DummyCookieJar, TCPConnector, WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer
from certificate_files import CERTIFICATE
from people import PASSWORD, Person

from att import errors
from att.accounts.service import Accounts
from att.api.keys import ACCOUNT_SERVICE
from att.app import create_app
from att.config.settings import Settings
from att.http.bodies import BODY_LIMIT
from att.http.credentials import COOKIE, DEVICE_COOKIE, HOST_COOKIE
from att.http.status_codes import phrase_of

ALLOWED = "https://app.example"
ACCOUNT = {"login": "ann", "password": PASSWORD}
JSON = {"Content-Type": "application/json"}
PROBLEM = {"type", "title", "status", "detail", "error"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings that allow the cookie from one other origin."""
    return Settings(db_url=settings.db_url, hashing=settings.hashing, allow_origin=frozenset({ALLOWED}))


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar: each request brings its own credentials."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def ann(sign_up) -> Person:
    return await sign_up("ann")


async def refusal(response: ClientResponse) -> tuple[int, str]:
    """Return status and code of an error, which must be a problem (RFC 9457)."""
    assert response.content_type == "application/problem+json", await response.text()
    body = await response.json()
    assert set(body) - {"errors"} == PROBLEM
    assert (body["type"], body["status"], body["title"]) == ("about:blank", response.status, phrase_of(response.status))
    assert body["detail"].endswith(".") or body["error"] == "invalid input"
    return response.status, body["error"]


async def upgrade(client: TestClient, person: Person, headers: dict[str, str]) -> int:
    """Return the status of an attempt to listen."""
    try:
        socket = await client.ws_connect(f"/listen/{person.id}", headers=headers)
    except WSServerHandshakeError as refused:
        return refused.status
    await socket.close()
    return 101


async def raw(client: TestClient, request: bytes) -> bytes:
    """Return the head of the response to these bytes."""
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    finally:
        writer.close()
        await writer.wait_closed()


class FailingAccounts(Accounts):
    """Accounts that raise an error of the test's choice."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    async def sign_up(self, *_account):
        raise self._failure


@pytest.fixture
def failing_client(settings, aiohttp_client):
    """A client of an application whose sign-up raises this error."""

    async def make(failure: Exception) -> TestClient:
        async def replace(app):
            app[ACCOUNT_SERVICE] = FailingAccounts(failure)
            yield

        app = create_app(settings)
        app.cleanup_ctx.append(replace)
        return await aiohttp_client(app)

    return make


# Problems


async def test_problems(client, ann):
    """Every error, of att or of aiohttp, is a problem with its members; only a 401 says how to sign in."""
    cases = [
        (await client.get("/nowhere"), (404, "not found")),
        (await client.put("/signup"), (405, "method not allowed")),
        (await client.post("/logout"), (401, "not signed in")),
        (await client.post("/login", json=ACCOUNT | {"password": "wrong horse"}), (401, "auth failed")),
        (await ann.request("GET", f"/users/{Person.__name__}/groups"), (404, "no such user")),
        (await ann.request("GET", f"/listen/{ann.id}"), (426, "websocket required")),
        (await client.post("/signup", json=ACCOUNT), (409, "login taken")),
        (await client.post("/signup", json={}), (422, "invalid input")),
        (await client.post("/signup", data=io.BytesIO(b"x" * (BODY_LIMIT + 1)), headers=JSON), (413, "body too large")),
        (await client.post("/signup", data="x"), (415, "unsupported media type")),
    ]
    for response, expected in cases:
        assert await refusal(response) == expected
        challenge = 'Bearer realm="att"' if response.status == 401 else None
        assert response.headers.get("WWW-Authenticate") == challenge
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("failure", [errors.Busy, errors.DatabaseUnavailable, errors.ConnectionLost])
async def test_unavailable(failing_client, failure):
    """A temporary failure is a 503 that says when to try again."""
    client = await failing_client(failure())
    response = await client.post("/signup", json=ACCOUNT)
    assert await refusal(response) == (503, failure.code)
    assert int(response.headers["Retry-After"]) >= 1


async def test_validation_lists_every_field(client):
    """All faults come at once, each with the name of its field and a reason."""
    response = await client.post("/signup", json={"login": " ", "password": 7, "extra": 1, "more": {}})
    assert await refusal(response) == (422, "invalid input")
    body = await response.json()
    assert sorted(fault["field"] for fault in body["errors"]) == ["extra", "login", "more", "password"]
    assert all(set(fault) == {"field", "detail"} and fault["detail"] for fault in body["errors"])
    assert all(f"{fault['field']}: {fault['detail']}" in body["detail"] for fault in body["errors"])


async def test_input_is_not_echoed(client, ann):
    """No response repeats input: it may be a password."""
    secret = "hunter2 sesame"
    bodies = [
        {"login": f" {secret}", "password": secret[:5]},
        {"login": [secret], "password": {"password": secret}},
        {"login": "bob", "password": secret * 100},
        {"login": "bob", "password": PASSWORD, "extra": secret},
        [secret],
        secret,
    ]
    for body in bodies:
        for path in ("/signup", "/login"):
            response = await client.post(path, json=body)
            assert await refusal(response) == (422, "invalid input")
            assert secret[:5] not in await response.text()
    for body in (f"{secret}", f'{{"login": {secret}}}', f'{{"password": "{secret}'):
        response = await client.post("/login", data=body, headers=JSON)
        assert await refusal(response) == (400, "not json")
        assert secret[:5] not in await response.text()
    for query in ({"limit": secret}, {"after": secret}):
        response = await ann.request("GET", f"/users/{ann.id}/groups", params=query)
        assert await refusal(response) == (422, "invalid input")
        assert secret[:5] not in await response.text()


async def test_unexpected_exception(failing_client, caplog):
    """An internal error is a 500 with nothing but the id of its log line."""
    client = await failing_client(RuntimeError("attempt to open the vault"))
    response = await client.post("/signup", json=ACCOUNT, headers={"X-Request-ID": "vault-1"})
    assert await refusal(response) == (500, "internal error")
    text = await response.text() + str(response.headers)
    assert not re.search(r"RuntimeError|vault (?!-1)|Traceback|\.py|line \d", text)
    assert "vault-1" in (await response.json())["detail"]
    assert "vault-1" in caplog.text
    assert "RuntimeError: attempt to open the vault" in caplog.text
    assert (await client.post("/signup", json=ACCOUNT)).status == 500, "the server goes on"


# X-Request-ID


async def test_every_answer_has_an_id(client, ann, failing_client):
    """Every response has its own request id, success or not."""
    failing = await failing_client(RuntimeError())
    responses = [
        await client.post("/login", json=ACCOUNT),
        await client.options("/login"),
        await client.get("/nowhere"),
        await client.put("/login"),
        await client.post("/logout"),
        await client.post("/login", data=io.BytesIO(b"x" * (BODY_LIMIT + 1)), headers=JSON),
        await failing.post("/signup", json=ACCOUNT),
    ]
    socket = await ann.listen()
    await socket.close()
    assert [response.status for response in responses] == [200, 204, 404, 405, 401, 413, 500]
    ids = [response.headers["X-Request-ID"] for response in [*responses, socket._response]]
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", ["/login", "/nowhere"])
async def test_unmet_expectation(client, path):
    """An unknown expectation is ignored or refused, with a response like any other."""
    response = await client.post(path, json=ACCOUNT, headers={"Expect": "tea"})
    assert response.status in (401, 404, 417)
    assert "X-Request-ID" in response.headers


@pytest.mark.parametrize("path", ["/login", "/nowhere"])
async def test_id_of_the_client(client, path):
    """A client's own request id is kept if it is harmless, and replaced otherwise."""
    harmless = ["1", "x" * 128, "6f1e9c1e-8f57-4a6c-9b5c-0c8a1f6d2e34", "a.b_c:d/e+f=", "Root=1-67891233-abcdef"]
    harmful = ["", " ", "x" * 129, "a b", "a,b", "é", "<script>", 'a"b', "a;b", "a\tb", "%0a", "${x}"]
    for request_id in harmless:
        response = await client.post(path, json=ACCOUNT, headers={"X-Request-ID": request_id})
        assert response.headers.getall("X-Request-ID") == [request_id]
    for request_id in harmful:
        response = await client.post(path, json=ACCOUNT, headers={"X-Request-ID": request_id})
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["X-Request-ID"]), request_id


# Bodies


async def test_content_types(client, ann):
    """A body must have a JSON type: otherwise it may be a form that another site made a browser send."""
    cases = {
        None: 415,
        "application/json": 200,
        "application/json; charset=utf-8": 200,
        "Application/JSON": 200,
        "application/problem+json": 200,
        "application/vnd.api+json;v=1": 200,
        "": 415,
        "json": 415,
        "text/plain": 415,
        "text/json": 415,
        "text/html; application/json": 415,
        "application/jsonp": 415,
        "application/x-www-form-urlencoded": 415,
        "multipart/form-data; boundary=x": 415,
        "application/octet-stream": 415,
        "application/json, text/plain": 415,
    }
    body = json.dumps(ACCOUNT).encode()
    answers = {}
    for content_type in cases:
        headers = {} if content_type is None else {"Content-Type": content_type}
        response = await client.post("/login", data=body, headers=headers, skip_auto_headers={"Content-Type"})
        answers[content_type] = response.status
        if response.status == 415:
            assert await refusal(response) == (415, "unsupported media type")
    assert answers == cases


def padded(size: int) -> bytes:
    """Return a JSON object of that many bytes."""
    return b'{"a": "' + b"x" * (size - 9) + b'"}'


async def in_chunks(body: bytes):
    """Yield the body without announcing its length."""
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


@pytest.mark.parametrize("send", [io.BytesIO, in_chunks], ids=["Content-Length", "chunked"])
async def test_body_limit(client, ann, send):
    """Bodies up to 1 MiB are accepted, however the length is announced; one more byte is too large."""
    await ann.make_group("tea")
    response = await ann.request("POST", "/broadcast/tea", data=send(padded(BODY_LIMIT)), headers=JSON)
    assert response.status == 200
    for path in ("/broadcast/tea", "/groups", "/login"):
        response = await ann.request("POST", path, data=send(padded(BODY_LIMIT + 1)), headers=JSON)
        assert await refusal(response) == (413, "body too large"), path


async def test_an_unread_body_ends_its_connection(client):
    """The response says so, lest the client sends its next request there."""
    head = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for size, is_last in [(2, False), (BODY_LIMIT + 1, True)]:
        answer = await raw(client, head % size + b"{}")
        assert (b"\r\nConnection: close\r\n" in answer) == is_last, answer


async def test_body_limit_after_inflation(client, ann):
    """The limit applies to the decompressed body."""
    await ann.make_group("tea")
    for size, status in [(BODY_LIMIT, 200), (BODY_LIMIT + 1, 413), (50 * 1024**2, 413)]:
        headers = JSON | {"Content-Encoding": "gzip"}
        response = await ann.request("POST", "/broadcast/tea", data=gzip.compress(padded(size)), headers=headers)
        assert response.status == status, size


async def test_broken_encoding(client):
    """A body with a wrong encoding is the client's error."""
    response = await client.post("/login", data=b"no gzip", headers=JSON | {"Content-Encoding": "gzip"})
    assert response.status == 400


async def test_broken_chunks(client):
    """A body with wrong chunks is the client's error."""
    head = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunks in (b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n", b"2\r\n{}{}\r\n0\r\n\r\n"):
        assert b" 400 " in (await raw(client, head + chunks)).partition(b"\r\n")[0], chunks


HALF_A_BODY = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"


async def test_a_body_that_does_not_arrive(client, monkeypatch):
    """The time to wait for a body is limited."""
    monkeypatch.setattr("att.http.bodies.ARRIVAL_TIMEOUT", 0.05)
    answer = await raw(client, HALF_A_BODY)
    assert b" 408 " in answer.partition(b"\r\n")[0]


async def test_a_client_that_leaves_in_the_middle(client, caplog):
    """Nothing is logged as failed, and the next request is served."""
    _, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(HALF_A_BODY)
    await client.get("/nowhere")
    writer.transport.abort()
    await client.get("/nowhere")
    assert not [record for record in caplog.records if record.name == "att"]


NOT_JSON = {
    "empty": b"",
    "white space": b" \n",
    "a letter": b"x",
    "NaN": b'{"login": NaN}',
    "Infinity": b'{"login": Infinity}',
    "-Infinity": b'{"login": -Infinity}',
    "UTF-16": json.dumps(ACCOUNT).encode("utf-16"),
    "UTF-16 without a mark": json.dumps(ACCOUNT).encode("utf-16-le"),
    "UTF-32": json.dumps(ACCOUNT).encode("utf-32"),
    "two byte order marks": b"\xef\xbb\xbf" * 2 + json.dumps(ACCOUNT).encode(),
    "Latin-1": b'{"login": "zo\xeb"}',
    "overlong UTF-8": b'{"login": "\xc0\xaf"}',
    "surrogate in UTF-8": b'{"login": "\xed\xa0\x80"}',
    "beyond Unicode": b'{"login": "\xf4\x90\x80\x80"}',
    "trailing comma": b'{"login": "ann",}',
    "two values": b"{} {}",
    "NUL behind": b"{}\0",
    "single quotes": b"{'login': 'ann'}",
    "no quotes": b'{login: "ann"}',
    "comment": b'{"login": "ann" /* me */}',
    "leading zero": b'{"login": 01}',
    "plus sign": b'{"login": +1}',
    "hexadecimal": b'{"login": 0x1}',
    "raw line feed": b'{"login": "a\nb"}',
    "raw NUL": b'{"login": "a\0b"}',
    "bad escape": b'{"login": "\\x41"}',
    "half an escape": b'{"login": "\\u12"}',
    "not closed": b'{"login": "ann"',
    "string not closed": b'{"login": "ann',
    "10,000 arrays": b"[" * 10_000 + b"]" * 10_000,
    "4,000 objects": b'{"a":' * 4_000 + b"1" + b"}" * 4_000,
    "10,000 arrays not closed": b"[" * 10_000,
    "form": b"login=ann&password=x",
    "True": b"True",
}


async def test_not_json(client):
    """An invalid JSON body is a 400 with the position of the fault, on every path, and the server goes on."""
    for case, body in NOT_JSON.items():
        response = await client.post("/login", data=body, headers=JSON)
        assert await refusal(response) == (400, "not json"), case
        assert "not JSON" in (await response.json())["detail"]


# The cookie


@pytest.mark.parametrize("path", ["/signup", "/login"])
async def test_cookie(client, ann, settings, path):
    """Cookies are out of reach of scripts and other sites, and sent to every path; one lives as long as the session."""
    response = await client.post(path, json=ACCOUNT if path == "/login" else ACCOUNT | {"login": "bob"})
    assert response.cookies[COOKIE].value == (await response.json())["token"]
    for name, days in [(COOKIE, 30), (DEVICE_COOKIE, 365)]:
        cookie = response.cookies[name]
        assert cookie["httponly"] is True
        assert (cookie["samesite"], cookie["path"], cookie["domain"]) == ("Lax", "/", "")
        assert cookie["max-age"] == str(days * 24 * 60 * 60)
        assert not cookie["secure"]
    assert len(response.headers.getall("Set-Cookie")) == 2


async def test_cookie_under_https(settings, aiohttp_client, tmp_path: Path):
    """Under https the cookie is secure."""
    (tmp_path / "pem").write_text(CERTIFICATE)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pem")
    server = TestServer(create_app(settings), scheme="https")
    await server.start_server(ssl=context)
    client = await aiohttp_client(server, connector=TCPConnector(ssl=False))
    response = await client.post("/signup", json=ACCOUNT)
    assert response.status == 201
    cookie = response.cookies[HOST_COOKIE]
    assert (cookie["secure"], cookie["path"], cookie["domain"]) == (True, "/", "")
    assert {*response.cookies} == {HOST_COOKIE, f"__Host-{DEVICE_COOKIE}"}
    assert all(cookie["secure"] is True for cookie in response.cookies.values())
    assert (await client.get("/users/me")).status == 200
    signed_out = await client.post("/logout", headers={SITE: "same-origin"})
    assert signed_out.status == 204
    assert (signed_out.cookies[HOST_COOKIE]["secure"], signed_out.cookies[HOST_COOKIE]["path"]) == (True, "/")
    assert (await client.get("/users/me")).status == 401


async def test_browser(settings, aiohttp_client):
    """The cookie signs a browser in until it logs out; the device stays known."""
    client = await aiohttp_client(create_app(settings))
    own = {"Origin": str(client.make_url("")).rstrip("/")}
    user_id = (await (await client.post("/signup", json=ACCOUNT, headers=own)).json())["user_id"]
    assert (await client.get(f"/users/{user_id}/groups")).status == 200
    assert (await client.post("/logout", headers=own)).status == 204
    assert [cookie.key for cookie in client.session.cookie_jar] == [DEVICE_COOKIE]
    assert (await client.get(f"/users/{user_id}/groups")).status == 401


# Whose page is asking

SITE = "Sec-Fetch-Site"
ORIGINS = [
    # (may, headers); {own} is where the server answers
    (False, {}),
    (True, {"Origin": "http://{own}"}),
    (True, {"Origin": ALLOWED}),
    (False, {"Origin": "https://evil.example"}),
    (False, {"Origin": "https://app.example.evil.example"}),
    (False, {"Origin": "https://sub.app.example"}),
    (False, {"Origin": "http://app.example"}),
    (False, {"Origin": "https://app.example:8443"}),
    (False, {"Origin": "http://{own}.evil.example"}),
    (False, {"Origin": "http://{own}@evil.example"}),
    (False, {"Origin": "http://evil.example/{own}"}),
    (False, {"Origin": "http://evil.example?http://{own}"}),
    (False, {"Origin": "http://127.0.0.1"}),
    (False, {"Origin": "null"}),
    (False, {"Origin": ""}),
    (False, {"Origin": "http://["}),
    (False, {"Origin": "http://[::1"}),
    (False, {"Origin": "{own}"}),
    (False, {"Origin": "é"}),
    (False, {"Referer": "http://{own}/"}),
    (True, {SITE: "same-origin"}),
    (True, {SITE: "none"}),
    (True, {SITE: "same-origin", "Origin": "http://{own}"}),
    (False, {SITE: "cross-site"}),
    (False, {SITE: "same-site"}),
    (False, {SITE: ""}),
    (False, {SITE: "cross-site", "Origin": "http://{own}"}),
    (False, {SITE: "same-site", "Origin": "http://{own}"}),
    (False, {SITE: "cross-site", "Origin": "https://evil.example"}),
    (False, {SITE: "cross-site", "Origin": "null"}),
    (True, {SITE: "cross-site", "Origin": ALLOWED}),
    (True, {SITE: "same-site", "Origin": ALLOWED}),
]


def with_cookie(person: Person, headers: dict[str, str]) -> dict[str, str]:
    own = f"{person.client.server.host}:{person.client.server.port}"
    return {"Cookie": f"{COOKIE}={person.token}"} | {
        name: value.replace("{own}", own) for name, value in headers.items()
    }


async def test_origin_of_unsafe_requests(client, ann):
    """With the cookie only pages of this server and of allowed origins may change anything."""
    for number, (may, headers) in enumerate(ORIGINS):
        response = await client.post("/groups", json={"name": f"tea {number}"}, headers=with_cookie(ann, headers))
        assert response.status == (201 if may else 403), headers
        if not may:
            assert await refusal(response) == (403, "origin not allowed")
    groups = await (await ann.request("GET", f"/users/{ann.id}/groups")).json()
    assert len(groups["items"]) == [may for may, _ in ORIGINS].count(True)


async def test_origin_of_sockets(client, ann):
    """With the cookie only pages of this server and of allowed origins may listen."""
    for may, headers in ORIGINS:
        assert await upgrade(client, ann, with_cookie(ann, headers)) == (101 if may else 403), headers


async def test_origin_for_every_unsafe_method(client, ann):
    """PUT and DELETE need the origin, too."""
    await ann.make_group("tea")
    headers = with_cookie(ann, {"Origin": "https://evil.example"})
    requests = [
        ("PUT", f"/groups/tea/members/{ann.id}"),
        ("DELETE", f"/groups/tea/members/{ann.id}"),
        ("DELETE", "/groups/tea"),
        ("POST", "/broadcast/tea"),
        ("POST", "/logout"),
    ]
    for method, path in requests:
        response = await client.request(method, path, headers=headers)
        assert await refusal(response) == (403, "origin not allowed"), (method, path)
    assert (await ann.request("GET", "/groups/tea")).status == 200


async def test_origin_of_safe_requests(client, ann):
    """Reading with the cookie needs no origin: another site's page does not see the response."""
    for headers in ({}, {"Origin": "https://evil.example"}, {SITE: "cross-site"}):
        for method in ("GET", "HEAD"):
            response = await client.request(method, f"/users/{ann.id}/groups", headers=with_cookie(ann, headers))
            assert response.status == 200
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_origin_of_bearers(client, ann):
    """A bearer token needs no origin: no page can make a browser send it."""
    for number, headers in enumerate(({}, {"Origin": "https://evil.example"}, {SITE: "cross-site"})):
        signed_in = ann.headers | headers | {"Cookie": f"{COOKIE}=x"}
        assert (await client.post("/groups", json={"name": f"tea {number}"}, headers=signed_in)).status == 201
        assert await upgrade(client, ann, signed_in) == 101


# Bearer tokens


async def test_bearer(client, ann):
    """The scheme is read in any case (RFC 9110, section 11.1), before the cookie."""
    for value in (f"Bearer {ann.token}", f"bearer {ann.token}", f"BEARER {ann.token}", f"Bearer  {ann.token} "):
        response = await client.get(f"/users/{ann.id}/groups", headers={"Authorization": value})
        assert response.status == 200, value
        headers = {"Authorization": value, "Cookie": f"{COOKIE}=x"}
        assert (await client.get(f"/users/{ann.id}/groups", headers=headers)).status == 200


async def test_other_credentials(client, ann):
    """An invalid token is a 401, even beside a valid cookie."""
    token = ann.token
    values = [
        "",
        "Bearer",
        "Bearer ",
        f"Token {token}",
        f"Bearer:{token}",
        f"Bearer,{token}",
        token,
        f"Bearer {token[:-1]}",
        f"Bearer {token}A",
        f"Bearer {token}=",
        f"Bearer {token} {token}",
        f"Bearer {token}, Bearer {token}",
        f'Bearer "{token}"',
        f"Bearer {token.swapcase()}",
        f"Bearer {'é' * 43}",
        f"Bearer {token[:-1]}é",
        "Bearer " + "A" * 43,
        "Bearer " + "A" * 7000,
        f"Bearer {ann.id}",
        "Bearer null",
        "Bearer ' OR 1=1 --",
    ]
    for value in values:
        headers = with_cookie(ann, {SITE: "same-origin"}) | {"Authorization": value}
        response = await client.get(f"/users/{ann.id}/groups", headers=headers)
        assert await refusal(response) == (401, "not signed in"), value
        assert await upgrade(client, ann, headers) == 401, value


async def test_credentials_for_a_proxy(client, ann):
    """A proxy's own credentials, which a browser sends by itself, are none of ours; the cookie counts beside them."""
    for value in ("Basic YW5uOmNvcnJlY3QgaG9yc2U=", "basic x", "Negotiate YII=", 'Digest username="ann"', "NTLM TlRM"):
        headers = {"Authorization": value}
        response = await client.get(f"/users/{ann.id}/groups", headers=headers | with_cookie(ann, {}))
        assert response.status == 200, value
        assert await upgrade(client, ann, headers | with_cookie(ann, {SITE: "same-origin"})) == 101
        assert (await client.get(f"/users/{ann.id}/groups", headers=headers)).status == 401
        foreign = headers | with_cookie(ann, {SITE: "cross-site"})
        assert await refusal(await client.post("/groups", json={"name": "x"}, headers=foreign)) == (
            403,
            "origin not allowed",
        )


async def test_why_not_signed_in(client, ann):
    """The detail says whether there was no token, or a wrong one."""
    details = [
        (await (await client.get("/users/me", headers=headers)).json())["detail"]
        for headers in ({}, {"Authorization": "Bearer x"}, {"Cookie": f"{COOKIE}=x"})
    ]
    assert details[0].startswith("Sign in at /login and send the token")
    assert details[1] == details[2] == "The token is wrong, or its session has ended. Sign in at /login."


async def test_several_cookie_lines(client, ann):
    """Several lines are one list (RFC 6265bis, section 5.6.3); of one name the first counts, and __Host- before all."""
    path, own = f"/users/{ann.id}/groups", f"{COOKIE}={ann.token}"
    for lines, status in (
        (["theme=dark", own], 200),
        ([own, "theme=dark"], 200),
        (["a=1; b=2", f"c=3; {own}; d"], 200),
        ([own, f"{COOKIE}=x"], 200),
        ([f"{COOKIE}=x", own], 401),
        ([f"{COOKIE}=x", f"{HOST_COOKIE}={ann.token}"], 200),
        ([own, f"{HOST_COOKIE}=x"], 401),
        ([f'{COOKIE}="{ann.token}"'], 200),
        ([f"x{own}"], 401),
    ):
        response = await client.get(path, headers=[("Cookie", line) for line in lines])
        assert response.status == status, lines


async def test_offer_to_upgrade(client, ann):
    """Another offer to upgrade is ignored (RFC 9110, section 7.8): by cookie, with a body, and on what follows."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    for headers in (offer, offer | {"Upgrade": "websocket"}):
        response = await client.get(f"/users/{ann.id}/groups", headers=headers | with_cookie(ann, {}))
        assert response.status == 200
    head = (
        f"POST /groups HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\nConnection: Upgrade\r\n"
        "Upgrade: h2c\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n"
    )
    again = f"GET /users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    for request in (head.encode() + b'{"name":"tea"}', again.encode()):
        writer.write(request)
        assert b"HTTP/1.1 2" in await asyncio.wait_for(reader.readuntil(b"}"), 5)
    writer.close()


@pytest.mark.parametrize(
    ("host", "origin", "may"),
    [
        ("ex.com:443", "https://ex.com", True),
        ("ex.com", "https://ex.com:443", True),
        ("EX.com:443", "https://ex.com:443", True),
        ("ex.com:80", "http://ex.com", True),
        ("[::1]:443", "https://[::1]", True),
        ("ex.com:443", "http://ex.com", False),
        ("ex.com:80", "https://ex.com", False),
        ("ex.com:8443", "https://ex.com", False),
        ("ex.com", "tauri://ex.com", False),
        ("x", ALLOWED + ":443", True),
        ("x", ALLOWED + ":80", False),
    ],
)
async def test_default_port(client, ann, host, origin, may):
    """An origin with the default port of its scheme is the one without it (RFC 6454, section 4)."""
    headers = with_cookie(ann, {"Origin": origin}) | {"Host": host}
    response = await client.post("/groups", json={"name": "tea"}, headers=headers)
    assert response.status == (201 if may else 403)


async def test_byte_order_mark(client, ann):
    """JSON may begin with a byte order mark (RFC 8259, section 8.1); it is not passed on."""
    await ann.make_group("tea")
    socket = await ann.listen()
    for path, body in (("/groups", b'{"name": "milk"}'), ("/broadcast/tea", b'{"a":  1}')):
        response = await ann.request("POST", path, data=b"\xef\xbb\xbf" + body, headers=JSON)
        assert response.status < 300
    response = await ann.request("PUT", f"/groups/tea/members/{ann.id}", data=b"\xef\xbb\xbf", headers=JSON)
    assert response.status == 200
    assert (await socket.receive_str()) == '{"a":  1}'
    await socket.close()


async def test_malformed_cookies(client, ann):
    """An invalid token in the cookie is a 401, even with NUL or bytes that are no UTF-8."""
    token = ann.token
    path = f"/users/{ann.id}/groups"
    for value in ("", '""', token[:-1], token + "A", f'"{token[:-1]}\\000"', f'"{token}\\000"', "é" * 43, "A" * 43):
        response = await client.get(path, headers={"Cookie": f"{COOKIE}={value}"})
        assert await refusal(response) == (401, "not signed in"), value
    for header in (b"Cookie: att_session=", b"Authorization: Bearer "):
        request = b"GET %s HTTP/1.1\r\nHost: x\r\n%s%s\r\n\r\n" % (path.encode(), header, b"\xff" * 43)
        assert b" 401 " in (await raw(client, request)).partition(b"\r\n")[0]


async def test_bytes_in_path(client, ann):
    """A path may have any bytes; an unknown one is a 404 or malformed, never an internal error."""
    for path in (b"/groups/\xff", b"/groups/%FF", b"/groups/%ED%A0%80", b"/groups/%C0%80", b"/users/\xff/groups"):
        request = b"GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (path, ann.token.encode())
        status = (await raw(client, request)).split()[1]
        assert status in (b"400", b"404"), path


@pytest.mark.parametrize(
    ("headers", "is_secure"),
    [
        ({}, False),
        ({"X-Forwarded-Proto": "https"}, True),
        ({"X-Forwarded-Proto": "HTTPS, http"}, True),
        ({"Origin": "https://app.example"}, True),
        ({"X-Forwarded-Proto": "http", "Origin": "http://app.example"}, False),
    ],
)
async def test_secure_cookie(client, headers, is_secure):
    """The cookie is secure when the browser uses https, also through a proxy."""
    response = await client.post("/signup", json={"login": "ben", "password": PASSWORD}, headers=headers)
    assert response.status == 201
    assert response.cookies[HOST_COOKIE if is_secure else COOKIE]["secure"] == (is_secure or "")


async def test_permission_is_checked_after_the_body(client, sign_up):
    """A member who is removed while the body arrives may not post."""
    ann, ben = await sign_up("ann"), await sign_up("ben")
    await ann.make_group("tea")
    await ann.add("tea", ben)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = (
        f"POST /broadcast/tea HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ben.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    writer.write(head.encode())
    assert b"100" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    await ann.remove("tea", ben)
    writer.write(b"{}")
    assert b" 403 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
