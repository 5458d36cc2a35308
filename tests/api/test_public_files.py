"""The files of an application (--public-dir) beside the API, which answers below /api, too; and the page without."""

import asyncio
import gzip
import os
import socket
from dataclasses import replace

import pytest
from aiohttp import hdrs
from people import PASSWORD

from att.app import create_app
from att.http.access_log import REQUEST_LOG

PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}  # as a browser that navigates
SCRIPT = "export const answer = 42;\n" * 50


@pytest.fixture
def public_dir(tmp_path):
    """The files of an application, and some that are nobody's."""
    directory = tmp_path / "public"
    (directory / "help").mkdir(parents=True)
    (directory / "empty").mkdir()
    (directory / ".well-known").mkdir()
    (directory / "index.html").write_text("<h1>home</h1>")
    (directory / "help" / "index.html").write_text("<h1>help</h1>")
    (directory / "main.mjs").write_text(SCRIPT)
    (directory / "main.mjs.gz").write_bytes(gzip.compress(SCRIPT.encode()))
    (directory / ".env").write_text("secret")
    (directory / ".well-known" / "security.txt").write_text("Contact")
    (directory / "groups").write_text("a file, not the API's path")
    (tmp_path / "outside.txt").write_text("secret")
    (directory / "link.txt").symlink_to(tmp_path / "outside.txt")
    (directory / "loop").symlink_to("loop")
    (directory / "down").symlink_to(tmp_path)
    (directory / "same.mjs").symlink_to("main.mjs")
    os.mkfifo(directory / "fifo")
    return directory


@pytest.fixture
async def site(settings, aiohttp_client, public_dir):
    """A client of an application that serves these files."""
    return await aiohttp_client(create_app(replace(settings, public_dir=public_dir)))


async def answer(client, path, **options):
    async with client.get(path, allow_redirects=False, **options) as response:
        return response.status, await response.text()


async def test_files_and_pages(site):
    """Files come by their names, and a page is index.html for each path that is none."""
    assert await answer(site, "/main.mjs") == (200, SCRIPT)
    assert await answer(site, "/same.mjs") == (200, SCRIPT)
    assert await answer(site, "/.well-known/security.txt") == (200, "Contact")
    for path in ("/", "/index.html", "/empty", "/empty/", "/chat/12", "/login", "/users", "/listen/me", "/fifo"):
        assert await answer(site, path, headers=PAGE) == (200, "<h1>home</h1>"), path
    assert await answer(site, "/") == (200, "<h1>home</h1>")
    assert await answer(site, "/help/", headers=PAGE) == (200, "<h1>help</h1>")
    async with site.get("/help", allow_redirects=False) as response:
        assert (response.status, response.headers[hdrs.LOCATION]) == (301, "./help/")


async def test_the_api_beside_them(site):
    """Programs reach the API by its paths, and pages below /api, where no file hides it."""
    async with site.post("/api/signup", json={"login": "ann", "password": PASSWORD}) as response:
        bearer = {"Authorization": f"Bearer {(await response.json())['token']}"}
    for prefix in ("", "/api"):
        async with site.get(f"{prefix}/groups", headers=bearer) as response:
            assert (response.status, (await response.json())["items"]) == (200, [])
    async with site.get("/api/users/me", headers=bearer | PAGE) as response:
        assert (response.status, (await response.json())["login"]) == (200, "ann")
    for path, kept in (("/docs", "text/html"), ("/api/docs", "text/html"), ("/docs/start.js", "text/javascript")):
        async with site.get(path, headers=PAGE) as response:
            assert (response.status, response.content_type, "home" in await response.text()) == (200, kept, False)
    async with site.get("/api/nothing", headers=PAGE) as response:
        assert (response.status, (await response.json())["error"]) == (404, "not found")
    async with site.post("/chat") as response:
        assert (response.status, (await response.json())["error"]) == (404, "not found")


@pytest.mark.parametrize(
    "path",
    [
        "/missing.js", "/.env", "/link.txt", "/loop", "/down/outside.txt", "/../outside.txt", "/..%2foutside.txt",
        "/%2e%2e/outside.txt", "/help/..%5c..%5coutside.txt", "/main.mjs%00", "/main.mjs/", "/help//index.html", "/c:",
        "/fifo", "/empty/", "/" + "x" * 300,
    ],
)  # fmt: skip
async def test_what_does_not_exist(site, path):
    """Nothing hidden and nothing outside the directory can be had, however it is written."""
    reader, writer = await _connect(site)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    response = (await reader.read()).decode()
    writer.close()
    assert response.startswith("HTTP/1.1 404 ")
    assert '"error": "not found"' in response


async def _connect(client):
    return await asyncio.open_connection(client.host, client.port, family=socket.AF_INET)


async def test_caching(site):
    """A browser keeps a file and asks whether it has changed; parts, HEAD and compressed files are as RFC 9110 says."""
    async with site.get("/main.mjs", headers={"Accept-Encoding": "identity"}) as response:
        tag, headers = response.headers[hdrs.ETAG], response.headers
        assert (headers[hdrs.CACHE_CONTROL], headers[hdrs.CONTENT_TYPE][-11:]) == ("no-cache", "/javascript")
        assert headers[hdrs.VARY] == "Accept, Accept-Encoding"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src" not in headers["Content-Security-Policy"]  # the application may load its files
        assert hdrs.LAST_MODIFIED in headers
    async with site.get("/main.mjs", headers={"If-None-Match": tag, "Accept-Encoding": "identity"}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with site.get("/main.mjs", headers={"Range": "bytes=7-11", "Accept-Encoding": "identity"}) as response:
        assert (response.status, await response.text()) == (206, SCRIPT[7:12])
    async with site.head("/main.mjs", headers={"Accept-Encoding": "identity"}) as response:
        assert (response.status, response.headers[hdrs.CONTENT_LENGTH]) == (200, str(len(SCRIPT)))
    async with site.get("/main.mjs") as response:
        assert (response.headers[hdrs.CONTENT_ENCODING], await response.text()) == ("gzip", SCRIPT)
        assert hdrs.ACCEPT_ENCODING in response.headers[hdrs.VARY]


async def test_the_page_without_files(client):
    """Without an application's files a browser gets a page that leads to the documentation, and a program JSON."""
    for path in ("/", "/api/"):
        async with client.get(path) as response:
            assert await response.json() == {"name": "att", "docs": f"{path}docs", "openapi": f"{path}openapi.json"}
        async with client.get(path, headers=PAGE) as response:
            assert (response.status, response.content_type) == (200, "text/html")
            assert '<a href="docs">' in await response.text()
    assert (await answer(client, "/chat", headers=PAGE))[0] == 404


async def test_one_route_in_metrics(client):
    """Requests below /api are counted with the others of their route."""
    async with client.get("/api/openapi.json"):
        pass
    samples = client.app[REQUEST_LOG].requests.collect()[0].samples
    assert {sample.labels["route"] for sample in samples} >= {"/openapi.json"}
    assert not [sample for sample in samples if sample.labels["route"].startswith("/api")]
