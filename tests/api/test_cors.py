"""CORS: only pages of the origins that the operator names may read responses, also in a real browser."""

import dataclasses
import io
import json

import pytest
from aiohttp import DummyCookieJar, web
from aiohttp.test_utils import TestClient
from browser import CHROMIUM, open_page
from people import PASSWORD
from route_requests import fill, served

from att.api.keys import ACCOUNT_SERVICE
from att.app import create_app
from att.http.bodies import BODY_LIMIT
from att.http.cors import ANSWER_HEADERS, REQUEST_HEADERS

ALLOWED = "https://app.example"
ALSO = "http://localhost:3000"
OTHERS = [
    "https://evil.example",
    "https://app.example.evil.example",
    "https://sub.app.example",
    "https://app.example:8443",
    "http://app.example",
    "HTTPS://APP.EXAMPLE",
    "https://app.example/",
    "null",
    "",
    "*",
]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def settings(settings):
    """Settings that allow two other origins."""
    return dataclasses.replace(settings, allow_origin=frozenset({ALLOWED, ALSO}))


@pytest.fixture
async def client(settings, aiohttp_client) -> TestClient:
    """A client without a cookie jar: each request brings its own credentials."""
    return await aiohttp_client(create_app(settings), cookie_jar=DummyCookieJar())


@pytest.fixture
async def closed_client(settings, aiohttp_client) -> TestClient:
    """A client of a server that allows no other origin."""
    closed = dataclasses.replace(settings, allow_origin=frozenset())
    return await aiohttp_client(create_app(closed), cookie_jar=DummyCookieJar())


def cors(response):
    """Return the CORS headers of a response."""
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control-")}


def asks(method, origin=ALLOWED):
    """Return the headers of a preflight."""
    return {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "x-other"}


