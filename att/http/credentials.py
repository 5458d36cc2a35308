"""Credentials of a request: the bearer token, the session cookie, and the origin that may use it."""

import re

from aiohttp import hdrs, web

from att import errors
from att.config.parsers import DEFAULT_PORTS
from att.http.client_info import path_prefix
from att.http.context import SETTINGS
from att.protocol.messages import BEARER_PREFIX

COOKIE = "att_session"
DEVICE_COOKIE = "att_device"
_DEVICE_AGE = 365 * 24 * 60 * 60  # seconds
HOST_COOKIE = f"__Host-{COOKIE}"  # no other host and no http can set it (RFC 6265bis, section 4.1.3.2)
_COOKIES = (HOST_COOKIE, COOKIE)  # the first one counts; both, since browsers have the other from before, and on http
_FOR_PROXIES = frozenset({"basic", "digest", "negotiate", "ntlm"})  # schemes that a browser uses by itself
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def bearer_token(request: web.Request) -> str | None:
    """Return the token of the Authorization header (RFC 6750) or of a subprotocol; None when there is neither.

    Another scheme gives the empty string, so that the cookie is not used instead; except one that a browser sends to a
    proxy before this server.
    """
    scheme, _, token = request.headers.get("Authorization", "basic").partition(" ")
    if scheme.lower() in _FOR_PROXIES:
        return _subprotocol_token(request)
    return token.strip() if scheme.lower() == "bearer" else ""


def session_cookies(request: web.Request) -> dict[str, str]:
    """Return the session cookies by name, the one that counts first."""
    found = _cookies(request)
    return {name: found[name] for name in _COOKIES if name in found}


def _cookies(request: web.Request) -> dict[str, str]:
    """Return all cookies by name. Several lines are one (RFC 6265bis, 5.6.3)."""
    pairs = [pair.partition("=") for pair in ";".join(request.headers.getall(hdrs.COOKIE, ())).split(";")]
    # Of one name the first counts, which is that of the longest path.
    return {name.strip(): value.strip().strip('"') for name, _, value in reversed(pairs)}


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


def origin_of(request: web.Request) -> str | None:
    """Return the origin of the page that sent this, without the scheme's default port; None if there is none."""
    match = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([^/?#]+)", request.headers.get(hdrs.ORIGIN, ""))
    return _origin(*match.groups()) if match else None


def check_origin(request: web.Request) -> None:
    """Raise OriginNotAllowed unless the page that sent this is of this server or of an allowed origin.

    Browsers send Sec-Fetch-Site, which no page can forge; older ones only Origin.
    """
    origin = origin_of(request)
    site = request.headers.get("Sec-Fetch-Site")
    own = [_origin(scheme, request.host.lower()) for scheme in DEFAULT_PORTS]
    is_ours = site in ("same-origin", "none") or (site is None and (origin or "").lower() in own)
    if not is_ours and origin not in request.app[SETTINGS].allow_origin:
        raise errors.OriginNotAllowed


def _origin(scheme: str, authority: str) -> str:
    return f"{scheme}://{authority.removesuffix(':' + DEFAULT_PORTS.get(scheme, ''))}"


def set_session_cookie(request: web.Request, response: web.StreamResponse, token: str) -> str:
    """Store the token in the browser, out of reach of scripts and other sites. Return the cookie's name."""
    return _set_cookie(request, response, COOKIE, token, int(request.app[SETTINGS].session_ttl.total_seconds()))


def delete_session_cookies(request: web.Request, response: web.StreamResponse) -> None:
    """Delete the browser's session cookies."""
    path = path_prefix(request)
    for name in session_cookies(request) or (COOKIE,):
        if name == HOST_COOKIE:
            response.del_cookie(name, secure=True)
        else:
            response.del_cookie(name, path=path or "/")


def set_device_cookie(request: web.Request, response: web.StreamResponse, value: str) -> None:
    """Store which logins have signed in on this device; it outlives the session."""
    _set_cookie(request, response, DEVICE_COOKIE, value, _DEVICE_AGE)


def device_cookie(request: web.Request) -> str:
    """Return the device cookie, empty if there is none."""
    found = _cookies(request)
    return found.get(f"__Host-{DEVICE_COOKIE}") or found.get(DEVICE_COOKIE, "")


def _set_cookie(request: web.Request, response: web.StreamResponse, name: str, value: str, max_age: int) -> str:
    # A proxy may not tell that a request came by https, but over http the browser would not send this cookie.
    secure = _is_https(request) or HOST_COOKIE in session_cookies(request)
    path = path_prefix(request) or "/"
    if secure and path == "/":
        name = f"__Host-{name}"
    response.set_cookie(name, value, max_age=max_age, path=path, httponly=True, samesite="Lax", secure=secure)
    return name


def _is_https(request: web.Request) -> bool:
    """Return True if the browser uses https, perhaps to a proxy. A forged header only affects the sender's cookie."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return "https" in (request.scheme, forwarded, request.headers.get("Origin", "").partition(":")[0])
