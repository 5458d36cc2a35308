"""The API's documentation: the OpenAPI document, and Swagger UI."""

from functools import cache
from hashlib import sha256
from importlib.resources import files

from aiohttp import hdrs, web

from att.api.keys import DOCUMENT
from att.api.route import File, Route
from att.core.permissions import Who
from att.errors import NotFound
from att.http.client_info import path_prefix
from att.http.public_files import wants_page

_PAGE = "index.html"
MEDIA_TYPES = {
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain",
    "swagger-ui.css": "text/css",
}
_HOME = """<!doctype html>
<html lang="en">
<title>att</title>
<h1>att</h1>
<p>This is an att server: accounts, groups and messages for an application.</p>
<p>Its <a href="docs">documentation</a> shows every request, to read and to try.</p>
</html>
"""
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def home(request: web.Request) -> web.Response:
    """Say what this server is, and where its documentation is."""
    if wants_page(request):
        headers = {"Content-Security-Policy": _CONTENT_SECURITY_POLICY, hdrs.VARY: hdrs.ACCEPT}
        return web.Response(text=_HOME, content_type="text/html", charset="utf-8", headers=headers)
    at = path_prefix(request) + request.path
    links = {"docs": f"{at}docs", "openapi": f"{at}openapi.json"}
    return web.json_response({"name": "att", **links}, headers={hdrs.VARY: hdrs.ACCEPT})


async def openapi(request: web.Request) -> web.Response:
    """Return the OpenAPI document (OpenAPI 3.1)."""
    body, prefix = request.app[DOCUMENT], path_prefix(request)
    if prefix:
        body = b'{"servers": [{"url": "%b"}], %b' % (prefix.encode(), body[1:])
    return web.Response(body=body, content_type="application/json")


async def docs(_request: web.Request) -> web.Response:
    """Return the OpenAPI document as a page to read and try."""
    return _file(_PAGE, "text/html")


async def docs_file(request: web.Request) -> web.Response:
    """Return a file of that page. Raises NotFound."""
    name = request.match_info["file"]
    if name not in MEDIA_TYPES:
        raise NotFound
    response = _file(name, MEDIA_TYPES[name])
    response.etag = _digest(name)
    response.headers["Cache-Control"] = "public, max-age=3600"
    return response


def _file(name: str, media_type: str) -> web.Response:
    headers = {"Content-Security-Policy": _CONTENT_SECURITY_POLICY}
    return web.Response(body=_content(name), content_type=media_type, charset="utf-8", headers=headers)


@cache
def _digest(name: str) -> str:
    return sha256(_content(name)).hexdigest()


@cache
def _content(name: str) -> bytes:
    return files("att").joinpath("swagger_ui", name).read_bytes()


DOCS_ROUTES = (
    Route("GET /", home, Who.ANYONE, responses={200: File(("application/json", "text/html"))}, section="docs"),
    Route("GET /openapi.json", openapi, Who.ANYONE, responses={200: File(("application/json",))}, section="docs"),
    Route("GET /docs", docs, Who.ANYONE, responses={200: File(("text/html",))}),
    Route(
        "GET /docs/{file}",
        docs_file,
        Who.ANYONE,
        responses={200: File(tuple(sorted({*MEDIA_TYPES.values()}))), 304: None},
    ),
)
DOCS_PAGES = frozenset({"/docs", "/docs/{file}"})  # that stay, whatever files an application has
