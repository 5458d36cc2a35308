"""Who is asking: by which token they are known, what they may, and whom and what their path names."""

import re
from uuid import UUID

from aiohttp import web

from att import errors
from att.keys import PERMISSIONS, REQUEST_ID, ROLES, SESSION, SESSIONS, SETTINGS
from att.names import parse_uuid
from att.permissions import Actor, Permission, Permissions, permits
from att.realtime.protocol import BEARER_PREFIX
from att.sessions import Session

COOKIE = "att_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


async def identify(request: web.Request) -> Session:
    """The session of the bearer token or the cookie. Raises NotSignedIn, or OriginNotAllowed for the cookie."""
    token = bearer_token(request)
    if token is None:
        token = request.cookies.get(COOKIE)
        if token and (request.method not in SAFE_METHODS or "Upgrade" in request.headers):
            check_origin(request)
    session = await request.app[SESSIONS].find(token) if token else None
    if session is None:
        raise errors.NotSignedIn
    return session


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


async def is_permitted(request: web.Request, wanted: Permission) -> bool:
    """Whether the role of whoever asks permits this; it is looked up once a request."""
    if PERMISSIONS not in request:
        request[PERMISSIONS] = await request.app[ROLES].permissions_of(request[SESSION].user_id)
    held: Permissions = request[PERMISSIONS]
    return permits(held, wanted)


def path_user(request: web.Request) -> UUID:
    """The user in the path, where ``me`` is whoever asks. Raises NoSuchUser when it is no UUID."""
    text = request.match_info["user_id"]
    user_id = request[SESSION].user_id if text == "me" else parse_uuid(text)
    if user_id is None:
        raise errors.NoSuchUser
    return user_id


def path_group(request: web.Request) -> UUID | str:
    """The group in the path, by its id or its name. Raises NoSuchGroup when it can be neither."""
    text = request.match_info["group"]
    if "\0" in text:
        raise errors.NoSuchGroup
    return parse_uuid(text) or text


def actor_of(request: web.Request) -> Actor:
    """On whose behalf this request makes changes."""
    session = request[SESSION]
    return Actor(session.user_id, session.id, request[REQUEST_ID])


def set_session_cookie(request: web.Request, response: web.StreamResponse, token: str) -> None:
    """Have the browser keep the token, out of reach of the page's scripts and of other sites."""
    max_age = int(request.app[SETTINGS].session_ttl.total_seconds())
    secure = _is_https(request)
    response.set_cookie(COOKIE, token, max_age=max_age, httponly=True, samesite="Lax", secure=secure)


def _is_https(request: web.Request) -> bool:
    """Whether the browser speaks https, be it to a proxy before us. Whoever lies spoils only a cookie of their own."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return "https" in (request.scheme, forwarded, request.headers.get("Origin", "").partition(":")[0])
