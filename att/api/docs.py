"""The API's documentation: the OpenAPI document, and Swagger UI."""

from functools import cache
from hashlib import sha256
from importlib.resources import files

from aiohttp import web

from att.api.keys import DOCUMENT
from att.api.route import File, Route
from att.core.permissions import Who
from att.errors import NotFound
from att.http.client_info import path_prefix

_PAGE = "index.html"
MEDIA_TYPES = {
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain",
    "swagger-ui.css": "text/css",
}
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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
    Route("GET /openapi.json", openapi, Who.ANYONE, responses={200: File(("application/json",))}, section="docs"),
    Route("GET /docs", docs, Who.ANYONE, responses={200: File(("text/html",))}),
    Route(
        "GET /docs/{file}",
        docs_file,
        Who.ANYONE,
        responses={200: File(tuple(sorted({*MEDIA_TYPES.values()}))), 304: None},
    ),
)
