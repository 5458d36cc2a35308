"""Security headers: every response has them."""

import dataclasses
import io
import ssl
from ipaddress import ip_network

import pytest
from aiohttp import DummyCookieJar, TCPConnector
from aiohttp.test_utils import TestClient, TestServer
from certificate_files import CERTIFICATE
from multidict import CIMultiDict
from people import PASSWORD
from route_requests import fill, request_for

from att.api.keys import ACCOUNT_SERVICE
from att.api.routes import ROUTES
from att.app import create_app
from att.core.permissions import Who
from att.http.bodies import BODY_LIMIT
from att.http.security_headers import add_security_headers

EXPECTED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
STRICT = "default-src 'none'; frame-ancestors 'none'"
JSON = {"Content-Type": "application/json"}
HSTS = "Strict-Transport-Security"


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def administrator(sign_up, sql):
    """A user who may do everything."""
    person = await sign_up("administrator")
    sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Admin')")
    return person


def check(response, *, policy=STRICT, cache="no-store"):
    """Check that each header occurs once with its value."""
    expected = {**EXPECTED, "Content-Security-Policy": policy, "Cache-Control": cache}
    assert {name: response.headers.getall(name, []) for name in expected} == {
        name: [value] for name, value in expected.items()
    }, (response.method, response.url)
    assert HSTS not in response.headers
    assert not [name for name in response.headers if name.startswith("Access-Control-") or name == "Server"]


async def test_every_route(*, client, sign_up, sql):
    """Successes and errors have them; only files of the documentation may be cached."""
    await sign_up("owner")  # who logs in
    for number, route in enumerate(ROUTES):
        administrator, guest = await sign_up(f"administrator{number}"), await sign_up(f"guest{number}")
        sql("UPDATE users SET role_id = (SELECT id FROM roles WHERE name = 'Admin') WHERE id = %s", administrator.id)
        group, role = f"tea{number}", f"spare{number}"
        await administrator.make_group(group)
        await administrator.broadcast(group, {})
        await administrator.add(group, guest)
        role_id = sql("INSERT INTO roles (name, name_key) VALUES (%s, %s) RETURNING id", role, role)[0][0]
        session_id = sql("SELECT id FROM sessions WHERE user_id = %s", administrator.id)[0][0]
        is_own = route.upgrades or route.path.startswith("/users/{user_id}/sessions")
        places = {
            "user_id": administrator.id if is_own else guest.id,
            "group": group,
            "role_id": role_id,
            "seq": 2,
            "session_id": session_id,
        }
        path = fill(route.path, **places)
        docs = {} if not route.path.startswith("/docs") else {"policy": (await client.get("/docs")).headers[POLICY]}
        cache = {"cache": "public, max-age=3600"} if route.path == "/docs/{file}" else {}
        if route.upgrades:
            async with client.ws_connect(path, headers=administrator.headers) as socket:
                check(socket._response)
        else:
            options = request_for(route.method, route.path, **places)
            response = await administrator.request(route.method, path, **options)
            assert response.status < 300, (route, await response.text())
            check(response, **docs, **cache)
        if route.who is not Who.ANYONE:
            check(await client.request(route.method, path))


POLICY = "Content-Security-Policy"


async def test_refusals(client, administrator):
    """Errors of att and of aiohttp have them, and so do unknown paths."""
    large = io.BytesIO(b"x" * (BODY_LIMIT + 1))
    cases = [
        (404, await client.get("/nowhere")),
        (404, await client.get("/docs/nowhere")),
        (405, await client.put("/login")),
        (204, await client.options("/login")),
        (401, await client.get("/users")),
        (400, await client.post("/login", data="{", headers=JSON)),
        (413, await client.post("/login", data=large, headers=JSON)),
        (415, await client.post("/login", data="x")),
        (422, await client.post("/login", json={})),
        (426, await administrator.request("GET", "/listen/me")),
        (417, await client.get("/nowhere", headers={"Expect": "tea"})),
    ]
    assert [response.status for _, response in cases] == [status for status, _ in cases]
    for _, response in cases:
        check(response)


async def test_internal_errors(settings, aiohttp_client):
    """A 500 has them, too."""

    async def fail(app):
        app[ACCOUNT_SERVICE] = None
        yield

    app = create_app(settings)
    app.cleanup_ctx.append(fail)
    client = await aiohttp_client(app)
    response = await client.post("/login", json={"login": "ann", "password": PASSWORD})
    assert response.status == 500
    check(response)


# https


@pytest.mark.parametrize(
    ("trusted", "header", "is_told"),
    [
        ("127.0.0.0/8", "https", True),
        ("127.0.0.0/8", "HTTPS, http", True),
        ("127.0.0.0/8", "http", False),
        ("127.0.0.0/8", "http, https", False),
        ("127.0.0.0/8", None, False),
        ("10.0.0.0/8", "https", False),
        (None, "https", False),
    ],
)
async def test_https_by_a_proxy(*, settings, aiohttp_client, trusted, header, is_told):
    """A browser is told to keep using https if a trusted proxy says that it does."""
    proxies = frozenset({ip_network(trusted)} if trusted else ())
    client = await aiohttp_client(create_app(dataclasses.replace(settings, trust_proxy=proxies)))
    response = await client.get("/docs", headers={"X-Forwarded-Proto": header} if header else {})
    assert response.headers.getall(HSTS, []) == (["max-age=31536000"] if is_told else [])


async def test_https(settings, tmp_path):
    """A browser that uses https to this server is told to keep using it."""
    file = tmp_path / "certificate.pem"
    file.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = TestServer(create_app(settings), scheme="https")
    await server.start_server(ssl=context)
    trusting = ssl.create_default_context(cafile=str(file))
    trusting.check_hostname = False
    async with TestClient(server, connector=TCPConnector(ssl=trusting)) as client:
        for path in ("/docs", "/users", "/nowhere"):
            assert (await client.get(path)).headers.getall(HSTS) == ["max-age=31536000"]


# By themselves


def test_they_are_added():
    """A response keeps its own headers, except those that are not its to set."""
    headers = CIMultiDict({"Content-Type": "text/html", POLICY: "default-src 'self'", "Cache-Control": "public"})
    add_security_headers(headers, is_shared=True, is_https=True)
    assert headers == {
        "Content-Type": "text/html",
        **EXPECTED,
        "Cross-Origin-Resource-Policy": "cross-origin",
        POLICY: "default-src 'self'",
        "Cache-Control": "public",
        HSTS: "max-age=31536000",
    }