def shown_to(origin):
    """Return the headers that allow a page of this origin to read a response."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": ANSWER_HEADERS,
    }


async def test_answers(client, sign_up):
    """A page of an allowed origin may read responses, which name exactly its origin and vary by it."""
    ann = await sign_up("ann")
    for origin in (ALLOWED, ALSO):
        response = await ann.request("GET", "/users/me", headers={"Origin": origin})
        assert response.status == 200
        assert cors(response) == shown_to(origin)
        assert response.headers.getall("Vary") == ["Origin"]
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


async def failing(app):
    """Let sign-up and log-in fail with an internal error."""
    app[ACCOUNT_SERVICE] = None
    yield


async def test_errors(settings, aiohttp_client, client, sign_up):
    """Errors are readable, too, whichever part of the server answers."""
    ann, signed_by = await sign_up("ann"), {"Origin": ALLOWED}
    large = io.BytesIO(b"x" * (BODY_LIMIT + 1))
    cases = [
        (401, await client.get("/users/me", headers=signed_by)),
        (403, await ann.request("GET", "/users", headers=signed_by)),
        (404, await client.get("/nowhere", headers=signed_by)),
        (405, await client.put("/login", headers=signed_by)),
        (413, await client.post("/login", data=large, headers=JSON | signed_by)),
        (422, await client.post("/login", json={}, headers=signed_by)),
        (426, await ann.request("GET", "/listen/me", headers=signed_by)),
    ]
    broken = create_app(settings)
    broken.cleanup_ctx.append(failing)
    account = {"login": "ann", "password": PASSWORD}
    cases.append((500, await (await aiohttp_client(broken)).post("/login", json=account, headers=signed_by)))
    assert [response.status for _, response in cases] == [status for status, _ in cases]
    assert [cors(response) for _, response in cases] == [shown_to(ALLOWED)] * len(cases)


@pytest.mark.parametrize("origin", OTHERS)
async def test_other_origins(client, sign_up, origin):
    """Pages of other origins may read no response or error, and may send nothing."""
    ann = await sign_up("ann")
    for response in (
        await ann.request("GET", "/users/me", headers={"Origin": origin}),
        await client.get("/users/me", headers={"Origin": origin}),
        await client.options("/login", headers=asks("POST", origin)),
    ):
        assert cors(response) == {}
        assert response.headers.getall("Vary") == ["Origin"]
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_without_an_origin(client):
    """Requests without an origin get no CORS headers, but the response still varies by origin."""
    response = await client.get("/docs/start.js")
    assert (cors(response), response.headers.getall("Vary")) == ({}, ["Origin"])


async def test_preflight(client):
    """A preflight gets 204 with the methods of the path and the headers, for a while."""
    for path, methods in served().items():
        response = await client.options(fill(path), headers=asks("POST"))
        assert (response.status, await response.read()) == (204, b"")
        headers = cors(response)
        assert set(headers.pop("Access-Control-Allow-Methods").split(", ")) == methods, path
        assert headers == shown_to(ALLOWED) | {
            "Access-Control-Allow-Headers": REQUEST_HEADERS,
            "Access-Control-Max-Age": "7200",
        }
    assert {"Authorization", "Content-Type", "Idempotency-Key", "If-Match"} <= {*REQUEST_HEADERS.split(", ")}
    assert "Access-Control-Allow-Methods" not in cors(await client.options("/login", headers={"Origin": ALLOWED}))
    assert (await client.options("/nowhere", headers=asks("POST"))).status == 404


async def test_it_is_off(closed_client):
    """Without allowed origins no response has CORS headers."""
    for origin in (ALLOWED, *OTHERS):
        for response in (
            await closed_client.get("/users/me", headers={"Origin": origin}),
            await closed_client.get("/docs", headers={"Origin": origin}),
            await closed_client.options("/login", headers=asks("POST", origin)),
        ):
            assert cors(response) == {}
            assert "Vary" not in response.headers
            assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


# In a browser

PAGE = """<!doctype html><title>Another origin</title><script>
const base = %s, password = %s;
async function send(path, options) {
    try {
        const response = await fetch(base + path, {credentials: "include", ...options});
        const body = await response.json();
        return [response.status, body.error || null, response.headers.get("X-Request-ID") !== null, body];
    } catch (error) {
        return [error.name];
    }
}
function post(body, headers) {
    return {method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json", ...headers}};
}
(async () => {
    const [wrong, signedIn] = [
        await send("login", post({login: "ann", password: "wrong " + password})),
        await send("login", post({login: "ann", password})),
    ];
    const token = {Authorization: "Bearer " + (signedIn[3] || {}).token};
    const rest = [
        await send("users/me", {headers: token}),
        await send("users/nobody", {headers: token}),
        await send("groups", post({name: "tea"}, {...token, "Idempotency-Key": "k", "X-Request-ID": "page"})),
        await send("groups/tea", {method: "PATCH", ...patch(token)}),
        await send("docs"),
    ];
    window.results = [wrong, signedIn, ...rest].map(found => found.slice(0, 3));
})();
function patch(token) {
    const headers = {"Content-Type": "application/json", ...token};
    return {body: JSON.stringify({join: "anyone"}), headers};
}
</script>"""


@pytest.fixture
async def page_server(aiohttp_server):
    """A web server of another site, which serves a page."""
    texts = {}

    async def page(_request):
        return web.Response(text=texts["page"], content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    server = await aiohttp_server(app)
    server.texts = texts
    return server


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; apt-get install chromium")
@pytest.mark.parametrize("is_allowed", [True, False])
async def test_browser(*, settings, aiohttp_client, sign_up, page_server, tmp_path, is_allowed):
    """A page of an allowed origin signs in, sends requests and reads errors; a page of another origin cannot."""
    await sign_up("ann")
    origin = str(page_server.make_url("")).rstrip("/")
    allowed = frozenset({origin} if is_allowed else {ALLOWED})
    client = await aiohttp_client(create_app(dataclasses.replace(settings, allow_origin=allowed)))
    page_server.texts["page"] = PAGE % (json.dumps(str(client.make_url("/"))), json.dumps(PASSWORD))
    async with open_page(tmp_path) as page:
        await page.open(origin)
        results = await page.until("window.results")
    failed = ["TypeError"]
    assert results == [
        [401, "auth failed", True] if is_allowed else failed,
        [200, None, True] if is_allowed else failed,
        [200, None, True] if is_allowed else failed,
        [404, "no such user", True] if is_allowed else failed,
        [201, None, True] if is_allowed else failed,
        [422, "invalid input", True] if is_allowed else failed,
        ["SyntaxError"] if is_allowed else failed,  # it is seen, and is no JSON
    ]
