"""The documentation as served: the document, the page and its files."""

import hashlib
import json
import re
from importlib.resources import files

from aiohttp import hdrs
from openapi_spec_validator import OpenAPIV31SpecValidator

from att.api.docs import MEDIA_TYPES

OURS = {"index.html", "start.js"}
# swagger-ui-dist 5.35.0 as it is on npm, to the byte.
DIGESTS = {
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui-bundle.js.LICENSE.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


async def test_the_document(client):
    """The document is OpenAPI 3.1 of the running version, for anyone, and lists exactly the served paths."""
    response = await client.get("/openapi.json")
    assert (response.status, response.content_type) == (200, "application/json")
    assert response.headers[hdrs.CACHE_CONTROL] == "no-store"
    document = json.loads(await response.read())
    OpenAPIV31SpecValidator(document).validate()
    served = {resource.canonical for resource in client.app.router.resources()}
    assert served == {path for served in document["paths"] for path in (served, f"/api{served}")}


async def test_the_page(client):
    """The page loads only files of this server, all of which exist, and has no inline script or style."""
    response = await client.get("/docs")
    page = await response.text()
    assert (response.status, response.content_type, response.charset) == (200, "text/html", "utf-8")
    links = re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page)
    assert sorted(links) == ["docs/start.js", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css"]
    for link in links:
        assert (await client.get(f"/{link}")).status == 200
    assert not re.search(r"<style|<script(?! src)|\son\w+=|\sstyle=", page)


async def test_files(client):
    """Each file has its media type and may be cached for a while."""
    for name, media_type in MEDIA_TYPES.items():
        response = await client.get(f"/docs/{name}")
        assert (response.status, response.content_type) == (200, media_type), name
        assert await response.read() == files("att").joinpath("swagger_ui", name).read_bytes()
        assert response.headers[hdrs.CACHE_CONTROL] == "public, max-age=3600"


async def test_files_that_are_kept(client):
    """A browser with a cached file gets 304, never another file."""
    for name in MEDIA_TYPES:
        response = await client.get(f"/docs/{name}")
        tag = response.headers[hdrs.ETAG]
        for known in (tag, f'"x", {tag}', f"W/{tag}", "*"):
            again = await client.get(f"/docs/{name}", headers={hdrs.IF_NONE_MATCH: known})
            assert (again.status, await again.read()) == (304, b""), known
            assert (again.headers[hdrs.ETAG], again.headers[hdrs.CACHE_CONTROL]) == (tag, "public, max-age=3600")
        assert (await client.get(f"/docs/{name}", headers={hdrs.IF_NONE_MATCH: '"x"'})).status == 200
    assert len({(await client.get(f"/docs/{name}")).headers[hdrs.ETAG] for name in MEDIA_TYPES}) == len(MEDIA_TYPES)


async def test_no_other_files(client):
    """No other file is served, whatever the path."""
    for name in ("index.html", "NOTICE", "x", "%2e%2e%2fapp.py", "..%5Capp.py", "%00", "start.js%00", "START.JS"):
        response = await client.get(f"/docs/{name}")
        assert (response.status, (await response.json())["error"]) == (404, "not found"), name
        assert response.headers[hdrs.CACHE_CONTROL] == "no-store"


async def test_page_policy(client):
    """The page may load and fetch only from this server, and cannot be framed."""
    for path in ("/docs", *(f"/docs/{name}" for name in MEDIA_TYPES)):
        headers = (await client.get(path)).headers
        policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_swagger_ui_is_as_published():
    """Swagger UI's files are unchanged, with their licence; the others are ours."""
    found = {path.name: path.read_bytes() for path in files("att").joinpath("swagger_ui").iterdir()}
    assert set(found) == OURS | set(DIGESTS)
    assert {name: hashlib.sha256(found[name]).hexdigest() for name in DIGESTS} == DIGESTS
