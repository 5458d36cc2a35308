"""The files of an application, beside the API: pages, scripts and pictures below one directory."""

import asyncio
from collections.abc import Collection
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from att.http.context import API_PREFIX
from att.http.middleware import Handler

_INDEX = "index.html"
_WELL_KNOWN = ".well-known"  # the one hidden directory that the web knows (RFC 8615)
# The application adds the rest in a <meta> element: only it knows what it loads.
_CONTENT_SECURITY_POLICY = "object-src 'none'; base-uri 'self'; frame-ancestors 'none'"


def public_files(directory: Path, pages: Collection[str]) -> Middleware:
    """Return the middleware that answers with the files below a directory.

    A file comes where the API has no path, and where it has one but a browser asks for a page; not below
    ``API_PREFIX``, and not for the routes ``pages``, which are pages of the API. Paths that are no file get the
    index.html of the directory if they ask for a page. Hidden files, and whatever lies outside, do not exist.
    """
    root = directory.resolve()

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_page = wants_page(request)
        if not _may_be_file(request, pages, is_page=is_page):
            return await handler(request)
        path = await asyncio.to_thread(_find, root, request.path, or_index=is_page)
        if path is None:
            return await handler(request)
        response: web.StreamResponse
        if path.is_dir():  # links of its page are relative to it
            response = web.Response(status=301, headers={hdrs.LOCATION: f"./{request.rel_url.raw_name}/"})
        else:
            response = web.FileResponse(path)
        response.headers[hdrs.CACHE_CONTROL] = "no-cache"  # a browser keeps it, and asks whether it has changed
        response.headers[hdrs.VARY] = f"{hdrs.ACCEPT}, {hdrs.ACCEPT_ENCODING}"
        response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
        return response

    return answer


def wants_page(request: web.Request) -> bool:
    """Return True if a browser navigates: programs and scripts do not name HTML alone."""
    accept = request.headers.get(hdrs.ACCEPT, "")
    return "text/html" in accept and "application/json" not in accept


def _may_be_file(request: web.Request, pages: Collection[str], *, is_page: bool) -> bool:
    if request.method not in ("GET", "HEAD") or f"{request.path}/".startswith(f"{API_PREFIX}/"):
        return False
    resource = request.match_info.route.resource
    if resource is None or resource.canonical == "/":
        return True
    return is_page and resource.canonical not in pages


def _find(root: Path, path: str, *, or_index: bool) -> Path | None:
    """Return the file of a decoded path, or the directory that has an index.html; else that of the root if wanted."""
    *parents, name = path.removeprefix("/").split("/")
    found = _existing(root, [*parents, name or _INDEX])
    if found is not None and (found.is_file() or _existing(root, [*parents, name, _INDEX])):
        return found
    return _existing(root, [_INDEX]) if or_index else None


def _existing(root: Path, parts: list[str]) -> Path | None:
    if not all(part and (part == _WELL_KNOWN or part[0] != ".") and not {*part} & {"\\", ":", "\0"} for part in parts):
        return None
    path = root.joinpath(*parts)
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links that go round in a circle
        return None
    return path if real.is_relative_to(root) and (real.is_file() or real.is_dir()) else None
