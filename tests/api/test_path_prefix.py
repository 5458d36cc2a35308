"""Behind a proxy that serves the API below a path, and removes that path from what it passes on."""

import re
from dataclasses import replace
from ipaddress import ip_network

import pytest
from aiohttp import DummyCookieJar
from openapi_spec_validator import OpenAPIV31SpecValidator
from people import PASSWORD

from att.app import create_app
from att.http.credentials import COOKIE, DEVICE_COOKIE, HOST_COOKIE

ACCOUNT = {"login": "ann", "password": PASSWORD}
LOOPBACK = ip_network("127.0.0.0/8")
HTTPS = {"X-Forwarded-Proto": "https"}


@pytest.fixture
def start(settings, aiohttp_client):
    """Start an application with these settings; return a client of it, which keeps no cookies."""

    async def go(**changes):
        return await aiohttp_client(create_app(replace(settings, **changes)), cookie_jar=DummyCookieJar())

    return go


async def told(client, headers=None):
    """Return the prefixes in Link of a list and of a log, in the cookie, and in the document."""
    headers = headers or {}
    response = await client.post("/signup", json=ACCOUNT, headers=headers)
    headers = headers | {"Authorization": f"Bearer {(await response.json())['token']}"}
    for name in ("tea", "milk"):
        assert (await client.post("/groups", json={"name": name}, headers=headers)).status == 201
    assert (await client.post("/broadcast/tea", json={}, headers=headers)).status == 200
    lists = [await client.get(path, headers=headers) for path in ("/groups?limit=1", "/groups/tea/events?limit=1")]
    links = [re.match("<(.*?)/groups", one.headers["Link"])[1] for one in lists]
    document = await (await client.get("/openapi.json", headers=headers)).json()
    servers = [server["url"] for server in document.get("servers", [{"url": ""}])]
    return {*links, *servers, response.cookies[COOKIE]["path"].removesuffix("/")}


@pytest.mark.parametrize("prefix", ["", "/api", "/a/b%20c"])
async def test_setting(start, prefix):
    """All that the server says about its own addresses begins with --path-prefix."""
    client = await start(path_prefix=prefix)
    assert await told(client) == {prefix}
    OpenAPIV31SpecValidator(await (await client.get("/openapi.json")).json()).validate()


@pytest.mark.parametrize(
    ("trusted", "header", "prefix"),
    [
        ({LOOPBACK}, "/api", "/api"),
        ({LOOPBACK}, "/api/, /inner", "/api"),
        ({LOOPBACK}, "/", ""),
        ({LOOPBACK}, "//evil.example", "/set"),
        ({LOOPBACK}, "/a;Path=/", "/set"),
        ({LOOPBACK}, "", "/set"),
        (set(), "/api", "/set"),
    ],
)
async def test_header(start, trusted, header, prefix):
    """A trusted proxy names the prefix by X-Forwarded-Prefix. Nobody else can, and nothing but a path counts."""
    client = await start(trust_proxy=frozenset(trusted), path_prefix="/set")
    assert await told(client, {"X-Forwarded-Prefix": header}) == {prefix}


async def test_cookie(start):
    """Below a prefix the cookie is secure, but cannot be __Host-; it signs in, and log-out deletes both."""
    client = await start(path_prefix="/api")
    response = await client.post("/signup", json=ACCOUNT, headers=HTTPS)
    cookie = response.cookies[COOKIE]
    assert [*response.cookies] == [COOKIE, DEVICE_COOKIE]
    assert (cookie["secure"], cookie["path"]) == (True, "/api")
    headers = {"Cookie": f"{COOKIE}=x; {HOST_COOKIE}={cookie.value}", "Sec-Fetch-Site": "same-origin"}
    response = await client.post("/logout", headers=headers)
    assert response.status == 204
    assert {name: morsel["path"] for name, morsel in response.cookies.items()} == {COOKIE: "/api", HOST_COOKIE: "/"}
