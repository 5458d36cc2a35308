"""Who is asking: by which token they are known, what they may, and whom and what their path names."""

from uuid import UUID

from aiohttp import web

from att import errors
from att.api.keys import PERMISSIONS, ROLE_SERVICE, SESSIONS
from att.core.names import parse_uuid
from att.core.permissions import Actor, Permission, Permissions, permits
from att.http.context import REQUEST_ID, SESSION
from att.http.credentials import COOKIE, SAFE_METHODS, bearer_token, check_origin
from att.sessions.store import Session


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


async def is_permitted(request: web.Request, wanted: Permission) -> bool:
    """Whether the role of whoever asks permits this; it is looked up once a request."""
    if PERMISSIONS not in request:
        request[PERMISSIONS] = await request.app[ROLE_SERVICE].permissions_of(request[SESSION].user_id)
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
