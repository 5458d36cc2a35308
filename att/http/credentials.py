"""Credentials of a request: the bearer token, the session cookie, and the origin that may use it."""

import re

from aiohttp import web

from att import errors
from att.http.context import SETTINGS
from att.protocol.messages import BEARER_PREFIX

COOKIE = "att_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def bearer_token(request: web.Request) -> str | None:
    """The token of the Authorization header (RFC 6750), or of a subprotocol; None when there is neither.

    Any other scheme gives the empty string: whoever sends one does not mean to be known by a cookie.
    """
    header = request.headers.get("Authorization")
    if header is None:
        return _subprotocol_token(request)
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _subprotocol_token(request: web.Request) -> str | None:
    """The token of a page on another origin, which can set no header of a WebSocket but its subprotocols."""
    for name in offered_subprotocols(request):
        if name.startswith(BEARER_PREFIX):
            return name.removeprefix(BEARER_PREFIX)
    return None


def offered_subprotocols(request: web.Request) -> list[str]:
    """What a client that asks for a WebSocket would speak (RFC 6455, section 4.1)."""
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    return [name for part in header.split(",") if (name := part.strip())]


def check_origin(request: web.Request) -> None:
    """Whether the page that sent this is ours or an allowed one. Raises OriginNotAllowed.

    A browser says so itself in Sec-Fetch-Site, which no page can forge; an older one only names the Origin.
    """
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    is_ours = site in ("same-origin", "none") or (site is None and _authority(origin) == request.host.lower())
    if not is_ours and origin not in request.app[SETTINGS].allow_origin:
        raise errors.OriginNotAllowed


def _authority(origin: str | None) -> str | None:
    match = re.fullmatch(r"https?://([^/?#]+)", (origin or "").lower())
    return match[1] if match else None


def set_session_cookie(request: web.Request, response: web.StreamResponse, token: str) -> None:
    """Have the browser keep the token, out of reach of the page's scripts and of other sites."""
    max_age = int(request.app[SETTINGS].session_ttl.total_seconds())
    secure = _is_https(request)
    response.set_cookie(COOKIE, token, max_age=max_age, httponly=True, samesite="Lax", secure=secure)


def _is_https(request: web.Request) -> bool:
    """Whether the browser speaks https, be it to a proxy before us. Whoever lies spoils only a cookie of their own."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return "https" in (request.scheme, forwarded, request.headers.get("Origin", "").partition(":")[0])
