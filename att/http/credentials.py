"""Credentials of a request: the bearer token, the session cookie, and the origin that may use it."""

import re

from aiohttp import web

from att import errors
from att.http.context import SETTINGS
from att.protocol.messages import BEARER_PREFIX

COOKIE = "att_session"
DEVICE_COOKIE = "att_device"
_DEVICE_AGE = 365 * 24 * 60 * 60  # seconds
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def bearer_token(request: web.Request) -> str | None:
    """Return the token of the Authorization header (RFC 6750) or of a subprotocol; None when there is neither.

    Another scheme gives the empty string, so that the cookie is not used instead.
    """
    header = request.headers.get("Authorization")
    if header is None:
        return _subprotocol_token(request)
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _subprotocol_token(request: web.Request) -> str | None:
    """Return the token among the subprotocols: a page can set no other header of a WebSocket."""
    for name in offered_subprotocols(request):
        if name.startswith(BEARER_PREFIX):
            return name.removeprefix(BEARER_PREFIX)
    return None


def offered_subprotocols(request: web.Request) -> list[str]:
    """Return the subprotocols that the client offers (RFC 6455, section 4.1)."""
    header = ",".join(request.headers.getall("Sec-WebSocket-Protocol", ()))
    return [name for part in header.split(",") if (name := part.strip())]


def check_origin(request: web.Request) -> None:
    """Raise OriginNotAllowed unless the page that sent this is of this server or of an allowed origin.

    Browsers send Sec-Fetch-Site, which no page can forge; older ones only Origin.
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
    """Store the token in the browser, out of reach of scripts and other sites."""
    _set_cookie(request, response, COOKIE, token, int(request.app[SETTINGS].session_ttl.total_seconds()))


def set_device_cookie(request: web.Request, response: web.StreamResponse, value: str) -> None:
    """Store which logins have signed in on this device; it outlives the session."""
    _set_cookie(request, response, DEVICE_COOKIE, value, _DEVICE_AGE)


def _set_cookie(request: web.Request, response: web.StreamResponse, name: str, value: str, max_age: int) -> None:
    secure = _is_https(request)
    response.set_cookie(name, value, max_age=max_age, httponly=True, samesite="Lax", secure=secure)


def _is_https(request: web.Request) -> bool:
    """Return True if the browser uses https, perhaps to a proxy. A forged header only affects the sender's cookie."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return "https" in (request.scheme, forwarded, request.headers.get("Origin", "").partition(":")[0])
