"""Identify the user of a request, their permissions, and the user and group in its path."""

from collections.abc import Sequence
from uuid import UUID

from aiohttp import web

from att import errors
from att.accounts.profiles import UserProfile
from att.api.keys import PERMISSIONS, PROFILES, ROLE_SERVICE, SESSIONS
from att.api.route import PATH_PARAMETERS
from att.core.names import parse_uuid
from att.core.permissions import Actor, Permission, Permissions, check_covers, permits
from att.http.client_info import client_of
from att.http.context import REQUEST_ID, SESSION
from att.http.credentials import SAFE_METHODS, bearer_token, check_origin, session_cookies
from att.http.requests import wants_event_stream
from att.sessions.store import Session


async def identify(request: web.Request, *, upgrades: bool = False) -> Session:
    """Return the session of the bearer token or the cookie. Raises NotSignedIn, or OriginNotAllowed for the cookie.

    ``upgrades`` is True for a WebSocket. Any other offer to upgrade, such as h2c, is ignored (RFC 9110, section 7.8).
    A stream of server-sent events is like a WebSocket, except that browsers name the origin only if it is another one.
    """
    token = bearer_token(request)
    if token is None:
        token = next(iter(session_cookies(request).values()), None)
        names_origin = "Upgrade" in request.headers or (wants_event_stream(request) and "Origin" in request.headers)
        if token and (request.method not in SAFE_METHODS or (upgrades and names_origin)):
            check_origin(request)
    session = await request.app[SESSIONS].find(token) if token else None
    if session is None:
        raise errors.NotSignedIn("The token is wrong, or its session has ended. Sign in at /login." if token else None)
    return session


async def is_permitted(request: web.Request, wanted: Permission) -> bool:
    """Return True if the user's role permits this."""
    return permits(await _own_permissions(request), wanted)


async def _own_permissions(request: web.Request) -> Permissions:
    """Return the permissions of the one who asks. The role is read once a request."""
    if PERMISSIONS not in request:
        request[PERMISSIONS] = await request.app[ROLE_SERVICE].permissions_of(request[SESSION].user_id)
    granted: Permissions = request[PERMISSIONS]
    return granted


async def visible_profiles(request: web.Request, user_ids: Sequence[UUID]) -> list[UserProfile]:
    """Return the profiles of those users whom the one who asks may see."""
    reads_all = await is_permitted(request, Permission.GROUPS_READ)
    return await request.app[PROFILES].visible(request[SESSION].user_id, user_ids, reads_all=reads_all)


async def check_may_act_upon(request: web.Request, user_id: UUID) -> None:
    """Raise NotPermitted unless the one who asks is this user, or has all permissions of theirs."""
    if user_id != request[SESSION].user_id:
        theirs = await request.app[ROLE_SERVICE].permissions_of(user_id)
        check_covers(await _own_permissions(request), theirs)


def path_id(request: web.Request, name: str) -> UUID:
    """Return the UUID in the path. Raises the parameter's NotFound when it is no UUID."""
    value = parse_uuid(request.match_info[name])
    if value is None:
        raise PATH_PARAMETERS[name].not_found
    return value


def path_user(request: web.Request) -> UUID:
    """Return the user in the path, where ``me`` is the one who asks. Raises NoSuchUser when it is no UUID."""
    is_own = request.match_info["user_id"] == "me"
    return request[SESSION].user_id if is_own else path_id(request, "user_id")


def path_group(request: web.Request) -> UUID | str:
    """Return the id or the name of the group in the path. Raises NoSuchGroup when it can be neither."""
    text = request.match_info["group"]
    if "\0" in text:
        raise errors.NoSuchGroup
    return parse_uuid(text) or text


def actor_of(request: web.Request) -> Actor:
    """Return the actor in whose name this request makes changes."""
    session = request[SESSION]
    return Actor(session.user_id, session.id, request[REQUEST_ID], client_of(request).address)
