"""The API's documentation: the OpenAPI document, and Swagger UI from files that lie beside this one."""

from functools import cache
from hashlib import sha256
from importlib.resources import files

from aiohttp import web

from att.errors import NotFound
from att.keys import DOCUMENT

PAGE = "index.html"
MEDIA_TYPES = {
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain",
    "swagger-ui.css": "text/css",
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def openapi(request: web.Request) -> web.Response:
    """The OpenAPI document."""
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")


async def docs(_request: web.Request) -> web.Response:
    """The page of Swagger UI."""
    return _file(PAGE, "text/html")


async def docs_file(request: web.Request) -> web.Response:
    """A file that the page asks for. Raises NotFound."""
    name = request.match_info["file"]
    if name not in MEDIA_TYPES:
        raise NotFound
    known = request.if_none_match or ()
    is_known = any(tag.value in (_digest(name), "*") for tag in known)
    response = web.Response(status=304) if is_known else _file(name, MEDIA_TYPES[name])
    response.etag = _digest(name)
    response.headers["Cache-Control"] = "public, max-age=3600"
    return response


def _file(name: str, media_type: str) -> web.Response:
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return web.Response(body=_content(name), content_type=media_type, charset="utf-8", headers=headers)


@cache
def _digest(name: str) -> str:
    return sha256(_content(name)).hexdigest()


@cache
def _content(name: str) -> bytes:
    return files("att").joinpath("swagger_ui", name).read_bytes()
