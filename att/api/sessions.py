"""Sessions of a user."""

from uuid import UUID

from aiohttp import web

from att import errors
from att.api import schemas
from att.api.auth import check_may_act_upon, path_id, path_user
from att.api.keys import HUB, SESSION_LISTENER, SESSIONS
from att.api.route import EXAMPLE_ID, EXAMPLE_TIME, Examples, Route
from att.core.permissions import Permission, Who
from att.http.context import SESSION
from att.http.credentials import delete_session_cookies
from att.http.requests import read_query, read_window
from att.http.responses import respond, respond_page
from att.http.schemas import PageOut, PageQuery
from att.sessions.store import SESSIONS_OF_USER, SessionInfo


async def list_sessions(request: web.Request) -> web.Response:
    """List a user's sessions."""
    window = read_window(read_query(request, PageQuery), SESSIONS_OF_USER.order)
    page = await request.app[SESSIONS].of_user(_owner_of_sessions(request), window)
    own, registry = request[SESSION].id, request.app[HUB].registry

    def show(info: SessionInfo) -> schemas.SessionOut:
        sockets = len(registry.of_session(info.id))
        return schemas.SessionOut(**info._asdict(), current=info.id == own, sockets=sockets)

    return respond_page(request, page.map(show), schemas.SessionOut)


async def end_sessions(request: web.Request) -> web.Response:
    """End a user's sessions except the current one, and close their sockets."""
    user_id = _owner_of_sessions(request)
    await check_may_act_upon(request, user_id)
    try:
        ended = await request.app[SESSIONS].end_all(user_id, keep=request[SESSION].id)
    except errors.DatabaseUnavailable:
        request.app[SESSION_LISTENER].user_state_unknown(user_id)
        raise
    for session_id in ended:
        request.app[SESSION_LISTENER].session_ended(session_id)
    return respond(schemas.DeletedOut(deleted=len(ended)))


async def end_session(request: web.Request) -> web.Response:
    """End a user's session, and close its sockets."""
    user_id = _owner_of_sessions(request)
    session_id = path_id(request, "session_id")
    await check_may_act_upon(request, user_id)
    try:
        await request.app[SESSIONS].end_one(user_id, session_id)
    except errors.DatabaseUnavailable:
        request.app[SESSION_LISTENER].user_state_unknown(user_id)
        raise
    request.app[SESSION_LISTENER].session_ended(session_id)
    response = web.Response(status=204)
    if session_id == request[SESSION].id:
        delete_session_cookies(request, response)
    return response


def _owner_of_sessions(request: web.Request) -> UUID:
    return path_user(request) if "user_id" in request.match_info else request[SESSION].user_id


SESSION_ROUTES = (
    Route("GET /sessions", list_sessions, Who.SIGNED_IN, query=PageQuery, responses={200: PageOut[schemas.SessionOut]}),
    Route("DELETE /sessions", end_sessions, Who.SIGNED_IN, responses={200: schemas.DeletedOut}),
    Route(
        "DELETE /sessions/{session_id}",
        end_session,
        Who.SIGNED_IN,
        responses={204: None},
        errors=(errors.NoSuchSession,),
    ),
    Route(
        "GET /users/{user_id}/sessions",
        list_sessions,
        Who.ONESELF,
        Permission.SESSIONS_WRITE,
        query=PageQuery,
        responses={200: PageOut[schemas.SessionOut]},
    ),
    Route(
        "DELETE /users/{user_id}/sessions",
        end_sessions,
        Who.ONESELF,
        Permission.SESSIONS_WRITE,
        responses={200: schemas.DeletedOut},
        errors=(errors.NotPermitted,),
    ),
    Route(
        "DELETE /users/{user_id}/sessions/{session_id}",
        end_session,
        Who.ONESELF,
        Permission.SESSIONS_WRITE,
        responses={204: None},
        errors=(errors.NoSuchSession, errors.NotPermitted),
    ),
)

SESSION_EXAMPLES: Examples = {
    schemas.SessionOut: {
        "id": EXAMPLE_ID,
        "created_at": EXAMPLE_TIME,
        "last_seen_at": EXAMPLE_TIME,
        "expires_at": EXAMPLE_TIME,
        "address": "192.0.2.7",
        "user_agent": "Mozilla/5.0",
        "current": True,
        "sockets": 1,
    }
}
